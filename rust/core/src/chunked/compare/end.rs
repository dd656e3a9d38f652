//! One side of a comparison in parts: its connection, and what its errors mean.
//!
//! Invariant: of a reply that is an error nothing is compared.

use std::rc::Rc;

use crate::chunked::compare::Broken;
use crate::chunked::parts;
use crate::event::Side;
use crate::job::engine::Engine;
use crate::ledger::unsettled::FailureKind;
use crate::net::Address;
use crate::net::client::{CallError, Client, Commands};
use crate::reply::{Verdict, is_elsewhere, judge, why_elsewhere};
use crate::resp::Tree;
use crate::text::said;

/// An open connection to a side.
pub(crate) struct Open {
    client: Client,
    /// It knows HPEXPIRETIME, as far as it was asked.
    has_field_ttls: bool,
}

impl Open {
    pub async fn new(
        engine: &Engine,
        side: Side,
        address: &Address,
        run_id: Option<&str>,
    ) -> Result<Self, CallError> {
        Ok(Self {
            client: engine.converse(side, address, run_id).await?,
            has_field_ttls: true,
        })
    }

    /// The side with its name of the key; of the target, `node`.
    pub fn end<'a>(
        &'a mut self,
        engine: &'a Rc<Engine>,
        key: &'a [u8],
        node: Option<&'a Address>,
    ) -> End<'a> {
        End {
            engine,
            open: self,
            key,
            node,
        }
    }
}

/// A side and its name of the key that is compared.
pub(crate) struct End<'a> {
    pub engine: &'a Rc<Engine>,
    open: &'a mut Open,
    pub key: &'a [u8],
    /// The target's node; `None` at the source.
    node: Option<&'a Address>,
}

impl End<'_> {
    pub fn is_source(&self) -> bool {
        self.node.is_none()
    }

    /// Whether it may know when fields of a hash expire.
    pub fn has_field_ttls(&self) -> bool {
        self.open.has_field_ttls
    }

    /// `name… key arguments…`, for one reply that is no error.
    pub async fn ask(&mut self, name: &[&[u8]], arguments: &[&[u8]]) -> Result<Tree, Broken> {
        let command = [name, &[self.key], arguments].concat();
        let reply = self.call(Commands::one(&command)).await?.pop();
        reply.map_or_else(|| Err(self.unexpected()), |reply| self.sound(reply))
    }

    /// The replies as they come, errors among them.
    pub async fn call(&mut self, commands: Commands) -> Result<Vec<Tree>, Broken> {
        let replies = self.open.client.call(commands).await;
        replies.map_err(|error| self.broken(error))
    }

    /// When fields expire; none where the side does not tell.
    pub fn expiries(&mut self, reply: Tree) -> Result<Vec<i64>, Broken> {
        if parts::is_unknown_command(&reply) {
            self.open.has_field_ttls = false;
            return Ok(Vec::new());
        }
        let reply = self.sound(reply)?;
        parts::expiries(&reply).ok_or_else(|| self.unexpected())
    }

    fn broken(&self, error: CallError) -> Broken {
        if self.is_source() {
            Broken::Source(error)
        } else {
            Broken::Target(error)
        }
    }

    /// The reply, unless it is an error.
    pub fn sound(&self, reply: Tree) -> Result<Tree, Broken> {
        let Tree::Error(text) = reply else {
            return Ok(reply);
        };
        let shown = said(&text);
        let verdict = judge(&text);
        Err(match (verdict, self.node) {
            (Verdict::Refused, _) => self.broken(CallError::Refused(shown)),
            (_, None) if self.engine.spec.source_cluster.is_some() && is_elsewhere(&text) => {
                Broken::Elsewhere(why_elsewhere(&text))
            }
            (Verdict::Wait, None) => Broken::Source(CallError::Lost(shown)),
            (Verdict::Moved { slot, to }, Some(node)) => {
                let to = to.address(node, &self.engine.spec.address_map);
                self.engine.moved(slot, &to);
                Broken::Again(format!("slot {slot} moved"))
            }
            // The slot is on its way: when it has arrived, all of the key can be read at one place.
            (Verdict::Ask(_), Some(node)) => Broken::Again(format!("ASK at {node}")),
            (Verdict::Wait | Verdict::Full, Some(node)) => Broken::Again(format!("{shown} at {node}")),
            (verdict, _) => {
                let kind = if verdict == Verdict::Denied {
                    FailureKind::Denied
                } else {
                    FailureKind::Error
                };
                Broken::Failed(kind, format!("{} answered {shown}", self.name()))
            }
        })
    }

    pub fn unexpected(&self) -> Broken {
        Broken::Failed(
            FailureKind::Error,
            format!("{} gave a reply that its command never gives", self.name()),
        )
    }

    fn name(&self) -> &'static str {
        if self.is_source() {
            "the source"
        } else {
            "the target"
        }
    }
}
