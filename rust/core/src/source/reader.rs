//! One connection to the source after the other, and the partitions that are read over it.
//!
//! Invariant: a cursor is used only on the server process that it came from: every connection checks the
//! `run_id`. What was asked for on a connection that is lost is asked for again on the next.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::error::{Error, ErrorKind};
use crate::event::{Event, EventKind, Side};
use crate::job::engine::{Backoff, Depth, Engine};
use crate::net;
use crate::net::{Bytes, Connection, Deadline, HandshakeError};
use crate::resp::ScanProgress;
use crate::source::fetch::{Ask, Ended, Fetch};
use crate::source::scan::{ScanState, Scanner, fresh_partitions};
use crate::source::value_filter::ValueMatch;
use crate::text::shown;
use crate::throttle::limiter::Answer;
use crate::throttle::reply_timer::ReplyTimer;
use crate::transform::filter::{Question, ValueFilter};

/// So many keys are asked for before the first of them shows how large they are.
const FIRST_KEYS: usize = 16;

/// A source whose replies stay away so long, or for as long as passing errors are retried, is connected to anew.
const REPLY_PATIENCE: Duration = Duration::from_secs(60);

/// A source whose replies stay away so long is shown as the reason for waiting.
const NOTICEABLE: Duration = Duration::from_secs(1);

/// So many connections in a row that end in a key's read, the last of them with nothing else asked for, show that the
/// source can't send it: it is read in parts.
const MOST_CUTS: u32 = 4;

/// After so many keys, more is asked for at once again.
const RECOVERY: u64 = 256;

/// One connection to the source, and the partitions that are read over it.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each says one thing of one connection"
)]
pub(crate) struct SourceReader {
    pub(crate) engine: Rc<Engine>,
    pub(crate) scanners: Vec<Scanner>,
    pub(crate) names: VecDeque<Vec<u8>>,
    /// It reads touched keys, and goes on until following is over.
    pub(crate) follows: bool,
    pub(crate) fetches: Slab<Fetch>,
    /// Pages whose keys' sizes are still to be asked for.
    pub(crate) unsized_pages: VecDeque<usize>,
    /// Pages whose keys are being asked about, and what is asked about each key.
    pub(crate) value_matches: Slab<ValueMatch>,
    pub(crate) questions: Vec<Question>,
    /// Pages whose keys are still to be asked for, the oldest first.
    pub(crate) ready: VecDeque<usize>,
    pub(crate) asked: VecDeque<Ask>,
    pub(crate) out: Bytes,
    /// A page could be asked for, but for the names and failures that are held.
    pub(crate) page_held: bool,
    /// How far the page that is coming in was looked at.
    pub(crate) page: ScanProgress,
    /// Bytes that may be on their way from the source at once, and that are.
    pub(crate) window: usize,
    pub(crate) on_the_way: usize,
    /// What a key weighs, from those that came; a guess as long as none has.
    pub(crate) estimate: usize,
    pub(crate) is_guess: bool,
    /// The source's time when it was last asked.
    pub(crate) clock: u64,
    /// Expiry of the key whose DUMP comes next; an error in place of it.
    pub(crate) expiry: Option<Result<i64, Vec<u8>>>,
    /// How cold or hot the key is whose expiry comes next; below 0 where that can't be told.
    pub(crate) measure: Option<i64>,
    /// Bytes left of a payload that is too large to be kept.
    pub(crate) skip: usize,
    /// Whether almost all keys so far were strings.
    pub(crate) mostly_strings: bool,
    /// Room for a payload that is made here.
    pub(crate) payload: Vec<u8>,
    /// What has come that will not be asked for again on another connection: pages, answers about them, keys.
    pub(crate) progress: u64,
    /// How many connections in a row were lost without any progress: then little is asked for at once, since a server
    /// or what is between may cut off who has much to be sent.
    pub(crate) cuts: u32,
    /// The last connection was opened, so that what ended it is no fault of the way to the source alone.
    was_open: bool,
    recovered: u64,
}

