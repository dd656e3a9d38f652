//! What a key's name costs on its way: no rule, prefixes, one and two patterns, filters (budget: 0.3 µs a key
//! with one pattern; the slot's hash is part of all of these).

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use slotferry_core::transform::keymap::{KeyMap, NameFilter, Rule, Scratch};

const KEYS: usize = 1000;

fn rewrite(pattern: &str, template: &str) -> Rule {
    Rule::Rewrite {
        pattern: pattern.to_owned(),
        template: template.as_bytes().to_vec(),
        last: false,
    }
}

fn benches(criterion: &mut Criterion) {
    let keys: Vec<Vec<u8>> = (0..KEYS)
        .map(|number| format!("user:{}:profile", 1_000_000 + number * 7919).into_bytes())
        .collect();
    let user = || rewrite(r"^user:(\d+):(.*)$", "user:{$1}:$2");
    let all = NameFilter::default;
    let globs = NameFilter {
        globs: vec![b"user:*".to_vec(), b"order:*".to_vec()],
        excluded_globs: vec![b"*:tmp".to_vec()],
        ..all()
    };
    let cases: [(&str, Vec<Rule>, NameFilter); 7] = [
        ("slot alone", vec![], all()),
        ("one pattern", vec![user()], all()),
        (
            "one pattern, no match",
            vec![rewrite(r"^order:(\d+):(.*)$", "o:{$1}:$2")],
            all(),
        ),
        (
            "one pattern, not anchored",
            vec![rewrite(r"(\d+)", "{$1}")],
            all(),
        ),
        (
            "two patterns",
            vec![rewrite(r"^order:(\d+)$", "o:{$1}"), user()],
            all(),
        ),
        (
            "prefixes",
            vec![
                Rule::StripPrefix(b"user:".to_vec()),
                Rule::AddPrefix(b"db2:".to_vec()),
            ],
            all(),
        ),
        ("filter", vec![], globs),
    ];
    let mut group = criterion.benchmark_group("name");
    group.throughput(Throughput::Elements(KEYS as u64));
    for (name, rules, filter) in cases {
        let map = KeyMap::new(&rules, b"", &filter).expect("the rules compile");
        let mut scratch = Scratch::default();
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut sum = 0;
                for key in &keys {
                    if let Some((name, slot)) = map.place(black_box(key), &mut scratch) {
                        sum += name.len() + usize::from(slot);
                    }
                }
                sum
            });
        });
    }
    group.finish();
}

criterion_group!(keymap, benches);
criterion_main!(keymap);
