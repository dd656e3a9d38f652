//! Large keys at the target are kept up to date by their elements, a round of one key after another.
//!
//! Invariant: one round is under way at a time, and what it could not write is taken again; a key of which it found that
//! elements do not tell all is copied whole.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::chunked::compare::Sides;
use crate::chunked::copy::Big;
use crate::chunked::copy::elements::Whither;
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::source::Source;
use crate::chunked::parts::{CHUNK_BYTES, Kind};
use crate::error::ErrorKind;
use crate::job::engine::Engine;
use crate::job::follow::{Cuts, Follow, Round};
use crate::ledger::unsettled::FailureKind;
use crate::net::client::Client;
use crate::target::health::Patience;
use crate::topology::NodeId;

/// How often elements that have waited are looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(25);

/// After this time a round is tried again that could not be written.
const AGAIN_AFTER: Duration = Duration::from_millis(200);

/// The connections that rounds go over.
#[derive(Default)]
pub(super) struct Wires {
    source: Source,
    targets: HashMap<NodeId, Option<(NodeId, Client)>>,
    sides: Sides,
    /// The last round has ended with the connection to the source.
    source_cut: bool,
}

impl Wires {
    /// What goes over them for a key.
    pub(super) fn copy<'a>(
        &'a mut self,
        engine: &'a Rc<Engine>,
        big: &'a Big,
        in_doubt: &'a mut bool,
    ) -> Attempt<Copy<'a>> {
        let Some((owner, _)) = engine.owner(big.slot) else {
            let reason = "not served by any node".to_owned();
            return Err(Stop::Target { reason, full: false });
        };
        Ok(Copy {
            engine,
            big,
            source: &mut self.source,
            target: self.targets.entry(owner).or_default(),
            sides: &mut self.sides,
            in_doubt,
        })
    }
}

impl Engine {
    /// Keep the keys up to date that are followed by their elements, until the job ends.
    pub(crate) async fn keep_elements(self: Rc<Self>, follow: Rc<Follow>) {
        let mut wires = Wires::default();
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            look.tick().await;
            // What is begun while the job is paused would keep it from coming to rest.
            while self.limiter.permitted(CHUNK_BYTES) > 0
                && let Some(mut round) = follow.take_round()
            {
                let big = Big::of_round(&round);
                let ended = self.round(&mut round, &big, &mut wires).await;
                self.after_round(&follow, round, ended, wires.source_cut);
                if self.draining.get() || self.fatal.borrow().is_some() {
                    return;
                }
            }
            self.look_ahead(&follow, &mut wires).await;
        }
    }

    /// Read and write one round; the expiry that the key has then.
    async fn round(self: &Rc<Self>, round: &mut Round, big: &Big, wires: &mut Wires) -> Attempt<u64> {
        wires.source_cut = false;
        if self.draining.get() {
            return Err(Stop::Drained);
        }
        let mut in_doubt = false;
        let mut copy = wires.copy(self, big, &mut in_doubt)?;
        copy.connect_source().await?;
        let ended = if round.kind == Kind::Stream {
            copy.write_stream_round(round).await
        } else {
            copy.write_round(round).await
        };
        wires.source_cut = matches!(ended, Err(Stop::Source(_))) && wires.source.client.is_none();
        ended
    }

    fn after_round(
        self: &Rc<Self>,
        follow: &Follow,
        mut round: Round,
        ended: Attempt<u64>,
        source_cut: bool,
    ) {
        let now = Instant::now();
        if source_cut || matches!(ended, Err(Stop::Cut(_))) {
            // The elements may have been larger than those before.
            round.count = 1;
        }
        match ended {
            Ok(expires_at) => {
                self.health.borrow_mut().answered(round.slot, now);
                follow.end_round(&round, expires_at);
            }
            Err(Stop::Moved | Stop::Drained) => follow.put_back(round, Duration::ZERO),
            Err(Stop::Source(reason)) if source_cut && round.cuts.again(now, self.spec.retry_for) => {
                follow.give_up_elements(self, &round.key, &reason);
            }
            // Who reads touched keys meets it as well, and ends the job if it lasts.
            Err(Stop::Source(_) | Stop::Late(_) | Stop::Elsewhere(_)) => follow.put_back(round, AGAIN_AFTER),
            Err(Stop::Cut(reason)) if round.cuts.again(now, self.spec.retry_for) => {
                follow.give_up_elements(self, &round.key, &reason);
            }
            Err(Stop::Target { reason, full }) => self.after_refusal(follow, round, &reason, full),
            Err(Stop::Cut(reason)) => self.after_refusal(follow, round, &reason, false),
            // It is deleted as any key.
            Err(Stop::Gone | Stop::Ordinary) => follow.leave_round(&round.key),
            // Copied whole it is met as any key.
            Err(Stop::Uncertain(why)) => follow.leave_list(self, &round, &why),
            Err(Stop::Changed(why)) => follow.give_up_elements(self, &round.key, why),
            Err(Stop::Failed(FailureKind::Denied, why, _)) => {
                follow.leave_round(&round.key);
                follow.refuse_elements(self, round.kind, &why);
            }
            Err(Stop::NotNow(why)) => {
                follow.leave_round(&round.key);
                follow.refuse_for_now(self, round.kind, &why);
            }
            Err(Stop::Failed(_, why, _)) => follow.give_up_elements(self, &round.key, &why),
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

impl Copy<'_> {
    /// Read and write the elements of a round, a chunk at a time. Where the job is paused meanwhile, those that are
    /// written are taken out of it.
    async fn write_round(&mut self, round: &mut Round) -> Attempt<u64> {
        if round.kind == Kind::List {
            return self.write_list_round(round).await;
        }
        let mut written = 0;
        loop {
            self.engine.limiter.take(0, CHUNK_BYTES);
            let target = round.target.clone();
            let whither = Whither::Published {
                expires_at: round.expires_at,
                touched: round.elements.len(),
            };
            let rest = &round.elements[written..];
            let (read, done) = self
                .apply_some(&target, round.kind, rest, &mut round.count, whither)
                .await?;
            written += done;
            let is_last = written == round.elements.len();
            if is_last || done > 0 {
                round.expires_at = Some(read.expires_at);
            }
            if is_last {
                self.wait_for_replicas().await?;
                return Ok(read.expires_at);
            }
            if self.engine.draining.get() || self.engine.limiter.permitted(CHUNK_BYTES) == 0 {
                self.wait_for_replicas().await?;
                round.elements.drain(..written);
                round.cuts = Cuts::default();
                return Err(Stop::Drained);
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
