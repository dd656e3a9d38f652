//! Which slots are in trouble, since when and why; what that means for the keys that wait for them.
//!
//! Invariant: a slot's trouble ends with its first acknowledged key. Keys wait at most `retry_for`; while
//! other slots flow, at most `park_after`.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::ledger::unsettled::Failure;
use crate::topology::NodeId;

/// So many keys failing in a row, without one that succeeds, are taken for one cause: the job stops.
const SYSTEMATIC: u32 = 1000;

/// Without an acknowledged key for so long, nothing flows.
const PAUSE: Duration = Duration::from_secs(5);

/// A slot that does not take keys now.
#[derive(Debug)]
struct Trouble {
    since: Instant,
    /// When a key of it was refused last.
    last: Instant,
    attempts: u32,
    /// For want of memory or disk.
    full: bool,
    reason: String,
    told: bool,
}

/// What to do with a key whose slot is in trouble.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Send it once more.
    Again,
    /// Leave it for later; `first` says that it is the slot's first key to be parked.
    Park { reason: String, first: bool },
    /// Nothing works any more: the job stops. `full` for want of memory or disk.
    GiveUp { reason: String, full: bool },
}

/// The state of the target's slots and of the way to the source.
#[derive(Debug)]
pub(crate) struct Health {
    retry_for: Duration,
    park_after: Duration,
    /// A job that copies keys by name only: they are pending already, so they can stay so.
    names_only: bool,
    slots: HashMap<u16, Trouble>,
    last_ok: Option<Instant>,
    /// Since when keys are acknowledged without a longer pause.
    flowing_since: Option<Instant>,
    source: Option<(Instant, String)>,
    /// Nodes that owe replies and send none: since when, and what to say of them.
    silent: HashMap<NodeId, (Instant, String)>,
    /// Since when checkpoints are held back, and why.
    barrier: Option<(Instant, String)>,
    failures_in_a_row: u32,
}

impl Health {
    pub fn new(retry_for: Duration, park_after: Duration, names_only: bool) -> Self {
        Self {
            retry_for,
            park_after,
            names_only,
            slots: HashMap::new(),
            last_ok: None,
            flowing_since: None,
            source: None,
            silent: HashMap::new(),
            barrier: None,
            failures_in_a_row: 0,
        }
    }

    /// Keys were acknowledged.
    pub fn succeeded(&mut self, now: Instant) {
        if self.last_ok.is_none_or(|ok| now - ok > PAUSE) {
            self.flowing_since = Some(now);
        }
        self.last_ok = Some(now);
        self.failures_in_a_row = 0;
    }

    /// A key of `slot` was answered for good, whatever the answer.
    pub fn answered(&mut self, slot: u16, now: Instant) {
        self.succeeded(now);
        self.recovered(slot);
    }

    /// Whether any slot is in trouble.
    pub fn troubled(&self) -> bool {
        !self.slots.is_empty()
    }

    /// A key of `slot` was answered properly.
    pub fn recovered(&mut self, slot: u16) {
        self.slots.remove(&slot);
    }

    /// A key of `slot` could not be written now; returns how often that happened in a row.
    pub fn delayed(&mut self, slot: u16, full: bool, reason: &str, now: Instant) -> u32 {
        let trouble = self.slots.entry(slot).or_insert_with(|| Trouble {
            since: now,
            last: now,
            attempts: 0,
            full,
            reason: String::new(),
            told: false,
        });
        trouble.full = full;
        trouble.last = now;
        if trouble.reason != reason {
            reason.clone_into(&mut trouble.reason);
        }
        trouble.attempts
    }

    /// The keys of `slot` that waited are being sent once more.
    pub fn attempted(&mut self, slot: u16) {
        if let Some(trouble) = self.slots.get_mut(&slot) {
            trouble.attempts += 1;
        }
    }

