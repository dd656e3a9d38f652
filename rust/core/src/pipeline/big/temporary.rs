//! The temporary key that a large value is built under.
//!
//! Invariant: it is in the slot of the key that it will become, and always the same for it, so that a later run
//! finds it; and it has a TTL until it is whole, so that one that nobody comes back to goes by itself.

use crate::slot::key_slot;

/// How long a temporary key outlives the last chunk that was written to it: a day.
pub(super) const LIFETIME_MS: &[u8] = b"86400000";

const PREFIX: &str = "slotferry:part:";

/// The name of the temporary key for `key`, which lives in `slot`.
pub(super) fn name(key: &[u8], slot: u16) -> Vec<u8> {
    let tag = (0..u32::MAX)
        .map(|number| number.to_string())
        .find(|tag| key_slot(tag.as_bytes()) == slot)
        .unwrap_or_default();
    // The CRC64 of the name and its length: keys of one slot do not meet under one name.
    let fingerprint = crate::payload::fingerprint(key);
    format!("{PREFIX}{{{tag}}}:{fingerprint:016x}:{}", key.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_key_is_in_the_slot_of_its_key() {
        for key in [b"plain".as_slice(), b"{tag}x", b"}{", b"", b"{}x", b"a}b"] {
            let slot = key_slot(key);
            let temporary = name(key, slot);
            assert_eq!(key_slot(&temporary), slot);
            assert_eq!(name(key, slot), temporary);
        }
        assert_ne!(name(b"{t}1", key_slot(b"t")), name(b"{t}2", key_slot(b"t")));
    }
}
