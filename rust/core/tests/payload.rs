//! Payloads of real servers (`fixtures/payloads.txt`, written by `tools/capture_payloads.py`): a name stands
//! for one value, whichever server wrote it and in which encoding. And arbitrary bytes: no panic.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use slotferry_core::rdb;
use slotferry_core::rdb::{
    Comparison, DECODE_LIMIT, FOOTER_LEN, Footer, Kind, PayloadError, Show, Value, compare_values, decode,
    same_value, verify, with_version,
};

struct Captured {
    origin: String,
    name: String,
    payload: Vec<u8>,
}

fn fixture() -> Vec<Captured> {
    include_str!("fixtures/payloads.txt")
        .lines()
        .map(|line| {
            let [origin, name, hex] = line.split(' ').collect::<Vec<_>>()[..] else {
                panic!("not `origin name hex`: {line}");
            };
            Captured {
                origin: origin.into(),
                name: name.into(),
                payload: from_hex(hex),
            }
        })
        .collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hex digits"))
        .collect()
}

fn by_name(captured: &[Captured]) -> BTreeMap<&str, Vec<&Captured>> {
    let mut names = BTreeMap::<_, Vec<_>>::new();
    for one in captured {
        names.entry(one.name.as_str()).or_default().push(one);
    }
    names
}

fn decoded(payload: &[u8]) -> Result<Value, PayloadError> {
    let (body, footer) = verify(payload)?;
    decode(body, footer, DECODE_LIMIT)
}

#[test]
fn every_captured_payload_is_sound_and_of_its_kind() {
    for Captured {
        origin,
        name,
        payload,
    } in fixture()
    {
        let value = decoded(&payload).unwrap_or_else(|error| panic!("{origin} {name}: {error}"));
        let kind = name.trim_start_matches("built-").split('-').next();
        assert_eq!(Some(value.kind().name()), kind, "{origin} {name}");
        assert_eq!(Kind::of(payload[0]), Some(value.kind()), "{origin} {name}");
    }
}

#[test]
fn the_fixture_covers_every_type_that_its_servers_write() {
    let mut types: Vec<u8> = fixture().iter().map(|one| one.payload[0]).collect();
    types.sort_unstable();
    types.dedup();
    let all_but_modules_and_redis_7_4: Vec<u8> =
        (0..=22).filter(|known| ![6, 7, 8].contains(known)).collect();
    assert_eq!(types, all_but_modules_and_redis_7_4);
}

#[test]
fn the_same_value_is_the_same_from_every_server() {
    let captured = fixture();
    for (name, payloads) in by_name(&captured) {
        for a in &payloads {
            for b in &payloads {
                assert_eq!(
                    same_value(&a.payload, &b.payload, 0),
                    Ok(true),
                    "{name}: {} and {}",
                    a.origin,
                    b.origin
                );
            }
        }
    }
}

#[test]
fn different_values_are_different_from_every_server() {
    let captured = fixture();
    let (mut compared, names) = (0, by_name(&captured));
    for (name_a, payloads_a) in &names {
        for (name_b, payloads_b) in names.range(*name_a..).skip(1) {
            for (a, b) in payloads_a.iter().zip(payloads_b.iter().rev()) {
                assert_eq!(
                    same_value(&a.payload, &b.payload, 0),
                    Ok(false),
                    "{} {name_a} and {} {name_b}",
                    a.origin,
                    b.origin
                );
                compared += 1;
            }
        }
    }
    assert!(compared > names.len());
}

#[test]
fn strings_are_read_as_they_were_written() {
    let captured = fixture();
    let names = by_name(&captured);
    let long_runs: Vec<u8> = (0..10).flat_map(|byte| vec![byte; 300]).collect();
    let expected: [(&str, &[u8]); 6] = [
        ("string-empty", b""),
        ("string-leading-zero", b"007"),
        ("string-int:-129", b"-129"),
        ("string-int:9223372036854775807", b"9223372036854775807"),
        ("string-repetitive", &b"slot".repeat(1000)),
        ("string-long-runs", &long_runs),
    ];
    for (name, bytes) in expected {
        for one in &names[name] {
            let value = decoded(&one.payload);
            assert_eq!(value, Ok(Value::String(bytes.into())), "{}", one.origin);
        }
    }
}

#[test]
fn a_stream_is_read_with_groups_and_pending_entries() {
    let captured = fixture();
    for one in &by_name(&captured)["stream-groups-acknowledged"] {
        let Ok(Value::Stream(stream)) = decoded(&one.payload) else {
            panic!("{}: no stream", one.origin);
        };
        assert_eq!(stream.entries.len(), 30);
        let last = stream.entries.last().expect("30 entries");
        assert_eq!((last.id.ms, last.id.seq), (1000, 30));
        assert_eq!(*last.fields[1].0, *b"b");
        assert_eq!(last.fields[1].1, b"t30");
        let group = &stream.groups[&b"first"[..]];
        assert_eq!(group.last_id.seq, 7);
        let pending: Vec<_> = group
            .pending
            .iter()
            .map(|(id, delivery)| (id.seq, delivery.delivered_at_ms % 1000, delivery.count))
            .collect();
        assert_eq!(pending, [(3, 3, 3), (4, 4, 4), (5, 5, 5), (6, 6, 1), (7, 7, 1)]);
        assert!(group.consumers[&b"idle"[..]].pending.is_empty());
        assert_eq!(group.consumers[&b"bob"[..]].pending.len(), 2);
        assert_eq!(stream.history.is_none(), one.origin.starts_with("redis-6"));
    }
}