    /// What to do with a key of `slot`.
    pub fn patience(&mut self, slot: u16, now: Instant) -> Patience {
        let Some(trouble) = self.slots.get_mut(&slot) else {
            return Patience::Again;
        };
        let age = now - trouble.since;
        // After an outage of all slots, the first that is back must not count against those that still wait:
        // each is tried once more.
        if self.flowing_since.is_some_and(|since| since > trouble.last) {
            return Patience::Again;
        }
        let others_flow = self.last_ok.is_some_and(|ok| ok > trouble.since);
        let reason = || format!("{} for {} s", trouble.reason, age.as_secs());
        if trouble.full {
            return if age >= self.retry_for {
                Patience::GiveUp {
                    reason: reason(),
                    full: true,
                }
            } else {
                Patience::Again
            };
        }
        let limit = if others_flow {
            self.park_after.min(self.retry_for)
        } else {
            self.retry_for
        };
        if age < limit {
            return Patience::Again;
        }
        if others_flow || self.names_only {
            let reason = reason();
            let first = !std::mem::replace(&mut trouble.told, true);
            return Patience::Park { reason, first };
        }
        Patience::GiveUp {
            reason: reason(),
            full: false,
        }
    }

    /// A key failed; returns why the job should stop, if it should.
    pub fn failed(&mut self, failure: &Failure) -> Option<String> {
        if failure.kind.is_about_data() {
            return None;
        }
        self.failures_in_a_row += 1;
        (self.failures_in_a_row >= SYSTEMATIC).then(|| {
            format!(
                "{SYSTEMATIC} keys in a row failed, the last one at {}: {}",
                failure.node, failure.message
            )
        })
    }

    /// The source is not to be had, or is again.
    pub fn source(&mut self, trouble: Option<String>, now: Instant) {
        self.source = trouble.map(|reason| {
            let since = self.source.as_ref().map_or(now, |(since, _)| *since);
            (since, reason)
        });
    }

    /// A node of the target owes replies and sends none, or does so again.
    pub fn node(&mut self, node: NodeId, trouble: Option<String>, now: Instant) {
        match trouble {
            Some(reason) => {
                self.silent.entry(node).or_insert((now, reason));
            }
            None => {
                self.silent.remove(&node);
            }
        }
    }

    /// Checkpoints are held back, or are no longer.
    pub fn barrier(&mut self, trouble: Option<(Instant, String)>) {
        self.barrier = trouble;
    }