impl SourceReader {
    /// Reader `number` of `count`: every `count`-th partition is read over it, and the first reader also takes
    /// the keys handed over by name.
    pub fn new(engine: Rc<Engine>, number: usize, count: usize) -> Self {
        let spec = &engine.spec;
        let fresh = fresh_partitions(&spec.partitions);
        let by_slot = spec
            .source_cluster
            .as_ref()
            .is_some_and(|node| node.scans_by_slot);
        let scanners = spec
            .partitions
            .iter()
            .enumerate()
            .skip(number)
            .step_by(count)
            .map(|(place, &(index, cursor))| {
                let scanner = Scanner::new(place, index, spec.partition_count, cursor);
                if by_slot {
                    scanner.by_slot()
                } else {
                    scanner.looks_behind(&fresh)
                }
            })
            .collect();
        let names = if number == 0 {
            spec.names.iter().cloned().collect()
        } else {
            VecDeque::new()
        };
        let window = (spec.memory_limit / 4 / count).max(1);
        Self {
            scanners,
            names,
            follows: false,
            fetches: Slab::new(),
            unsized_pages: VecDeque::new(),
            value_matches: Slab::new(),
            questions: spec
                .value_filter
                .as_ref()
                .map(ValueFilter::questions)
                .unwrap_or_default(),
            ready: VecDeque::new(),
            asked: VecDeque::new(),
            out: Bytes::default(),
            page_held: false,
            page: ScanProgress::default(),
            window,
            on_the_way: 0,
            estimate: (window / FIRST_KEYS).max(1),
            is_guess: true,
            clock: 0,
            expiry: None,
            measure: None,
            skip: 0,
            mostly_strings: false,
            payload: Vec::new(),
            progress: 0,
            cuts: 0,
            was_open: false,
            recovered: 0,
            engine,
        }
    }

    /// The reader for touched keys, beside `count` others.
    pub fn following(engine: Rc<Engine>, count: usize) -> Self {
        let mut reader = Self::new(engine, 0, count.max(1));
        reader.scanners.clear();
        reader.names.clear();
        reader.follows = true;
        reader
    }

    /// Whether touched keys may still come.
    fn follows_on(&self) -> bool {
        self.follows && !self.engine.follow.as_ref().is_some_and(|follow| follow.is_over())
    }

