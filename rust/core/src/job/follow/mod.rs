//! Following a live source: the stream says which keys were touched, and they are copied by name, for ever.
//!
//! Invariant: two writes of one key are never in flight at once: a key that the bulk copy has in hand is not taken, one
//! that was touched is left out of the scan, and one that is being copied waits. The mark goes to the ledger and never
//! passes a touch that is not acknowledged, or a doubt that no comparison has settled.

mod ahead;
mod apart;
mod attached;
mod elements;
mod given_up;
mod lists;
mod pages;
mod positions;
mod scanned;
mod siblings;
#[cfg(test)]
pub(crate) mod tests;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::chunked::parts::Kind;
use crate::event::{Event, EventKind};
use crate::job::control::{Doubts, FollowStatus};
use crate::job::engine::Engine;
use crate::ledger::books::PageId;
use crate::ledger::position::Position;
use crate::ledger::touched::{Taken, Touch, Touched};

pub(crate) use ahead::{Ahead, Came, What};
pub(crate) use apart::is_apart;
use elements::Parts;
pub(crate) use elements::Round;
pub(crate) use given_up::Cuts;
use given_up::GivenUp;
pub(crate) use lists::Unread;
pub(crate) use positions::Run;
use scanned::Scanned;
use siblings::Siblings;

/// A key that was touched waits for so long, so that one that is written all the time is copied a few times a second.
const COALESCE: Duration = Duration::from_millis(100);

/// How often touches that have waited are looked at, and the mark is moved.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Keys of one page, and pages that may be open: a page is done with its slowest key.
const PAGE_KEYS: usize = 128;
const MOST_PAGES: usize = 64;

/// Names of one page, in bytes.
const PAGE_BYTES: usize = 1 << 18;

/// So many large keys are remembered, to be copied in pages of their own.
const MOST_LARGE: usize = 10_000;

/// What happens when the source is emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnFlush {
    /// The job stops, before it.
    Stop,
    /// A comparison is asked for, which empties the target.
    Compare,
}

/// How a source is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowSpec {
    /// Where an earlier run has come to; none: begin at the source's present offset, and copy only then.
    pub from: Option<Position>,
    /// That run has left a doubt that no comparison has settled.
    pub in_doubt: bool,
    /// What happens when the source is emptied.
    pub on_flush: OnFlush,
    /// Bytes that the names of touched keys may take.
    pub memory: usize,
}

/// Where the stream stands.
#[derive(Debug, Default)]
struct Stream {
    position: Option<Position>,
    connected: bool,
    /// It began anew, so often, since the job started.
    resyncs: u64,
}

/// What was counted.
#[derive(Debug, Default)]
struct Figures {
    commands: Cell<u64>,
    writes: Cell<u64>,
    copied: Cell<u64>,
    deleted: Cell<u64>,
    bytes: Cell<u64>,
    published: Cell<u64>,
    scripts: Cell<u64>,
    functions: Cell<u64>,
    flushes: Cell<u64>,
    comparisons: Cell<u64>,
}

fn add(cell: &Cell<u64>, count: u64) {
    cell.set(cell.get() + count);
}

/// A page of touched keys that is being copied.
#[derive(Debug)]
struct Page {
    keys: Vec<Taken>,
    /// Places in `keys` of those that are to be taken again.
    returned: Vec<usize>,
}

/// What following needs beside the engine.
#[derive(Debug)]
pub(crate) struct Follow {
    spec: FollowSpec,
    begun: Instant,
    touched: RefCell<Touched>,
    stream: RefCell<Stream>,
    pages: RefCell<HashMap<PageId, Page>>,
    scanned: RefCell<Scanned>,
    siblings: Siblings,
    large: RefCell<HashSet<Rc<[u8]>>>,
    /// Keys that were told to be busy, and have not been copied since.
    busy: RefCell<HashSet<Rc<[u8]>>>,
    /// Keys that were pending or failed, and those of them that are copied now.
    owed: RefCell<HashSet<Vec<u8>>>,
    resolved: RefCell<Vec<Vec<u8>>>,
    /// Keys that an earlier run owed, until the stream has begun.
    left_apart: RefCell<Vec<Vec<u8>>>,
    /// The same for keys that it followed by their elements.
    left_followed: RefCell<Vec<(Vec<u8>, Kind)>>,
    parts: RefCell<Parts>,
    ahead: RefCell<ahead::Mode>,
    /// So often a key was begun to be compared.
    looks: Cell<u64>,
    given_up: RefCell<GivenUp>,
    figures: Figures,
    /// A snapshot is copied first, which is older than what would be read now: what is touched is only remembered.
    waits: Cell<bool>,
    comparing: Cell<bool>,
    /// It was told that slots were given up.
    slots_told: Cell<bool>,
    fence: Cell<Option<u64>>,
    /// Following ends once all up to here is clean.
    finish: Cell<Option<u64>>,
    over: Cell<bool>,
    /// Wakes the source reader: there may be keys to take.
    pub woken: Notify,
    /// Wakes who publishes: something has landed that is waited for.
    progressed: Notify,
    /// Wakes those, so many, who wait for the stream to come to an offset.
    arrived: Notify,
    awaited: Cell<u32>,
}

