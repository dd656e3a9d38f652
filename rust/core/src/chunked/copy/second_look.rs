//! The second look at a large stream's groups: WATCH, which tells of new and deleted entries, is blind to them.
//!
//! Invariant: the groups, pending entries and history that are written are the source's at one instant, at which its
//! entries were those that were copied. Where few entries are pending, that is the transaction that says so, and what
//! it tells else than was copied is written again. Where many are, two reads of all, one behind the other, must agree:
//! what both have found was there between them.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::chunked::copy::groups;
use crate::chunked::copy::groups::{Delivery, Group, History};
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::stream::Lost;
use crate::chunked::parts::{Kind, PendingPage};
use crate::net::client::Commands;
use crate::resp::Tree;

/// Pending entries that are asked for in one transaction at most: it keeps the source for some milliseconds.
const MOST_PENDING: usize = 10_000;

/// Groups that are asked for in one transaction at most.
const MOST_GROUPS: usize = 1_000;

/// By how many milliseconds two readings of one time of delivery may differ: it is told by its age, and a clock is
/// read twice for it.
const TOLERANCE: u64 = 100;

const CHANGED: &str = "its consumer groups changed";

/// What is pending in a group, in short: enough to tell whether it is the same at a second look.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    digest: DefaultHasher,
    delivered_at_ms: Vec<i64>,
}

impl Summary {
    pub fn add(&mut self, deliveries: &[Delivery]) {
        for delivery in deliveries {
            (&delivery.id, &delivery.consumer, delivery.count).hash(&mut self.digest);
            self.delivered_at_ms.push(delivery.delivered_at_ms);
        }
    }

    fn is_as(&self, other: &Self) -> bool {
        let mut times = self.delivered_at_ms.iter().zip(&other.delivered_at_ms);
        self.digest.finish() == other.digest.finish()
            && self.delivered_at_ms.len() == other.delivered_at_ms.len()
            && times.all(|(one, other)| one.abs_diff(*other) <= TOLERANCE)
    }
}

/// What a stream holds besides its entries, as one look at it told.
#[derive(Debug)]
pub(crate) struct Seen {
    pub history: History,
    /// Sorted by name.
    pub groups: Vec<(Group, Summary)>,
}

impl Seen {
    fn pending(&self) -> usize {
        self.groups
            .iter()
            .map(|(_, summary)| summary.delivered_at_ms.len())
            .sum()
    }

    fn is_as(&self, other: &Self) -> bool {
        let mut groups = self.groups.iter().zip(&other.groups);
        self.history == other.history
            && self.groups.len() == other.groups.len()
            && groups.all(|((group, pending), (other, others))| group == other && pending.is_as(others))
    }
}

/// The groups, what is pending in each, and the history, at one instant.
struct Instant {
    history: History,
    groups: Vec<(Group, Vec<Delivery>)>,
}

