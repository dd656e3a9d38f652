//! What a stream holds besides its entries: consumer groups, what is pending in them, and its history.
//!
//! Invariant: read in chunks and written in chunks, like the entries. No command makes a message pending that is
//! not there any more: those are restored first, in a stream that holds nothing else, and the rest is added to it.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunked::parts::{Pending, parse_id};
use crate::net::client::Commands;
use crate::rdb as stream;
use crate::rdb::{StreamId, seal_stream};
use crate::resp::Tree;

/// Pending entries that are read or written in one go.
pub(crate) const PENDING_CHUNK: usize = 500;

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Group {
    pub name: Vec<u8>,
    pub last_id: Vec<u8>,
    /// Redis ≥ 7.0; `None` for not known.
    pub entries_read: Option<i64>,
    pub consumers: Vec<Vec<u8>>,
}

/// A message that was given to a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Delivery {
    pub id: Vec<u8>,
    pub consumer: Vec<u8>,
    pub delivered_at_ms: i64,
    pub count: i64,
}

/// What XINFO STREAM tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    pub last_id: Vec<u8>,
    /// Redis ≥ 7.0.
    pub entries_added: Option<i64>,
    pub max_deleted_id: Option<Vec<u8>>,
}

/// A field of a flat reply of names and values.
fn field(items: &[Tree], name: &str) -> Option<Tree> {
    items
        .chunks_exact(2)
        .find(|pair| matches!(&pair[0], Tree::Text(text) if text == name.as_bytes()))
        .map(|pair| pair[1].clone())
}

pub(crate) fn read_history(key: &[u8]) -> Commands {
    Commands::one(&[b"XINFO", b"STREAM", key])
}

/// The ID of the first entry, by [`read_history`].
pub(crate) fn first_id(reply: &Tree) -> Option<Vec<u8>> {
    let entry = field(reply.elements(), "first-entry")?.into_elements()?;
    entry.into_iter().next()?.into_text()
}

pub(crate) fn history(reply: Tree) -> Option<History> {
    let items = reply.into_elements()?;
    Some(History {
        last_id: field(&items, "last-generated-id")?.into_text()?,
        entries_added: field(&items, "entries-added").and_then(|value| value.integer()),
        max_deleted_id: field(&items, "max-deleted-entry-id").and_then(Tree::into_text),
    })
}

pub(crate) fn read_groups(key: &[u8]) -> Commands {
    Commands::one(&[b"XINFO", b"GROUPS", key])
}

/// The groups, without their consumers.
pub(crate) fn groups(reply: Tree) -> Option<Vec<Group>> {
    let mut groups = Vec::new();
    for group in reply.into_elements()? {
        let items = group.into_elements()?;
        groups.push(Group {
            name: field(&items, "name")?.into_text()?,
            last_id: field(&items, "last-delivered-id")?.into_text()?,
            entries_read: field(&items, "entries-read").and_then(|value| value.integer()),
            consumers: Vec::new(),
        });
    }
    groups.sort_by(|one, other| one.name.cmp(&other.name));
    Some(groups)
}

pub(crate) fn read_consumers(key: &[u8], group: &[u8]) -> Commands {
    Commands::one(&[b"XINFO", b"CONSUMERS", key, group])
}

pub(crate) fn consumers(reply: Tree) -> Option<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for consumer in reply.into_elements()? {
        names.push(field(&consumer.into_elements()?, "name")?.into_text()?);
    }
    names.sort();
    Some(names)
}

impl From<Pending> for Delivery {
    fn from(pending: Pending) -> Self {
        let StreamId { ms, seq } = pending.id;
        Self {
            id: format!("{ms}-{seq}").into_bytes(),
            consumer: pending.consumer,
            delivered_at_ms: pending.delivery.delivered_at_ms.cast_signed(),
            count: pending.delivery.count.cast_signed(),
        }
    }
}

/// Append the commands that make a group with its consumers, or bring one up to date that `exists`.
pub(crate) fn write_group(
    commands: &mut Commands,
    key: &[u8],
    group: &Group,
    exists: bool,
    with_history: bool,
) {
    let read = group.entries_read.map(|read| read.to_string());
    let how = if exists { b"SETID".as_slice() } else { b"CREATE" };
    let mut arguments: Vec<&[u8]> = vec![b"XGROUP", how, key, &group.name, &group.last_id];
    if let Some(read) = read.as_ref().filter(|_| with_history) {
        arguments.extend([b"ENTRIESREAD".as_slice(), read.as_bytes()]);
    }
    commands.push(&arguments);
    for consumer in &group.consumers {
        commands.push(&[b"XGROUP", b"CREATECONSUMER", key, &group.name, consumer]);
    }
}

/// The payload of a stream without entries in which these messages are pending, by group.
pub(crate) fn skeleton(lost: &BTreeMap<Vec<u8>, Vec<Delivery>>, with_history: bool) -> Vec<u8> {
    const START: StreamId = StreamId { ms: 0, seq: 0 };
    let mut groups = BTreeMap::new();
    for (name, deliveries) in lost {
        let mut group = stream::Group {
            last_id: START,
            entries_read: None,
            pending: BTreeMap::new(),
            consumers: BTreeMap::new(),
        };
        for delivery in deliveries {
            let Some((ms, seq)) = parse_id(&delivery.id) else {
                continue;
            };
            let id = StreamId { ms, seq };
            let at = delivery.delivered_at_ms.max(0).cast_unsigned();
            let told = stream::Delivery {
                delivered_at_ms: at,
                count: delivery.count.max(0).cast_unsigned(),
            };
            group.pending.insert(id, told);
            let consumer = group.consumers.entry(delivery.consumer.clone());
            let consumer = consumer.or_insert_with(|| stream::Consumer {
                seen_at_ms: at,
                active_at_ms: None,
                pending: BTreeSet::new(),
            });
            consumer.pending.insert(id);
        }
        groups.insert(name.clone(), group);
    }
    let stream = stream::Stream {
        entries: Vec::new(),
        last_id: START,
        history: None,
        groups,
        idempotence: None,
    };
    seal_stream(&stream, with_history)
}

/// Append the commands that make messages pending, one each; each answers with the ID if it did.
pub(crate) fn write_pending(commands: &mut Commands, key: &[u8], group: &[u8], deliveries: &[Delivery]) {
    for delivery in deliveries {
        let at = delivery.delivered_at_ms.to_string();
        let count = delivery.count.to_string();
        commands.push(&[
            b"XCLAIM",
            key,
            group,
            &delivery.consumer,
            b"0",
            &delivery.id,
            b"TIME",
            at.as_bytes(),
            b"RETRYCOUNT",
            count.as_bytes(),
            b"FORCE",
            b"JUSTID",
        ]);
    }
}

/// Append the command that sets what the stream remembers.
pub(crate) fn write_history(commands: &mut Commands, key: &[u8], history: &History, with_history: bool) {
    let mut arguments: Vec<&[u8]> = vec![b"XSETID", key, &history.last_id];
    let added = history.entries_added.map(|added| added.to_string());
    if let (true, Some(added), Some(deleted)) = (with_history, &added, &history.max_deleted_id) {
        arguments.extend([b"ENTRIESADDED", added.as_bytes(), b"MAXDELETEDID", deleted]);
    }
    commands.push(&arguments);
}
