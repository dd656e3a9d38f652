//! The reply decoder against any bytes: no panic, nothing used that was not there, and a reply that is cut
//! off is partial, not something else.

#![no_main]

use libfuzzer_sys::fuzz_target;
use slotferry_core::reply::judge;
use slotferry_core::resp::{Decoded, Reply, Tree, decode, decode_scan, decode_time};

fuzz_target!(|data: &[u8]| {
    match decode(data) {
        Ok(Decoded::Whole(reply, used)) => {
            assert!(used <= data.len());
            assert!(matches!(decode(&data[..used - 1]), Ok(Decoded::Partial(_))));
            if let Reply::Error(text) = reply {
                let _ = judge(text);
            }
        }
        Ok(Decoded::Partial(need)) => assert!(need > data.len()),
        Err(_) => {}
    }
    if let Ok(Decoded::Whole(Ok(page), used)) = decode_scan(data) {
        assert!(used <= data.len());
        assert_eq!(page.keys().count(), page.count);
    }
    if let Ok(Decoded::Whole(_, used)) = Tree::decode(data) {
        assert!(used <= data.len());
    }
    if let Ok(Decoded::Whole(_, used)) = decode_time(data) {
        assert!(used <= data.len());
    }
});
