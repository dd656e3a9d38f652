//! What a stream holds besides its entries, as XINFO and XPENDING tell it.
//!
//! Invariant: what is read here is what a payload of the stream would say: what a server does not know is none, and a
//! time of delivery is exact or known not to be told.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunked::parts::parse_id;
use crate::net::client::Commands;
use crate::rdb::{Consumer, Delivery, Group, History, StreamId};
use crate::resp::Tree;

/// The value of a name in a reply that lists names and values in turn.
fn fact<'a>(reply: &'a Tree, name: &[u8]) -> Option<&'a Tree> {
    let at = reply
        .elements()
        .iter()
        .step_by(2)
        .position(|known| known.text() == Some(name))?;
    reply.elements().get(2 * at + 1)
}

fn id(text: &Tree) -> Option<StreamId> {
    let (ms, seq) = parse_id(text.text()?)?;
    Some(StreamId { ms, seq })
}

/// The last ID and the history, by XINFO STREAM.
pub(crate) fn facts(reply: &Tree) -> Option<(StreamId, Option<History>)> {
    let last_id = id(fact(reply, b"last-generated-id")?)?;
    let (added, deleted) = (
        fact(reply, b"entries-added"),
        fact(reply, b"max-deleted-entry-id"),
    );
    let history = match (added, deleted) {
        (Some(added), Some(deleted)) => Some(History {
            max_deleted_id: id(deleted)?,
            entries_added: u64::try_from(added.integer()?).ok()?,
        }),
        // Before Redis 7.0.
        _ => None,
    };
    Some((last_id, history))
}

/// The groups by XINFO GROUPS, without consumers and without what is pending.
pub(crate) fn groups(reply: &Tree) -> Option<BTreeMap<Vec<u8>, Group>> {
    let Tree::Array(all) = reply else {
        return None;
    };
    let read = |told: &Tree| {
        let group = Group {
            last_id: id(fact(told, b"last-delivered-id")?)?,
            entries_read: fact(told, b"entries-read").and_then(Tree::integer),
            pending: BTreeMap::new(),
            consumers: BTreeMap::new(),
        };
        Some((fact(told, b"name")?.text()?.to_vec(), group))
    };
    all.iter().map(read).collect()
}

/// The consumers by XINFO CONSUMERS, without what is pending for them.
pub(crate) fn consumers(reply: &Tree) -> Option<BTreeMap<Vec<u8>, Consumer>> {
    let Tree::Array(all) = reply else {
        return None;
    };
    let read = |told: &Tree| Some((fact(told, b"name")?.text()?.to_vec(), consumer()));
    all.iter().map(read).collect()
}

/// A consumer of whom nothing is known but the name.
fn consumer() -> Consumer {
    Consumer {
        seen_at_ms: 0,
        active_at_ms: None,
        pending: BTreeSet::new(),
    }
}

/// An entry that was given to a consumer and is not acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub id: StreamId,
    pub consumer: Vec<u8>,
    /// As XPENDING tells it: if it is later than the server's clock, the clock instead.
    pub delivery: Delivery,
    /// It may have been delivered later than that, by another server's clock.
    pub is_at_least: bool,
}

/// Pending entries of a group, in order.
#[derive(Debug)]
pub(crate) struct PendingPage {
    pub entries: Vec<Pending>,
    /// There are no more behind them.
    pub is_last: bool,
    /// The server's clock stood still while they were read, so the times of delivery are exact.
    pub is_exact: bool,
}

impl PendingPage {
    /// Ask for `count` pending entries after `after`. How long ago an entry was delivered is told against the
    /// server's clock at that moment, which TIME before and behind it encloses.
    pub fn ask(key: &[u8], group: &[u8], after: Option<StreamId>, count: usize) -> Commands {
        let first = match after {
            None => "-".to_owned(),
            Some(StreamId { ms, seq: u64::MAX }) => format!("{}-0", ms.saturating_add(1)),
            Some(StreamId { ms, seq }) => format!("{ms}-{}", seq + 1),
        };
        let count = count.to_string();
        let mut commands = Commands::one(&[b"TIME"]);
        commands.push(&[b"XPENDING", key, group, first.as_bytes(), b"+", count.as_bytes()]);
        commands.push(&[b"TIME"]);
        commands
    }

