//! Large keys: never dumped, but read and written in parts, one after another, beside the pipeline.
//!
//! Invariant: a large key is in exactly one place, the queue or the worker's hands, until it is settled; its page
//! stays open until then. At most a few parts are held in memory.

mod ahead;
mod elements;
mod existing;
mod groups;
mod incoming;
mod incoming_stream;
mod incoming_string;
mod incoming_tries;
mod list_target;
mod lists;
mod moving_stream;
mod one_key;
mod rounds;
mod second_look;
mod source;
mod stream;
mod stream_step;
mod stream_told;
mod string;
mod target;
mod temporary;
mod waiting;
mod write;

use std::cell::{Cell, RefCell};
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::chunked::copy::one_key::{Copy, Done, Stop};
pub(crate) use incoming::{Ending, Incoming};
use source::Source;

use crate::chunked::compare::Sides;
use crate::chunked::parts::{CHUNK_BYTES, Limits};
use crate::error::ErrorKind;
use crate::event::{Event, EventKind};
use crate::job::engine::{Backoff, Engine};
use crate::ledger::books::PageId;
use crate::ledger::progress::{Outcome, RetryReason};
use crate::ledger::unsettled::{Failure, FailureKind, Pending};
use crate::net::client::Client;
use crate::rdb::kind_name;
use crate::resp::Restore;
use crate::text::said;
use crate::text::shown;
use crate::topology::NodeId;

/// A key that changes so often while it is copied is given up; while the source is followed, it is owed.
const MOST_CHANGES: u32 = 10;
const MOST_FOLLOWED_CHANGES: u32 = 3;

/// A key whose read has ended so many connections, for so long, without coming any farther is given up: the source
/// can't send it.
pub(crate) const MOST_CUTS: u32 = 5;
pub(crate) const CUT_PATIENCE: Duration = Duration::from_secs(10);

/// What is copied in one go.
const LIMITS: Limits = Limits {
    bytes: CHUNK_BYTES,
    elements: 500,
};

/// A key that is to be copied in parts.
#[derive(Debug)]
pub(crate) struct Big {
    pub page: PageId,
    /// Its number within the page.
    pub number: u32,
    pub slot: u16,
    /// Bytes that it takes at the source.
    pub size: u64,
    pub source: Vec<u8>,
    pub target: Vec<u8>,
    /// It may have been written already.
    pub in_doubt: bool,
    /// The target has ended connections that it came over in one command.
    pub refused: bool,
}

/// The large keys that wait, and whether one is being copied.
#[derive(Debug, Default)]
pub(crate) struct BigKeys {
    queue: RefCell<VecDeque<Big>>,
    running: Cell<bool>,
    /// It was told that the source does not say how large keys are.
    blind: Cell<bool>,
}

/// How a key's copying ended.
enum Ended {
    Settled,
    /// The job drains or has failed: the key stays open.
    Left,
}

/// The connections that ended while a key was read.
#[derive(Debug, Default)]
struct Cuts {
    /// Since when the key has come no farther, and how many connections were opened until then.
    since: Option<Instant>,
    opened: u32,
    /// Where it has come to.
    reached: HashSet<String>,
}

impl Cuts {
    /// Begin with a key, `opened` connections having been opened before.
    fn new(opened: u32) -> Self {
        Self {
            opened,
            ..Self::default()
        }
    }

    /// One more connection ended; returns since when the key has come no farther.
    fn lost(&mut self, engine: &Engine, big: &Big, opened: u32, now: Instant) -> Instant {
        let position = engine.shared.ledger().big_position(&big.source);
        let place = position.map(|text| text.split(' ').take(2).collect::<Vec<_>>().join(" "));
        if place.is_some_and(|place| self.reached.insert(place)) {
            (self.since, self.opened) = (None, opened);
        }
        *self.since.get_or_insert(now)
    }

