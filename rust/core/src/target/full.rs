//! A node without room (OOM, MISCONF): its keys wait, while one probe at a time asks whether it takes any again.
//!
//! Invariant: as long as a node is full, no RESTORE goes there but the probe's; what was not yet on its way when it
//! filled up is taken back. A probe has one key, and twice as many after each that was taken whole.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Instant;

use crate::error::ErrorKind;
use crate::job::engine::{Backoff, Engine};
use crate::ledger::progress::RetryReason;
use crate::target::batch::Batch;
use crate::target::flight::Flight;
use crate::target::link::Link;

/// A probe has so many keys at the most.
const MOST: usize = 1024;

/// Why a link holds its keys back, and which.
#[derive(Debug)]
pub(crate) struct Full {
    /// Since when no probe was taken.
    since: Instant,
    reason: String,
    /// Keys that were refused, and how many of each batch have gone out again.
    held: VecDeque<(Batch, usize)>,
    backoff: Backoff,
    /// How many keys the next probe has.
    window: usize,
    /// The probe that the link is to take up next.
    probe: Option<Flight>,
    /// A probe is on its way, so that no timer runs.
    is_asked: bool,
}

impl Full {
    fn new(reason: &str, now: Instant) -> Self {
        Self {
            since: now,
            reason: reason.to_owned(),
            held: VecDeque::new(),
            backoff: Backoff::new(),
            window: 1,
            probe: None,
            is_asked: false,
        }
    }

    /// The probe that is to be sent.
    pub fn take_probe(&mut self) -> Option<Flight> {
        self.probe.take()
    }

    pub fn has_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl Engine {
    /// The node has no room for the entries of `batch`: they wait for a probe to be taken.
    pub fn hold_full(self: &Rc<Self>, link: &Rc<Link>, batch: Batch, reason: &str) {
        let now = Instant::now();
        let mut health = self.health.borrow_mut();
        for entry in batch.entries() {
            health.delayed(entry.slot, true, reason, now);
        }
        drop(health);
        self.want_topology(reason.to_owned(), batch.entries().first().map(|entry| entry.slot));
        let mut full = link.full.borrow_mut();
        let is_news = full.is_none();
        let held = full.get_or_insert_with(|| Full::new(reason, now));
        reason.clone_into(&mut held.reason);
        held.held.push_back((batch, 0));
        drop(full);
        if is_news {
            self.probe_later(link);
        }
    }

    /// A probe came back: so many of its keys were `taken`, and whether any was `refused` for want of room.
    pub fn probed(self: &Rc<Self>, link: &Rc<Link>, taken: usize, refused: bool) {
        let mut full = link.full.borrow_mut();
        let Some(held) = full.as_mut() else { return };
        held.is_asked = false;
        if taken > 0 {
            held.since = Instant::now();
        }
        if refused {
            held.window = 1;
            drop(full);
            self.probe_later(link);
        } else {
            held.window = MOST.min(held.window * 2);
            held.backoff = Backoff::new();
            drop(full);
            self.send_probe(link);
        }
    }

    /// The connection is lost, and with it a probe that was on its way; its keys wait elsewhere.
    pub fn probe_lost(self: &Rc<Self>, link: &Rc<Link>) {
        let mut full = link.full.borrow_mut();
        let Some(held) = full.as_mut() else { return };
        if let Some(Flight::Restore { batch, .. }) = held.probe.take() {
            held.held.push_front((batch, 0));
        }
        if std::mem::take(&mut held.is_asked) {
            drop(full);
            self.probe_later(link);
        }
    }

    /// Send a probe after a while, but no later than the patience ends.
    fn probe_later(self: &Rc<Self>, link: &Rc<Link>) {
        let wait = match link.full.borrow_mut().as_mut() {
            Some(held) => held
                .backoff
                .step()
                .min(self.spec.retry_for.saturating_sub(held.since.elapsed())),
            None => return,
        };
        let (engine, link) = (Rc::clone(self), Rc::clone(link));
        self.spawn(async move {
            tokio::time::sleep(wait).await;
            engine.send_probe(&link);
        });
    }

    /// Send the next probe, and what belongs to other nodes by now to these; the node is no longer full where nothing
    /// waits for it.
    fn send_probe(self: &Rc<Self>, link: &Rc<Link>) {
        let (mut probe, mut elsewhere) = (Batch::default(), Batch::default());
        let mut full = link.full.borrow_mut();
        let Some(held) = full.as_mut() else { return };
        while probe.entries().len() < held.window {
            let Some((batch, next)) = held.held.front_mut() else {
                break;
            };
            let Some(entry) = batch.entries().get(*next) else {
                if let Some((batch, _)) = held.held.pop_front() {
                    self.spares.borrow_mut().give(batch);
                }
                continue;
            };
            let owner = self.router.borrow().topology().owner(entry.slot);
            let is_ours = owner == Some(link.node);
            let to = if is_ours { &mut probe } else { &mut elsewhere };
            to.push_again(*entry, batch.command(*next));
            *next += 1;
        }
        if let Some(first) = probe.entries().first()
            && held.since.elapsed() >= self.spec.retry_for
        {
            let waited = held.since.elapsed().as_secs();
            let message = format!(
                "the target takes no more keys: {} for {waited} s (slot {})",
                held.reason, first.slot
            );
            return self.stop(ErrorKind::TargetFull, message);
        }
        if probe.is_empty() {
            *full = None;
        } else {
            self.shared
                .progress
                .add_retries(RetryReason::Full, probe.entries().len() as u64);
            held.is_asked = true;
            held.probe = Some(Flight::probe(probe, self));
        }
        drop(full);
        link.wake();
        if !elsewhere.is_empty() {
            let mut health = self.health.borrow_mut();
            for entry in elsewhere.entries() {
                health.recovered(entry.slot); // what is to be said of its new owner is not known yet
            }
            drop(health);
            self.reroute(&elsewhere, RetryReason::Full);
        }
    }
}
