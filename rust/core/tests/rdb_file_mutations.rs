//! Files of real values, mutated by a seed: reading them ends in items or an error, without a panic, and keeps no more than
//! the limit; and what is read does not depend on how the file is cut.
//!
//! Invariant: a run of one seed is the same everywhere. `SLOTFERRY_MUTATIONS` asks for more files than CI reads.

use slotferry_core::rdb::file::{FileReader, Item, Part, Step};
use slotferry_core::rdb::{Footer, decode, split};

const LIMIT: usize = 1000;
const TEXTS: usize = 500;

/// xorshift64*: the same numbers for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let number = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        (number % end.max(1) as u64) as usize
    }
}

/// Files of the captured payloads, one for each version.
fn files() -> Vec<Vec<u8>> {
    let mut files: Vec<(u16, Vec<u8>)> = Vec::new();
    for line in include_str!("fixtures/payloads.txt").lines() {
        let hex = line.split(' ').nth(2).expect("a payload");
        let payload: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"))
            .collect();
        let version = split(&payload).expect("a payload").1.rdb_version;
        let place = files.iter().position(|(known, _)| *known == version);
        let place = place.unwrap_or_else(|| {
            let magic = if version >= 80 {
                format!("VALKEY{version:03}")
            } else {
                format!("REDIS{version:04}")
            };
            files.push((
                version,
                [magic.as_bytes(), b"\xfa\x01a\x01b\xfe\x00\xfb\x05\x01"].concat(),
            ));
            files.len() - 1
        });
        let file = &mut files[place].1;
        file.extend_from_slice(b"\xfc\x00\x00\x00\x00\x00\x01\x00\x00");
        file.push(payload[0]);
        file.extend_from_slice(b"\x03key");
        file.extend_from_slice(&payload[1..payload.len() - 10]);
    }
    let end = |(_, file): (u16, Vec<u8>)| [&file[..], b"\xff\0\0\0\0\0\0\0\0"].concat();
    files.into_iter().map(end).collect()
}

/// A few keys of a file, with a few bytes of them changed, taken out or put in.
fn mutated(file: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut file = file.to_vec();
    for _ in 0..=numbers.below(4) {
        let at = 9 + numbers.below(file.len() - 9);
        match numbers.below(5) {
            0 => file[at] ^= 1 << numbers.below(8),
            1 => file[at] = numbers.below(256) as u8,
            2 => file.truncate(at.max(20)),
            3 => drop(file.drain(at..(at + 1 + numbers.below(9)).min(file.len()))),
            _ => {
                let from = numbers.below(file.len());
                let piece = file[from..(from + numbers.below(40)).min(file.len())].to_vec();
                file.splice(at..at, piece);
            }
        }
    }
    file
}

/// Read a file; what came, in short. `parts`: large values are taken in parts, and these decoded.
fn read(file: &[u8], size: usize, parts: Option<usize>) -> (Vec<String>, bool) {
    let limit = if parts.is_some() { 0 } else { LIMIT };
    let mut reader = FileReader::new(limit).with_texts(TEXTS);
    let (mut buffer, mut items) = (Vec::new(), Vec::new());
    for piece in file.chunks(size) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            let (used, item) = match reader.next(&buffer[at..]) {
                Ok(Step::More(0)) => break,
                Ok(Step::More(used)) => (used, None),
                Ok(Step::Item(used, item)) => (used, Some(item)),
                Err(_) => return (items, false),
            };
            at += used;
            let begins = matches!(item, Some(Item::Large(_)));
            match item {
                Some(Item::Part(Part::Body(body) | Part::Rest(body))) => {
                    let footer = Footer {
                        rdb_version: reader.version(),
                        crc: 0,
                    };
                    let _ = decode(&body, footer, 1 << 20);
                }
                Some(Item::Part(_)) | None => {}
                Some(Item::End(_)) => return (items, true),
                Some(item) => items.push(format!("{item:?}")),
            }
            if let (true, Some(part)) = (begins, parts) {
                reader.take_parts(part, LIMIT);
            }
        }
        buffer.drain(..at);
        let most = LIMIT.max(TEXTS) * 2 + parts.unwrap_or(0) + size + 64;
        assert!(buffer.len() <= most, "{} bytes are kept", buffer.len());
    }
    let is_whole = reader.finish(buffer.len()).is_ok();
    (items, is_whole)
}

#[test]
fn mutated_files_end_in_items_or_an_error() {
    let files = files();
    let count = std::env::var("SLOTFERRY_MUTATIONS").ok();
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(2000u64);
    for seed in 1..=count {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let file = mutated(&files[numbers.below(files.len())], &mut numbers);
        let sizes = [file.len(), 1 + numbers.below(300)];
        let part = 1 + numbers.below(600);
        let outcome = std::panic::catch_unwind(|| {
            for parts in [None, Some(part)] {
                let [one, other] = sizes.map(|size| read(&file, size, parts));
                // Where something is larger than the limit, it may be told earlier where more is here at once.
                if one.1 && other.1 {
                    assert_eq!(one.0, other.0);
                }
            }
        });
        assert!(outcome.is_ok(), "seed {seed}");
    }
}