    /// One more of `count` connections to the target ended; how many in a row, where they show that it won't take the key.
    fn lost_again(&mut self, engine: &Engine, big: &Big, count: u32, now: Instant) -> Option<u32> {
        let since = self.lost(engine, big, count - 1, now);
        self.too_many(count, now - since, engine.spec.retry_for)
    }

    /// How many there were, where they show that the source can't send the key.
    fn too_many(&self, opened: u32, lasting: Duration, retry_for: Duration) -> Option<u32> {
        let times = opened - self.opened;
        (times >= MOST_CUTS && lasting >= CUT_PATIENCE.min(retry_for)).then_some(times)
    }
}

impl Engine {
    /// The source does not say how large keys are: tell it once.
    #[cold]
    pub(crate) fn sizes_unknown(&self, error: &[u8]) {
        if !self.big.blind.replace(true) {
            self.shared.tell(Event::new(
                EventKind::BigKeysUnseen,
                format!(
                    "large keys are not told from others, since the source answered {} to MEMORY USAGE",
                    said(error)
                ),
            ));
        }
    }

    /// Copy a key in parts, after those that wait already.
    pub(crate) fn take_big(self: &Rc<Self>, big: Big) {
        if self.spec.file.is_some() {
            let (name, bytes) = (shown(&big.source), big.size);
            // What is too large for one command is told before it comes here.
            let why = if big.refused || big.target.len() as u64 + bytes > self.largest as u64 {
                "more than the target takes in one command, and a file can't be asked for parts".to_owned()
            } else {
                format!(
                    "has to be laid out anew for the target, and takes more than {} bytes for that: raise --memory-limit",
                    self.decode_limit()
                )
            };
            let message = format!("{name} takes {bytes} bytes, {why}");
            return self.fail_big(&big, FailureKind::TooLarge, message, String::new());
        }
        self.budget.hold_names(big.weight());
        self.big.queue.borrow_mut().push_back(big);
        if !self.big.running.replace(true) {
            let engine = Rc::clone(self);
            self.spawn(async move { engine.copy_big_keys().await });
        }
    }

    async fn copy_big_keys(self: Rc<Self>) {
        let mut source = Source::default();
        let mut target = None;
        let mut sides = Sides::default();
        loop {
            let Some(big) = self.big.queue.borrow_mut().pop_front() else {
                break;
            };
            let ended = self.copy_big(&big, &mut source, &mut target, &mut sides).await;
            self.budget.free_names(big.weight());
            if let Ended::Left = ended {
                self.cut_short.set(true);
                self.changed.notify_one();
                return;
            }
            self.shared.ledger().set_big_position(&big.source, None);
        }
        self.big.running.set(false);
        self.changed.notify_one();
    }

