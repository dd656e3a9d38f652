//! From bytes to a stream.
//!
//! Invariant: deleted entries are left out, so that a stream reads the same however often it was trimmed.
//! Formats: Redis `rdb.c` (`RDB_TYPE_STREAM_LISTPACKS` to `_4`) and `t_stream.c` for the listpack of a node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::rdb::element::Element;
use crate::rdb::error::PayloadError;
use crate::rdb::packed::Packing;
use crate::rdb::reader::{Blob, PlacedElements, Reader};
use crate::rdb::stream::{
    Consumer, Delivery, Entry, EntryFields, Group, History, Idempotence, Stream, StreamId,
};
use crate::rdb::value::Value;

const NODE_ENDS_EARLY: &str = "a stream node ends in the middle of an entry";

/// The entry was deleted, but its bytes are still there.
const DELETED: i64 = 1;
/// The entry has the fields of the node's master entry.
const SAME_FIELDS: i64 = 2;

/// Which of the stream layouts it is: each adds to the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Generation {
    /// Redis 5.0 to 6.2.
    First,
    /// Redis 7.0: history and entries read.
    Second,
    /// Redis 7.2 and Valkey: when a consumer was active.
    Third,
    /// Redis 8.6: idempotent producers.
    Fourth,
}

/// Reads a stream up to its end.
pub(crate) fn read(reader: &mut Reader<'_>, generation: Generation) -> Result<Value, PayloadError> {
    let mut entries = Vec::new();
    for _ in 0..reader.length()? {
        read_node(reader, &mut entries)?;
    }
    // The number of entries is that of those just read.
    reader.length()?;
    let last_id = read_id(reader)?;
    let history = (generation >= Generation::Second)
        .then(|| read_history(reader))
        .transpose()?;
    let groups = read_groups(reader, generation)?;
    let idempotence = (generation >= Generation::Fourth)
        .then(|| read_idempotence(reader))
        .transpose()?;
    Ok(Value::Stream(Box::new(Stream {
        entries,
        last_id,
        history,
        groups,
        idempotence,
    })))
}

/// Settings, producers and counts: Redis 8.6, `rdbSaveStreamIdmpEntries` and what surrounds its call.
fn read_idempotence(reader: &mut Reader<'_>) -> Result<Idempotence, PayloadError> {
    let duration_s = reader.length()?;
    let max_entries = reader.length()?;
    let mut producers = BTreeMap::new();
    for _ in 0..reader.length()? {
        let producer = reader.kept_string()?;
        let mut ids = Vec::new();
        for _ in 0..reader.length()? {
            let id = reader.kept_string()?;
            ids.push((id, read_id(reader)?));
        }
        if producers.insert(producer, ids).is_some() {
            return Err(reader.malformed("a stream holds an idempotent producer twice"));
        }
    }
    Ok(Idempotence {
        duration_s,
        max_entries,
        producers,
        added: reader.length()?,
        duplicates: reader.length()?,
    })
}

fn read_history(reader: &mut Reader<'_>) -> Result<History, PayloadError> {
    // The first ID is that of the first entry.
    read_id(reader)?;
    Ok(History {
        max_deleted_id: read_id(reader)?,
        entries_added: reader.length()?,
    })
}

fn read_id(reader: &mut Reader<'_>) -> Result<StreamId, PayloadError> {
    Ok(StreamId {
        ms: reader.length()?,
        seq: reader.length()?,
    })
}

/// An ID as it stands in keys of radix trees: in the order of bytes.
fn raw_id(bytes: [u8; 16]) -> StreamId {
    let [m0, m1, m2, m3, m4, m5, m6, m7, seq @ ..] = bytes;
    StreamId {
        ms: u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]),
        seq: u64::from_be_bytes(seq),
    }
}

fn read_raw_id(reader: &mut Reader<'_>) -> Result<StreamId, PayloadError> {
    Ok(raw_id(reader.array()?))
}

/// Appends the entries of the next node: its key is the ID that the entries' IDs count from.
fn read_node(reader: &mut Reader<'_>, entries: &mut Vec<Entry>) -> Result<(), PayloadError> {
    let key = reader.string()?;
    let base = node_id(&key)?;
    let blob = reader.string()?;
    let mut node = Node {
        elements: blob.elements(Packing::Listpack)?,
        base,
        names: Vec::new(),
    };
    node.read_master(reader)?;
    while let Some(flags) = node.elements.next() {
        entries.extend(node.read_entry(flags?, reader)?);
    }
    Ok(())
}

