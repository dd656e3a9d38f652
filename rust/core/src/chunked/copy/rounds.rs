//! Large keys at the target are kept up to date by their elements, a round of one key after another.
//!
//! Invariant: one round is under way at a time, and what it could not write is taken again; a key of which it found that
//! elements do not tell all is copied whole.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::chunked::compare::Sides;
use crate::chunked::copy::Big;
use crate::chunked::copy::elements::{ROUND, Whither};
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::source::Source;
use crate::error::ErrorKind;
use crate::job::engine::Engine;
use crate::job::follow::{Follow, Round};
use crate::net::client::Client;
use crate::target::health::Patience;
use crate::topology::NodeId;

/// How often elements that have waited are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// After this time a round is tried again that could not be written.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The connections that rounds go over.
#[derive(Default)]
struct Wires {
    source: Source,
    targets: HashMap<NodeId, Option<(NodeId, Client)>>,
    sides: Sides,
}

impl Engine {
    /// Keep the keys up to date that are followed by their elements, until the job ends.
    pub(crate) async fn keep_elements(self: Rc<Self>, follow: Rc<Follow>) {
        let mut wires = Wires::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            while let Some(round) = follow.take_round() {
                let big = Big::of_round(&round);
                let ended = self.round(&round, &big, &mut wires).await;
                self.after_round(&follow, round, ended);
                if self.draining.get() || self.fatal.borrow().is_some() {
                    return;
                }
            }
        }
    }

    /// Read and write one round; the expiry that the key has then.
    async fn round(self: &Rc<Self>, round: &Round, big: &Big, wires: &mut Wires) -> Attempt<u64> {
        if !self.may_read_part().await {
            return Err(Stop::Drained);
        }
        let Some((owner, _)) = self.owner(round.slot) else {
            let reason = "not served by any node".to_owned();
            return Err(Stop::Target { reason, full: false });
        };
        let Wires {
            source,
            targets,
            sides,
        } = wires;
        let mut in_doubt = false;
        let mut copy = Copy {
            engine: self,
            big,
            source,
            target: targets.entry(owner).or_default(),
            sides,
            in_doubt: &mut in_doubt,
        };
        copy.connect_source().await?;
        let mut expires_at = round.expires_at;
        let nothing: [&[Vec<u8>]; 1] = [&[]];
        let chunks: Vec<&[Vec<u8>]> = round.elements.chunks(ROUND).collect();
        for elements in if chunks.is_empty() {
            &nothing[..]
        } else {
            &chunks[..]
        } {
            let read = copy
                .apply(
                    &round.target,
                    round.kind,
                    elements,
                    Whither::Published(expires_at),
                )
                .await?;
            expires_at = Some(read.expires_at);
        }
        copy.wait_for_replicas().await?;
        Ok(expires_at.unwrap_or_default())
    }

    fn after_round(self: &Rc<Self>, follow: &Follow, round: Round, ended: Attempt<u64>) {
        match ended {
            Ok(expires_at) => {
                self.health.borrow_mut().answered(round.slot, Instant::now());
                follow.end_round(&round, expires_at);
            }
            Err(Stop::Moved) => follow.put_back(round, Duration::ZERO),
            // Who reads touched keys meets it as well, and ends the job if it lasts.
            Err(Stop::Drained | Stop::Source(_)) => follow.put_back(round, AGAIN_AFTER),
            Err(Stop::Target { reason, full }) => self.after_refusal(follow, round, &reason, full),
            Err(Stop::Cut(reason)) => self.after_refusal(follow, round, &reason, false),
            // Copied whole it is met as any key.
            Err(Stop::Changed(_) | Stop::Failed(..)) => follow.give_up_elements(&round.key),
            Err(Stop::Fatal(error)) => {
                follow.put_back(round, AGAIN_AFTER);
                self.stop(error.kind, error.message);
            }
        }
    }

    /// The slot takes no writes now: the round waits, for as long as passing errors are retried.
    fn after_refusal(self: &Rc<Self>, follow: &Follow, round: Round, reason: &str, full: bool) {
        let (slot, now) = (round.slot, Instant::now());
        self.health.borrow_mut().delayed(slot, full, reason, now);
        self.want_topology(reason.to_owned(), Some(slot));
        follow.put_back(round, AGAIN_AFTER);
        let patience = self.health.borrow_mut().patience(slot, now);
        match patience {
            Patience::Again => self.health.borrow_mut().attempted(slot),
            Patience::Park { .. } => {}
            Patience::GiveUp { reason, full } => {
                let kind = if full {
                    ErrorKind::TargetFull
                } else {
                    ErrorKind::TargetLost
                };
                self.stop(kind, format!("slot {slot} {reason}"));
            }
        }
    }
}

impl Big {
    /// A key that a round is for; it is of no page.
    fn of_round(round: &Round) -> Self {
        Self {
            page: 0,
            number: 0,
            slot: round.slot,
            size: 0,
            source: round.key.to_vec(),
            target: round.target.clone(),
            in_doubt: false,
            refused: false,
        }
    }
}
