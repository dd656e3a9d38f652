//! What the engine's thread and the control plane share: the ledger, the counters, the state, and the two
//! letter boxes, events one way and commands the other.
//!
//! Invariant: neither side ever waits for the other with a lock held; the ledger's is taken once per batch.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::checkpoint::{Ledger, Mark};
use crate::error::Result;
use crate::net::Access;
use crate::progress::Progress;
use crate::topology::SlotRange;

/// At most so many events wait for the control plane; the oldest go first.
const MOST_EVENTS: usize = 10_000;

/// Something that the control plane should know of or act on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What it is: see the border's stub file.
    pub kind: &'static str,
    /// One sentence.
    pub message: String,
    /// The node it is about.
    pub node: Option<String>,
    /// The slot it is about.
    pub slot: Option<u16>,
}

impl Event {
    pub(crate) fn source(kind: &'static str, message: String) -> Self {
        Self {
            kind,
            message,
            node: None,
            slot: None,
        }
    }
}

/// The two sides of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Where keys are read.
    Source,
    /// Where they are written.
    Target,
}

impl Side {
    /// The side's name as the control plane knows it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Target => "target",
        }
    }
}

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

#[derive(Debug)]
pub(crate) struct Status {
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
    /// Books for partitions that start at these marks; with a `barrier`, only what it confirms is handed over.
    pub fn new(marks: &[Mark], barrier: bool) -> Self {
        let mut ledger = Ledger::new(marks);
        if barrier {
            ledger = ledger.with_barrier();
        }
        Self {
            ledger: Mutex::new(ledger),
            progress: Progress::default(),
            status: Mutex::new(Status {
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