    /// Copy one key, whatever it takes.
    async fn copy_big(
        self: &Rc<Self>,
        big: &Big,
        source: &mut Source,
        target: &mut Option<(NodeId, Client)>,
        sides: &mut Sides,
    ) -> Ended {
        let mut in_doubt = big.in_doubt;
        let mut changes = 0;
        let mut backoff = Backoff::new();
        let mut cuts = Cuts::new(source.opened);
        let (mut refusals, mut refused) = (Cuts::new(0), 0);
        source.begin();
        loop {
            if self.draining.get() {
                return Ended::Left;
            }
            let mut copy = Copy {
                engine: self,
                big,
                source,
                target,
                sides,
                in_doubt: &mut in_doubt,
            };
            let stop = match copy.run().await {
                // What the target has of a key that was touched goes as well: its deletion may not be in the stream yet.
                Ok(Done::Settled(Outcome::Vanished | Outcome::Expired, _)) if self.is_followed(big.page) => {
                    self.delete_followed(big.page, big.slot, &big.restore(0, b""));
                    self.nudge();
                    return Ended::Settled;
                }
                Ok(Done::Settled(outcome, bytes)) => {
                    self.settle_big(big, outcome, bytes);
                    return Ended::Settled;
                }
                Ok(Done::Whole { expires_at, payload }) => {
                    self.pass_on_whole(big, expires_at, &payload);
                    return Ended::Settled;
                }
                Err(stop) => stop,
            };
            let now = Instant::now();
            if !matches!(stop, Stop::Source(_)) {
                cuts.since = None;
            }
            if !matches!(stop, Stop::Cut(_)) {
                (refusals.since, refusals.opened) = (None, refused);
            }
            match stop {
                Stop::Drained => return Ended::Left,
                Stop::Fatal(error) => {
                    self.stop(error.kind, error.message);
                    return Ended::Left;
                }
                Stop::Moved
                | Stop::Gone
                | Stop::Ordinary
                | Stop::NotNow(_)
                | Stop::Late(_)
                | Stop::Uncertain(_) => {}
                Stop::Source(reason) => {
                    let since = cuts.lost(self, big, copy.source.opened, now);
                    if let Some(times) = cuts.too_many(copy.source.opened, now - since, self.spec.retry_for) {
                        let _ = copy.sweep().await;
                        self.fail_cut_off(big, &reason, times);
                        return Ended::Settled;
                    }
                    if now - since >= self.spec.retry_for {
                        let waited = (now - since).as_secs();
                        let message = format!("source {}: {reason}, for {waited} s", self.spec.source);
                        self.stop(ErrorKind::SourceLost, message);
                        return Ended::Left;
                    }
                    self.shared.progress.add_retries(RetryReason::ConnectionLost, 1);
                    tokio::time::sleep(backoff.step()).await;
                }
                Stop::Cut(reason) => {
                    refused += 1;
                    let times = refusals.lost_again(self, big, refused, now);
                    if let Some(ended) = self.after_cut(big, &mut copy, &reason, times).await {
                        return ended;
                    }
                }
                Stop::Target { reason, full } => {
                    if let Some(ended) = self.wait_for_slot(big, &reason, full).await {
                        if full {
                            // What can't become whole must not take the memory that others lack.
                            let _ = copy.sweep().await;
                        }
                        return ended;
                    }
                }
                Stop::Changed(what) => {
                    changes += 1;
                    if let Some(ended) = self.after_change(big, &mut copy, what, changes).await {
                        return ended;
                    }
                    tokio::time::sleep(backoff.step()).await;
                }
                Stop::Elsewhere(_) | Stop::Failed(..) => return self.give_up(big, &mut copy, stop).await,
            }
        }
    }

    /// The key is not copied here: it has failed, or is another node's of the source, and left pending.
    async fn give_up(self: &Rc<Self>, big: &Big, copy: &mut Copy<'_>, stop: Stop) -> Ended {
        let _ = copy.sweep().await;
        match stop {
            Stop::Failed(kind, message, node) => self.fail_big(big, kind, message, node.to_string()),
            Stop::Elsewhere(reason) => {
                self.shared.ledger().set_big_position(&big.source, None);
                let (key, slot) = (big.source.clone(), big.slot);
                self.park(big.page, Pending { key, slot, reason });
            }
            _ => {}
        }
        Ended::Settled
    }

    /// Pass a key on as any other, in one piece.
    fn pass_on_whole(self: &Rc<Self>, big: &Big, expires_at: u64, payload: &[u8]) {
        let restore = big.restore(expires_at, payload);
        if restore.key.len() + payload.len() > self.largest {
            return self.fail_whole(big, payload);
        }
        self.route(big.page, big.slot, &restore);
        self.nudge();
    }

    /// The key has changed while it was copied, so many times: it is copied from its start, or not now.
    async fn after_change(
        self: &Rc<Self>,
        big: &Big,
        copy: &mut Copy<'_>,
        what: &'static str,
        changes: u32,
    ) -> Option<Ended> {
        self.shared.ledger().set_big_position(&big.source, None);
        copy.source.begin();
        let is_followed = self.follow.is_some();
        if changes
            >= if is_followed {
                MOST_FOLLOWED_CHANGES
            } else {
                MOST_CHANGES
            }
        {
            let _ = copy.sweep().await;
            self.fail_changing(big, what, changes);
            return Some(Ended::Settled);
        }
        self.shared.tell(Event {
            kind: EventKind::BigKeyAgain,
            message: format!("{} is copied from its start: {what}", shown(&big.source)),
            node: None,
            slot: Some(big.slot),
        });
        None
    }