#[test]
fn every_cut_of_a_payload_is_an_error() {
    for one in fixture().iter().filter(|one| one.payload.len() < 600) {
        let (body, footer) = verify(&one.payload).expect("sound");
        for end in 0..body.len() {
            assert!(
                decode(&body[..end], footer, DECODE_LIMIT).is_err(),
                "{} {} cut at {end}",
                one.origin,
                one.name
            );
        }
        let longer = [body, &[0]].concat();
        assert!(decode(&longer, footer, DECODE_LIMIT).is_err());
    }
}

#[test]
fn the_memory_limit_is_held() {
    let captured = fixture();
    for one in &by_name(&captured)["list-words"] {
        let (body, footer) = verify(&one.payload).expect("sound");
        let refused = Err(PayloadError::TooLarge { limit: 1000 });
        assert_eq!(decode(body, footer, 1000), refused, "{}", one.origin);
    }
}

/// Puts a footer of a matching checksum below any body.
fn sealed(body: &[u8], rdb_version: u16) -> Vec<u8> {
    [body, &Footer::new(body, rdb_version).to_bytes()].concat()
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    select(fixture().into_iter().map(|one| one.payload).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        payload in any_payload(),
    ) {
        prop_assert!(decoded(&bytes).is_err());
        prop_assert!(same_value(&bytes, &payload, 0).is_err());
        prop_assert!(with_version(&bytes, 11).is_err());
    }

    #[test]
    fn arbitrary_bodies_never_panic(
        type_byte in 0..28_u8,
        value in prop::collection::vec(any::<u8>(), 0..300),
        rdb_version in select(vec![9_u16, 10, 11, 12, 80]),
    ) {
        let body = [&[type_byte][..], &value].concat();
        let payload = sealed(&body, rdb_version);
        if let Ok(value) = decoded(&payload) {
            prop_assert!(value.same(&value));
        }
    }

    #[test]
    fn mutated_payloads_never_panic(
        payload in any_payload(),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
    ) {
        let footer = verify(&payload).expect("sound").1;
        let mut body = payload[..payload.len() - FOOTER_LEN].to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        let mutated = sealed(&body, footer.rdb_version);
        if let Ok(value) = decoded(&mutated) {
            prop_assert!(value.same(&value));
        }
        let same = same_value(&payload, &mutated, 0);
        let compared = compare_values(&payload, &mutated, DECODE_LIMIT, 0, Show::Values);
        match compared {
            Ok(Comparison::Same) => prop_assert_eq!(same, Ok(true)),
            Ok(Comparison::Different(a, b) | Comparison::OtherType(a, b)) => {
                prop_assert_eq!(same, Ok(false));
                for text in [a, b] {
                    prop_assert!(text.is_ascii() && text.len() < 4096, "{}", text);
                    prop_assert!(!text.contains(['<', '>', '\n']), "{}", text);
                }
            }
            Err(_) => {}
        }
    }

    #[test]
    fn the_version_is_rewritten_and_back(payload in any_payload(), version in any::<u16>()) {
        let (body, footer) = verify(&payload).expect("sound");
        let rewritten = with_version(&payload, version).expect("sound");
        let (same_body, new_footer) = verify(&rewritten).expect("rewritten");
        prop_assert_eq!(same_body, body);
        prop_assert_eq!(new_footer.rdb_version, version);
        let back = with_version(&rewritten, footer.rdb_version);
        prop_assert_eq!(back, Ok(payload));
    }

    #[test]
    fn rewriting_never_needs_translation_below_type_22(type_byte in 0..22_u8, target in 11_u16..) {
        let known = rdb::min_version(type_byte).is_some();
        prop_assert_eq!(rdb::rewritable_version(type_byte, target).is_some(), known);
    }
}

/// What each server takes, from the oldest on; the last one is Redis 8.0.
const TARGETS: [&[u16]; 5] = [&[9], &[9, 10], &[9, 10, 11], &[9, 10, 11, 80], &[9, 10, 11, 12]];

#[test]
fn translated_payloads_hold_the_same_value() {
    for one in fixture() {
        for takes in TARGETS {
            let target = rdb::Target::new(takes);
            let translated = target
                .translate(&one.payload, rdb::FieldTtl::Drop, 0, rdb::DECODE_LIMIT)
                .unwrap_or_else(|error| panic!("{} {} for {takes:?}: {error}", one.origin, one.name));
            // Loadable by the target now, and the same as before.
            let place = format!("{} {} for {takes:?}", one.origin, one.name);
            let (_, footer) = verify(&translated.payload).expect("sealed");
            assert!(takes.contains(&footer.rdb_version), "{place}");
            assert_eq!(target.passage(&translated.payload), rdb::Passage::AsIs, "{place}");
            if translated.dropped_ttls == 0 {
                let same = same_value(&one.payload, &translated.payload, 0);
                assert_eq!(same, Ok(true), "{place}");
            }
        }
    }
}
