//! From a value to a body that older servers load: each kind in the plainest layout that can hold it.
//!
//! Invariant: decoding what was written gives the same value (property-tested), and a body needs no later RDB
//! version than its layout says. Formats: Redis `rdb.c`, `rdbSaveObject` and its older versions.

use std::collections::{BTreeMap, BTreeSet};

use crate::rdb::footer::{FOOTER_LEN, Footer};
use crate::rdb::listpack::Writer;
use crate::rdb::stream::{EntryFields, Group, NOT_KNOWN, Stream, StreamId};
use crate::rdb::type_byte as types;
use crate::rdb::value::Field;

/// Entries that are packed into one node of a stream, as servers do by default.
const NODE_ENTRIES: usize = 100;

/// Bytes after which a node of a stream is closed.
const NODE_BYTES: usize = 4096;

pub(crate) fn list(elements: &[Vec<u8>]) -> Vec<u8> {
    let mut out = begin(types::LIST, elements.len());
    for element in elements {
        string(&mut out, element);
    }
    out
}

pub(crate) fn set(members: &BTreeSet<Vec<u8>>) -> Vec<u8> {
    let mut out = begin(types::SET, members.len());
    for member in members {
        string(&mut out, member);
    }
    out
}

pub(crate) fn sorted_set(scores: &BTreeMap<Vec<u8>, f64>) -> Vec<u8> {
    let mut out = begin(types::ZSET_2, scores.len());
    // The server inserts in the order of the payload: descending scores are the quickest for its skiplist.
    let mut in_order: Vec<_> = scores.iter().collect();
    in_order.sort_by(|one, other| other.1.total_cmp(one.1).then_with(|| other.0.cmp(one.0)));
    for (member, score) in in_order {
        string(&mut out, member);
        out.extend_from_slice(&score.to_le_bytes());
    }
    out
}

/// A hash without its fields' expiries.
pub(crate) fn hash(fields: &BTreeMap<Vec<u8>, Field>) -> Vec<u8> {
    let mut out = begin(types::HASH, fields.len());
    for (name, field) in fields {
        string(&mut out, name);
        string(&mut out, &field.value);
    }
    out
}

/// A hash with its fields' expiries, for Redis ≥ 7.4.
pub(crate) fn hash_for_redis(fields: &BTreeMap<Vec<u8>, Field>) -> Vec<u8> {
    let soonest = fields.values().filter_map(|field| field.expires_at_ms).min();
    let soonest = soonest.unwrap_or_default();
    let mut out = vec![types::HASH_METADATA];
    out.extend_from_slice(&soonest.to_le_bytes());
    length(&mut out, fields.len() as u64);
    for (name, field) in fields {
        length(
            &mut out,
            field
                .expires_at_ms
                .map_or(0, |at| (at - soonest).saturating_add(1)),
        );
        string(&mut out, name);
        string(&mut out, &field.value);
    }
    out
}

/// A hash with its fields' expiries, for Valkey ≥ 9.0.
pub(crate) fn hash_for_valkey(fields: &BTreeMap<Vec<u8>, Field>) -> Vec<u8> {
    let mut out = begin(types::HASH_2, fields.len());
    for (name, field) in fields {
        string(&mut out, name);
        string(&mut out, &field.value);
        let expiry = field.expires_at_ms.map_or(-1, u64::cast_signed);
        out.extend_from_slice(&expiry.to_le_bytes());
    }
    out
}

/// A stream: for Redis ≥ 7.0 `with_history`, without for older ones. When consumers were active stays out.
pub(crate) fn stream(stream: &Stream, with_history: bool) -> Vec<u8> {
    let mut out = vec![if with_history {
        types::STREAM_LISTPACKS_2
    } else {
        types::STREAM_LISTPACKS
    }];
    let nodes = nodes(stream);
    length(&mut out, nodes.len() as u64);
    for (first, packed) in nodes {
        string(&mut out, &raw_id(first));
        string(&mut out, &packed);
    }
    length(&mut out, stream.entries.len() as u64);
    id(&mut out, stream.last_id);
    if with_history {
        const NONE: StreamId = StreamId { ms: 0, seq: 0 };
        id(&mut out, stream.entries.first().map_or(NONE, |entry| entry.id));
        let (max_deleted_id, entries_added) = stream
            .history
            .map_or((NONE, stream.entries.len() as u64), |history| {
                (history.max_deleted_id, history.entries_added)
            });
        id(&mut out, max_deleted_id);
        length(&mut out, entries_added);
    }
    length(&mut out, stream.groups.len() as u64);
    for (name, one) in &stream.groups {
        string(&mut out, name);
        group(&mut out, one, with_history);
    }
    out
}

