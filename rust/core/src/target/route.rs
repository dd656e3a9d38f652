//! From slot to primary: open batches of fresh keys, and the ways of those that come back.
//!
//! Invariant: an entry is in exactly one place: an open batch, a link, a delay, or settled. Its weight stays
//! in the byte budget until it is settled.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::{ErrorKind, Result};
use crate::event::{Event, EventKind, Side};
use crate::job::engine::{Engine, jitter};
use crate::ledger::books::PageId;
use crate::ledger::progress::{Outcome, RetryReason};
use crate::ledger::unsettled::Pending;
use crate::net::Address;
use crate::rdb::{FieldTtl, Passage};
use crate::resp::Restore;
use crate::target::batch::{Batch, Entry};
use crate::target::flight::Flight;
use crate::target::health::Patience;
use crate::target::link::Link;
use crate::topology::{NodeId, SlotRange, Topology};

/// The map, and the link to each node that has been needed so far.
#[derive(Debug)]
pub(crate) struct Router {
    topology: Topology,
    links: Vec<Option<Rc<Link>>>,
    topology_asked: Option<Instant>,
}

/// A fresh topology is asked for at most this often.
const ASK_EVERY: Duration = Duration::from_millis(250);

impl Router {
    pub fn new(ranges: &[SlotRange]) -> Result<Self> {
        Ok(Self {
            topology: Topology::new(ranges)?,
            links: Vec::new(),
            topology_asked: None,
        })
    }

    /// Who owns which slot now.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Address and acknowledged keys of each node that has a link.
    pub fn keys_by_primary(&self) -> Vec<(String, u64)> {
        self.links
            .iter()
            .flatten()
            .map(|link| (link.address.to_string(), link.keys.get()))
            .collect()
    }
}

impl Engine {
    /// Put a key fresh from the source into its primary's open batch, in a layout that the target loads.
    #[inline]
    pub fn route(self: &Rc<Self>, page: PageId, slot: u16, restore: &Restore<'_>) {
        if self.spec.verify.is_some() {
            return self.route_to_compare(page, slot, restore);
        }
        if restore.is_string {
            return self.route_as_is(page, slot, restore);
        }
        match self.spec.target_rdb.passage(restore.payload) {
            Passage::AsIs => self.route_as_is(page, slot, restore),
            Passage::Footer(version) => {
                let rdb_version = Some(version);
                self.route_as_is(
                    page,
                    slot,
                    &Restore {
                        rdb_version,
                        ..*restore
                    },
                );
            }
            Passage::Translate => self.route_translated(page, slot, restore),
        }
    }

    /// A key is compared as it is, unless the target was to get it without the TTLs of its fields.
    fn route_to_compare(self: &Rc<Self>, page: PageId, slot: u16, restore: &Restore<'_>) {
        if self.spec.field_ttl == FieldTtl::Drop
            && self.spec.target_rdb.passage(restore.payload) == Passage::Translate
            && let Some(payload) = self.without_field_ttls(restore)
        {
            let payload = &payload;
            return self.route_as_is(page, slot, &Restore { payload, ..*restore });
        }
        self.route_as_is(page, slot, restore);
    }

    #[inline]
    pub(crate) fn route_as_is(self: &Rc<Self>, page: PageId, slot: u16, restore: &Restore<'_>) {
        if restore.key.len() + restore.payload.len() > self.largest {
            return self.copy_in_chunks(page, slot, restore);
        }
        let writing = self.writing();
        let owner = self.router.borrow().topology.owner(slot);
        let Some(owner) = owner else {
            let mut batch = Batch::default();
            self.budget.hold(batch.push(page, slot, restore, writing));
            self.delay(batch, RetryReason::Unavailable, "not served by any node");
            return;
        };
        let router = self.router.borrow();
        if let Some(Some(link)) = router.links.get(owner.index()) {
            link.push(self, page, slot, restore, writing);
            return;
        }
        drop(router);
        self.link(owner).push(self, page, slot, restore, writing);
    }

