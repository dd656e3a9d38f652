//! A large key that the target has already.
//!
//! Invariant: compared a part at a time, by the rules that hold for all keys (`compare.rs`).

use std::time::Instant;

use super::LIMITS;
use super::copy::{Attempt, Copy, Progress, Stop};
use super::groups::{self, Group};
use super::source::Look;
use crate::checkpoint::FailureKind;
use crate::pipeline::parts::{self, Chunk, Kind, Unexpected};
use crate::pipeline::{OnConflict, shown};
use crate::progress::Outcome;
use crate::resp::Tree;
use crate::resp::encode::ExpiryCommand;

/// By how many milliseconds the expiries of equal keys may differ.
const TTL_TOLERANCE: u64 = 1000;

impl Copy<'_> {
    /// What becomes of a key that the target has; `None` if it has not.
    pub(super) async fn meet_existing(&mut self, look: &Look) -> Attempt<Option<Outcome>> {
        let name = self.big.target.clone();
        let exists = self.tell(&[&[b"EXISTS", &name]]).await?;
        if exists.first().and_then(Tree::integer) != Some(1) {
            return Ok(None);
        }
        if self.engine.spec.on_conflict == OnConflict::Skip && !*self.in_doubt {
            return Ok(Some(Outcome::Skipped));
        }
        let conflict = |kind, what: &str| {
            let owner = self.engine.owner(self.big.slot);
            let node = owner.map_or_else(|| self.engine.spec.source.clone(), |(_, address)| address);
            Stop::Failed(
                kind,
                format!("the target holds {what} under {}", shown(&name)),
                node,
            )
        };
        let another = conflict(FailureKind::Conflict, "another value");
        let other_ttl = conflict(FailureKind::TtlConflict, "the same value with another TTL");
        let skips = self.engine.spec.on_conflict == OnConflict::Skip;
        if !self.is_same(look, &name).await? {
            return if skips {
                Ok(Some(Outcome::Skipped))
            } else {
                Err(another)
            };
        }
        let expires_at = self.target_expiry(&name).await?;
        let both_or_neither = (look.expires_at == 0) == (expires_at == 0);
        if !both_or_neither || look.expires_at.abs_diff(expires_at) > TTL_TOLERANCE {
            return if skips {
                Ok(Some(Outcome::Skipped))
            } else {
                Err(other_ttl)
            };
        }
        let was_ours = std::mem::take(self.in_doubt);
        Ok(Some(if was_ours {
            Outcome::Migrated
        } else {
            Outcome::Unchanged
        }))
    }

    pub(super) async fn target_expiry(&mut self, name: &[u8]) -> Attempt<u64> {
        let replies = match self.engine.spec.target_expiry {
            ExpiryCommand::Absolute => self.tell(&[&[b"PEXPIRETIME", name]]).await?,
            ExpiryCommand::Relative => self.tell(&[&[b"PTTL", name], &[b"TIME"]]).await?,
        };
        let reply = replies.first().and_then(Tree::integer).unwrap_or(-2);
        let now = replies.get(1).and_then(Tree::milliseconds).unwrap_or_default();
        Ok(if reply < 0 {
            0
        } else {
            (now + reply).cast_unsigned()
        })
    }

    /// Whether the target's key holds the same value, compared a chunk at a time.
    pub(super) async fn is_same(&mut self, look: &Look, name: &[u8]) -> Attempt<bool> {
        let kind = look.kind;
        let replies = self.tell(&[&[b"TYPE", name]]).await?;
        if replies.into_iter().next().and_then(Tree::into_text).as_deref() != Some(kind.name().as_bytes()) {
            return Ok(false);
        }
        let length = self.tell(&[&[kind.length(), name]]).await?;
        if length.first().and_then(Tree::integer) != Some(look.length.cast_signed()) {
            return Ok(false);
        }
        let mut progress = Self::afresh(look);
        let mut count = parts::first_count(self.big.size, look.length);
        loop {
            self.pause().await?;
            let begun = Instant::now();
            let chunk = self.read(&progress, count).await?;
            if !chunk.is_empty() && !self.has_same(kind, name, &progress, &chunk, count).await? {
                return Ok(false);
            }
            count = chunk.next_count(kind, count, LIMITS);
            if chunk.is_last {
                break;
            }
            progress.place = chunk.next;
            self.rest(begun).await;
        }
        if kind == Kind::Stream {
            let key = self.big.source.clone();
            let ours = self.read_groups(&key).await?;
            let reply = self.tell(&[&[b"XINFO", b"GROUPS", name]]).await?.pop();
            let mut theirs = reply.and_then(groups::groups).ok_or_else(|| self.nonsense())?;
            for group in &mut theirs {
                let reply = self
                    .tell(&[&[b"XINFO", b"CONSUMERS", name, &group.name]])
                    .await?
                    .pop();
                group.consumers = reply.and_then(groups::consumers).ok_or_else(|| self.nonsense())?;
            }
            let plain = |group: &Group| (group.name.clone(), group.last_id.clone(), group.consumers.clone());
            return Ok(ours.iter().map(plain).eq(theirs.iter().map(plain)));
        }
        Ok(true)
    }

    pub(super) async fn has_same(
        &mut self,
        kind: Kind,
        name: &[u8],
        progress: &Progress,
        chunk: &Chunk,
        count: usize,
    ) -> Attempt<bool> {
        let commands = chunk.ask_same(kind, name, progress.place, count);
        let reply = self.execute(commands, 1).await?.pop().unwrap_or(Tree::Nil);
        let difference = chunk.difference(kind, progress.place, count, progress.length, reply);
        let is_same = difference.map_err(|Unexpected| self.nonsense())?.is_none();
        if !is_same || !self.engine.spec.target_rdb.has_field_ttls() || chunk.expiries.is_empty() {
            return Ok(is_same);
        }
        let reply = self.execute(chunk.ask_expiries(name), 1).await?.pop();
        let theirs = reply.and_then(|reply| parts::expiries(&reply));
        Ok(theirs.ok_or_else(|| self.nonsense())? == chunk.expiries)
    }
}