    /// Read until every partition is at its end, the job drains, or the source is lost for good.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new();
        let mut lost: Option<Instant> = None;
        while !self.is_done() {
            let before = self.progress;
            let served = self.serve(&mut lost, &mut backoff).await;
            if self.progress > before {
                self.cuts = 0;
            }
            let (kind, reason) = match served {
                Ok(()) => break,
                Err(Ended::Fatal(error)) => return self.engine.stop(error.kind, error.message),
                Err(Ended::Lost(reason)) => (ErrorKind::SourceLost, reason),
                Err(Ended::Denied(reason)) => (ErrorKind::SourceRefused, reason),
            };
            let before = self.progress;
            let what = if std::mem::take(&mut self.was_open) {
                self.cut_off()
            } else {
                None
            };
            if self.progress > before {
                lost = None;
            }
            let reason = match what {
                Some(what) => format!(
                    "source {}: {reason} while {what} was read",
                    self.engine.spec.source
                ),
                None => format!("source {}: {reason}", self.engine.spec.source),
            };
            let now = Instant::now();
            let since = *lost.get_or_insert_with(|| {
                self.engine
                    .shared
                    .tell(Event::new(EventKind::SourceLost, reason.clone()));
                now
            });
            if now - since >= self.engine.spec.retry_for {
                let waited = (now - since).as_secs();
                return self.engine.stop(kind, format!("{reason}, for {waited} s"));
            }
            self.engine.health.borrow_mut().source(Some(reason), now);
            tokio::time::sleep(backoff.step()).await;
        }
        if self
            .scanners
            .iter()
            .any(|scanner| scanner.state != ScanState::Done)
            || !self.names.is_empty()
            || !self.fetches.is_empty()
            || !self.value_matches.is_empty()
            || self.follows_on()
        {
            self.engine.cut_short.set(true);
        }
        self.engine
            .readers_running
            .set(self.engine.readers_running.get() - 1);
        self.engine.changed.notify_one();
    }

    /// Whether nothing is left to ask for or to wait for.
    fn is_done(&self) -> bool {
        let nothing_more = self.engine.draining.get()
            || (self.names.is_empty()
                && !self.follows_on()
                && self
                    .scanners
                    .iter()
                    .all(|scanner| scanner.state == ScanState::Done));
        // Of a pause or a rate, a drain does not wait for what is still to be asked for.
        let held_back = self.engine.draining.get() && self.engine.limiter.is_on();
        nothing_more
            && self.asked.is_empty()
            && self.value_matches.is_empty()
            && (self.fetches.is_empty() || held_back)
    }

    /// One connection's life.
    async fn serve(&mut self, lost: &mut Option<Instant>, backoff: &mut Backoff) -> Result<(), Ended> {
        let mut connection = self.connect().await?;
        let mut deadline = Deadline::new(REPLY_PATIENCE.min(self.engine.spec.retry_for));
        let mut reply_timer = ReplyTimer::new(self.engine.pause_above());
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        loop {
            self.ask();
            if self.is_done() {
                return Ok(());
            }
            let room = self.engine.budget.has_room();
            reply_timer.owed(room && !self.asked.is_empty());
            let unread = connection.received().len();
            let engine = Rc::clone(&self.engine);
            tokio::select! {
                biased;
                exchanged = connection.exchange(&mut self.out, room) => {
                    exchanged.map_err(|error| Ended::Lost(net::plain(&error)))?;
                    if connection.received().is_empty() {
                        continue;
                    }
                    deadline.received(connection.received().len() - unread, Instant::now());
                    if connection.received().len() > unread && let Some(waited) = reply_timer.broken() {
                        self.slow(Answer::Reply, waited);
                    }
                    let before = self.progress;
                    let read = self.read_replies(&mut connection);
                    self.engine.nudge();
                    if self.progress > before {
                        deadline.restart(Instant::now());
                        self.recover(self.progress - before);
                    }
                    read?;
                    // Only what will not be asked for again counts: a connection that is opened and cut off does not.
                    if self.progress > before && lost.take().is_some() {
                        self.engine.shared.tell(Event::new(
                            EventKind::SourceBack,
                            format!("source {}: reachable again", self.engine.spec.source),
                        ));
                        *backoff = Backoff::new();
                    }
                }
                () = woken(&engine), if self.follows => {}
                () = engine.budget.wait_freed(), if !room || self.is_held_back() => {}
                () = engine.limiter.wait(), if engine.limiter.is_on() => {}
                _ = tick.tick() => {
                    let now = Instant::now();
                    if self.asked.is_empty() || !room {
                        deadline.restart(now);
                    }
                    if let Some(waited) = reply_timer.look() {
                        self.slow(Answer::NoReply, waited);
                    }
                    self.watch(&deadline, now)?;
                }
            }
        }
    }

    async fn connect(&mut self) -> Result<Connection, Ended> {
        let spec = &self.engine.spec;
        let access = self.engine.login(Side::Source).current();
        let (connection, found) = net::open(&spec.source, &access, net::Question::Process)
            .await
            .map_err(|error| self.turned_away(error))?;
        let run_id = found.run_id;
        if run_id != spec.source_run_id {
            return Err(Ended::Fatal(Error::new(
                ErrorKind::SourceChanged,
                format!(
                    "the source {} is another process now (run_id {run_id}, the cursors are from {})",
                    spec.source, spec.source_run_id
                ),
            )));
        }
        self.engine.health.borrow_mut().source(None, Instant::now());
        self.begin_anew();
        self.was_open = true;
        Ok(connection)
    }

    fn turned_away(&self, error: HandshakeError) -> Ended {
        let source = &self.engine.spec.source;
        match error {
            HandshakeError::Lost(message) => Ended::Lost(message),
            HandshakeError::Denied(message) if self.engine.want_access(Side::Source, source, &message) => {
                Ended::Denied(message)
            }
            HandshakeError::Denied(message) | HandshakeError::Refused(message) => Ended::Fatal(Error::new(
                ErrorKind::SourceRefused,
                format!("the source {source} rejects the connection: {message}"),
            )),
        }
    }

    /// What was asked for on the last connection and did not come is asked for again.
    fn begin_anew(&mut self) {
        for ask in self.asked.drain(..) {
            match ask {
                Ask::Scan { scanner } => self.scanners[scanner].state = ScanState::Idle,
                Ask::Keys { promised, .. } => {
                    self.engine.budget.redeem(promised);
                    self.engine.limiter.correct(promised, 0);
                }
                Ask::Types { fetch, .. } => self.fetches[fetch].shapes.clear(),
                Ask::Time | Ask::Sizes { .. } | Ask::ValueMatch { .. } => {}
            }
        }
        self.on_the_way = 0;
        self.out = Bytes::default();
        self.page = ScanProgress::default();
        self.expiry = None;
        self.measure = None;
        self.skip = 0;
        let whole = |fetch: &Fetch| fetch.sized == fetch.keys.len();
        let pages = |wanted: bool| {
            let pages = self
                .fetches
                .iter()
                .filter(move |(_, fetch)| whole(fetch) == wanted);
            pages.map(|(number, _)| number).collect()
        };
        (self.unsized_pages, self.ready) = (pages(false), pages(true));
        for (_, fetch) in &mut self.fetches {
            fetch.asked = fetch.read;
        }
        self.ask_values_anew();
    }

    #[cold]
    fn slow(&self, answer: Answer, waited: Duration) {
        self.engine.measured(&self.engine.source_server(), answer, waited);
    }

    /// Show that the source is silent, and give the connection up when it is so for too long.
    fn watch(&mut self, deadline: &Deadline, now: Instant) -> Result<(), Ended> {
        if deadline.is_over(now) {
            return Err(Ended::Lost(deadline.reason()));
        }
        let trouble = (deadline.overdue(now) > NOTICEABLE)
            .then(|| format!("source {}: no reply", self.engine.spec.source));
        self.engine.health.borrow_mut().source(trouble, now);
        Ok(())
    }

    /// The connection is lost: what was being read, where that is known. A key that the source has failed to send again
    /// and again is read in parts, so that the others go on.
    fn cut_off(&mut self) -> Option<String> {
        let what = match *self.asked.iter().find(|ask| !matches!(ask, Ask::Time))? {
            Ask::Scan { scanner } => format!("the page at cursor {}", self.scanners[scanner].cursor),
            Ask::Keys { fetch, .. } => {
                let number = self.fetches[fetch].read;
                let key = shown(self.fetches[fetch].keys.get(number).0);
                let reads_values = !matches!(self.engine.depth(), Some(Depth::Length | Depth::Existence));
                if self.cuts >= MOST_CUTS && reads_values {
                    self.set_aside(fetch, number);
                    self.cuts = 0;
                }
                key
            }
            Ask::Time | Ask::Types { .. } | Ask::Sizes { .. } | Ask::ValueMatch { .. } => return None,
        };
        self.cuts += 1;
        Some(what)
    }

    /// Some progress was made: after enough of it, more is asked for at once again.
    #[inline]
    fn recover(&mut self, progress: u64) {
        if self.cuts > 0 {
            self.recovered += progress;
            if self.recovered >= RECOVERY {
                (self.cuts, self.recovered) = (self.cuts - 1, 0);
            }
        }
    }

    /// How much may be asked for at once.
    pub(crate) fn window_now(&self) -> usize {
        self.window >> self.cuts.saturating_mul(4).min(63)
    }

    /// Whether there are keys or pages to ask for, and only the budget or the window is in the way.
    fn is_held_back(&self) -> bool {
        self.page_held || !self.ready.is_empty()
    }
}

/// Wait until there may be touched keys to read.
async fn woken(engine: &Engine) {
    match &engine.follow {
        Some(follow) => follow.woken.notified().await,
        None => std::future::pending().await,
    }
}
