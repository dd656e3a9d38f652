//! Any bytes as a DUMP payload: decoding them, and comparing two of them, ends without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slotferry_core::payload::{DECODE_LIMIT, Footer, decode, same_value};

fuzz_target!(|data: &[u8]| {
    let Some((&[low, high], body)) = data.split_first_chunk::<2>() else {
        return;
    };
    // A footer with the right checksum, which a fuzzer can't find by itself.
    let footer = Footer::new(body, u16::from_le_bytes([low, high]));
    if let Ok(value) = decode(body, footer, DECODE_LIMIT) {
        assert!(value.same(&value, 0));
    }
    let (a, b) = body.split_at(body.len() / 2);
    let sealed = |body: &[u8]| [body, &Footer::new(body, footer.rdb_version).to_bytes()].concat();
    let _ = same_value(data, body);
    let _ = same_value(&sealed(a), &sealed(b));
});
