//! The target's side of a list that is followed: its ends are written as they were read.
//!
//! Invariant: what is written follows from what the target holds: that is looked at under WATCH, in the same history of
//! its node as it was written in, and of a write without an answer nothing is taken to be certain.

use crate::chunked::copy::elements::Whither;
use crate::chunked::copy::lists::{ListRead, News};
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::temporary;
use crate::job::follow::Run;
use crate::ledger::unsettled::FailureKind;
use crate::net::client::Commands;
use crate::reply::info_field;
use crate::resp::Tree;

/// By how many ms two readings of one expiry may differ where a server tells it as what is left.
const JITTER: u64 = 5;

impl Copy<'_> {
    /// Write entries at either end, after what is stale was taken there, and make the key what it is to be.
    pub(super) async fn write_ends(
        &mut self,
        name: &[u8],
        news: &News<'_>,
        (before, run): (Run, Run),
        read: &ListRead,
        whither: Whither,
    ) -> Attempt<()> {
        let Some(follow) = self.engine.follow.clone() else {
            return Err(Stop::Ordinary);
        };
        let key = self.big.source.clone();
        let is_built = whither == Whither::Temporary && run.is_equal();
        if is_built && read.expires_at > 0 && read.expires_at <= read.now {
            return Err(Stop::Changed("it went while it was copied"));
        }
        let keeps_expiry = match whither {
            Whither::Published {
                expires_at: Some(had),
                ..
            } => !before.is_nothing_held() && had.abs_diff(read.expires_at) <= JITTER,
            _ => false,
        };
        let mut commands = Commands::one(&[b"MULTI"]);
        push_ends(&mut commands, name, &before, news);
        if commands.count() == 1 && keeps_expiry {
            follow.list_written(&key, run, follow.list_history(&key));
            return Ok(());
        }
        let at = read.expires_at.to_string();
        match whither {
            Whither::Temporary if !is_built => commands.push(&[b"PEXPIRE", name, temporary::LIFETIME_MS]),
            Whither::Published { .. } if keeps_expiry => commands.push(&[b"PTTL", name]),
            _ if read.expires_at == 0 => commands.push(&[b"PERSIST", name]),
            _ => commands.push(&[b"PEXPIREAT", name, at.as_bytes()]),
        }
        if is_built {
            // Without the UNLINK, RENAME would free a large value at once.
            commands.push(&[b"UNLINK", &self.big.target]);
            commands.push(&[b"RENAME", name, &self.big.target]);
        }
        let history = self.watch_list(name, before.at_target(), whither).await?;
        let replies = self.execute_watched(commands, whither).await?;
        follow.list_written(&key, run, Some(history));
        let left = replies.last().and_then(Tree::integer).unwrap_or(-2);
        if keeps_expiry && (left < -1 || (left == -1) != (read.expires_at == 0)) {
            return Err(Stop::Changed("the target has lost its expiry, or part of it"));
        }
        Ok(())
    }

    /// Watch the target's list, which has to be as it was written: so long, in the same history of its node, which is
    /// returned.
    async fn watch_list(&mut self, name: &[u8], length: u64, whither: Whither) -> Attempt<Vec<u8>> {
        let mut commands = Commands::one(&[b"WATCH", name]);
        commands.push(&[b"INFO", b"replication"]);
        commands.push(&[b"LLEN", name]);
        let replies = self.execute(commands, 1).await.inspect_err(|_| {
            // It may be watched over this connection.
            *self.target = None;
        })?;
        let info = replies.get(1).and_then(Tree::text).unwrap_or_default();
        let info = String::from_utf8_lossy(info).into_owned();
        let there = replies.get(2).and_then(Tree::integer);
        let Some(history) = info_field(&info, "master_replid").map(|id| id.as_bytes().to_vec()) else {
            *self.target = None;
            let owner = self.engine.owner(self.big.slot);
            let node = owner.map_or_else(|| self.engine.spec.source.clone(), |(_, address)| address);
            let message = format!("the target's node {node} does not tell its replication id");
            return Err(Stop::Failed(FailureKind::Denied, message, node));
        };
        let follow = self.engine.follow.as_ref();
        let written_in = follow.and_then(|follow| follow.list_history(&self.big.source));
        if written_in.is_some_and(|written_in| written_in != history) {
            // It is watched over this connection.
            *self.target = None;
            return Err(uncertain(
                "its node at the target is another one, or has another state",
                whither,
            ));
        }
        if there != Some(length.cast_signed()) {
            *self.target = None;
            return Err(Stop::Changed("the target's list is not what was written of it"));
        }
        Ok(history)
    }

    /// Run a transaction, begun with MULTI, over the connection on which the key is watched.
    async fn execute_watched(&mut self, mut commands: Commands, whither: Whither) -> Attempt<Vec<Tree>> {
        let count = commands.count() - 1;
        commands.push(&[b"EXEC"]);
        let owner = self.engine.owner(self.big.slot);
        let Some(((_, client), (_, address))) = self.target.as_mut().zip(owner) else {
            *self.target = None;
            return Err(Stop::Moved);
        };
        let replies = match client.call(commands).await {
            Ok(replies) => replies,
            Err(error) => {
                self.lose_target();
                let why = format!(
                    "{} at {address}, before its last write was answered",
                    error.into_text()
                );
                return Err(uncertain(&why, whither));
            }
        };
        let refused = replies.iter().find_map(|reply| match reply {
            Tree::Error(text) => Some(text.clone()),
            _ => None,
        });
        match (replies.into_iter().next_back(), refused) {
            // Nothing of it was done.
            (Some(Tree::Error(_)), Some(text)) => Err(self.target_error(&text, &address)),
            (Some(Tree::Nil), _) => Err(Stop::Changed("somebody else has written it at the target")),
            (Some(Tree::Array(results)), None)
                if results.len() == count
                    && !results.iter().any(|result| matches!(result, Tree::Error(_))) =>
            {
                Ok(results)
            }
            _ => Err(Stop::Changed("only a part of its last write was done")),
        }
    }
}

/// It is not certain what the target has of the list: it is copied whole.
fn uncertain(why: &str, whither: Whither) -> Stop {
    match whither {
        Whither::Temporary => Stop::Cut(why.to_owned()),
        Whither::Published { .. } => Stop::Uncertain(why.to_owned()),
    }
}

/// Append the commands that take what is stale of a list from its ends, and add what is new.
fn push_ends(commands: &mut Commands, name: &[u8], before: &Run, news: &News<'_>) {
    let (head, tail) = before.stale;
    if (head, tail) != (0, 0) {
        let (first, last) = (head.to_string(), format!("-{}", tail + 1));
        commands.push(&[b"LTRIM", name, first.as_bytes(), last.as_bytes()]);
    }
    if !news.head.is_empty() {
        let mut arguments: Vec<&[u8]> = vec![b"LPUSH", name];
        arguments.extend(news.head.iter().rev().map(Vec::as_slice));
        commands.push(&arguments);
    }
    if !news.tail.is_empty() {
        let mut arguments: Vec<&[u8]> = vec![b"RPUSH", name];
        arguments.extend(news.tail.iter().map(Vec::as_slice));
        commands.push(&arguments);
    }
}
