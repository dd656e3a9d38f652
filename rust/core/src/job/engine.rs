//! The life of a key, a stage a file: `scan` → `dump` → `route` → `restore` (→ `compare`).
//!
//! Invariant: one thread owns all of this; it shares the [`Ledger`] and the counters with the control plane,
//! nothing else. Two writes of one key are never in flight at once for one scan of it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::{Error, ErrorKind};
use crate::event::{Event, EventKind};
use crate::job::control::Shared;
use crate::job::survey::Survey;
use crate::ledger::books::PageId;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Failure, Pending};
use crate::net::{Access, Address, AddressMap};
use crate::rdb::{FieldTtl, Show, Target};
use crate::resp::Eviction;
use crate::resp::encode::ExpiryCommand;
use crate::throttle::budget::{Budget, Throttle};
use crate::topology::SlotRange;
use crate::transform::filter::ValueFilter;
use crate::transform::keymap::KeyMap;

use crate::chunked::compare::LargeKeys;
use crate::chunked::copy::BigKeys;
pub use crate::compare::sweep::Sweep;
use crate::job::follow::Follow;
pub use crate::job::follow::{FollowSpec, OnFlush};
use crate::job::login::Login;
use crate::source::cluster::ClusterNode;
use crate::source::file::FileSpec;
use crate::source::names::Names;
use crate::source::scan::Overlap;
use crate::target::batch::Spares;
use crate::target::closing::Closings;
use crate::target::health::Health;
pub use crate::target::limits::TargetLimits;
use crate::target::route::Router;
use crate::throttle::limiter::Limiter;
use crate::throttle::page_size::Pace;
pub use crate::transform::sample::Sample;

/// What happens to a key that the target has already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnConflict {
    /// Equal is unchanged, different is a recorded failure.
    Error,
    /// The source's value replaces it.
    Replace,
    /// It is left as it is.
    Skip,
}

/// Compare the source's keys with the target's instead of copying them: nothing is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verify {
    /// By how many milliseconds the expiries of equal keys may differ.
    pub ttl_tolerance: u64,
    /// How closely keys are looked at.
    pub depth: Depth,
    /// Whether differences are told with what the values hold.
    pub show: Show,
}

/// How closely a verification looks at a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Value and TTL.
    Value,
    /// Type, TTL and length.
    Length,
    /// Whether the target has it at all; asked of both sides by their expiry alone.
    Existence,
}

