//! Whole slots handed from one node of a cluster to another: copied beside the traffic, given up in one step.
//!
//! MIGRATE blocks its source until the target has answered, key for key. Here the source only answers reads: the
//! keys of a slot are watched, dumped and restored on the target, which imports the slot while the source
//! serves it as if nothing were. Then one transaction opens the slot at the source and unlinks the keys.
//!
//! Invariants:
//! - A client sees a key on the source or on the target, never on neither and never an old copy. Before the
//!   transaction the source answers for all keys and sends no ASK; with it, the copied keys are gone there, the
//!   slot is `MIGRATING`, and the copies are what the keys were at that instant: WATCH makes the transaction
//!   fail otherwise. A script does both or neither, since a transaction goes on after an error of one command.
//! - What WATCH does not see all changes of (streams, values of modules) is never copied: it stays at the source
//!   when the slot is opened, and its next step, MIGRATE, takes it, as it takes keys that come late.
//! - What was copied is dropped from the target again whenever it is certain that the transaction did not
//!   take place. Where that is not certain, nothing is dropped, and the outcome says so.
//! - Keys held in memory stay within `Limits::bytes` a slot and worker.
//!
//! Not for servers that pass SETSLOT on to their replicas (Valkey ≥ 8): they block the client for it, which they
//! cannot do in a transaction, and end with a failed assertion.

mod coordinator;
mod copy;
mod keys;
mod peer;
mod slot;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio::task::LocalSet;

use crate::error::{Error, ErrorKind, Result};
use crate::net::{Access, Address};
use coordinator::Coordinator;
use keys::Keys;
use slot::{Broken, Listed, SourceReader};

/// So many times the keys of a chunk are listed ahead, as slots were filled so far.
const CHUNKS_LISTED: usize = 8;

/// Slots that are listed ahead at most.
const MOST_LISTED: usize = 8;

/// Both nodes and how to reach them.
#[derive(Debug, Clone)]
pub struct HandoverSpec {
    /// The primary that serves the slots.
    pub source: Address,
    /// The primary that imports them.
    pub target: Address,
    /// The target's node id.
    pub target_id: String,
    /// Credentials and TLS, the same for both.
    pub access: Access,
    /// What the connections are called in CLIENT LIST.
    pub client_name: String,
    /// Whether the target has a replica: it is waited for before a slot is given up.
    pub replicated: bool,
    /// How much at once.
    pub limits: Limits,
}

/// How much may be asked of the nodes at once. A slot beyond `keys`, `bytes` or `key_bytes` is left alone; of strings
/// it is the bytes of their payloads that count.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Slots under way at a time; each has a connection to either node.
    pub workers: usize,
    /// Keys of the slots that are read at a time; a slot of more is read alone.
    pub reading_keys: usize,
    /// Slots that are given up together, as far as they come: each time makes the source save its configuration.
    pub together: usize,
    /// Keys of the slots that are given up together: so many are enough.
    pub together_keys: usize,
    /// Keys that are read in one go.
    pub chunk_keys: usize,
    /// Bytes that are read in one go, as MEMORY USAGE counts them; a larger key goes alone.
    pub chunk_bytes: u64,
    /// Keys that are unlinked in one transaction.
    pub keys: usize,
    /// Bytes of a slot, as MEMORY USAGE counts them.
    pub bytes: u64,
    /// Bytes of a key, as MEMORY USAGE counts them.
    pub key_bytes: u64,
}

/// What became of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// Its keys are on the target, and it is open: `MIGRATING` at the source. Keys that came meanwhile, streams and
    /// values of modules may still lie there.
    HandedOver,
    /// As before, and nothing of it is on the target: too many keys or bytes, or a key that is too large.
    Large,
    /// As before: its keys are changed more often than they can be copied.
    Busy,
    /// As before: a server said no, with these words.
    Refused(String),
    /// As before: a node was lost, and it was not begun or not given up for that.
    NotBegun,
    /// A connection was lost; copies may lie on the target, and the slot may be open.
    Lost {
        /// Whether it was the source's.
        source: bool,
        /// What happened.
        why: String,
    },
}

/// A slot, what became of it, and how many keys and bytes of payload were handed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The slot.
    pub slot: u16,
    /// What became of it.
    pub fate: Fate,
    /// Keys handed over.
    pub keys: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
}

impl Outcome {
    fn without_keys(slot: u16, fate: Fate) -> Self {
        Self {
            slot,
            fate,
            keys: 0,
            bytes: 0,
        }
    }
}

/// Connections between two nodes, over which slots are handed over; used by one thread at a time.
#[derive(Debug)]
pub struct Handover {
    spec: Arc<HandoverSpec>,
    runtime: Runtime,
    idle: Vec<SourceReader>,
}

