//! A string that comes as a file is read: one SET that is passed on as it comes, as that of a live source's string.
//!
//! Invariant: the command is whole only when the string is; before, it never runs.

use std::rc::Rc;

use crate::chunked::copy::incoming::{Ending, Incoming, failed};
use crate::chunked::copy::one_key::Stop;
use crate::job::engine::{Engine, OnConflict};
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::FailureKind;
use crate::net::Address;
use crate::net::client::{Client, Commands, NotTaken};
use crate::resp::Tree;
use crate::resp::encode;
use crate::text::shown;
use crate::topology::NodeId;

/// Half a command on its way.
pub(super) struct Sent {
    node: NodeId,
    client: Client,
    address: Address,
    /// What comes behind the value.
    tail: Vec<u8>,
    /// Bytes of the value that were passed on.
    pub passed: u64,
}

impl Sent {
    pub async fn push(&mut self, engine: &Rc<Engine>, bytes: &[u8]) -> Result<(), NotTaken> {
        engine.budget.hold(bytes.len());
        let pushed = self.client.push(bytes).await;
        engine.budget.free(bytes.len());
        self.passed += bytes.len() as u64;
        pushed
    }
}

impl Incoming {
    /// Whether a string of so many bytes goes over in one command.
    pub(super) fn is_sent(&self, length: u64) -> bool {
        length <= self.engine.spec.target_limits.argument() as u64
    }

    /// A string above what the target holds of one is given up at once.
    pub(super) fn check_length(&self, length: u64) -> Result<(), Ending> {
        let limits = self.engine.spec.target_limits;
        if length <= limits.string() as u64 {
            return Ok(());
        }
        let setting = limits.broken_by(usize::try_from(length).unwrap_or(usize::MAX));
        let key = shown(&self.big.target);
        let message = format!("the target can't hold {key}: a string has {length} bytes, above {setting}");
        let node = self.engine.owner(self.big.slot);
        let node = node.map_or_else(String::new, |(_, address)| address.to_string());
        Err(failed(FailureKind::TooLarge, message, node))
    }

    /// Begin the command.
    pub(super) async fn begin_sending(&mut self, length: u64) -> Result<Sent, Ending> {
        let at = self.expires_at.to_string();
        let mut options: Vec<&[u8]> = Vec::new();
        if self.engine.spec.on_conflict != OnConflict::Replace {
            options.push(b"NX");
        }
        if self.expires_at > 0 {
            options.extend([b"PXAT".as_slice(), at.as_bytes()]);
        }
        let mut head = format!("*{}\r\n$3\r\nSET\r\n", 3 + options.len()).into_bytes();
        encode::bulk(&mut head, &self.big.target);
        head.extend_from_slice(format!("${length}\r\n").as_bytes());
        let mut tail = b"\r\n".to_vec();
        for option in options {
            encode::bulk(&mut tail, option);
        }
        self.persist(async |copy| {
            let (address, _) = copy.connect_target().await?;
            // Out of reach of the next attempt: half a command is on it.
            let Some((node, mut client)) = copy.target.take() else {
                return Err(Stop::Moved);
            };
            if let Err(not_taken) = client.push(&head).await {
                return Err(copy.not_taken(not_taken, &address));
            }
            Ok(Sent {
                node,
                client,
                address,
                tail: tail.clone(),
                passed: 0,
            })
        })
        .await
    }

    /// The target has not taken all of the command, whose beginning is not here any more.
    pub(super) fn not_sent(&mut self, not_taken: NotTaken) -> Ending {
        match not_taken {
            NotTaken::Refused(text) => failed(
                FailureKind::Error,
                format!(
                    "the target answered {} to a write of {}",
                    crate::text::said(&text),
                    shown(&self.big.target)
                ),
                String::new(),
            ),
            NotTaken::Lost(reason) => Ending::Late(reason),
        }
    }

    /// Let the command run.
    pub(super) async fn end_sending(&mut self, sent: Sent) -> Result<Outcome, Ending> {
        let Sent {
            node,
            mut client,
            address,
            tail,
            ..
        } = sent;
        let now = self.engine.source_now();
        if self.expires_at > 0 && self.expires_at <= now {
            return Ok(Outcome::Expired);
        }
        let reply = client.call(Commands::encoded(tail, 1)).await;
        let reply = reply.map_err(|error| Ending::Late(format!("{} at {address}", error.into_text())))?;
        self.keep(node, client);
        match reply.into_iter().next_back() {
            Some(Tree::Text(_)) => {
                self.persist(async |copy| copy.wait_for_replicas().await).await?;
                Ok(Outcome::Migrated)
            }
            Some(Tree::Error(text)) => {
                let stop = self
                    .once(async |copy| Ok(copy.target_error(&text, &address)))
                    .await;
                Err(match stop {
                    Ok(Stop::Failed(kind, message, node)) => failed(kind, message, node.to_string()),
                    _ => Ending::Late(format!("{} at {address}", crate::text::said(&text))),
                })
            }
            // Somebody wrote it meanwhile: it is met as any key that is there.
            _ => Err(Ending::Late("the target's key appeared".to_owned())),
        }
    }
}