    /// Delete a key that the source lacks.
    pub fn route_deletion(self: &Rc<Self>, page: PageId, slot: u16, nothing: &Restore<'_>) {
        let mut batch = Batch::default();
        self.budget.hold(batch.push_deletion(page, slot, nothing));
        let owner = self.router.borrow().topology.owner(slot);
        match owner {
            Some(owner) => {
                let link = self.link(owner);
                link.push_again(self, batch.entries()[0], batch.command(0));
            }
            None => self.delay(batch, RetryReason::Unavailable, "not served by any node"),
        }
    }

    /// The link to a node, opened on first use.
    pub fn link(self: &Rc<Self>, node: NodeId) -> Rc<Link> {
        let mut router = self.router.borrow_mut();
        if router.links.len() <= node.index() {
            router.links.resize(node.index() + 1, None);
        }
        if let Some(link) = &router.links[node.index()] {
            return Rc::clone(link);
        }
        let link = Rc::new(Link::new(node, router.topology.address(node).clone()));
        router.links[node.index()] = Some(Rc::clone(&link));
        drop(router);
        if !self.spec.scan_only {
            self.spawn(crate::target::connection::run(Rc::clone(self), Rc::clone(&link)));
            let probed = Rc::clone(&link);
            self.probe(
                Self::target_server(&link.address),
                link.address.clone(),
                Side::Target,
                move || probed.owns_slots.get(),
            );
        }
        link
    }

    /// The links that have acknowledged what no barrier has confirmed.
    pub fn unconfirmed_links(&self) -> Vec<Rc<Link>> {
        let router = self.router.borrow();
        let links = router.links.iter().flatten();
        links.filter(|link| link.unconfirmed.get()).cloned().collect()
    }

    /// The owner of a slot, and where it is.
    pub fn owner(&self, slot: u16) -> Option<(NodeId, Address)> {
        let router = self.router.borrow();
        let node = router.topology.owner(slot)?;
        Some((node, router.topology.address(node).clone()))
    }

    /// Let links that wait for nothing send what they have.
    pub fn nudge(&self) {
        for link in self.router.borrow().links.iter().flatten() {
            link.nudge();
        }
    }

    /// Count a key for its primary, without copying it.
    pub fn count_only(self: &Rc<Self>, slot: u16) {
        let owner = self.router.borrow().topology.owner(slot);
        if let Some(owner) = owner {
            let link = self.link(owner);
            link.keys.set(link.keys.get() + 1);
        }
    }

    /// MOVED: the slot's owner from now on.
    pub fn moved(&self, slot: u16, address: &Address) -> Option<NodeId> {
        let mut router = self.router.borrow_mut();
        let before = router.topology.owner(slot);
        let patched = router.topology.patch(slot, address);
        drop(router);
        // A failover as well is told so, by whoever has heard of it.
        if patched.as_ref().ok() != before.as_ref() {
            self.forget_compared();
        }
        self.want_topology(format!("slot {slot} moved to {address}"), Some(slot));
        self.node_or_stop(patched)
    }

    /// ASK: the node that is named, for one key; the map stays as it is.
    pub fn asked(&self, address: &Address) -> Option<NodeId> {
        let node = self.router.borrow_mut().topology.node(address);
        self.node_or_stop(node)
    }

    fn node_or_stop(&self, node: Result<NodeId>) -> Option<NodeId> {
        node.map_err(|error| self.stop(error.kind, error.message)).ok()
    }

    /// Replace the map whole.
    pub fn set_topology(&self, ranges: &[SlotRange], nodes: Vec<String>) {
        *self.target_nodes.borrow_mut() = nodes;
        let mut router = self.router.borrow_mut();
        if let Err(error) = router.topology.replace(ranges) {
            drop(router);
            self.stop(error.kind, error.message);
            return;
        }
        for link in router.links.iter().flatten() {
            link.owns_slots.set(router.topology.owns_any(link.node));
        }
    }

    /// Ask the control plane for a fresh topology, not too often.
    pub fn want_topology(&self, why: String, slot: Option<u16>) {
        let now = Instant::now();
        let mut router = self.router.borrow_mut();
        if router.topology_asked.is_none_or(|asked| now - asked >= ASK_EVERY) {
            router.topology_asked = Some(now);
            self.shared.tell(Event {
                kind: EventKind::TopologyWanted,
                message: why,
                node: None,
                slot,
            });
        }
    }