impl Follow {
    /// `owed` were pending or failed in an earlier run; `positions` has what it said of large keys; with `siblings`, two
    /// keys may get one name.
    pub fn new(
        spec: FollowSpec,
        owed: Vec<Vec<u8>>,
        positions: &[(Vec<u8>, String)],
        siblings: bool,
    ) -> Self {
        Self {
            begun: Instant::now(),
            touched: RefCell::new(Touched::new(spec.memory)),
            stream: RefCell::default(),
            pages: RefCell::default(),
            scanned: RefCell::new(Scanned::new()),
            siblings: Siblings::new(siblings),
            large: RefCell::default(),
            busy: RefCell::default(),
            owed: RefCell::new(owed.into_iter().collect()),
            resolved: RefCell::default(),
            left_apart: RefCell::new(apart::owed_in(positions)),
            left_followed: RefCell::new(apart::followed_in(positions)),
            parts: RefCell::default(),
            ahead: RefCell::default(),
            looks: Cell::default(),
            given_up: RefCell::default(),
            figures: Figures::default(),
            waits: Cell::new(false),
            comparing: Cell::new(false),
            slots_told: Cell::new(false),
            fence: Cell::new(None),
            finish: Cell::new(None),
            over: Cell::new(false),
            woken: Notify::new(),
            progressed: Notify::new(),
            arrived: Notify::new(),
            awaited: Cell::new(0),
            spec,
        }
    }

    /// Whether the stream has begun: only then may keys be scanned.
    pub fn has_begun(&self) -> bool {
        self.stream.borrow().position.is_some()
    }

    /// Whether following is over, as it was asked to be.
    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Whether nothing that was touched is copied before [`Self::begin_copying`].
    pub fn wait_for_snapshot(&self, waits: bool) {
        self.waits.set(waits);
    }

    /// All of the snapshot is in hand, or written: what was touched meanwhile is newer.
    pub fn begin_copying(&self) {
        self.waits.set(false);
        self.woken.notify_one();
    }

    /// The history that the stream is of.
    pub fn history(&self) -> Option<String> {
        let stream = self.stream.borrow();
        stream.position.as_ref().map(|position| position.id.clone())
    }

    fn now(&self) -> u32 {
        self.begun.elapsed().as_millis() as u32
    }

    /// Where the stream stands, as a touch.
    fn received(&self) -> Option<Touch> {
        let stream = self.stream.borrow();
        stream.position.as_ref().map(|position| Touch {
            offset: position.offset,
            selected: position.database,
            at: self.now(),
        })
    }

    /// Everything up to `offset` is waited for: nothing is held back to coalesce.
    pub fn set_fence(&self, offset: u64) {
        self.fence.set(Some(offset));
        self.woken.notify_one();
        self.progressed.notify_one();
    }

    /// Nobody waits for that fence any more.
    pub fn end_fence(&self, offset: u64) {
        if self.fence.get() == Some(offset) && self.finish.get().is_none() {
            self.fence.set(None);
        }
    }

    /// Following ends when everything up to `offset` is clean.
    pub fn finish_at(&self, offset: u64) {
        self.finish.set(Some(offset));
        self.set_fence(offset);
    }

    /// A comparison begins: what it has to look at.
    pub fn begin_comparison(&self) -> Doubts {
        self.comparing.set(true);
        self.slots_told.set(false);
        add(&self.figures.comparisons, 1);
        let doubtful = self.touched.borrow_mut().begin_comparison();
        Doubts {
            all: doubtful.all,
            slots: doubtful.slots,
        }
    }

    /// The comparison is over: these keys differ.
    pub fn end_comparison(&self, engine: &Engine, differing: &[Vec<u8>]) {
        for key in differing {
            if let Some(slot) = Self::slot(engine, key) {
                self.leave_elements(key, None);
                self.touched.borrow_mut().found(key, slot);
            }
        }
        self.comparing.set(false);
        self.touched.borrow_mut().end_comparison();
        self.woken.notify_one();
        self.progressed.notify_one();
    }