fn node_id(key: &Blob<'_>) -> Result<StreamId, PayloadError> {
    let bytes = key.bytes().try_into();
    bytes
        .map(raw_id)
        .map_err(|_| key.malformed("a stream node's key is not an ID"))
}

/// A node: the master entry, `valid, deleted, fields, name…, 0`, then the entries, each
/// `flags, ms, seq, [fields, name, value…] or [value…], elements before`.
struct Node<'a> {
    elements: PlacedElements<'a>,
    base: StreamId,
    names: Vec<Arc<[u8]>>,
}

impl Node<'_> {
    fn read_master(&mut self, reader: &mut Reader<'_>) -> Result<(), PayloadError> {
        let (_valid, _deleted) = (self.int()?, self.int()?);
        for _ in 0..self.count()? {
            let name = self.name(reader)?;
            self.names.push(name);
        }
        self.int().map(drop)
    }

    /// Reads the entry that begins with `flags`; `None` for one that was deleted.
    fn read_entry(
        &mut self,
        flags: Element<'_>,
        reader: &mut Reader<'_>,
    ) -> Result<Option<Entry>, PayloadError> {
        reader.spend_element(0)?;
        let flags = flags.as_int().ok_or_else(|| self.not_a_number())?;
        // Differences wrap around: a sequence may be lower than the base's in a later millisecond.
        let id = StreamId {
            ms: self.base.ms.wrapping_add(self.int()?.cast_unsigned()),
            seq: self.base.seq.wrapping_add(self.int()?.cast_unsigned()),
        };
        let fields = if flags & SAME_FIELDS == 0 {
            self.read_fields(reader)?
        } else {
            self.read_values(reader)?
        };
        self.int()?;
        Ok((flags & DELETED == 0).then_some(Entry { id, fields }))
    }

    fn read_fields(&mut self, reader: &mut Reader<'_>) -> Result<EntryFields, PayloadError> {
        let mut fields = Vec::new();
        for _ in 0..self.count()? {
            let name = self.name(reader)?;
            let value = reader.keep(self.element()?)?;
            fields.push((name, value));
        }
        Ok(fields)
    }

    fn read_values(&mut self, reader: &mut Reader<'_>) -> Result<EntryFields, PayloadError> {
        let mut fields = Vec::new();
        for index in 0..self.names.len() {
            let value = reader.keep(self.element()?)?;
            fields.push((Arc::clone(&self.names[index]), value));
        }
        Ok(fields)
    }

    fn name(&mut self, reader: &mut Reader<'_>) -> Result<Arc<[u8]>, PayloadError> {
        Ok(reader.keep(self.element()?)?.into())
    }

    fn element(&mut self) -> Result<Element<'_>, PayloadError> {
        self.elements.due(NODE_ENDS_EARLY)
    }

    fn int(&mut self) -> Result<i64, PayloadError> {
        let number = self.element()?.as_int();
        number.ok_or_else(|| self.not_a_number())
    }

    fn count(&mut self) -> Result<u64, PayloadError> {
        let count = self.int()?;
        u64::try_from(count).map_err(|_| self.not_a_number())
    }

    fn not_a_number(&self) -> PayloadError {
        self.elements
            .malformed("a stream node lacks a number where one is due")
    }
}

fn read_groups(
    reader: &mut Reader<'_>,
    generation: Generation,
) -> Result<BTreeMap<Vec<u8>, Group>, PayloadError> {
    let mut groups = BTreeMap::new();
    for _ in 0..reader.length()? {
        let name = reader.kept_string()?;
        let group = read_group(reader, generation)?;
        if groups.insert(name, group).is_some() {
            return Err(reader.malformed("a stream holds a group twice"));
        }
    }
    Ok(groups)
}

fn read_group(reader: &mut Reader<'_>, generation: Generation) -> Result<Group, PayloadError> {
    let last_id = read_id(reader)?;
    let entries_read = (generation >= Generation::Second)
        .then(|| reader.length().map(u64::cast_signed))
        .transpose()?;
    let mut group = Group {
        last_id,
        entries_read,
        pending: read_pending(reader)?,
        consumers: BTreeMap::new(),
    };
    for _ in 0..reader.length()? {
        let name = reader.kept_string()?;
        let consumer = read_consumer(reader, generation, &group.pending)?;
        if group.consumers.insert(name, consumer).is_some() {
            return Err(reader.malformed("a group holds a consumer twice"));
        }
    }
    Ok(group)
}