impl Copy<'_> {
    /// As `confirm`, for a stream whose groups were copied as `copied` tells: with them, or with what has become of
    /// them.
    pub(crate) async fn confirm_stream(
        &mut self,
        temporary: &[u8],
        lost: &Lost,
        copied: &Seen,
    ) -> Attempt<(u64, u64, Option<i64>)> {
        if copied.pending() > MOST_PENDING || copied.groups.len() > MOST_GROUPS {
            let again = self.look_at_groups().await?;
            if !again.is_as(copied) {
                return Err(Stop::Changed(CHANGED));
            }
            return self.confirm(Kind::Stream).await;
        }
        let (confirmed, instant) = self.confirm_with_groups(copied).await?;
        self.bring_up_to_date(temporary, lost, copied, instant).await?;
        Ok(confirmed)
    }

    /// Read all that the groups hold, a chunk at a time.
    async fn look_at_groups(&mut self) -> Attempt<Seen> {
        let key = self.big.source.clone();
        let reply = self.ask(groups::read_history(&key)).await?.pop();
        let history = reply.and_then(groups::history).ok_or_else(|| self.nonsense())?;
        let mut seen = Vec::new();
        for group in self.read_groups(&key).await? {
            let mut summary = Summary::default();
            let mut after: Option<Vec<u8>> = None;
            loop {
                self.pause().await?;
                let begun = std::time::Instant::now();
                let pending = self.pending(&key, &group.name, after.as_deref()).await?;
                let Some(newest) = pending.last() else {
                    break;
                };
                after = Some(newest.id.clone());
                summary.add(&pending);
                self.rest(begun).await;
            }
            seen.push((group, summary));
        }
        Ok(Seen {
            history,
            groups: seen,
        })
    }

    /// Ask, in the transaction that says that nothing was added or deleted, for all that the groups hold.
    async fn confirm_with_groups(&mut self, copied: &Seen) -> Attempt<((u64, u64, Option<i64>), Instant)> {
        let key = self.big.source.clone();
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        commands.push(&[Kind::Stream.length(), &key]);
        commands.append(&groups::read_history(&key));
        commands.append(&groups::read_groups(&key));
        for (group, _) in &copied.groups {
            commands.append(&groups::read_consumers(&key, &group.name));
            commands.append(&PendingPage::ask(&key, &group.name, None, MOST_PENDING + 1));
        }
        commands.push(&[b"EXEC"]);
        self.source.watching = false;
        let reply = self.ask(commands).await?.pop();
        let Some(Tree::Array(replies)) = reply else {
            return Err(Stop::Changed("the source's key changed"));
        };
        if replies.iter().any(|reply| matches!(reply, Tree::Error(_))) {
            return Err(Stop::Changed(CHANGED)); // a group is gone
        }
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Tree::Nil);
        let (time, expiry, length, history, names) = (next(), next(), next(), next(), next());
        let now = time.milliseconds().ok_or_else(|| self.nonsense())?;
        let history = groups::history(history).ok_or_else(|| self.nonsense())?;
        let found = groups::groups(names).ok_or_else(|| self.nonsense())?;
        if !found
            .iter()
            .map(|group| &group.name)
            .eq(copied.groups.iter().map(|(group, _)| &group.name))
        {
            return Err(Stop::Changed(CHANGED));
        }
        let mut seen = Vec::with_capacity(found.len());
        for mut group in found {
            group.consumers = groups::consumers(next()).ok_or_else(|| self.nonsense())?;
            let page = PendingPage::read(&[next(), next(), next()], MOST_PENDING + 1);
            let page = page.ok_or_else(|| self.nonsense())?;
            if page.entries.len() > MOST_PENDING {
                return Err(Stop::Changed(CHANGED));
            }
            seen.push((group, page.entries.into_iter().map(Into::into).collect()));
        }
        let expires_at = self.expires_at(expiry.integer().unwrap_or(-2), now);
        let confirmed = (expires_at, now.max(0).cast_unsigned(), length.integer());
        Ok((
            confirmed,
            Instant {
                history,
                groups: seen,
            },
        ))
    }

    /// Write those groups again that are not what was copied of them.
    async fn bring_up_to_date(
        &mut self,
        temporary: &[u8],
        lost: &Lost,
        copied: &Seen,
        instant: Instant,
    ) -> Attempt<()> {
        for ((group, pending), (before, summary)) in instant.groups.iter().zip(&copied.groups) {
            let mut now = Summary::default();
            now.add(pending);
            if group == before && now.is_as(summary) {
                continue;
            }
            if lost.contains_key(&group.name) {
                // What is pending of deleted messages can be restored only before all the rest.
                return Err(Stop::Changed(CHANGED));
            }
            self.write_group(temporary, group, false).await?;
            for chunk in pending.chunks(groups::PENDING_CHUNK) {
                self.pause().await?;
                self.write_pending(temporary, &group.name, chunk).await?;
            }
        }
        if instant.history != copied.history {
            self.write_history(temporary, &instant.history).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(deliveries: &[(&str, &str, i64, i64)]) -> Summary {
        let mut summary = Summary::default();
        for &(id, consumer, delivered_at_ms, count) in deliveries {
            summary.add(&[Delivery {
                id: id.into(),
                consumer: consumer.into(),
                delivered_at_ms,
                count,
            }]);
        }
        summary
    }

    #[test]
    fn a_second_look_sees_any_other_delivery() {
        let before = summary(&[("1-1", "a", 5_000, 1), ("2-1", "b", 5_000, 1)]);
        assert!(before.is_as(&summary(&[("1-1", "a", 5_001, 1), ("2-1", "b", 4_999, 1)])));
        for other in [
            summary(&[("1-1", "a", 5_000, 1)]),
            summary(&[("1-1", "a", 5_000, 1), ("2-2", "b", 5_000, 1)]),
            summary(&[("1-1", "a", 5_000, 1), ("2-1", "a", 5_000, 1)]),
            summary(&[("1-1", "a", 5_000, 1), ("2-1", "b", 6_000, 1)]),
            summary(&[("1-1", "a", 5_000, 1), ("2-1", "b", 5_000, 2)]),
            summary(&[
                ("1-1", "a", 5_000, 1),
                ("2-1", "b", 5_000, 1),
                ("3-1", "b", 5_000, 1),
            ]),
        ] {
            assert!(!before.is_as(&other));
        }
    }
}