/// All that a job is started with.
#[derive(Debug, Clone)]
pub struct JobSpec {
    /// Where the source listens.
    pub source: Address,
    /// The RDB file that is read instead; `source` only names it then.
    pub file: Option<FileSpec>,
    /// The source's keys are taken from a snapshot that it makes; its time then, in ms since the epoch.
    pub snapshot: Option<u64>,
    /// How to log in there.
    pub source_access: Access,
    /// The server process that the cursors come from.
    pub source_run_id: String,
    /// The history of data that the source holds: no server that has it is written to. Empty: not known.
    pub source_replication_id: String,
    /// The source is a node of a cluster.
    pub source_cluster: Option<ClusterNode>,
    /// How the source tells expiries.
    pub source_expiry: ExpiryCommand,
    /// How to log in at every node of the target.
    pub target_access: Access,
    /// How the target's nodes tell expiries.
    pub target_expiry: ExpiryCommand,
    /// Which payloads the target's nodes take.
    pub target_rdb: Target,
    /// What the target's nodes take of one command.
    pub target_limits: TargetLimits,
    /// What happens to the TTLs of hash fields where the target has none.
    pub field_ttl: FieldTtl,
    /// Where addresses are reached that redirects announce.
    pub address_map: AddressMap,
    /// Who owns which slots at the start.
    pub topology: Vec<SlotRange>,
    /// The ids of the target's nodes at the start: no server that knows none of them is written to. Empty: not known.
    pub target_nodes: Vec<String>,
    /// Into how many partitions the scan is cut; a power of two.
    pub partition_count: u32,
    /// The partitions to scan: index and cursor.
    pub partitions: Vec<(u32, u64)>,
    /// Keys to copy by name.
    pub names: Vec<Vec<u8>>,
    /// Follow the source's stream beside the copy, and after it until the job is ended; `names` are then copied as if they
    /// had been touched.
    pub follow: Option<FollowSpec>,
    /// What happens to keys that the target has already.
    pub on_conflict: OnConflict,
    /// Which keys are taken, and how they are named at the target; none: all of them, under their own names.
    pub key_map: Option<Arc<KeyMap>>,
    /// Keys that take so much memory at the source are copied in parts; none: no key is.
    pub big_key_bytes: Option<u64>,
    /// Names the job and its source in the temporary keys under which it builds large ones: the same in each of its
    /// runs, and no other job's. None: one that was never used.
    pub copy_id: Option<String>,
    /// How far keys were copied in parts by an earlier run.
    pub big_positions: Vec<(Vec<u8>, String)>,
    /// Which keys are taken by what they are.
    pub value_filter: Option<ValueFilter>,
    /// What a scan-only job tells of the names that it sees.
    pub survey: Option<Arc<Survey>>,
    /// What is carried over of how the source evicts.
    pub eviction: Option<Eviction>,
    /// MATCH of the SCAN.
    pub pattern: Option<Vec<u8>>,
    /// TYPE of the SCAN.
    pub type_name: Option<String>,
    /// Count keys only.
    pub scan_only: bool,
    /// Compare instead of copying.
    pub verify: Option<Verify>,
    /// Primaries of the target to look for keys that the source lacks; they are reported unconfirmed.
    pub sweeps: Vec<Sweep>,
    /// Look at this part of the keys only.
    pub sample: Option<Sample>,
    /// Of the keys handed over by name, delete from the target those that the source lacks.
    pub delete_extra: bool,
    /// COUNT of the SCAN.
    pub page_keys: u32,
    /// How many connections read from the source.
    pub source_connections: usize,
    /// The byte budget.
    pub memory_limit: usize,
    /// How long passing errors are retried.
    pub retry_for: Duration,
    /// After how long a slot's keys are parked while other slots flow.
    pub park_after: Duration,
    /// Keys that may be read in a second.
    pub max_keys_per_second: Option<u64>,
    /// Bytes that may be read in a second.
    pub max_bytes_per_second: Option<u64>,
    /// From which latency of a server on the reading pauses.
    pub pause_above: Option<Duration>,
    /// How many replicas of a primary have to confirm what a checkpoint takes for written.
    pub wait_replicas: u32,
    /// How long a barrier waits for them.
    pub wait_timeout: Duration,
}

/// A payload of more than this part of the byte budget is compared in parts: both sides of it, decoded, still
/// leave room for others.
const LARGE_SHARE: usize = 16;

/// No server gives more in one reply, unless it is set to.
const LARGEST_OF_FILE: usize = 1 << 30;

/// The names of pages that are under way take no more than this part of the byte budget.
const NAMES_SHARE: usize = 8;

/// Failures that wait to be recorded take about this part of it at most: until they are, no page is begun.
const FAILURES_SHARE: usize = 8;

/// By so much a value may grow when it is decoded.
const DECODED: usize = 4;

/// No payload up to this size is compared in parts.
const SMALLEST_LARGE: usize = 64 << 10;

/// What the stages share.
pub(crate) struct Engine {
    pub spec: JobSpec,
    pub shared: Arc<Shared>,
    pub budget: Budget,
    pub router: RefCell<Router>,
    pub health: RefCell<Health>,
    pub spares: RefCell<Spares>,
    pub overlap: RefCell<Overlap>,
    pub pace: Pace,
    pub limiter: Limiter,
    pub source_login: Login,
    pub target_login: Login,
    /// See [`JobSpec::target_nodes`]; as of the last topology.
    pub target_nodes: RefCell<Vec<String>>,
    pub names: RefCell<Names>,
    pub large: RefCell<LargeKeys>,
    /// The source's time in ms since the epoch, and when it came: see [`Self::source_now`].
    pub source_clock: Cell<Option<(u64, Instant)>>,
    pub big: BigKeys,
    pub follow: Option<Rc<Follow>>,
    /// See [`JobSpec::copy_id`].
    pub copy_id: String,
    /// No new page is to be begun.
    pub draining: Cell<bool>,
    /// A reader stopped before its partitions were at their ends.
    pub cut_short: Cell<bool>,
    /// The source refuses GETRANGE: every key is read with DUMP.
    pub plain_refused: Cell<bool>,
    /// The target refuses SET: every key is written with RESTORE.
    pub sets_refused: Cell<bool>,
    pub closings: Closings,
    /// Pages were held back until failures are recorded.
    pub pages_held: Cell<bool>,
    pub readers_running: Cell<usize>,
    pub fatal: RefCell<Option<Error>>,
    /// How the job ends once all that is under way is settled.
    pub ending: RefCell<Option<Error>>,
    /// Name and payload of a key that the target takes in one command have so many bytes at most.
    pub largest: usize,
    /// Something changed that the supervisor should look at.
    pub changed: Notify,
    /// All is written, and only a barrier is missing.
    pub barrier_wanted: Notify,
}

