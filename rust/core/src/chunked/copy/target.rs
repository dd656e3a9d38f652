//! The target's side of a large key: transactions at whoever owns its slot.
//!
//! Invariant: what several commands do, they do in one transaction; a redirect is for the next attempt.

use std::time::Instant;

use crate::chunked::copy::elements::Whither;
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::temporary;
use crate::error::{Error, ErrorKind};
use crate::event::Side;
use crate::ledger::unsettled::FailureKind;
use crate::net::Address;
use crate::net::client::{CallError, Client, Commands};
use crate::reply::{Verdict, judge};
use crate::resp::Tree;
use crate::text::said;
use crate::text::shown;

/// By how many ms two readings of one expiry may differ where a server tells it as what is left.
const JITTER: u64 = 5;

impl Copy<'_> {
    /// Run commands at the slot's owner, in one transaction if there are several; what they answered.
    pub(crate) async fn tell(&mut self, commands: &[&[&[u8]]]) -> Attempt<Vec<Tree>> {
        let mut encoded = Commands::default();
        if commands.len() > 1 {
            encoded.push(&[b"MULTI"]);
        }
        for command in commands {
            encoded.push(command);
        }
        self.execute(encoded, commands.len()).await
    }

    /// The same for `count` commands that are encoded already, behind a MULTI if there are several.
    pub(crate) async fn execute(&mut self, mut commands: Commands, count: usize) -> Attempt<Vec<Tree>> {
        if count > 1 {
            commands.push(&[b"EXEC"]);
        }
        let (address, client) = self.connect_target().await?;
        let replies = client.call(commands).await;
        let replies = replies.map_err(|error| {
            self.lose_target();
            Stop::Cut(format!("{} at {address}", error.into_text()))
        })?;
        let replies = match replies.iter().find(|reply| matches!(reply, Tree::Error(_))) {
            Some(Tree::Error(text)) => return Err(self.target_error(text, &address)),
            _ if count > 1 => {
                let results = replies.into_iter().next_back().and_then(Tree::into_elements);
                let results = results.ok_or_else(|| self.nonsense())?;
                if results.len() != count {
                    // One of the commands was not queued, whatever was answered to it.
                    *self.target = None;
                    let ran = results.len();
                    return Err(Stop::Cut(format!(
                        "{ran} of {count} commands were done at {address}"
                    )));
                }
                results
            }
            _ => replies,
        };
        match replies.iter().find(|reply| matches!(reply, Tree::Error(_))) {
            Some(Tree::Error(text)) => Err(self.target_error(text, &address)),
            _ => Ok(replies),
        }
    }

    /// The connection to the slot's owner, and where that is.
    pub(crate) async fn connect_target(&mut self) -> Attempt<(Address, &mut Client)> {
        let Some((owner, address)) = self.engine.owner(self.big.slot) else {
            return Err(Stop::Target {
                reason: "not served by any node".to_owned(),
                full: false,
            });
        };
        if self.target.as_ref().is_none_or(|(node, _)| *node != owner) {
            let client = self.engine.converse(Side::Target, &address, None).await;
            let client = client.inspect_err(|_| self.lose_target());
            let client = client.map_err(|error| match error {
                CallError::Refused(message) => Stop::Fatal(Error::new(
                    ErrorKind::TargetRefused,
                    format!("the target's node {address} rejects the connection: {message}"),
                )),
                lost => Stop::Target {
                    reason: format!("{} at {address}", lost.into_text()),
                    full: false,
                },
            })?;
            *self.target = Some((owner, client));
        }
        match self.target {
            Some((_, client)) => Ok((address, client)),
            None => Err(Stop::Moved),
        }
    }

    /// The connection is lost, and with its node maybe what was written there.
    pub(super) fn lose_target(&mut self) {
        *self.target = None;
        self.engine.forget_compared();
    }

    pub(crate) fn target_error(&mut self, text: &[u8], address: &Address) -> Stop {
        let shown_text = said(text);
        let code = shown_text.split(' ').next().unwrap_or_default().to_owned();
        let wait = |full| Stop::Target {
            reason: format!("{code} at {address}"),
            full,
        };
        let key = shown(&self.big.target);
        let failed = |kind| {
            let message =
                format!("the target answered {shown_text} to a write of {key}, which is copied in parts");
            Stop::Failed(kind, message, address.clone())
        };
        match judge(text) {
            Verdict::Moved { slot, to } => {
                self.engine.shared.progress.add_moved();
                let to = to.address(address, &self.engine.spec.address_map);
                self.engine.moved(slot, &to);
                Stop::Moved
            }
            // While the slot moves, a transaction would meet the temporary key here and its name there.
            Verdict::Ask(_) | Verdict::Wait => wait(false),
            Verdict::Full => wait(true),
            Verdict::Denied | Verdict::Refused => failed(FailureKind::Denied),
            Verdict::Busy | Verdict::Payload | Verdict::Failed => failed(FailureKind::Error),
        }
    }

    /// Take away what is built so far.
    pub(crate) async fn sweep(&mut self) -> Attempt<()> {
        self.engine
            .shared
            .ledger()
            .set_big_position(&self.big.source, None);
        self.unlink(&self.temporary()).await
    }

    /// The temporary key of this key and job.
    pub(crate) fn temporary(&self) -> Vec<u8> {
        temporary::name(&self.big.target, self.big.slot, &self.engine.copy_id)
    }

    /// Take away what an older version has left under the name that all its jobs shared: if this job was `ours`, or
    /// if nothing was written to it for a while.
    pub(crate) async fn sweep_shared(&mut self, ours: bool) -> Attempt<()> {
        let shared = temporary::shared_name(&self.big.target, self.big.slot);
        let left = self.tell(&[&[b"PTTL", &shared]]).await?;
        let left = left.first().and_then(Tree::integer).unwrap_or(-2);
        let is_abandoned = temporary::LIFETIME.saturating_sub(left) >= temporary::ABANDONED;
        if left >= 0 && (ours || is_abandoned) {
            self.unlink(&shared).await?;
        }
        Ok(())
    }

    pub(crate) async fn unlink(&mut self, key: &[u8]) -> Attempt<()> {
        self.tell(&[&[b"UNLINK", key]]).await.map(drop)
    }

    /// Hold the key back until so many replicas of its primary have it as the job asks for.
    pub(crate) async fn wait_for_replicas(&mut self) -> Attempt<()> {
        let wanted = self.engine.spec.wait_replicas;
        if wanted == 0 {
            return Ok(());
        }
        *self.in_doubt = true;
        let begun = Instant::now();
        let (count, patience) = (
            wanted.to_string(),
            self.engine.spec.wait_timeout.as_millis().to_string(),
        );
        loop {
            let reply = self
                .tell(&[&[b"WAIT", count.as_bytes(), patience.as_bytes()]])
                .await?;
            let confirmed = reply.first().and_then(Tree::integer).unwrap_or_default();
            if confirmed >= i64::from(wanted) {
                *self.in_doubt = false;
                return Ok(());
            }
            if begun.elapsed() >= self.engine.spec.retry_for {
                return Err(Stop::Target {
                    reason: format!("{confirmed} of {wanted} replicas confirm its keys"),
                    full: false,
                });
            }
        }
    }
}

/// Append the command that gives a key this expiry; whether it has it already, so that it is only asked for.
pub(super) fn push_expiry(commands: &mut Commands, name: &[u8], whither: Whither, expires_at: u64) -> bool {
    let at = expires_at.to_string();
    match whither {
        Whither::Temporary => commands.push(&[b"PEXPIRE", name, temporary::LIFETIME_MS]),
        Whither::Published {
            expires_at: Some(had),
            ..
        } if had.abs_diff(expires_at) <= JITTER => {
            commands.push(&[b"PTTL", name]);
            return true;
        }
        Whither::Published { .. } if expires_at == 0 => commands.push(&[b"PERSIST", name]),
        Whither::Published { .. } => commands.push(&[b"PEXPIREAT", name, at.as_bytes()]),
    }
    false
}

/// Whether the answer of a key that has this expiry already says that it has another.
pub(super) fn expiry_is_lost(left: Option<&Tree>, expires_at: u64) -> bool {
    let left = left.and_then(Tree::integer).unwrap_or(-2);
    left < -1 || (left == -1) != (expires_at == 0)
}