    /// Whether nothing moves at all, and the oldest reason for anything that does not.
    pub fn reason(&self, now: Instant) -> Option<(bool, String)> {
        if let Some((since, reason)) = &self.source {
            return Some((true, format!("{reason}, {} s", (now - *since).as_secs())));
        }
        let stalled = self
            .last_ok
            .is_none_or(|ok| now - ok > Duration::from_millis(500));
        let oldest = self
            .slots
            .iter()
            .min_by_key(|(slot, trouble)| (trouble.since, **slot));
        let Some((slot, trouble)) = oldest else {
            let silent = self.silent.values().min_by_key(|(since, _)| *since);
            let (since, reason) = silent.or(self.barrier.as_ref())?;
            return Some((stalled, format!("{reason}, {} s", (now - *since).as_secs())));
        };
        let others = match self.slots.len() - 1 {
            0 => String::new(),
            others => format!(" (and {others} slots more)"),
        };
        let reason = format!(
            "slot {slot}{others} {}, {} s",
            trouble.reason,
            (now - trouble.since).as_secs()
        );
        Some((stalled, reason))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::unsettled::FailureKind;

    const SECOND: Duration = Duration::from_secs(1);

    fn health() -> Health {
        Health::new(300 * SECOND, 10 * SECOND, false)
    }

    #[test]
    fn a_stuck_slot_is_parked_while_others_flow() {
        let mut health = health();
        let start = Instant::now();
        health.delayed(5, false, "CLUSTERDOWN", start);
        health.succeeded(start + SECOND);
        health.delayed(5, false, "CLUSTERDOWN", start + 8 * SECOND);
        assert_eq!(health.patience(5, start + 9 * SECOND), Patience::Again);
        let Patience::Park { reason, first } = health.patience(5, start + 10 * SECOND) else {
            panic!("parks");
        };
        assert!(first && reason.contains("CLUSTERDOWN"));
        assert!(matches!(
            health.patience(5, start + 10 * SECOND),
            Patience::Park { first: false, .. }
        ));
    }

    #[test]
    fn after_an_outage_of_all_slots_none_is_parked_by_the_first_that_is_back() {
        let mut health = health();
        let start = Instant::now();
        health.succeeded(start);
        health.delayed(5, false, "CLUSTERDOWN", start + SECOND);
        health.succeeded(start + 400 * SECOND);
        assert_eq!(health.patience(5, start + 401 * SECOND), Patience::Again);
        health.delayed(5, false, "CLUSTERDOWN", start + 402 * SECOND);
        assert!(matches!(
            health.patience(5, start + 403 * SECOND),
            Patience::Park { .. }
        ));
    }

    #[test]
    fn a_target_that_is_down_is_waited_for() {
        let mut health = health();
        let start = Instant::now();
        health.succeeded(start);
        health.delayed(5, false, "connection refused", start + SECOND);
        assert_eq!(health.patience(5, start + 299 * SECOND), Patience::Again);
        assert!(matches!(
            health.patience(5, start + 301 * SECOND),
            Patience::GiveUp { full: false, .. }
        ));
    }

    #[test]
    fn a_full_target_stops_the_job_even_while_others_flow() {
        let mut health = health();
        let start = Instant::now();
        health.delayed(5, true, "OOM", start);
        health.succeeded(start + SECOND);
        assert_eq!(health.patience(5, start + 200 * SECOND), Patience::Again);
        health.delayed(5, true, "OOM", start + 201 * SECOND);
        assert!(matches!(
            health.patience(5, start + 300 * SECOND),
            Patience::GiveUp { full: true, .. }
        ));
    }

    #[test]
    fn trouble_ends_with_the_first_success() {
        let mut health = health();
        let start = Instant::now();
        health.delayed(5, false, "LOADING", start);
        assert!(health.reason(start).is_some_and(|(stalled, _)| stalled));
        health.recovered(5);
        assert!(!health.troubled());
        assert_eq!(health.reason(start), None);
        assert_eq!(health.patience(5, start + 999 * SECOND), Patience::Again);
    }

    #[test]
    fn a_silent_node_is_the_reason_while_no_slot_is_in_trouble() {
        let mut health = health();
        let start = Instant::now();
        let mut topology = crate::topology::Topology::new(&[]).expect("valid");
        let address = crate::net::Address::tcp("h".to_owned(), 1);
        let node = topology.node(&address).expect("few nodes");
        health.succeeded(start);
        health.node(node, Some("no reply from h:1".to_owned()), start);
        health.node(node, Some("no reply from h:1".to_owned()), start + SECOND);
        let told = health.reason(start + 3 * SECOND);
        assert_eq!(told, Some((true, "no reply from h:1, 3 s".to_owned())));
        health.node(node, None, start + 4 * SECOND);
        assert_eq!(health.reason(start + 4 * SECOND), None);
    }

    #[test]
    fn conflicts_are_never_systematic() {
        let mut health = health();
        let mut failure = Failure {
            key: Vec::new(),
            slot: 0,
            kind: FailureKind::Conflict,
            message: String::new(),
            sides: None,
            node: "n".to_owned(),
        };
        assert!((0..5000).all(|_| health.failed(&failure).is_none()));
        failure.kind = FailureKind::Error;
        assert!((0..SYSTEMATIC - 1).all(|_| health.failed(&failure).is_none()));
        assert!(health.failed(&failure).is_some());
    }
}
