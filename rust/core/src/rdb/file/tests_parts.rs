//! Values in parts: put together again they are what the whole value is, however the file is cut, in bounded memory.

use proptest::prelude::*;

use crate::rdb::file::tests::{captured, file_of, sealed, text};
use crate::rdb::file::{FileError, FileReader, Item, Part, Step};
use crate::rdb::footer::Footer;
use crate::rdb::{Value, decode, split};

const LIMIT: usize = 1 << 20;

/// Bytes of a name that are kept.
const TEXTS: usize = 200;

/// A value that was put together of its parts; none where something of it is too large.
type Read = Vec<(Vec<u8>, Option<Value>)>;

/// Read a file, all of whose values are given out in parts of about `part` bytes.
fn read(file: &[u8], size: usize, part: usize, limit: usize) -> Result<Read, FileError> {
    let mut reader = FileReader::new(0).with_texts(limit.max(TEXTS));
    let (mut buffer, mut values, mut parts) = (Vec::new(), Read::new(), Vec::new());
    for piece in file.chunks(size) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (used, item) = match reader.next(&buffer[at..])? {
                Step::More(0) => break,
                Step::More(used) => (used, None),
                Step::Item(used, item) => (used, Some(item)),
            };
            let mut is_begun = false;
            match item {
                Some(Item::Large(_)) => is_begun = true,
                Some(Item::Part(part)) => parts.push(part),
                Some(Item::LargeEnd(large)) => {
                    values.push((large.name, together(std::mem::take(&mut parts), reader.version())));
                }
                Some(Item::Key(key)) => panic!("{:?} is whole", key.name),
                _ => {}
            }
            at += used;
            if is_begun {
                reader.take_parts(part, limit);
            }
        }
        buffer.drain(..at);
        assert!(
            buffer.len() <= limit.max(part).max(TEXTS) + size + 64,
            "{} are kept",
            buffer.len()
        );
    }
    reader.finish(buffer.len())?;
    Ok(values)
}

fn together(parts: Vec<Part>, version: u16) -> Option<Value> {
    let mut whole: Option<Value> = None;
    for part in parts {
        let value = match part {
            Part::TooLarge(_) => return None,
            Part::Text(bytes, _) => Value::String(bytes),
            Part::Body(body) | Part::Rest(body) => decode(
                &body,
                Footer {
                    rdb_version: version,
                    crc: 0,
                },
                LIMIT * 8,
            )
            .ok()?,
        };
        whole = Some(match (whole, value) {
            (None, value) => value,
            (Some(Value::String(one)), Value::String(more)) => Value::String([one, more].concat()),
            (Some(Value::List(one)), Value::List(more)) => Value::List([one, more].concat()),
            (Some(Value::Set(mut one)), Value::Set(more)) => {
                one.extend(more);
                Value::Set(one)
            }
            (Some(Value::SortedSet(mut one)), Value::SortedSet(more)) => {
                one.extend(more);
                Value::SortedSet(one)
            }
            (Some(Value::Hash(mut one)), Value::Hash(more)) => {
                one.extend(more);
                Value::Hash(one)
            }
            (Some(Value::Stream(one)), Value::Stream(mut more)) => {
                more.entries = [one.entries, more.entries].concat();
                Value::Stream(more)
            }
            (one, more) => panic!("{one:?} goes on as {more:?}"),
        });
    }
    whole
}

#[test]
fn parts_of_real_values_make_up_the_whole() {
    let mut kinds = 0;
    for (version, keys) in captured() {
        let (file, _) = file_of(version, &keys);
        for (size, part) in [(1, 1), (7, 20), (file.len(), 1), (file.len(), 100_000)] {
            let values = read(&file, size, part, LIMIT).unwrap();
            assert_eq!(values.len(), keys.len());
            for ((name, payload), (found, value)) in keys.iter().zip(values) {
                assert_eq!(name.as_bytes(), found);
                let (body, footer) = split(payload).unwrap();
                let whole = decode(body, footer, LIMIT).unwrap();
                match value {
                    Some(value) => {
                        assert_eq!(value, whole, "{name} of {version} in parts of {part}");
                        kinds += 1;
                    }
                    None => assert!(
                        matches!(whole, Value::Module(_)) || whole == Value::String(Vec::new()),
                        "{name} has no parts"
                    ),
                }
            }
        }
    }
    assert!(kinds > 100, "{kinds}");
}

#[test]
fn a_string_comes_in_equal_parts_whether_it_is_compressed_or_not() {
    let words: Vec<u8> = (0..9000u32)
        .flat_map(|number| (number % 700).to_string().into_bytes())
        .collect();
    let mut body = b"REDIS0011\x00\x01k".to_vec();
    body.extend_from_slice(&text(&words));
    let values = read(&sealed(body), 1000, 4096, 0).unwrap();
    assert_eq!(values, [(b"k".to_vec(), Some(Value::String(words)))]);
    // Literal "ab", then 264 bytes from two back, again and again.
    let mut packed = b"\x01ab".to_vec();
    (0..400).for_each(|_| packed.extend_from_slice(b"\xe0\xff\x01"));
    let length = 2 + 400 * 264u32;
    let mut body = b"REDIS0011\x00\x01k\xc3\x80".to_vec();
    body.extend_from_slice(&(packed.len() as u32).to_be_bytes());
    body.push(0x80);
    body.extend_from_slice(&length.to_be_bytes());
    body.extend_from_slice(&packed);
    let whole = b"ab".repeat(length as usize / 2);
    for (size, part) in [(1, 1000), (77, 8192), (5000, 200_000)] {
        let values = read(&sealed(body.clone()), size, part, 0).unwrap();
        assert_eq!(values, [(b"k".to_vec(), Some(Value::String(whole.clone())))]);
    }
    let mut lying = body;
    let at = lying.len() - packed.len() - 1;
    lying[at] ^= 1;
    let error = read(&sealed(lying), 77, 1000, 0).unwrap_err();
    assert!(error.to_string().contains("announced length"), "{error}");
}

#[test]
fn an_element_beyond_the_limit_ends_the_parts_and_not_the_file() {
    let mut body = b"REDIS0011\x02\x03set\x03\x01a".to_vec();
    body.extend_from_slice(&text(&[b'x'; 5000]));
    body.extend_from_slice(b"\x01c\x00\x05small\x01v");
    for size in [1, 100, 10_000] {
        let values = read(&sealed(body.clone()), size, 10, 1000).unwrap();
        assert_eq!(values[0], (b"set".to_vec(), None));
        assert_eq!(values[1].1, Some(Value::String(b"v".to_vec())));
    }
}

proptest! {
    #[test]
    fn damage_of_parts_ends_in_values_or_an_error(
        at in any::<prop::sample::Index>(), byte in any::<u8>(), file in any::<prop::sample::Index>(),
        size in 1usize..3000, part in 1usize..300,
    ) {
        let files = captured();
        let (version, keys) = &files[file.index(files.len())];
        let (mut file, _) = file_of(*version, keys);
        let at = at.index(file.len());
        file[at] = byte;
        let _ = read(&file, size, part, 2000);
    }
}