impl Engine {
    pub fn new(mut spec: JobSpec, shared: Arc<Shared>) -> crate::error::Result<Rc<Self>> {
        let follow = spec.follow.clone().map(|follow| {
            let owed = std::mem::take(&mut spec.names);
            let siblings = spec.key_map.as_ref().is_some_and(|map| !map.is_one_to_one());
            let follow = Follow::new(follow, owed, &spec.big_positions, siblings);
            follow.wait_for_snapshot(spec.snapshot.is_some());
            Rc::new(follow)
        });
        Ok(Rc::new(Self {
            budget: Budget::new(spec.memory_limit),
            router: RefCell::new(Router::new(&spec.topology)?),
            health: RefCell::new(Health::new(
                spec.retry_for,
                spec.park_after,
                spec.partitions.is_empty(),
            )),
            spares: RefCell::new(Spares::default()),
            overlap: RefCell::new(Overlap::default()),
            pace: Pace::new(spec.page_keys, names_room(&spec, spec.partitions.len())),
            limiter: Limiter::new(
                Throttle::new(spec.max_keys_per_second, spec.max_bytes_per_second),
                spec.pause_above,
            ),
            source_login: Login::new(spec.source_access.clone(), true, spec.retry_for),
            // A verification sends a key at a time; naming a large key takes two.
            target_login: Login::new(spec.target_access.clone(), spec.verify.is_some(), spec.retry_for),
            target_nodes: RefCell::new(spec.target_nodes.clone()),
            names: RefCell::new(Names::default()),
            large: RefCell::new(LargeKeys::default()),
            source_clock: Cell::new(None),
            big: BigKeys::default(),
            follow,
            copy_id: spec
                .copy_id
                .clone()
                .unwrap_or_else(|| format!("{:016x}", fastrand::u64(..))),
            draining: Cell::new(false),
            cut_short: Cell::new(false),
            plain_refused: Cell::new(false),
            sets_refused: Cell::new(false),
            closings: Closings::default(),
            pages_held: Cell::new(false),
            readers_running: Cell::new(0),
            fatal: RefCell::new(None),
            ending: RefCell::new(None),
            largest: if spec.verify.is_some() {
                usize::MAX
            } else {
                spec.target_limits.argument()
            },
            changed: Notify::new(),
            barrier_wanted: Notify::new(),
            spec,
            shared,
        }))
    }

    /// The source's time in ms since the epoch; rather too early than too late, and 0 before it told it. What has
    /// expired is judged by this alone: this machine's clock may be wrong, and may be stepped.
    pub fn source_now(&self) -> u64 {
        self.source_clock
            .get()
            .map_or(0, |(then, came)| then + came.elapsed().as_millis() as u64)
    }

    /// Whether nothing is left to read or to write.
    pub fn is_idle(&self) -> bool {
        self.readers_running.get() == 0 && self.shared.ledger().open_pages() == 0
    }

    /// Whether so many failures wait to be recorded that no page is begun meanwhile.
    pub fn is_full_of_failures(&self) -> bool {
        self.shared.ledger().unrecorded() > self.spec.memory_limit / FAILURES_SHARE
    }

    /// No page is begun until the control plane has taken a checkpoint, which it is asked for.
    pub fn hold_pages(&self) {
        if !self.pages_held.replace(true) {
            let message = "failures wait to be recorded".to_owned();
            self.shared.tell(Event::new(EventKind::CheckpointWanted, message));
        }
    }

    /// Failures were recorded: if pages were held back for them and are so no longer, let them go on.
    pub fn resume_pages(&self) {
        if self.pages_held.get() && !self.is_full_of_failures() {
            self.pages_held.set(false);
            self.budget.wake();
        }
    }

    /// What a value may take, counted roughly, to be decoded as a whole: beside the budget, so only a part of it.
    pub fn decode_limit(&self) -> usize {
        (self.spec.memory_limit / LARGE_SHARE).max(SMALLEST_LARGE) * DECODED
    }