    /// Send one entry on to `node`, at the latest with what goes there next.
    pub fn send_on(self: &Rc<Self>, node: NodeId, entry: Entry, command: &[u8]) {
        let link = self.link(node);
        link.push_again(self, entry, command);
        link.nudge();
    }

    /// Send a whole batch to `node` as it stands.
    pub fn send_batch(self: &Rc<Self>, node: NodeId, batch: Batch) {
        let link = self.link(node);
        link.enqueue(Flight::of(batch, self));
    }

    /// Keep a batch waiting, then send its entries on to the owners that their slots have then.
    pub fn delay(self: &Rc<Self>, batch: Batch, why: RetryReason, reason: &str) {
        if batch.is_empty() {
            return;
        }
        let now = Instant::now();
        let mut attempts = u32::MAX;
        let mut health = self.health.borrow_mut();
        for entry in batch.entries() {
            attempts = attempts.min(health.delayed(entry.slot, why == RetryReason::Full, reason, now));
        }
        drop(health);
        self.want_topology(reason.to_owned(), Some(batch.entries()[0].slot));
        let wait = Duration::from_millis(50 << attempts.min(4));
        let engine = Rc::clone(self);
        self.spawn(async move {
            tokio::time::sleep(jitter(wait)).await;
            engine.reroute(&batch, why);
        });
    }

    /// Send the entries of a batch that waited to their slots' owners, or park them.
    pub(crate) fn reroute(self: &Rc<Self>, batch: &Batch, why: RetryReason) {
        let now = Instant::now();
        let mut unserved = Batch::default();
        let mut attempted = None;
        let mut sent = 0;
        for (index, entry) in batch.entries().iter().enumerate() {
            // Decided on its own line: the health must not stay borrowed over what follows.
            let patience = self.health.borrow_mut().patience(entry.slot, now);
            match patience {
                Patience::Again => {
                    if attempted != Some(entry.slot) {
                        self.health.borrow_mut().attempted(entry.slot);
                        attempted = Some(entry.slot);
                    }
                    let entry = Entry { hops: 0, ..*entry };
                    if self.send_apart(batch, index, entry) {
                        sent += 1;
                        continue;
                    }
                    let owner = self.router.borrow().topology.owner(entry.slot);
                    if let Some(owner) = owner {
                        self.link(owner).push_again(self, entry, batch.command(index));
                        sent += 1;
                    } else {
                        unserved.push_again(entry, batch.command(index));
                    }
                }
                Patience::Park { reason, first } => self.leave(batch, index, reason, first),
                Patience::GiveUp { reason, full } => {
                    let slot = entry.slot;
                    if full {
                        let message = format!("the target takes no more keys: {reason} (slot {slot})");
                        self.stop(ErrorKind::TargetFull, message);
                    } else {
                        self.stop(ErrorKind::TargetLost, format!("slot {slot} {reason}"));
                    }
                    return;
                }
            }
        }
        self.shared.progress.add_retries(why, sent);
        self.delay(unserved, RetryReason::Unavailable, "not served by any node");
        self.nudge();
    }

    /// Park entry `index` of a batch: its name goes to the journal, its value is forgotten.
    fn leave(&self, batch: &Batch, index: usize, reason: String, first: bool) {
        let entry = batch.entries()[index];
        if first {
            self.shared.tell(Event {
                kind: EventKind::SlotParked,
                message: format!("slot {} {reason}: its keys are kept as pending", entry.slot),
                node: None,
                slot: Some(entry.slot),
            });
        }
        self.budget.free(batch.weight(index));
        self.park(
            entry.page,
            Pending {
                key: self.source_name(batch, index),
                slot: entry.slot,
                reason,
            },
        );
    }

    /// Settle entry `index` of a batch and free its bytes.
    pub fn settle_entry(&self, batch: &Batch, index: usize, outcome: Outcome) {
        let entry = batch.entries()[index];
        let bytes = if outcome == Outcome::Migrated {
            entry.payload as u64
        } else {
            0
        };
        self.budget.free(batch.weight(index));
        self.settle(entry.page, outcome, 1, bytes);
    }
}
