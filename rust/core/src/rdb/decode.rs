//! From bytes to a value: strings, lists, sets and sorted sets (the rest: `hash.rs`, `stream_encoding.rs`).
//!
//! Invariant: any bytes give a value or an error, never a panic, in memory below the limit. Formats: Redis
//! `rdb.c`, `rdbLoadObject`.

use std::collections::{BTreeMap, BTreeSet};

use crate::rdb::element::parse_score;
use crate::rdb::error::PayloadError;
use crate::rdb::footer::Footer;
use crate::rdb::hash;
use crate::rdb::packed::Packing;
use crate::rdb::reader::Reader;
use crate::rdb::stream_encoding;
use crate::rdb::stream_encoding::Generation;
use crate::rdb::type_byte as types;
use crate::rdb::value::Value;

/// Decodes a body (type byte and value) in at most `limit` bytes of memory, counted roughly.
///
/// The footer must have been checked: it says which server line wrote the body. Returns `Malformed`,
/// `Unsupported` or `TooLarge`.
pub fn decode(body: &[u8], footer: Footer, limit: usize) -> Result<Value, PayloadError> {
    let mut reader = Reader::new(body, limit);
    let type_byte = reader.byte()?;
    let value = read_value(type_byte, &mut reader, footer)?;
    reader.finish()?;
    Ok(value)
}

fn read_value(type_byte: u8, reader: &mut Reader<'_>, footer: Footer) -> Result<Value, PayloadError> {
    use Packing::{Intset, Listpack, Ziplist, Zipmap};
    Ok(match type_byte {
        types::STRING => Value::String(reader.kept_string()?),
        types::LIST => Value::List(read_list(reader)?),
        types::LIST_ZIPLIST => Value::List(read_packed_list(reader)?),
        types::LIST_QUICKLIST => Value::List(read_quicklist(reader)?),
        types::LIST_QUICKLIST_2 => Value::List(read_quicklist_2(reader)?),
        types::SET => Value::Set(read_set(reader)?),
        types::SET_INTSET => Value::Set(read_packed_set(reader, Intset)?),
        types::SET_LISTPACK => Value::Set(read_packed_set(reader, Listpack)?),
        types::ZSET => Value::SortedSet(read_zset(reader, read_text_score)?),
        types::ZSET_2 => Value::SortedSet(read_zset(reader, read_binary_score)?),
        types::ZSET_ZIPLIST => Value::SortedSet(read_packed_zset(reader, Ziplist)?),
        types::ZSET_LISTPACK => Value::SortedSet(read_packed_zset(reader, Listpack)?),
        types::HASH => Value::Hash(hash::read_plain(reader)?),
        types::HASH_ZIPMAP => Value::Hash(hash::read_packed(reader, Zipmap)?),
        types::HASH_ZIPLIST => Value::Hash(hash::read_packed(reader, Ziplist)?),
        types::HASH_LISTPACK => Value::Hash(hash::read_packed(reader, Listpack)?),
        types::HASH_2 if types::is_valkey(footer.rdb_version) => Value::Hash(hash::read_valkey(reader)?),
        types::HASH_2 => Value::Hash(hash::read_pre_release(reader)?),
        types::HASH_LISTPACK_EX_PRE_GA if !types::is_valkey(footer.rdb_version) => {
            Value::Hash(hash::read_pre_release_packed(reader)?)
        }
        types::HASH_METADATA => Value::Hash(hash::read_metadata(reader)?),
        types::HASH_LISTPACK_EX => Value::Hash(hash::read_expiring_packed(reader)?),
        types::STREAM_LISTPACKS => stream_encoding::read(reader, Generation::First)?,
        types::STREAM_LISTPACKS_2 => stream_encoding::read(reader, Generation::Second)?,
        types::STREAM_LISTPACKS_3 => stream_encoding::read(reader, Generation::Third)?,
        types::STREAM_LISTPACKS_4 => stream_encoding::read(reader, Generation::Fourth)?,
        types::MODULE_2 => {
            let bytes = reader.take_rest();
            reader.spend_element(bytes.len())?;
            Value::Module(bytes.into())
        }
        _ => {
            return Err(PayloadError::Unsupported {
                type_byte,
                rdb_version: footer.rdb_version,
            });
        }
    })
}