    /// The largest payload that is compared as a whole; a file can't be asked for parts of one.
    pub fn compared_whole(&self) -> usize {
        let part = (self.spec.memory_limit / LARGE_SHARE).max(SMALLEST_LARGE);
        self.spec.file.as_ref().map_or(part, |_| LARGEST_OF_FILE)
    }

    /// Whether differences are told with what the values hold.
    pub fn show(&self) -> Show {
        self.spec.verify.map_or(Show::Shapes, |verify| verify.show)
    }

    /// Whether types and lengths are compared instead of values.
    pub fn is_quick(&self) -> bool {
        self.depth() == Some(Depth::Length)
    }

    /// How closely keys are compared, in a verification.
    pub fn depth(&self) -> Option<Depth> {
        self.spec.verify.map(|verify| verify.depth)
    }

    /// What is done with keys at the target, for a message.
    pub fn action(&self) -> &'static str {
        match self.depth() {
            None => "restore",
            Some(Depth::Existence) => "look for",
            Some(Depth::Length) => "measure",
            Some(Depth::Value) => "dump",
        }
    }

    /// Whether the target is asked about keys that the source lacks.
    pub fn minds_absent_keys(&self) -> bool {
        self.spec.verify.is_some() || self.spec.delete_extra
    }

    /// Run a stage as a task of its own; if it panics, the job ends with the bug's name.
    pub fn spawn(self: &Rc<Self>, stage: impl Future<Output = ()> + 'static) {
        let guard = PanicGuard(Rc::clone(self));
        tokio::task::spawn_local(async move {
            let _guard = guard;
            stage.await;
        });
    }

    /// End the job with `error`; the first one counts.
    pub fn stop(&self, kind: ErrorKind, message: impl Into<String>) {
        self.fatal
            .borrow_mut()
            .get_or_insert_with(|| Error::new(kind, message));
        self.changed.notify_one();
    }

    /// `keys` keys of `page` ended as `outcome`.
    pub fn settle(&self, page: PageId, outcome: Outcome, keys: u32, bytes: u64) {
        match &self.follow {
            Some(follow) if follow.owns(page) => follow.count(outcome, u64::from(keys), bytes),
            _ => self.shared.progress.settle(outcome, u64::from(keys), bytes),
        }
        let mut ledger = self.shared.ledger();
        let complete = ledger.settle(page, outcome, keys, bytes);
        if ledger.open_pages() == 0 {
            self.changed.notify_one();
        }
        drop(ledger);
        if complete {
            self.forget_names(page);
        }
    }

    /// A key of `page` was given up.
    pub fn fail(&self, page: PageId, failure: Failure) {
        if let Some(message) = self.health.borrow_mut().failed(&failure) {
            let kind = if failure.node == self.spec.source.to_string() {
                ErrorKind::SourceRefused
            } else {
                ErrorKind::TargetRefused
            };
            self.stop(kind, message);
        }
        if !self.is_followed(page) {
            self.shared.progress.settle(Outcome::Failed, 1, 0);
        }
        let mut ledger = self.shared.ledger();
        let complete = ledger.fail(page, failure);
        if ledger.open_pages() == 0 {
            self.changed.notify_one();
        }
        drop(ledger);
        if complete {
            self.forget_names(page);
        }
    }

    /// A key of `page` is left for later.
    pub fn park(&self, page: PageId, pending: Pending) {
        if self.is_followed(page) {
            return self.park_followed(page, &pending);
        }
        self.shared.progress.settle(Outcome::Pending, 1, 0);
        let mut ledger = self.shared.ledger();
        let complete = ledger.park(page, pending);
        if ledger.open_pages() == 0 {
            self.changed.notify_one();
        }
        drop(ledger);
        if complete {
            self.forget_names(page);
        }
    }
}

/// Bytes that the names of one page may take, of `scans` that go on at once.
pub(crate) fn names_room(spec: &JobSpec, scans: usize) -> usize {
    spec.memory_limit / NAMES_SHARE / scans.max(1)
}

struct PanicGuard(Rc<Engine>);

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(
                ErrorKind::Internal,
                "a stage of the engine failed; this is a bug of Slotferry",
            );
        }
    }
}

/// Waiting times that double from `first` to `longest`, each with a jitter of a quarter either way.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    pub fn new() -> Self {
        Self { next: Self::FIRST }
    }

    pub fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(Self::LONGEST);
        jitter(wait)
    }
}

/// `wait` with a jitter of a quarter either way, so that what failed together is not retried together.
pub(crate) fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + fastrand::f64() / 2.0)
}
