//! Reading an RDB file of strings of 1 kB: what of the format costs, beside the disk and the network.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slotferry_core::rdb::file::{FileReader, Item, Step};

const KEYS: u32 = 32_768;
const VALUE: usize = 1000;

/// Bytes that are given to the reader at once, as a file's thread gives them.
const PIECE: usize = 256 << 10;

fn file() -> Vec<u8> {
    let mut file = b"REDIS0011\xfe\x00".to_vec();
    for number in 0..KEYS {
        let name = format!("key:{number:08}");
        file.push(0);
        file.push(name.len() as u8);
        file.extend_from_slice(name.as_bytes());
        file.extend_from_slice(&[0x40 | (VALUE >> 8) as u8, VALUE as u8]);
        file.extend((0..VALUE).map(|place| (place as u32 ^ number) as u8));
    }
    file.push(0xff);
    file.extend_from_slice(&[0; 8]);
    file
}

/// Read all of it; how many bytes of payloads were made, where they are.
fn read(file: &[u8], payload: Option<&mut Vec<u8>>) -> u64 {
    let mut reader = FileReader::new(16 << 20);
    let (mut buffer, mut made, mut room) = (Vec::new(), 0, payload);
    for piece in file.chunks(PIECE) {
        buffer.extend_from_slice(piece);
        let mut at = 0;
        loop {
            match reader.next(&buffer[at..]).expect("is a file") {
                Step::More(0) => break,
                Step::More(used) => at += used,
                Step::Item(used, item) => {
                    at += used;
                    if let Item::Key(key) = item {
                        made += key.value.len() as u64;
                        if let Some(payload) = room.as_deref_mut() {
                            payload.clear();
                            key.append_payload(payload, 11);
                        }
                    }
                }
            }
        }
        buffer.drain(..at);
    }
    made
}

fn bench(criterion: &mut Criterion) {
    let file = file();
    let mut group = criterion.benchmark_group("rdb file");
    group.throughput(Throughput::Bytes(file.len() as u64));
    group.bench_function("read", |bencher| {
        bencher.iter(|| read(black_box(&file), None));
    });
    let mut payload = Vec::new();
    group.bench_function("read and make payloads", |bencher| {
        bencher.iter(|| read(black_box(&file), Some(&mut payload)));
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
