//! Any bytes as an RDB file, in pieces of any size: reading them ends without a panic, gives the same however they are
//! cut, and keeps no more of them than the limit.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slotferry_core::rdb::file::{FileReader, Step};

const LIMIT: usize = 4096;

fn read(file: &[u8], size: usize) -> (Vec<String>, bool) {
    let mut reader = FileReader::new(LIMIT);
    let (mut buffer, mut items) = (Vec::new(), Vec::new());
    for piece in file.chunks(size) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match reader.next(&buffer[at..]) {
                Ok(Step::More(0)) => break,
                Ok(Step::More(used)) => at += used,
                Ok(Step::Item(used, item)) => {
                    at += used;
                    items.push(format!("{item:?}"));
                }
                Err(_) => return (items, false),
            }
        }
        buffer.drain(..at);
        assert!(buffer.len() <= 2 * LIMIT + size + 64, "{} bytes are kept", buffer.len());
    }
    (items, reader.finish(buffer.len()).is_ok())
}

fuzz_target!(|data: &[u8]| {
    let Some((&size, rest)) = data.split_first() else {
        return;
    };
    for magic in ["REDIS0009", "REDIS0012", "VALKEY080"] {
        let file = [magic.as_bytes(), rest].concat();
        let (whole, is_whole) = read(&file, file.len());
        let (cut, is_cut_whole) = read(&file, usize::from(size) + 1);
        // What is above the limit may be seen at once where it is all here.
        if rest.len() < LIMIT {
            assert_eq!((whole, is_whole), (cut, is_cut_whole));
        }
    }
});