impl Handover {
    /// Prepare; nothing is opened yet.
    pub fn new(spec: HandoverSpec) -> Result<Self> {
        if spec.limits.workers == 0
            || spec.limits.chunk_keys == 0
            || spec.limits.keys == 0
            || spec.limits.reading_keys == 0
        {
            return Err(Error::new(
                ErrorKind::Usage,
                "workers, reading_keys, chunk_keys and keys must be at least 1",
            ));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| Error::new(ErrorKind::Internal, format!("no runtime: {error}")))?;
        Ok(Self {
            spec: Arc::new(spec),
            runtime,
            idle: Vec::new(),
        })
    }

    /// Hand slots over; the target must import them already, and the source serve them undisturbed.
    ///
    /// Returns an outcome for each slot. After a lost connection no further slot is begun.
    pub fn hand_over(&mut self, slots: &[u16]) -> Vec<Outcome> {
        let queue = Rc::new(Queue {
            slots: RefCell::new(slots.iter().copied().collect()),
            listed: RefCell::new(VecDeque::new()),
            ahead: Cell::new(1),
            outcomes: RefCell::new(Vec::with_capacity(slots.len())),
            stopped: Cell::new(false),
            coordinator: Coordinator::new(&self.spec.limits),
        });
        let workers = self.spec.limits.workers.min(slots.len());
        while self.idle.len() < workers {
            self.idle.push(SourceReader::new(Arc::clone(&self.spec)));
        }
        let tasks = LocalSet::new();
        let running: Vec<_> = self
            .idle
            .drain(..workers)
            .map(|worker| tasks.spawn_local(work(worker, Rc::clone(&queue))))
            .collect();
        let workers = tasks.block_on(&self.runtime, async {
            let mut workers = Vec::new();
            for task in running {
                match task.await {
                    Ok(worker) => workers.push(worker),
                    Err(failure) => std::panic::resume_unwind(failure.into_panic()),
                }
            }
            workers
        });
        self.idle.extend(workers);
        let mut outcomes = queue.outcomes.take();
        let listed = queue.listed.take().into_iter().map(|(slot, _)| slot);
        let waiting = listed.chain(queue.slots.take());
        outcomes.extend(waiting.map(|slot| Outcome::without_keys(slot, Fate::NotBegun)));
        outcomes
    }
}

/// What the workers of one call share.
struct Queue {
    slots: RefCell<VecDeque<u16>>,
    /// The next slots, with their keys.
    listed: RefCell<VecDeque<(u16, Keys)>>,
    /// Slots to be listed at once.
    ahead: Cell<usize>,
    outcomes: RefCell<Vec<Outcome>>,
    stopped: Cell<bool>,
    coordinator: Coordinator,
}

impl Queue {
    fn settle(&self, outcome: Outcome) {
        if matches!(outcome.fate, Fate::Lost { .. }) {
            self.stopped.set(true);
        }
        self.outcomes.borrow_mut().push(outcome);
    }

    /// Take the next slot; where none is listed, list some.
    async fn next(&self, worker: &mut SourceReader) -> Option<(u16, Keys)> {
        loop {
            if let Some(next) = self.listed.borrow_mut().pop_front() {
                return Some(next);
            }
            let slots: Vec<u16> = {
                let mut slots = self.slots.borrow_mut();
                let count = self.ahead.get().min(slots.len());
                slots.drain(..count).collect()
            };
            let &first = slots.first()?;
            match worker.list(&slots).await {
                Ok(lists) => self.take_lists(&slots, lists, worker),
                Err(broken) => {
                    self.lose(first, &slots[1..], worker, broken);
                    return None;
                }
            }
        }
    }

    fn take_lists(&self, slots: &[u16], lists: Vec<Listed>, worker: &SourceReader) {
        let mut keys = 0;
        for (&slot, list) in slots.iter().zip(lists) {
            match list {
                Ok(list) => {
                    keys += list.len();
                    self.listed.borrow_mut().push_back((slot, list));
                }
                Err(refusal) => self.settle(Outcome::without_keys(slot, Fate::Refused(refusal))),
            }
        }
        let each = keys.div_ceil(slots.len()).max(1);
        let most = worker.spec.limits.chunk_keys * CHUNKS_LISTED;
        self.ahead.set((most / each).clamp(1, MOST_LISTED));
    }

    fn lose(&self, first: u16, others: &[u16], worker: &mut SourceReader, broken: Broken) {
        self.coordinator.lose();
        self.settle(worker.lost(first, broken));
        let mut slots = self.slots.borrow_mut();
        others.iter().rev().for_each(|&slot| slots.push_front(slot));
    }
}

async fn work(mut worker: SourceReader, queue: Rc<Queue>) -> SourceReader {
    while !queue.stopped.get() {
        queue.coordinator.enter();
        let Some((slot, keys)) = queue.next(&mut worker).await else {
            queue.coordinator.leave();
            break;
        };
        let outcome = worker.carry(slot, keys, &queue.coordinator).await;
        queue.settle(outcome);
    }
    worker
}
