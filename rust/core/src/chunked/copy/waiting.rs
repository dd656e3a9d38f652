//! Waiting for a slot that takes no writes now.
//!
//! Invariant: a slot is waited for as its health says; a key is left for later only then, and the job ends only when that
//! says so.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::chunked::copy::{Big, Ended};
use crate::error::ErrorKind;
use crate::job::engine::{Engine, jitter};
use crate::ledger::progress::RetryReason;
use crate::ledger::unsettled::Pending;
use crate::target::health::Patience;

/// Whether a slot is to be tried again that took no writes.
pub(super) enum Returns {
    Perhaps,
    /// Its keys are left for later, for this reason.
    Late(String),
    /// The job ends.
    Never,
}

impl Engine {
    /// The slot takes no writes now: wait, and say if the key is not to be tried any more.
    pub(super) async fn wait_for_slot(self: &Rc<Self>, big: &Big, reason: &str, full: bool) -> Option<Ended> {
        match self.slot_returns(big.slot, reason, full).await {
            Returns::Perhaps => None,
            Returns::Late(reason) => {
                self.park(
                    big.page,
                    Pending {
                        key: big.source.clone(),
                        slot: big.slot,
                        reason,
                    },
                );
                Some(Ended::Settled)
            }
            Returns::Never => Some(Ended::Left),
        }
    }

    /// Wait for a slot that takes no writes now. Where it is given up, the job is stopped.
    pub(super) async fn slot_returns(self: &Rc<Self>, slot: u16, reason: &str, full: bool) -> Returns {
        let now = Instant::now();
        let attempts = self.health.borrow_mut().delayed(slot, full, reason, now);
        self.want_topology(reason.to_owned(), Some(slot));
        tokio::time::sleep(jitter(Duration::from_millis(50 << attempts.min(4)))).await;
        let patience = self.health.borrow_mut().patience(slot, Instant::now());
        match patience {
            Patience::Again => {
                self.health.borrow_mut().attempted(slot);
                let why = if full {
                    RetryReason::Full
                } else {
                    RetryReason::Unavailable
                };
                self.shared.progress.add_retries(why, 1);
                Returns::Perhaps
            }
            Patience::Park { reason, .. } => Returns::Late(reason),
            Patience::GiveUp { reason, full } => {
                let kind = if full {
                    ErrorKind::TargetFull
                } else {
                    ErrorKind::TargetLost
                };
                self.stop(kind, format!("slot {slot} {reason}"));
                Returns::Never
            }
        }
    }
}
