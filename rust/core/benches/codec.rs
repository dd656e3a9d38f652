//! The work per key that is ours alone: slot, encode, decode, and the check of a payload's footer.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slotferry_core::rdb;
use slotferry_core::resp::encode;
use slotferry_core::resp::encode::ExpiryCommand;
use slotferry_core::resp::{Decoded, decode, decode_scan};
use slotferry_core::slot::key_slot;

const KEYS: usize = 1000;

fn keys() -> Vec<Vec<u8>> {
    (0..KEYS)
        .map(|number| format!("user:{{{number}}}:profile").into_bytes())
        .collect()
}

fn benches(criterion: &mut Criterion) {
    let keys = keys();
    let payload = [7u8; 113];
    let mut group = criterion.benchmark_group("key");
    group.throughput(Throughput::Elements(KEYS as u64));

    group.bench_function("slot", |bencher| {
        bencher.iter(|| {
            keys.iter()
                .map(|key| u64::from(key_slot(black_box(key))))
                .sum::<u64>()
        });
    });

    let mut out = Vec::new();
    group.bench_function("encode reads", |bencher| {
        bencher.iter(|| {
            out.clear();
            for key in &keys {
                encode::expiry(&mut out, ExpiryCommand::Absolute, key);
                encode::dump(&mut out, key);
            }
            black_box(out.len())
        });
    });
    group.bench_function("encode restore", |bencher| {
        bencher.iter(|| {
            out.clear();
            for key in &keys {
                encode::restore(&mut out, key, 1_900_000_000_000, &payload, false);
            }
            black_box(out.len())
        });
    });

    let mut page = format!("*2\r\n$2\r\n17\r\n*{KEYS}\r\n").into_bytes();
    let mut reads = Vec::new();
    for key in &keys {
        encode::bulk(&mut page, key);
        reads.extend_from_slice(b":1900000000000\r\n");
        encode::bulk(&mut reads, &payload);
    }
    group.bench_function("decode scan page", |bencher| {
        bencher.iter(|| match decode_scan(black_box(&page)) {
            Ok(Decoded::Whole(Ok(page), _)) => page.keys().map(<[u8]>::len).sum::<usize>(),
            other => panic!("a page decodes to {other:?}"),
        });
    });
    group.bench_function("decode reads", |bencher| {
        bencher.iter(|| {
            let mut at = 0;
            let mut replies = 0;
            while let Ok(Decoded::Whole(reply, used)) = decode(black_box(&reads[at..])) {
                black_box(reply);
                at += used;
                replies += 1;
            }
            assert_eq!(replies, 2 * KEYS);
        });
    });
    group.finish();

    let body = [1u8; 200];
    let mut sealed = body.to_vec();
    sealed.extend_from_slice(&rdb::Footer::new(&body, 11).to_bytes());
    let mut patched = sealed.clone();
    let mut version = 11;
    criterion.bench_function("payload footer patched in place", |bencher| {
        bencher.iter(|| {
            version = 21 - version;
            rdb::patch_version(black_box(&mut patched), version);
        });
    });
    let target = rdb::Target::new(&[9, 10, 11, 80]);
    criterion.bench_function("payload passage", |bencher| {
        bencher.iter(|| target.passage(black_box(&sealed)));
    });
    criterion.bench_function("payload footer rewritten", |bencher| {
        bencher.iter(|| rdb::with_version(black_box(&sealed), 10));
    });
}

criterion_group!(codec, benches);
criterion_main!(codec);