fn read_list(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, PayloadError> {
    let mut list = Vec::new();
    for _ in 0..reader.length()? {
        list.push(reader.kept_string()?);
    }
    Ok(list)
}

fn read_packed_list(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, PayloadError> {
    let mut list = Vec::new();
    append_packed(&mut list, reader, Packing::Ziplist)?;
    Ok(list)
}

fn read_quicklist(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, PayloadError> {
    let mut list = Vec::new();
    for _ in 0..reader.length()? {
        append_packed(&mut list, reader, Packing::Ziplist)?;
    }
    Ok(list)
}

fn read_quicklist_2(reader: &mut Reader<'_>) -> Result<Vec<Vec<u8>>, PayloadError> {
    const PLAIN: u64 = 1;
    const PACKED: u64 = 2;
    let mut list = Vec::new();
    for _ in 0..reader.length()? {
        match reader.length()? {
            PLAIN => list.push(reader.kept_string()?),
            PACKED => append_packed(&mut list, reader, Packing::Listpack)?,
            _ => return Err(reader.malformed("a quicklist node is of an unknown kind")),
        }
    }
    Ok(list)
}

fn append_packed(
    list: &mut Vec<Vec<u8>>,
    reader: &mut Reader<'_>,
    packing: Packing,
) -> Result<(), PayloadError> {
    let blob = reader.string()?;
    for element in blob.elements(packing)? {
        list.push(reader.keep(element?)?);
    }
    Ok(())
}

fn read_set(reader: &mut Reader<'_>) -> Result<BTreeSet<Vec<u8>>, PayloadError> {
    let mut set = BTreeSet::new();
    for _ in 0..reader.length()? {
        let member = reader.kept_string()?;
        add_member(&mut set, member, reader)?;
    }
    Ok(set)
}

fn read_packed_set(reader: &mut Reader<'_>, packing: Packing) -> Result<BTreeSet<Vec<u8>>, PayloadError> {
    let mut set = BTreeSet::new();
    let blob = reader.string()?;
    for member in blob.elements(packing)? {
        let member = reader.keep(member?)?;
        add_member(&mut set, member, reader)?;
    }
    Ok(set)
}

fn add_member(set: &mut BTreeSet<Vec<u8>>, member: Vec<u8>, reader: &Reader<'_>) -> Result<(), PayloadError> {
    if set.insert(member) {
        Ok(())
    } else {
        Err(reader.malformed("a set holds a member twice"))
    }
}

type Scores = BTreeMap<Vec<u8>, f64>;

fn read_zset(
    reader: &mut Reader<'_>,
    read_score: fn(&mut Reader<'_>) -> Result<f64, PayloadError>,
) -> Result<Scores, PayloadError> {
    let mut scores = Scores::new();
    for _ in 0..reader.length()? {
        let member = reader.kept_string()?;
        let score = read_score(reader)?;
        add_score(&mut scores, member, score, reader)?;
    }
    Ok(scores)
}

fn read_text_score(reader: &mut Reader<'_>) -> Result<f64, PayloadError> {
    match reader.byte()? {
        253 => Ok(f64::NAN),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        length => parse_score(reader.take(length.into())?)
            .ok_or_else(|| reader.malformed("a score is not a number")),
    }
}

fn read_binary_score(reader: &mut Reader<'_>) -> Result<f64, PayloadError> {
    Ok(f64::from_le_bytes(reader.array()?))
}

fn read_packed_zset(reader: &mut Reader<'_>, packing: Packing) -> Result<Scores, PayloadError> {
    let mut scores = Scores::new();
    let blob = reader.string()?;
    let mut elements = blob.elements(packing)?;
    while let Some(member) = elements.next() {
        let member = reader.keep(member?)?;
        let score = elements
            .due("the last member of a sorted set lacks its score")?
            .as_score()
            .ok_or_else(|| elements.malformed("a score is not a number"))?;
        add_score(&mut scores, member, score, reader)?;
    }
    Ok(scores)
}

fn add_score(
    scores: &mut Scores,
    member: Vec<u8>,
    score: f64,
    reader: &Reader<'_>,
) -> Result<(), PayloadError> {
    match scores.insert(member, score) {
        None => Ok(()),
        Some(_) => Err(reader.malformed("a sorted set holds a member twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 100_000;

    fn decode_as(body: &[u8], rdb_version: u16) -> Result<Value, PayloadError> {
        decode(body, Footer::new(body, rdb_version), LIMIT)
    }

    #[test]
    fn reads_every_encoding_of_lengths_and_strings() {
        let long = vec![b'x'; 300];
        let bodies: [(&[u8], &[u8]); 7] = [
            (b"\x00\x02hi", b"hi"),
            (&[&b"\x00\x41\x2c"[..], &long].concat(), &long),
            (&[&b"\x00\x80\x00\x00\x01\x2c"[..], &long].concat(), &long),
            (&[&b"\x00\x81\0\0\0\0\0\0\x01\x2c"[..], &long].concat(), &long),
            (b"\x00\xc0\x80", b"-128"),
            (b"\x00\xc1\x00\x80", b"-32768"),
            (b"\x00\xc2\xff\xff\xff\x7f", b"2147483647"),
        ];
        for (body, text) in bodies {
            assert_eq!(decode_as(body, 9), Ok(Value::String(text.into())));
        }
    }

    #[test]
    fn announced_lengths_are_backed_by_bytes() {
        let bodies: [&[u8]; 6] = [
            b"\x00\x81\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x00\x80\xff\xff\xff\xffabc",
            b"\x01\x81\xff\xff\xff\xff\xff\xff\xff\xff\x00",
            b"\x02\x81\xff\xff\xff\xff\xff\xff\xff\xff\x00",
            b"\x12\x81\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00",
            b"\x0f\x81\xff\xff\xff\xff\xff\xff\xff\xff",
        ];
        for body in bodies {
            let error = decode_as(body, 9);
            assert!(matches!(error, Err(PayloadError::Malformed { .. })), "{error:?}");
        }
        // LZF: 4 bytes that are to become 2 GiB
        let bomb = b"\x00\xc3\x04\x80\x80\x00\x00\x00\xe0\xff\x00\x00";
        assert_eq!(decode_as(bomb, 9), Err(PayloadError::TooLarge { limit: LIMIT }));
    }

    #[test]
    fn an_error_says_where_it_is() {
        assert_eq!(
            decode_as(b"\x02\x02\x01a\x01a", 9),
            Err(PayloadError::Malformed {
                what: "a set holds a member twice",
                offset: 6,
            })
        );
        assert_eq!(
            decode_as(b"\x00\x01ab", 9).map_err(|error| error.to_string()),
            Err("the payload is damaged at byte 3: bytes are left after the value".into())
        );
    }

    #[test]
    fn members_are_unique_and_scores_numbers() {
        let bodies: [&[u8]; 4] = [
            b"\x05\x02\x01a\0\0\0\0\0\0\0\0\x01a\0\0\0\0\0\0\0\0",
            b"\x03\x01\x01a\x03abc",
            b"\x04\x02\x01f\x01v\x01f\x01w",
            b"\x12\x01\x03\x01a",
        ];
        for body in bodies {
            let error = decode_as(body, 9);
            assert!(matches!(error, Err(PayloadError::Malformed { .. })), "{error:?}");
        }
    }

    #[test]
    fn text_scores_have_marks_for_what_is_no_number() {
        let scores = |body| match decode_as(body, 9) {
            Ok(Value::SortedSet(scores)) => scores.into_values().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        };
        let read = scores(b"\x03\x03\x01a\xfd\x01b\xfe\x01c\x03-.5");
        assert!(read[0].is_nan());
        assert_eq!(read[1..], [f64::INFINITY, -0.5]);
    }

    #[test]
    fn a_modules_value_stays_as_it_is() {
        let body = b"\x07\x81opaque";
        assert_eq!(decode_as(body, 9), Ok(Value::Module(b"\x81opaque".to_vec())));
    }

    #[test]
    fn unknown_types_are_refused_by_name() {
        for type_byte in [6, 8, 27, 28, 29, 30, 31, 32, 33, 243, 255] {
            assert_eq!(
                decode_as(&[type_byte, 0], 14),
                Err(PayloadError::Unsupported {
                    type_byte,
                    rdb_version: 14
                })
            );
        }
    }
}
