//! The groups of a large stream.
//!
//! Invariant: every group, consumer and pending entry of the source is in the temporary key before it is renamed.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use crate::chunked::copy::groups;
use crate::chunked::copy::groups::{Group, History, PENDING_CHUNK};
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::second_look::{Seen, Summary};
use crate::chunked::copy::temporary;
use crate::chunked::parts::{PendingPage, PendingReads, parse_id};
use crate::ledger::unsettled::FailureKind;
use crate::net::client::Commands;
use crate::rdb::StreamId;
use crate::resp::Tree;
use crate::text::shown;

/// So many pending entries of deleted messages are restored in one go at most.
pub(super) const MOST_LOST: usize = 10_000;

/// Pending entries of deleted messages, by group.
pub(crate) type Lost = BTreeMap<Vec<u8>, Vec<groups::Delivery>>;

impl Copy<'_> {
    /// Messages that are pending and not in the stream any more, by group.
    pub(crate) async fn lost_messages(&mut self) -> Attempt<Lost> {
        let key = self.big.source.clone();
        let mut lost = Lost::new();
        let mut count = 0;
        let reply = self.ask(groups::read_groups(&key)).await?.pop();
        for group in reply.and_then(groups::groups).ok_or_else(|| self.nonsense())? {
            let mut after: Option<Vec<u8>> = None;
            loop {
                self.pause().await?;
                let begun = Instant::now();
                let pending = self.pending(&key, &group.name, after.as_deref()).await?;
                let Some(newest) = pending.last() else {
                    break;
                };
                after = Some(newest.id.clone());
                let mut commands = Commands::default();
                for delivery in &pending {
                    commands.push(&[b"XRANGE", &key, &delivery.id, &delivery.id]);
                }
                let found = self.ask(commands).await?;
                for (delivery, found) in pending.into_iter().zip(found) {
                    if found == Tree::Array(Vec::new()) {
                        count += 1;
                        lost.entry(group.name.clone()).or_default().push(delivery);
                    }
                }
                if count > MOST_LOST {
                    let key = shown(&self.big.source);
                    let message = format!(
                        "{key} has more than {MOST_LOST} pending entries of deleted messages, which are written \
                         in one piece only (a higher --big-key-bytes does so)"
                    );
                    let node = self.engine.spec.source.clone();
                    return Err(Stop::Failed(FailureKind::Payload, message, node));
                }
                self.rest(begun).await;
            }
        }
        Ok(lost)
    }

    /// Write the groups, what is pending in them and the history to the temporary key. Returns what was written.
    pub(crate) async fn copy_groups(&mut self, temporary: &[u8], lost: &Lost) -> Attempt<Seen> {
        let key = self.big.source.clone();
        let reply = self.ask(groups::read_history(&key)).await?.pop();
        let history = reply.and_then(groups::history).ok_or_else(|| self.nonsense())?;
        let mut seen = Vec::new();
        for group in self.read_groups(&key).await? {
            let mut summary = Summary::default();
            let lost = lost.get(&group.name).map_or(&[][..], Vec::as_slice);
            let exists = !lost.is_empty();
            let lost: HashSet<&[u8]> = lost.iter().map(|delivery| delivery.id.as_slice()).collect();
            self.write_group(temporary, &group, exists).await?;
            let mut after: Option<Vec<u8>> = None;
            loop {
                self.pause().await?;
                let mut pending = self.pending(&key, &group.name, after.as_deref()).await?;
                let Some(newest) = pending.last() else {
                    break;
                };
                after = Some(newest.id.clone());
                summary.add(&pending);
                // They are pending already, and XCLAIM would take them out.
                pending.retain(|delivery| !lost.contains(delivery.id.as_slice()));
                self.write_pending(temporary, &group.name, &pending).await?;
            }
            seen.push((group, summary));
        }
        self.write_history(temporary, &history).await?;
        Ok(Seen {
            history,
            groups: seen,
        })
    }

    /// Make a group with its consumers, or bring one up to date that `exists`: without, an earlier attempt may have
    /// made it, and it is made anew.
    pub(crate) async fn write_group(&mut self, temporary: &[u8], group: &Group, exists: bool) -> Attempt<()> {
        let with_history = self.engine.spec.target_rdb.has_stream_history();
        let mut commands = Commands::one(&[b"MULTI"]);
        if !exists {
            commands.push(&[b"XGROUP", b"DESTROY", temporary, &group.name]);
        }
        groups::write_group(&mut commands, temporary, group, exists, with_history);
        commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
        let count = commands.count() - 1;
        self.execute(commands, count).await.map(drop)
    }

    /// Make messages pending.
    pub(crate) async fn write_pending(
        &mut self,
        temporary: &[u8],
        group: &[u8],
        pending: &[groups::Delivery],
    ) -> Attempt<()> {
        if pending.is_empty() {
            return Ok(());
        }
        let mut commands = Commands::one(&[b"MULTI"]);
        groups::write_pending(&mut commands, temporary, group, pending);
        commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
        let claimed = self.execute(commands, pending.len() + 1).await?;
        if claimed.contains(&Tree::Array(Vec::new())) {
            return Err(Stop::Changed("messages that are pending in it were deleted"));
        }
        Ok(())
    }

    pub(crate) async fn write_history(&mut self, temporary: &[u8], history: &History) -> Attempt<()> {
        let with_history = self.engine.spec.target_rdb.has_stream_history();
        let mut commands = Commands::default();
        groups::write_history(&mut commands, temporary, history, with_history);
        self.execute(commands, 1).await.map(drop)
    }

    /// A group's pending entries after one, with exact times of delivery.
    pub(crate) async fn pending(
        &mut self,
        key: &[u8],
        group: &[u8],
        after: Option<&[u8]>,
    ) -> Attempt<Vec<groups::Delivery>> {
        let after = after.and_then(parse_id).map(|(ms, seq)| StreamId { ms, seq });
        let mut reads = PendingReads::new(PENDING_CHUNK);
        loop {
            let replies = self.ask(PendingPage::ask(key, group, after, reads.count)).await?;
            let page = PendingPage::read(&replies, reads.count).ok_or_else(|| self.nonsense())?;
            if reads.takes(&page) {
                return Ok(page.entries.into_iter().map(Into::into).collect());
            }
        }
    }

    pub(crate) async fn read_groups(&mut self, key: &[u8]) -> Attempt<Vec<Group>> {
        let reply = self.ask(groups::read_groups(key)).await?.pop();
        let mut groups = reply.and_then(groups::groups).ok_or_else(|| self.nonsense())?;
        for group in &mut groups {
            let reply = self.ask(groups::read_consumers(key, &group.name)).await?.pop();
            group.consumers = reply.and_then(groups::consumers).ok_or_else(|| self.nonsense())?;
        }
        Ok(groups)
    }
}
