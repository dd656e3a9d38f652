//! What waits for one node of the target: the open batch, and the flights behind those that are on their way.
//!
//! Invariant: a key that is pushed is in exactly one batch until its reply is there.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use tokio::sync::Notify;

use crate::job::engine::Engine;
use crate::ledger::books::PageId;
use crate::net::Address;
use crate::resp::Restore;
use crate::target::batch::{Batch, Entry, Writing};
use crate::target::flight::Flight;
use crate::target::full::Full;
use crate::topology::NodeId;

/// One node of the target.
#[derive(Debug)]
pub(crate) struct Link {
    pub node: NodeId,
    pub address: Address,
    /// Keys acknowledged by it.
    pub keys: Cell<u64>,
    pub owns_slots: Cell<bool>,
    /// It has acknowledged keys since the last barrier that held.
    pub unconfirmed: Cell<bool>,
    /// It takes no keys for want of room.
    pub full: RefCell<Option<Full>>,
    pub(super) open: RefCell<Batch>,
    pub(super) queue: RefCell<VecDeque<Flight>>,
    pub(super) in_flight: Cell<usize>,
    pub(super) wake: Notify,
}

impl Link {
    pub fn new(node: NodeId, address: Address) -> Self {
        Self {
            node,
            address,
            keys: Cell::new(0),
            owns_slots: Cell::new(true),
            unconfirmed: Cell::new(false),
            full: RefCell::default(),
            open: RefCell::default(),
            queue: RefCell::default(),
            in_flight: Cell::new(0),
            wake: Notify::new(),
        }
    }

    /// Append a fresh key to the open batch; a full batch is queued.
    #[inline]
    pub fn push(&self, engine: &Engine, page: PageId, slot: u16, restore: &Restore<'_>, writing: Writing) {
        let mut open = self.open.borrow_mut();
        engine.budget.hold(open.push(page, slot, restore, writing));
        if open.is_full() {
            let full = std::mem::replace(&mut *open, engine.spares.borrow_mut().take());
            self.enqueue(Flight::of(full, engine));
        }
    }

    /// Append an entry that was sent before to the open batch.
    pub fn push_again(&self, engine: &Engine, entry: Entry, command: &[u8]) {
        let mut open = self.open.borrow_mut();
        open.push_again(entry, command);
        if open.is_full() {
            let full = std::mem::replace(&mut *open, engine.spares.borrow_mut().take());
            self.enqueue(Flight::of(full, engine));
        }
    }

    pub fn enqueue(&self, flight: Flight) {
        self.queue.borrow_mut().push_back(flight);
        self.wake.notify_one();
    }

    /// Wake the link if it waits for nothing and has an open batch. While replies are on their way, the open
    /// batch may grow: they will wake the link.
    pub fn nudge(&self) {
        if self.in_flight.get() == 0 && !self.open.borrow().is_empty() {
            self.wake.notify_one();
        }
    }

    /// Let the link look at once at what it has.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    pub(super) fn has_work(&self) -> bool {
        !self.open.borrow().is_empty()
            || !self.queue.borrow().is_empty()
            || self.full.borrow().as_ref().is_some_and(Full::has_probe)
    }
}
