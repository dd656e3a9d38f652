//! What a stream remembers besides its entries: IDs, groups, consumers, what is pending for them.
//!
//! Invariant: read a page at a time, and compared as in a payload (`payload::Stream`): what one side does not know is
//! not compared, since versions differ in what they tell, and neither is when a consumer was last seen.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunked::compare::end::End;
use crate::chunked::compare::pair::Pair;
use crate::chunked::compare::{Broken, Parts};
use crate::chunked::parts;
use crate::chunked::parts::{Pending, PendingPage, PendingReads};
use crate::rdb::{Consumer, Group, PartOf, Show, Stream, StreamId, Value};

/// Pending entries that are compared at once.
const PAGE: usize = 1000;

pub(super) const START: StreamId = StreamId { ms: 0, seq: 0 };

impl Pair<'_> {
    /// The first of these facts that differs, of streams of `length` entries.
    pub(crate) async fn compare_stream(&mut self, length: u64) -> Parts {
        let part = Some(PartOf { length, start: 0 });
        let (ours, theirs) = tokio::join!(self.source.stream_facts(), self.target.stream_facts());
        let (ours, theirs) = (ours?, theirs?);
        if let Some(difference) = difference(ours.clone(), theirs, part) {
            return Ok(Some(difference));
        }
        for (name, group) in ours.groups {
            let difference = self.compare_pending(&name, &group, part).await?;
            if difference.is_some() {
                return Ok(difference);
            }
        }
        Ok(None)
    }

    /// Compare what is pending in a group, page by page.
    async fn compare_pending(&mut self, name: &[u8], group: &Group, part: Option<PartOf>) -> Parts {
        let mut after = None;
        loop {
            if !self.source.engine.may_read_part().await {
                return Err(Broken::Drained);
            }
            let (ours, theirs) = tokio::join!(
                self.source.pending_page(name, after),
                self.target.pending_page(name, after)
            );
            let (mut ours, mut theirs) = (ours?, theirs?);
            let both = ours.entries.len().min(theirs.entries.len());
            // A page may be shorter for its size only; what is missing comes with the next one then.
            let cut = |page: &mut PendingPage, other_ends: bool| {
                page.entries.truncate(if other_ends { both + 1 } else { both });
            };
            let (ours_ends, theirs_end) = (
                ours.is_last && ours.entries.len() == both,
                theirs.is_last && theirs.entries.len() == both,
            );
            cut(&mut ours, theirs_end);
            cut(&mut theirs, ours_ends);
            let last = ours.entries.last().map(|pending| pending.id);
            for (ours, theirs) in ours.entries.iter_mut().zip(&mut theirs.entries) {
                settle_times(ours, theirs);
            }
            let stream = |page: PendingPage| Stream {
                entries: Vec::new(),
                last_id: START,
                history: None,
                groups: [(name.to_vec(), with_pending(group, page.entries))].into(),
                idempotence: None,
            };
            if let Some(difference) = difference(stream(ours), stream(theirs), part) {
                return Ok(Some(difference));
            }
            if ours_ends && theirs_end {
                return Ok(None);
            }
            after = last;
        }
    }
}

impl End<'_> {
    /// The stream without its entries and what is pending.
    pub(super) async fn stream_facts(&mut self) -> Result<Stream, Broken> {
        let reply = self.ask(&[b"XINFO", b"STREAM"], &[]).await?;
        let (last_id, history) = parts::facts(&reply).ok_or_else(|| self.unexpected())?;
        let reply = self.ask(&[b"XINFO", b"GROUPS"], &[]).await?;
        let mut groups = parts::groups(&reply).ok_or_else(|| self.unexpected())?;
        for (name, group) in &mut groups {
            let reply = self.ask(&[b"XINFO", b"CONSUMERS"], &[name]).await?;
            group.consumers = parts::consumers(&reply).ok_or_else(|| self.unexpected())?;
        }
        Ok(Stream {
            entries: Vec::new(),
            last_id,
            history,
            groups,
            // No command reads which producers have sent what.
            idempotence: None,
        })
    }

    /// Pending entries after one, with exact times of delivery.
    pub(super) async fn pending_page(
        &mut self,
        group: &[u8],
        after: Option<StreamId>,
    ) -> Result<PendingPage, Broken> {
        let mut reads = PendingReads::new(PAGE);
        loop {
            let commands = PendingPage::ask(self.key, group, after, reads.count);
            let mut replies = Vec::new();
            for reply in self.call(commands).await? {
                replies.push(self.sound(reply)?);
            }
            let page = PendingPage::read(&replies, reads.count).ok_or_else(|| self.unexpected())?;
            if reads.takes(&page) {
                return Ok(page);
            }
        }
    }
}

/// A time of delivery that a server's clock has not reached yet is told as that clock's time: it may be the other's.
pub(super) fn settle_times(ours: &mut Pending, theirs: &mut Pending) {
    let times = [&ours, &theirs].map(|pending| pending.delivery.delivered_at_ms);
    match (ours.is_at_least, theirs.is_at_least) {
        (true, _) if times[0] <= times[1] => ours.delivery.delivered_at_ms = times[1],
        (_, true) if times[1] <= times[0] => theirs.delivery.delivered_at_ms = times[0],
        _ => {}
    }
}

/// The group with nothing else pending.
pub(super) fn with_pending(group: &Group, entries: Vec<Pending>) -> Group {
    let mut group = Group {
        pending: BTreeMap::new(),
        consumers: BTreeMap::new(),
        ..*group
    };
    for Pending {
        id,
        consumer,
        delivery,
        ..
    } in entries
    {
        group.pending.insert(id, delivery);
        let consumer = group.consumers.entry(consumer).or_insert_with(|| Consumer {
            seen_at_ms: 0,
            active_at_ms: None,
            pending: BTreeSet::new(),
        });
        consumer.pending.insert(id);
    }
    group
}

pub(super) fn difference(ours: Stream, theirs: Stream, part: Option<PartOf>) -> Option<parts::Unequal> {
    let [ours, theirs] = [ours, theirs].map(|stream| Value::Stream(Box::new(stream)));
    (!ours.same(&theirs)).then(|| {
        (
            ours.describe_part(Some(&theirs), part, Show::Shapes),
            theirs.describe_part(Some(&ours), part, Show::Shapes),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::Delivery;

    #[test]
    fn a_time_that_a_clock_has_not_reached_may_be_the_others() {
        let pending = |delivered_at_ms, is_at_least| Pending {
            id: START,
            consumer: b"c".to_vec(),
            delivery: Delivery {
                delivered_at_ms,
                count: 1,
            },
            is_at_least,
        };
        let same = |mut ours: Pending, mut theirs: Pending| {
            settle_times(&mut ours, &mut theirs);
            ours.delivery == theirs.delivery
        };
        assert!(same(pending(50, false), pending(50, false)));
        assert!(same(pending(50, false), pending(40, true)));
        assert!(same(pending(40, true), pending(50, true)));
        assert!(!same(pending(50, false), pending(51, true)));
        assert!(!same(pending(50, false), pending(51, false)));
    }
}
