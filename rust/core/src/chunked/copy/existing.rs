//! A large key that the target has already.
//!
//! Invariant: compared as a verification does it (`large/`), a part at a time, by the rules that hold for all keys
//! (`compare.rs`).

use crate::chunked::compare::{Broken, Compared, Manner};
use crate::chunked::copy::LIMITS;
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::compare::verdict::TTL_TOLERANCE;
use crate::error::{Error, ErrorKind};
use crate::job::engine::OnConflict;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::FailureKind;
use crate::net::Address;
use crate::net::client::CallError;
use crate::resp::Tree;
use crate::text::shown;

const MANNER: Manner = Manner {
    tolerance: TTL_TOLERANCE,
    limits: LIMITS,
    rests: true,
};

impl Copy<'_> {
    /// What becomes of a key that the target has; `None` if it has not.
    pub(crate) async fn meet_existing(&mut self) -> Attempt<Option<Outcome>> {
        let name = self.big.target.clone();
        let exists = self.tell(&[&[b"EXISTS", &name]]).await?;
        if exists.first().and_then(Tree::integer) != Some(1) {
            return Ok(None);
        }
        let skips = self.engine.spec.on_conflict == OnConflict::Skip;
        if skips && !*self.in_doubt {
            return Ok(Some(Outcome::Skipped));
        }
        let (node, _) = self.connect_target().await?;
        let compared = self
            .sides
            .compare(self.engine, &node, &self.big.source, &name, MANNER)
            .await
            .map_err(|broken| self.broken(broken, &node))?;
        let conflict = |kind, what: &str| {
            if skips {
                return Ok(Some(Outcome::Skipped));
            }
            let message = format!("the target holds {what} under {}", shown(&name));
            Err(Stop::Failed(kind, message, node.clone()))
        };
        match compared {
            Compared::Same { .. } => {
                let was_ours = std::mem::take(self.in_doubt);
                Ok(Some(if was_ours {
                    Outcome::Migrated
                } else {
                    Outcome::Unchanged
                }))
            }
            Compared::Gone(_) => Err(Stop::Changed("it went while it was compared")),
            Compared::Differs(difference) => match difference.kind {
                FailureKind::Missing | FailureKind::Extra => {
                    Err(Stop::Changed("it went while it was compared"))
                }
                FailureKind::Ttl => conflict(FailureKind::TtlConflict, "the same value with another TTL"),
                _ => conflict(FailureKind::Conflict, "another value"),
            },
        }
    }

    /// What a comparison that was broken off means for the copy.
    fn broken(&self, broken: Broken, node: &Address) -> Stop {
        let source = &self.engine.spec.source;
        match broken {
            Broken::Source(CallError::Lost(reason)) => Stop::Source(reason),
            Broken::Source(CallError::Changed(what)) => Stop::Fatal(Error::new(
                ErrorKind::SourceChanged,
                format!("the source {source} {what}"),
            )),
            Broken::Source(CallError::Refused(what)) => Stop::Fatal(Error::new(
                ErrorKind::SourceRefused,
                format!("the source {source}: {what}"),
            )),
            Broken::Target(CallError::Lost(reason)) => Stop::Target {
                reason: format!("{reason} at {node}"),
                full: false,
            },
            Broken::Target(CallError::Changed(what) | CallError::Refused(what)) => Stop::Fatal(Error::new(
                ErrorKind::TargetRefused,
                format!("the target's node {node}: {what}"),
            )),
            Broken::Again(reason) => Stop::Target { reason, full: false },
            Broken::Elsewhere(reason) => Stop::Elsewhere(reason),
            Broken::Failed(kind, message) => Stop::Failed(kind, message, node.clone()),
            Broken::Drained => Stop::Drained,
        }
    }
}
