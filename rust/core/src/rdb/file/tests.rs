//! Files made of payloads of real servers, whole, cut anywhere, damaged anywhere.

use proptest::prelude::*;

use crate::rdb::file::{Checksum, FileError, FileReader, Item, Step};
use crate::rdb::footer::checksum;
use crate::rdb::{split, write::append_string};

const LIMIT: usize = 1 << 20;

/// An item as it was read, with what is borrowed in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Read {
    Key(Vec<u8>, Option<u64>, Vec<u8>),
    Large(Vec<u8>, u8, u64),
    Other(String),
    End(Checksum),
}

/// Read a file that comes in pieces of `size` bytes.
fn read(file: &[u8], size: usize, limit: usize) -> Result<Vec<Read>, FileError> {
    let mut reader = FileReader::new(limit);
    let (mut buffer, mut items) = (Vec::new(), Vec::new());
    for piece in file.chunks(size) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match reader.next(&buffer[at..])? {
                Step::More(0) => break,
                Step::More(used) => at += used,
                Step::Item(used, item) => {
                    at += used;
                    let is_begun = matches!(item, Item::Large(_));
                    if !is_begun {
                        items.push(owned(item, reader.version()));
                    }
                }
            }
        }
        buffer.drain(..at);
        assert!(
            buffer.len() <= limit + size + 64,
            "{} bytes are kept",
            buffer.len()
        );
    }
    reader.finish(buffer.len())?;
    Ok(items)
}

fn owned(item: Item<'_>, version: u16) -> Read {
    match item {
        Item::Key(key) => {
            let mut payload = Vec::new();
            key.append_payload(&mut payload, version);
            Read::Key(key.name.into_owned(), key.expires_at, payload)
        }
        Item::LargeEnd(large) => Read::Large(large.name, large.type_byte, large.bytes),
        Item::End(checksum) => Read::End(checksum),
        other => Read::Other(format!("{other:?}")),
    }
}

pub(super) fn sealed(mut body: Vec<u8>) -> Vec<u8> {
    body.push(255);
    let mut digest = checksum();
    digest.update(&body);
    body.extend_from_slice(&digest.finalize().to_le_bytes());
    body
}

fn magic(version: u16) -> String {
    if version >= 80 {
        format!("VALKEY{version:03}")
    } else {
        format!("REDIS{version:04}")
    }
}

pub(super) fn text(bytes: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::new();
    append_string(&mut encoded, bytes);
    // Its type before, its footer behind.
    encoded[1..encoded.len() - 10].to_vec()
}

/// Names and payloads.
pub(super) type Named = Vec<(String, Vec<u8>)>;

/// The captured payloads by version, which a file has for all of its keys.
pub(super) fn captured() -> Vec<(u16, Named)> {
    let mut files: Vec<(u16, Named)> = Vec::new();
    for (number, line) in include_str!("../../../tests/fixtures/payloads.txt")
        .lines()
        .enumerate()
    {
        let parts: Vec<&str> = line.split(' ').collect();
        let payload: Vec<u8> = (0..parts[2].len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&parts[2][at..at + 2], 16).unwrap())
            .collect();
        let version = split(&payload).unwrap().1.rdb_version;
        let name = format!("{}:{}:{number}", parts[0], parts[1]);
        match files.iter_mut().find(|(known, _)| *known == version) {
            Some((_, keys)) => keys.push((name, payload)),
            None => files.push((version, vec![(name, payload)])),
        }
    }
    files
}

pub(super) fn file_of(version: u16, keys: &[(String, Vec<u8>)]) -> (Vec<u8>, Vec<Read>) {
    let mut file = magic(version).into_bytes();
    let mut expected = vec![Read::Other(format!("Header({version})"))];
    file.extend_from_slice(b"\xfa\x09redis-ver\x057.0.0\xfe\x00\xfb\x05\x01");
    for (number, (name, payload)) in keys.iter().enumerate() {
        let expiry = (number % 3 == 0).then_some(1_900_000_000_000 + number as u64);
        if let Some(expiry) = expiry {
            file.push(252);
            file.extend_from_slice(&expiry.to_le_bytes());
            file.extend_from_slice(b"\xf8\x41\x00\xf9\x07");
        }
        file.push(payload[0]);
        file.extend_from_slice(&text(name.as_bytes()));
        file.extend_from_slice(&payload[1..payload.len() - 10]);
        expected.push(Read::Key(name.clone().into_bytes(), expiry, payload.clone()));
    }
    expected.push(Read::End(Checksum::Right));
    (sealed(file), expected)
}