    /// Read what [`Self::ask`] was answered; `None` if it is no such reply.
    pub fn read(replies: &[Tree], count: usize) -> Option<Self> {
        let [before, Tree::Array(all), behind] = replies else {
            return None;
        };
        let now = before.milliseconds()?;
        let read = |told: &Tree| match told.elements() {
            [entry, consumer, idle, times] => {
                let idle = idle.integer()?;
                Some(Pending {
                    id: id(entry)?,
                    consumer: consumer.text()?.to_vec(),
                    delivery: Delivery {
                        delivered_at_ms: u64::try_from(now.checked_sub(idle)?).ok()?,
                        count: u64::try_from(times.integer()?).ok()?,
                    },
                    is_at_least: idle == 0,
                })
            }
            _ => None,
        };
        let entries = all.iter().map(read).collect::<Option<Vec<_>>>()?;
        Some(Self {
            is_last: entries.len() < count,
            is_exact: behind.milliseconds()? == now,
            entries,
        })
    }
}

/// How a page of pending entries is read: again, and a smaller one each time, until the server's clock stands still
/// meanwhile.
pub(crate) struct PendingReads {
    /// Entries to ask for.
    pub count: usize,
    left: u32,
}

impl PendingReads {
    pub fn new(count: usize) -> Self {
        const MOST: u32 = 16;
        Self { count, left: MOST }
    }

    /// Whether the page that was read is to be taken. A clock that moves whenever a single entry is read is taken as
    /// it is.
    pub fn takes(&mut self, page: &PendingPage) -> bool {
        self.left -= 1;
        if page.is_exact || page.entries.is_empty() || self.left == 0 {
            return true;
        }
        self.count = (self.count / 2).max(1);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Tree {
        Tree::Text(text.into())
    }

    #[test]
    fn what_a_server_does_not_know_is_none() {
        let old = Tree::Array(vec![
            text("length"),
            Tree::Integer(1),
            text("last-generated-id"),
            text("5-1"),
        ]);
        assert_eq!(facts(&old), Some((StreamId { ms: 5, seq: 1 }, None)));
        let group = Tree::Array(vec![
            text("name"),
            text("g"),
            text("last-delivered-id"),
            text("3-0"),
            text("entries-read"),
            Tree::Nil,
        ]);
        let groups = groups(&Tree::Array(vec![group])).expect("groups");
        assert_eq!(groups[b"g".as_slice()].entries_read, None);
        assert_eq!(facts(&Tree::Nil), None);
    }

    #[test]
    fn times_of_delivery_are_told_by_the_servers_clock() {
        let time = |ms: i64| {
            Tree::Array(vec![
                text(&(ms / 1000).to_string()),
                text(&(ms % 1000 * 1000).to_string()),
            ])
        };
        let entry = |idle| {
            Tree::Array(vec![
                text("1-1"),
                text("c"),
                Tree::Integer(idle),
                Tree::Integer(2),
            ])
        };
        let page = |idle, behind| {
            let replies = [time(5_000), Tree::Array(vec![entry(idle)]), time(behind)];
            PendingPage::read(&replies, 10).expect("a page")
        };
        let told = page(40, 5_000);
        assert!(told.is_exact && told.is_last && !told.entries[0].is_at_least);
        assert_eq!(told.entries[0].delivery.delivered_at_ms, 4_960);
        assert!(!page(40, 5_001).is_exact);
        assert!(page(0, 5_000).entries[0].is_at_least);
        assert!(PendingPage::read(&[time(1), Tree::Nil, time(1)], 10).is_none());
    }
}
