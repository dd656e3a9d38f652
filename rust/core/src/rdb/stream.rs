//! What a stream holds: entries, consumer groups and what is pending in them.
//!
//! Invariant: streams are the same if no producer or consumer could tell them apart by what it is given.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The ID of a stream entry, in order of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// Milliseconds since the epoch, or what the producer chose.
    pub ms: u64,
    /// Tells entries of the same millisecond apart.
    pub seq: u64,
}

/// An entry that is still in the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The entry's ID.
    pub id: StreamId,
    /// What it says. Entries of a node share their fields' names.
    pub fields: EntryFields,
}

/// Fields and values of an entry, in order.
pub type EntryFields = Vec<(Arc<[u8]>, Vec<u8>)>;

/// What a stream remembers of entries that are gone; Redis ≥ 7.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct History {
    /// The highest ID that was deleted; 0-0 for none.
    pub max_deleted_id: StreamId,
    /// How many entries were ever added.
    pub entries_added: u64,
}

/// What a stream remembers so that a producer's retry adds no second entry (`XADD … IDMP`); Redis ≥ 8.6.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotence {
    /// How long an idempotent ID is remembered, in seconds.
    pub duration_s: u64,
    /// How many of them are remembered for each producer.
    pub max_entries: u64,
    /// By producer: the idempotent IDs, each with the ID of the entry that was added for it, oldest first.
    pub producers: BTreeMap<Vec<u8>, Vec<(Vec<u8>, StreamId)>>,
    /// How many idempotent IDs were ever added.
    pub added: u64,
    /// How many retries were ever recognised.
    pub duplicates: u64,
}

/// An entry that a consumer was given and has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivery {
    /// When it was last given to a consumer, in milliseconds since the epoch.
    pub delivered_at_ms: u64,
    /// How often.
    pub count: u64,
}

/// A consumer of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Consumer {
    /// When it last asked for entries, in milliseconds since the epoch.
    pub seen_at_ms: u64,
    /// When it last got some, in milliseconds since the epoch; Redis ≥ 7.2, −1 for never.
    pub active_at_ms: Option<i64>,
    /// What it has not acknowledged; all of it is in its group's `pending`.
    pub pending: BTreeSet<StreamId>,
}

/// What a server says that does not know how many entries a group was given.
pub(crate) const NOT_KNOWN: i64 = -1;

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The last ID that was given to a consumer.
    pub last_id: StreamId,
    /// How many entries were given to consumers; Redis ≥ 7.0, −1 for not known.
    pub entries_read: Option<i64>,
    /// What was given out and not acknowledged.
    pub pending: BTreeMap<StreamId, Delivery>,
    /// The consumers by name.
    pub consumers: BTreeMap<Vec<u8>, Consumer>,
}

/// The value of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The entries in order of their IDs.
    pub entries: Vec<Entry>,
    /// The ID that the next entry must exceed.
    pub last_id: StreamId,
    /// `None` in a payload of Redis before 7.0.
    pub history: Option<History>,
    /// The consumer groups by name.
    pub groups: BTreeMap<Vec<u8>, Group>,
    /// `None` in a payload of a server that knows no idempotent producers.
    pub idempotence: Option<Idempotence>,
}

impl Stream {
    /// Returns whether both mean the same to producers and consumers.
    ///
    /// What an older encoding does not tell is not compared: a target makes it up when it restores. Nor are
    /// the times when a consumer was last seen or active, which change while nothing is read.
    pub fn same(&self, other: &Self) -> bool {
        self.entries == other.entries
            && self.last_id == other.last_id
            && same_where_known(self.history.as_ref(), other.history.as_ref())
            && same_where_known(self.idempotence.as_ref(), other.idempotence.as_ref())
            && self.groups.len() == other.groups.len()
            && self
                .groups
                .iter()
                .zip(&other.groups)
                .all(|(ours, theirs)| ours.0 == theirs.0 && ours.1.same(theirs.1))
    }

    /// Leaves out the idempotent IDs whose time is over at `now_ms` (milliseconds since the epoch, by a server's
    /// clock): servers drop them at different times.
    pub fn forget_expired(&mut self, now_ms: u64) {
        if let Some(idempotence) = &mut self.idempotence {
            let lifetime_ms = idempotence.duration_s.saturating_mul(1000);
            idempotence.producers.retain(|_, ids| {
                ids.retain(|(_, entry)| entry.ms.saturating_add(lifetime_ms) > now_ms);
                !ids.is_empty()
            });
        }
    }
}