    /// Copy these keys, as if they had been touched now; with `untold`, of a stream that is followed by its elements no
    /// more than its groups: what a source does not tell its replicas is there.
    pub fn touch_now(&self, engine: &Engine, keys: &[Vec<u8>], untold: bool) {
        if let Some(touch) = self.received() {
            for key in keys {
                if !(untold && self.touch_groups(engine, key, touch)) {
                    self.touch(engine, key, touch);
                }
            }
            self.woken.notify_one();
        }
    }

    /// Remember a touched key, if it is one that is taken.
    #[inline]
    fn touch(&self, engine: &Engine, key: &[u8], touch: Touch) {
        if let Some(slot) = Self::slot(engine, key) {
            let is_followed = self.parts.borrow().contains(key);
            if is_followed {
                self.leave_elements(key, Some(touch));
            }
            self.touched.borrow_mut().touch(key, slot, touch);
        }
    }

    /// The slot that a key has at the target; none if the key is not taken.
    #[inline]
    fn slot(engine: &Engine, key: &[u8]) -> Option<u16> {
        engine.with_naming(|naming| match naming {
            None => Some(crate::slot::key_slot(key)),
            Some((map, scratch)) => map.place(key, scratch).map(|(_, slot)| slot),
        })
    }

    /// Move the mark, and show all of it.
    fn publish(&self, engine: &Engine) {
        let Some(received) = self.received() else {
            return;
        };
        let (mut touched, parts) = (self.touched.borrow_mut(), self.parts.borrow());
        let first = |touch: Touch, parts: Option<Touch>| {
            let earlier = parts.filter(|parts| parts.offset < touch.offset);
            earlier.unwrap_or(touch)
        };
        let mark = first(touched.mark(received), parts.first(false));
        let clean = first(touched.clean(received), parts.first(true)).offset;
        let clean = clean.min(parts.trimmed().unwrap_or(u64::MAX));
        let busy_keys: Vec<_> = touched.owed().map(<[u8]>::to_vec).collect();
        let apart = apart::texts(&busy_keys, parts.at_target());
        let given_up = touched.are_slots_in_doubt();
        let doubtful = touched.doubtful();
        let status = {
            let stream = self.stream.borrow();
            let id = stream.position.as_ref().map(|position| position.id.clone());
            FollowStatus {
                mark: Position {
                    id: id.unwrap_or_default(),
                    offset: mark.offset,
                    database: mark.selected,
                },
                clean,
                busy_keys,
                in_doubt: doubtful.all || !doubtful.slots.is_empty(),
                received: received.offset,
                lag: Duration::from_millis(if mark.offset < received.offset {
                    u64::from(received.at.saturating_sub(mark.at))
                } else {
                    0
                }),
                connected: stream.connected,
                resyncs: stream.resyncs,
                touched: (touched.len() + parts.touched()) as u64,
                touched_bytes: touched.bytes() as u64,
                doubtful_slots: doubtful.slots.len() as u64,
                doubtful_all: doubtful.all,
                comparing: self.comparing.get(),
                commands: self.figures.commands.get(),
                writes: self.figures.writes.get(),
                copied: self.figures.copied.get(),
                deleted: self.figures.deleted.get(),
                bytes: self.figures.bytes.get(),
                published: self.figures.published.get(),
                scripts: self.figures.scripts.get(),
                functions: self.figures.functions.get(),
                flushes: self.figures.flushes.get(),
                comparisons: self.figures.comparisons.get(),
                at_rest: engine.limiter.is_paused() && self.pages.borrow().is_empty() && !parts.has_round(),
            }
        };
        drop((touched, parts));
        let resolved = std::mem::take(&mut *self.resolved.borrow_mut());
        engine
            .shared
            .ledger()
            .set_follow(status.follow_mark(apart), resolved);
        let is_clean = |fence: u64| !status.in_doubt && status.clean >= fence;
        // The copy goes first: until it is done, what is written has to be followed.
        let is_alone = engine.readers_running.get() <= 1;
        if is_alone && self.finish.get().is_some_and(is_clean) {
            self.over.set(true);
            self.woken.notify_one();
        }
        let fence = self.fence.get().filter(|&fence| is_clean(fence));
        if fence.is_some() && self.finish.get().is_none() {
            self.fence.set(None);
        }
        let slots = status.doubtful_slots;
        engine.shared.show_follow(status, fence.is_some());
        if given_up && !self.slots_told.replace(true) {
            let source = &engine.spec.source;
            Self::tell(
                engine,
                EventKind::ComparisonWanted,
                format!(
                    "source {source}: more keys were touched than fit in memory; both sides have to be compared in {slots} \
                     slots"
                ),
            );
        }
    }

    /// Something that the control plane has to see to.
    fn tell(engine: &Engine, kind: EventKind, message: String) {
        engine.shared.tell(Event::new(kind, message));
    }
}