fn read_pending(reader: &mut Reader<'_>) -> Result<BTreeMap<StreamId, Delivery>, PayloadError> {
    let mut pending = BTreeMap::new();
    for _ in 0..reader.length()? {
        let id = read_raw_id(reader)?;
        let delivery = Delivery {
            delivered_at_ms: u64::from_le_bytes(reader.array()?),
            count: reader.length()?,
        };
        reader.spend_element(0)?;
        if pending.insert(id, delivery).is_some() {
            return Err(reader.malformed("a group holds a pending entry twice"));
        }
    }
    Ok(pending)
}

fn read_consumer(
    reader: &mut Reader<'_>,
    generation: Generation,
    group_pending: &BTreeMap<StreamId, Delivery>,
) -> Result<Consumer, PayloadError> {
    let seen_at_ms = u64::from_le_bytes(reader.array()?);
    let active_at_ms = (generation >= Generation::Third)
        .then(|| reader.array().map(i64::from_le_bytes))
        .transpose()?;
    let mut pending = BTreeSet::new();
    for _ in 0..reader.length()? {
        let id = read_raw_id(reader)?;
        reader.spend_element(0)?;
        if !group_pending.contains_key(&id) {
            return Err(reader.malformed("a consumer's pending entry is not in its group"));
        }
        if !pending.insert(id) {
            return Err(reader.malformed("a consumer holds a pending entry twice"));
        }
    }
    Ok(Consumer {
        seen_at_ms,
        active_at_ms,
        pending,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::listpack::tests::pack;
    use crate::rdb::{Footer, decode};

    #[test]
    fn idempotent_producers_are_read_and_left_out_where_the_target_has_none() {
        // DUMP of Redis 8.6.3: XADD s IDMP p1 i1 * a c, twice, and XGROUP CREATE s g 0.
        let body = b"\x1a\x01\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x01\x1d\x1d\0\0\0\n\0\x01\x01\0\x01\x01\x01\x81a\x02\
            \0\x01\x02\x01\0\x01\0\x01\x81b\x02\x04\x01\xff\x01\x01\x01\x01\x01\0\0\x01\x01\x01g\0\0\0\0\0\
            @d@e\x01\x02p1\x01\x02i1\x01\x01\x01\x03";
        let Ok(Value::Stream(mut stream)) = decode(body, Footer::new(body, 13), 10_000) else {
            panic!("no stream");
        };
        let one = StreamId { ms: 1, seq: 1 };
        assert_eq!(
            stream.idempotence,
            Some(Idempotence {
                duration_s: 100,
                max_entries: 101,
                producers: [(b"p1".to_vec(), vec![(b"i1".to_vec(), one)])].into(),
                added: 1,
                duplicates: 3,
            })
        );
        let target = crate::rdb::Target::new(&[9, 10, 11]);
        let sealed = [&body[..], &Footer::new(body, 13).to_bytes()].concat();
        let translated = target
            .translate(&sealed, crate::rdb::FieldTtl::Error, 0, crate::rdb::DECODE_LIMIT)
            .expect("streams go everywhere");
        assert_eq!(crate::rdb::same_value(&sealed, &translated.payload, 0), Ok(true));
        stream.forget_expired(100_001);
        assert_eq!(stream.idempotence.map(|kept| kept.producers.len()), Some(0));
    }

    #[test]
    fn ids_wrap_around_their_base() {
        // A node at 5-9 with one entry one millisecond later and eight sequences lower: 6-1.
        let listpack = pack(&[
            b"\x01",
            b"\x00",
            b"\x01",
            b"\x81f",
            b"\x00", // master
            b"\x02",
            b"\x01",
            b"\xdf\xf8",
            b"\x07",
            b"\x04", // entry
        ]);
        let mut body = b"\x0f\x01\x10\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x09".to_vec();
        body.push(listpack.len() as u8);
        body.extend_from_slice(&listpack);
        body.extend_from_slice(b"\x01\x06\x01\x00");
        let Ok(Value::Stream(stream)) = decode(&body, Footer::new(&body, 9), 10_000) else {
            panic!("no stream");
        };
        assert_eq!(stream.last_id, stream.entries[0].id);
        assert_eq!(stream.entries[0].fields, [(b"f"[..].into(), b"7".to_vec())]);
    }
}