fn keys_of(items: &[Read]) -> Vec<&Read> {
    items
        .iter()
        .filter(|item| !matches!(item, Read::Other(text) if !text.starts_with("Header")))
        .collect()
}

#[test]
fn every_value_of_real_servers_comes_out_as_its_payload() {
    for (version, keys) in captured() {
        let (file, expected) = file_of(version, &keys);
        for size in [1, 7, 64, 4096, file.len()] {
            let items = read(&file, size, LIMIT).unwrap_or_else(|error| panic!("{version}: {error}"));
            assert_eq!(
                keys_of(&items),
                expected.iter().collect::<Vec<_>>(),
                "{version}, {size}"
            );
        }
    }
}

#[test]
fn a_file_that_is_cut_says_where_and_keeps_what_was_whole() {
    let (version, keys) = captured().swap_remove(0);
    let few: Vec<_> = keys
        .into_iter()
        .filter(|(_, payload)| payload.len() < 120)
        .collect();
    let (file, _) = file_of(version, &few);
    for length in 0..file.len() {
        let error = read(&file[..length], 4096, LIMIT).unwrap_err();
        match error {
            FileError::NotRdb(_) => assert!(length < 9),
            FileError::Truncated { offset } => assert_eq!(offset, length as u64),
            other => panic!("{length}: {other}"),
        }
    }
}

#[test]
fn a_changed_byte_is_told_by_the_checksum_or_before() {
    let (version, keys) = captured().swap_remove(0);
    let few: Vec<_> = keys
        .into_iter()
        .filter(|(_, payload)| payload.len() < 60)
        .collect();
    let (file, expected) = file_of(version, &few);
    for at in 9..file.len() - 8 {
        let mut damaged = file.clone();
        damaged[at] ^= 0x21;
        if let Ok(items) = read(&damaged, 4096, LIMIT) {
            assert!(
                matches!(items.last(), Some(Read::End(Checksum::Wrong { .. }))),
                "byte {at}"
            );
            assert_ne!(items, expected);
        }
    }
    let mut without = file.clone();
    let end = without.len() - 8;
    without[end..].fill(0);
    assert_eq!(
        read(&without, 64, LIMIT).unwrap().last(),
        Some(&Read::End(Checksum::Absent))
    );
}

