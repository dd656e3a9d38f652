//! What the engine's thread and the control plane share: the ledger, the counters, the state, and the two
//! letter boxes, events one way and commands the other.
//!
//! Invariant: neither side ever waits for the other with a lock held; the ledger's is taken once per batch.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::Result;
use crate::event::{Event, Side};
use crate::ledger::books::Ledger;
use crate::ledger::checkpoint::{FollowMark, Mark};
use crate::ledger::position::Position;
use crate::ledger::progress::Progress;
use crate::net::Access;
use crate::topology::SlotRange;

/// At most so many events wait for the control plane; the oldest go first.
const MOST_EVENTS: usize = 10_000;

/// What a job is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// No page has come yet.
    Connecting,
    /// Keys flow.
    Running,
    /// Nothing flows, for a reason.
    Waiting,
    /// Nothing is read: the operator or a slow server will have it so.
    Paused,
    /// The pages in hand are being finished.
    Draining,
    /// The end.
    Finished,
}

impl State {
    /// The state's name as the control plane knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Finished => "finished",
        }
    }
}

/// How following stands.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each says one thing of one stream")]
pub struct FollowStatus {
    /// Everything before it is at the target, but for what is in doubt, and for busy keys.
    pub mark: Position,
    /// Everything before this offset is, those keys too.
    pub clean: u64,
    /// Keys that are written all the time, which are copied when they rest.
    pub busy_keys: Vec<Vec<u8>>,
    /// Whether there is something that only a comparison settles.
    pub in_doubt: bool,
    /// The stream was read up to this offset.
    pub received: u64,
    /// How long ago what stands at the mark was received; none if all of it is copied.
    pub lag: Duration,
    /// Whether the stream flows now.
    pub connected: bool,
    /// How often it began anew, with a gap.
    pub resyncs: u64,
    /// Keys that are touched and not copied since.
    pub touched: u64,
    /// Bytes that they take.
    pub touched_bytes: u64,
    /// Slots of which a comparison has to look at all keys.
    pub doubtful_slots: u64,
    /// Whether it has to look at all keys of all slots.
    pub doubtful_all: bool,
    /// Whether one was begun.
    pub comparing: bool,
    /// Commands of the stream, and those of them that write.
    pub commands: u64,
    /// See `commands`.
    pub writes: u64,
    /// Touched keys that were written to the target, each as often as it was; deletions too.
    pub copied: u64,
    /// Touched keys that were deleted there.
    pub deleted: u64,
    /// Bytes of payloads.
    pub bytes: u64,
    /// Messages that were published; scripts that were loaded or flushed: no data.
    pub published: u64,
    /// See `published`.
    pub scripts: u64,
    /// Changes of the library of functions.
    pub functions: u64,
    /// How often the database was emptied or swapped.
    pub flushes: u64,
    /// Comparisons that were begun.
    pub comparisons: u64,
    /// Whether the job is paused, and of following nothing is under way: nothing is written until it goes on.
    pub at_rest: bool,
}

impl FollowStatus {
    /// What of it is to be recorded.
    pub(crate) fn follow_mark(&self, apart: Arc<[(Vec<u8>, String)]>) -> FollowMark {
        FollowMark {
            position: self.mark.clone(),
            in_doubt: self.in_doubt,
            apart,
        }
    }
}

/// What a comparison has to look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubts {
    /// All keys.
    pub all: bool,
    /// The keys whose names at the target are in these slots.
    pub slots: Vec<u16>,
}

#[derive(Debug)]
pub(crate) struct Status {
    pub follow: Option<FollowStatus>,
    pub state: State,
    pub reason: String,
    pub keys_by_primary: Vec<(String, u64)>,
    pub events: VecDeque<Event>,
    pub result: Option<Result<()>>,
}

#[derive(Debug)]
pub(crate) enum Command {
    SetTopology(Vec<SlotRange>, Vec<String>),
    SetAccess(Side, Access),
    Pause(bool),
    SetRate { keys: Option<u64>, bytes: Option<u64> },
    Fence(u64),
    EndFence(u64),
    FinishFollowing(u64),
    Touch { keys: Vec<Vec<u8>>, untold: bool },
    BeginComparison(mpsc::SyncSender<Doubts>),
    EndComparison(Vec<Vec<u8>>),
    CompareAhead(mpsc::SyncSender<usize>),
    CompareAtFence(mpsc::SyncSender<Vec<Vec<u8>>>),
    Drain,
    Stop,
}

/// What the engine's thread and the control plane share.
#[derive(Debug)]
pub(crate) struct Shared {
    ledger: Mutex<Ledger>,
    pub progress: Progress,
    status: Mutex<Status>,
    commands: Mutex<Vec<Command>>,
    /// Wakes the engine: there are commands.
    pub wake: Notify,
    /// Wakes the control plane: there is an event or the end.
    told: Condvar,
}

/// A thread that panicked with the lock held has ended the job; what it guarded is still readable.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Books for partitions that start at these marks, and for a source that was followed up to `follow`; with a
    /// `barrier`, only what it confirms is handed over.
    pub fn new(marks: &[Mark], follow: Option<FollowMark>, barrier: bool) -> Self {
        let mut ledger = Ledger::new(marks).with_follow(follow);
        if barrier {
            ledger = ledger.with_barrier();
        }
        Self {
            ledger: Mutex::new(ledger),
            progress: Progress::default(),
            status: Mutex::new(Status {
                follow: None,
                state: State::Connecting,
                reason: String::new(),
                keys_by_primary: Vec::new(),
                events: VecDeque::new(),
                result: None,
            }),
            commands: Mutex::new(Vec::new()),
            wake: Notify::new(),
            told: Condvar::new(),
        }
    }

    pub fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }

    pub fn tell(&self, event: Event) {
        let mut status = self.status();
        if status.events.len() == MOST_EVENTS {
            status.events.pop_front();
        }
        status.events.push_back(event);
        self.told.notify_all();
    }

    pub fn status(&self) -> MutexGuard<'_, Status> {
        lock(&self.status)
    }

    /// Wait up to `timeout` for the end or an event; returns whether the job has finished.
    pub fn wait(&self, timeout: Duration) -> bool {
        let (status, _) = self
            .told
            .wait_timeout_while(self.status(), timeout, |status| {
                status.result.is_none() && status.events.is_empty()
            })
            .unwrap_or_else(PoisonError::into_inner);
        status.result.is_some()
    }

    /// Show how following stands; `wakes` who waits for it.
    pub fn show_follow(&self, follow: FollowStatus, wakes: bool) {
        self.status().follow = Some(follow);
        if wakes {
            self.told.notify_all();
        }
    }

    /// Wait up to `timeout` until everything up to `offset` is at the target, or the job ends; returns whether it is.
    pub fn wait_clean(&self, offset: u64, timeout: Duration) -> bool {
        let is_clean = |status: &Status| {
            let follow = status.follow.as_ref();
            follow.is_some_and(|follow| !follow.in_doubt && follow.clean >= offset)
        };
        let until = Instant::now() + timeout;
        let mut status = self.status();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if is_clean(&status) || status.result.is_some() || left.is_zero() {
                return is_clean(&status);
            }
            (status, _) = self
                .told
                .wait_timeout(status, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *lock(&self.commands))
    }

    pub fn command(&self, command: Command) {
        lock(&self.commands).push(command);
        self.wake.notify_one();
    }

    pub fn finish(&self, result: Result<()>) {
        let mut status = self.status();
        status.state = State::Finished;
        status.reason.clear();
        status.result.get_or_insert(result);
        self.told.notify_all();
    }
}