fn group(out: &mut Vec<u8>, group: &Group, with_history: bool) {
    id(out, group.last_id);
    if with_history {
        length(out, group.entries_read.unwrap_or(NOT_KNOWN).cast_unsigned());
    }
    length(out, group.pending.len() as u64);
    for (entry, delivery) in &group.pending {
        out.extend_from_slice(&raw_id(*entry));
        out.extend_from_slice(&delivery.delivered_at_ms.to_le_bytes());
        length(out, delivery.count);
    }
    length(out, group.consumers.len() as u64);
    for (name, consumer) in &group.consumers {
        string(out, name);
        out.extend_from_slice(&consumer.seen_at_ms.to_le_bytes());
        length(out, consumer.pending.len() as u64);
        for entry in &consumer.pending {
            out.extend_from_slice(&raw_id(*entry));
        }
    }
}

/// The entries in nodes: the ID that a node's entries count from, and its listpack.
fn nodes(stream: &Stream) -> Vec<(StreamId, Vec<u8>)> {
    let mut nodes = Vec::new();
    let mut rest = stream.entries.as_slice();
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let count = rest
            .iter()
            .take(NODE_ENTRIES)
            .take_while(|entry| {
                let fits = bytes < NODE_BYTES;
                bytes += entry
                    .fields
                    .iter()
                    .map(|(name, value)| name.len() + value.len())
                    .sum::<usize>();
                fits
            })
            .count();
        let (node, after) = rest.split_at(count);
        rest = after;
        let mut packed = Writer::default();
        packed.integer(count_of(node));
        packed.integer(0);
        packed.integer(count_of(&first.fields));
        for (name, _) in &first.fields {
            packed.string(name);
        }
        packed.integer(0);
        for entry in node {
            append(&mut packed, first.id, &first.fields, entry.id, &entry.fields);
        }
        nodes.push((first.id, packed.finish()));
    }
    nodes
}

fn append(packed: &mut Writer, base: StreamId, master: &EntryFields, id: StreamId, fields: &EntryFields) {
    const SAME_FIELDS: i64 = 2;
    let same = master.len() == fields.len()
        && master
            .iter()
            .zip(fields)
            .all(|(master, field)| master.0 == field.0);
    packed.integer(if same { SAME_FIELDS } else { 0 });
    packed.integer(id.ms.wrapping_sub(base.ms).cast_signed());
    packed.integer(id.seq.wrapping_sub(base.seq).cast_signed());
    let count = count_of(fields);
    if !same {
        packed.integer(count);
    }
    for (name, value) in fields {
        if !same {
            packed.string(name);
        }
        packed.string(value);
    }
    // Flags and the two halves of the ID; and the count of fields, where they are named.
    packed.integer(if same { count + 3 } else { 2 * count + 4 });
}

/// A count as listpacks hold it.
fn count_of<T>(items: &[T]) -> i64 {
    items.len().try_into().unwrap_or(i64::MAX)
}

fn begin(type_byte: u8, count: usize) -> Vec<u8> {
    let mut out = vec![type_byte];
    length(&mut out, count as u64);
    out
}

fn id(out: &mut Vec<u8>, id: StreamId) {
    length(out, id.ms);
    length(out, id.seq);
}

fn raw_id(id: StreamId) -> [u8; 16] {
    let mut raw = [0; 16];
    raw[..8].copy_from_slice(&id.ms.to_be_bytes());
    raw[8..].copy_from_slice(&id.seq.to_be_bytes());
    raw
}

/// Append the payload of a string: type 0, the bytes as they are, and the footer of RDB version 9, which every
/// server from Redis 6.2 on takes.
pub fn append_string(out: &mut Vec<u8>, bytes: &[u8]) {
    const REDIS_6_2: u16 = 9;
    let start = out.len();
    out.reserve(bytes.len() + 32);
    out.push(types::STRING);
    string(out, bytes);
    let footer = Footer::new(&out[start..], REDIS_6_2).to_bytes();
    out.extend_from_slice(&footer);
}

/// How long the payload is that [`append_string`] makes of so many bytes.
pub const fn string_payload(bytes: usize) -> usize {
    let length = match bytes {
        0..0x40 => 1,
        0x40..0x4000 => 2,
        _ => 5,
    };
    1 + length + bytes + FOOTER_LEN
}

pub(crate) fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

pub(crate) fn length(out: &mut Vec<u8>, length: u64) {
    match (u16::try_from(length), u32::try_from(length)) {
        (Ok(short @ ..0x40), _) => out.push(short as u8),
        (Ok(short @ ..0x4000), _) => out.extend_from_slice(&(short | 0x4000).to_be_bytes()),
        (_, Ok(long)) => {
            out.push(0x80);
            out.extend_from_slice(&long.to_be_bytes());
        }
        (_, Err(_)) => {
            out.push(0x81);
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}