#[test]
fn what_is_no_rdb_is_told_by_what_it_is() {
    let said = |file: &[u8]| read(file, 4096, LIMIT).unwrap_err().to_string();
    for (file, expected) in [
        (&b"*2\r\n$6\r\nSELECT\r\n"[..], "append-only file"),
        (b"file appendonly.aof.1.base.rdb seq 1 type b\n", "manifest"),
        (b"\x1f\x8b\x08\0\0\0\0\0\0\0", "gzip"),
        (b"\x28\xb5\x2f\xfd\0\0\0\0\0\0", "zstd"),
        (b"PK\x03\x04\0\0\0\0\0\0", "zip"),
        (b"hello, world", "neither with REDIS"),
        (b"REDIS0016...", "REDIS0016 is not known"),
        (b"REDIS0005...", "REDIS0005 is not known"),
        (b"REDIS0080...", "REDIS0080 is not known"),
        (b"VALKEY082...", "VALKEY082 is not known"),
        (b"REDIS+012...", "is not known"),
        (b"REDIS", "less than nine bytes"),
    ] {
        let text = said(file);
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(read(b"", 1, LIMIT), Err(FileError::NotRdb("empty")));
}

#[test]
fn opcodes_and_types_that_are_not_read_are_refused_by_name() {
    for (version, byte, expected) in [
        (11, 246, "pre-releases of Redis 7.0"),
        (13, 243, "metadata that modules keep"),
        (15, 242, "an opcode of Redis 8.10"),
        (9, 6, "pre-releases of Redis 4.0"),
        (14, 28, "Redis 8.8"),
        (15, 30, "Redis 8.10"),
        (81, 23, "Valkey 9.2"),
        (11, 240, "240 that is not known"),
        (80, 26, "26 that is not known"),
    ] {
        let file = [magic(version).as_bytes(), &[252, 1, 0, 0, 0, 0, 0, 0, 0, byte]].concat();
        match read(&file, 4096, LIMIT) {
            Err(FileError::Unknown { what, offset: 18 }) => assert!(what.contains(expected), "{what}"),
            other => panic!("{version}, {byte}: {other:?}"),
        }
    }
}

#[test]
fn what_stands_beside_the_keys_is_passed_over() {
    // A module's aux field with each mark; libraries; slots; an import of slots (Valkey).
    let aux = b"\xf7\x81\0\0\0\0\0\0\0\x01\x02\x01\x01\x07\x03abcd\x04abcdefgh\x05\x02hi\x00";
    let body = [
        b"VALKEY080".as_slice(),
        b"\xf5\x04code",
        aux,
        b"\xfe\x0a\xfb\x02\x00\xf4\x01\x02\x00\xf3\x03job\x02\x00\x05\x07\x09",
        b"\xfd\x01\0\0\0\x00\xc0\x05\x01v",
        b"\x07\x01m\x81\0\0\0\0\0\0\0\x01\x05\x01x\x00",
    ]
    .concat();
    let file = sealed(body);
    let items = read(&file, 1, LIMIT).unwrap();
    assert_eq!(items, read(&file, 4096, LIMIT).unwrap());
    let others: Vec<&str> = items
        .iter()
        .filter_map(|item| match item {
            Read::Other(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        others,
        [
            "Header(80)",
            "Library([99, 111, 100, 101])",
            "ModuleData",
            "Database(10)",
            "Size(2)",
            "Hint",
            "Hint"
        ]
    );
    let keys = keys_of(&items);
    assert!(
        matches!(keys[1], Read::Key(name, Some(1000), _) if name == b"5"),
        "{keys:?}"
    );
    assert!(matches!(keys[2], Read::Key(name, None, payload) if name == b"m" && payload[0] == 7));
}

#[test]
fn a_value_above_the_limit_is_passed_over_in_bounded_memory() {
    let large = vec![b'x'; 300_000];
    let mut body = b"REDIS0011".to_vec();
    body.extend_from_slice(b"\x00\x05large\x80");
    body.extend_from_slice(&(large.len() as u32).to_be_bytes());
    body.extend_from_slice(&large);
    body.extend_from_slice(b"\x01\x04list\x80\x00\x01\x00\x00");
    (0..65_536).for_each(|_| body.extend_from_slice(b"\x03abc"));
    body.extend_from_slice(b"\x00\x05small\x01v");
    let file = sealed(body);
    for size in [1000, 4096, file.len()] {
        let items = if size == file.len() {
            read(&file, size, LIMIT).map(|_| Vec::new())
        } else {
            read(&file, size, 10_000)
        };
        let items = items.unwrap();
        if size < file.len() {
            assert_eq!(items[1], Read::Large(b"large".to_vec(), 0, 300_005));
            assert_eq!(items[2], Read::Large(b"list".to_vec(), 1, 65_536 * 4 + 5));
            assert!(matches!(&items[3], Read::Key(name, None, _) if name == b"small"));
            assert_eq!(items[4], Read::End(Checksum::Right));
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_end_in_items_or_an_error(
        body in prop::collection::vec(any::<u8>(), 0..400),
        version in prop::sample::select(vec![6u16, 9, 11, 13, 80, 81]),
        size in 1usize..50,
    ) {
        let file = [magic(version).as_bytes(), &body].concat();
        // However it is cut, the same comes out.
        let outcome = read(&file, size, 1000);
        prop_assert_eq!(&outcome.is_ok(), &read(&file, 4096, 1000).is_ok());
        if let (Ok(one), Ok(other)) = (outcome, read(&file, 1, 1000)) {
            prop_assert_eq!(one, other);
        }
    }

    #[test]
    fn damage_of_real_values_ends_in_items_or_an_error(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), file in any::<prop::sample::Index>(),
    ) {
        let files = captured();
        let (version, keys) = &files[file.index(files.len())];
        let (mut file, _) = file_of(*version, keys);
        let at = at.index(file.len());
        file[at] = byte;
        let _ = read(&file, 4096, 2000);
    }
}