    /// The target has ended the connection: after so many `times` that the key is given up, or else as for any slot.
    async fn after_cut(
        self: &Rc<Self>,
        big: &Big,
        copy: &mut Copy<'_>,
        reason: &str,
        times: Option<u32>,
    ) -> Option<Ended> {
        if let Some(times) = times {
            let _ = copy.sweep().await;
            self.fail_refused(big, reason, times);
            return Some(Ended::Settled);
        }
        self.wait_for_slot(big, reason, false).await
    }

    fn settle_big(self: &Rc<Self>, big: &Big, outcome: Outcome, bytes: u64) {
        self.health.borrow_mut().answered(big.slot, Instant::now());
        let bytes = if outcome == Outcome::Migrated { bytes } else { 0 };
        if outcome == Outcome::Migrated
            && let Some((owner, _)) = self.owner(big.slot)
        {
            let link = self.link(owner);
            link.keys.set(link.keys.get() + 1);
        }
        self.settle(big.page, outcome, 1, bytes);
    }

    /// The source can't send a key: it is given up, so that the others go on.
    fn fail_cut_off(&self, big: &Big, reason: &str, times: u32) {
        let key = shown(&big.source);
        let message = format!(
            "{key} can't be read: {reason}, {times} times in a row, though the source answers otherwise (see \
             client-output-buffer-limit there, and what is between)"
        );
        self.fail_big(big, FailureKind::Error, message, self.spec.source.to_string());
    }

    /// The target ends the connection whenever the key is written: it is given up, so that the others go on.
    fn fail_refused(&self, big: &Big, reason: &str, times: u32) {
        let message = incoming::refused_message(big, reason, times);
        self.fail_too_large(big.page, big.slot, big.source.clone(), message);
    }

    /// A value that can't be cut is beyond what the target takes in one command.
    fn fail_whole(&self, big: &Big, payload: &[u8]) {
        let kind = payload.first().map_or("value", |&byte| kind_name(byte));
        let bytes = big.target.len() + payload.len();
        let message = format!(
            "the target can't hold {}: a {kind} that is written in one piece, and its {bytes} bytes are above {}",
            shown(&big.target),
            self.spec.target_limits.broken_by(bytes)
        );
        self.fail_too_large(big.page, big.slot, big.source.clone(), message);
    }

    fn fail_changing(&self, big: &Big, what: &str, changes: u32) {
        if let Some(follow) = &self.follow {
            if follow.owns(big.page) {
                follow.owe(self, big.page, &big.source);
            } else {
                follow.take_over(self, &big.source);
            }
            return self.park(
                big.page,
                Pending {
                    key: big.source.clone(),
                    slot: big.slot,
                    reason: format!("{what}, {changes} times in a row: it is followed"),
                },
            );
        }
        let key = shown(&big.source);
        let message = format!(
            "{key} could not be copied in parts: {what}, {changes} times in a row (run again when it is written to \
             less)"
        );
        self.fail_big(big, FailureKind::Error, message, self.spec.source.to_string());
    }

    fn fail_big(&self, big: &Big, kind: FailureKind, message: String, node: String) {
        self.fail(
            big.page,
            Failure {
                key: big.source.clone(),
                slot: big.slot,
                kind,
                message,
                sides: None,
                node,
            },
        );
    }
}

impl Big {
    /// The key with this payload; without one it is deleted.
    fn restore<'a>(&'a self, expires_at: u64, payload: &'a [u8]) -> Restore<'a> {
        Restore {
            number: self.number,
            key: &self.target,
            expires_at,
            payload,
            is_string: false,
            rdb_version: None,
            eviction: None,
        }
    }

    fn weight(&self) -> usize {
        size_of::<Self>() + self.source.len() + self.target.len()
    }
}
