//! Any bytes as a DUMP payload: decoding them, describing them, and comparing two of them, ends without a panic
//! and within the memory that was allowed.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slotferry_core::rdb::{Comparison, DECODE_LIMIT, Footer, Show, compare_values, decode, describe, same_bytes, same_value};

fuzz_target!(|data: &[u8]| {
    let Some((&[low, high], body)) = data.split_first_chunk::<2>() else {
        return;
    };
    // A footer with the right checksum, which a fuzzer can't find by itself.
    let footer = Footer::new(body, u16::from_le_bytes([low, high]));
    let sealed = |body: &[u8]| [body, &Footer::new(body, footer.rdb_version).to_bytes()].concat();
    if let Ok(value) = decode(body, footer, DECODE_LIMIT) {
        assert!(value.same(&value));
        let text = describe(&sealed(body), DECODE_LIMIT, Show::Values).expect("it decodes");
        assert!(text.len() < 4096 && !text.contains(" <> "));
    }
    let _ = decode(body, footer, 100);
    let (a, b) = body.split_at(body.len() / 2);
    let _ = same_value(data, body, 0);
    let (a, b) = (sealed(a), sealed(b));
    let _ = same_bytes(&a, &b);
    if let Ok(same) = same_value(&a, &b, 0) {
        let compared = compare_values(&a, &b, DECODE_LIMIT, 0, Show::Values);
        assert!(!same || compared == Ok(Comparison::Same) || compared.is_err());
    }
});