impl Group {
    /// How many entries were given to consumers, where the server knows it. A replica of Redis 7.0 does not (it is
    /// told of deliveries by XCLAIM), nor does a server that has replayed its AOF.
    pub(crate) fn known_entries_read(&self) -> Option<i64> {
        self.entries_read.filter(|&read| read != NOT_KNOWN)
    }

    pub(crate) fn same(&self, other: &Self) -> bool {
        self.last_id == other.last_id
            && same_where_known(self.known_entries_read(), other.known_entries_read())
            && self.pending == other.pending
            && self.consumers.len() == other.consumers.len()
            && self
                .consumers
                .iter()
                .zip(&other.consumers)
                .all(|(ours, theirs)| ours.0 == theirs.0 && ours.1.pending == theirs.1.pending)
    }
}

fn same_where_known<T: PartialEq + Copy>(ours: Option<T>, theirs: Option<T>) -> bool {
    ours.is_none() || theirs.is_none() || ours == theirs
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: StreamId = StreamId { ms: 1, seq: 2 };

    fn stream() -> Stream {
        let consumer = Consumer {
            seen_at_ms: 10,
            active_at_ms: Some(10),
            pending: [ID].into(),
        };
        let delivery = Delivery {
            delivered_at_ms: 5,
            count: 1,
        };
        let group = Group {
            last_id: ID,
            entries_read: Some(1),
            pending: [(ID, delivery)].into(),
            consumers: [(b"c".to_vec(), consumer)].into(),
        };
        Stream {
            entries: vec![],
            last_id: ID,
            history: Some(History {
                max_deleted_id: ID,
                entries_added: 1,
            }),
            groups: [(b"g".to_vec(), group)].into(),
            idempotence: Some(Idempotence {
                duration_s: 100,
                max_entries: 100,
                producers: [(b"p".to_vec(), vec![(b"i".to_vec(), ID)])].into(),
                added: 1,
                duplicates: 0,
            }),
        }
    }

    fn changed(change: impl Fn(&mut Stream, &mut Group)) -> Stream {
        let mut stream = stream();
        let mut group = stream.groups.remove(&b"g"[..]).expect("the group");
        change(&mut stream, &mut group);
        stream.groups.insert(b"g".to_vec(), group);
        stream
    }

    fn consumer(group: &mut Group) -> &mut Consumer {
        group.consumers.get_mut(&b"c"[..]).expect("the consumer")
    }

    #[test]
    fn what_an_older_server_does_not_tell_is_not_compared() {
        let older = changed(|stream, group| {
            stream.history = None;
            group.entries_read = None;
            consumer(group).active_at_ms = None;
            stream.idempotence = None;
        });
        assert!(older.same(&stream()));
        assert!(stream().same(&older));
    }

    #[test]
    fn what_a_replica_does_not_know_is_not_compared() {
        let replica = changed(|_, group| group.entries_read = Some(NOT_KNOWN));
        assert!(replica.same(&stream()));
        assert!(stream().same(&replica));
    }

    #[test]
    fn a_consumer_that_looked_in_changes_nothing() {
        let seen = changed(|_, group| {
            consumer(group).seen_at_ms = 99;
            consumer(group).active_at_ms = Some(99);
        });
        assert!(seen.same(&stream()));
    }

    #[test]
    fn everything_else_counts() {
        type Change = fn(&mut Stream, &mut Group);
        let changes: [Change; 12] = [
            |stream, _| stream.last_id.seq += 1,
            |stream, _| {
                stream.entries.push(Entry {
                    id: ID,
                    fields: vec![],
                });
            },
            |stream, _| stream.history.as_mut().expect("known").entries_added += 1,
            |stream, _| stream.history.as_mut().expect("known").max_deleted_id.ms += 1,
            |stream, _| stream.idempotence.as_mut().expect("known").duration_s += 1,
            |stream, _| stream.idempotence.as_mut().expect("known").duplicates += 1,
            |stream, _| stream.forget_expired(ID.ms + 100_000),
            |_, group| group.last_id.ms += 1,
            |_, group| group.entries_read = Some(2),
            |_, group| group.pending.get_mut(&ID).expect("pending").count += 1,
            |_, group| consumer(group).pending.clear(),
            |_, group| group.consumers.clear(),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            assert!(!changed(change).same(&stream()), "change {index}");
        }
        let mut without_groups = stream();
        without_groups.groups.clear();
        assert!(!without_groups.same(&stream()));
    }
}
