//! The temporary key that a large value is built under.
//!
//! Invariant: it is in the slot of the key that it will become, and always the same for it and the job (a job has one
//! source), so that a later run of the job finds it and no other job writes to it; and it has a TTL until it is whole,
//! so that one that nobody comes back to goes by itself.

use crate::slot::key_slot;

/// How long a temporary key outlives the last chunk that was written to it: a day.
pub(crate) const LIFETIME: i64 = 86_400_000;
pub(crate) const LIFETIME_MS: &[u8] = b"86400000";

/// A temporary key that nothing was written to for so many ms is abandoned.
pub(crate) const ABANDONED: i64 = 600_000;

const PREFIX: &str = "slotferry:part:";

/// The name of the temporary key under which the job `copy_id` builds `key`, which lives in `slot`.
pub(crate) fn name(key: &[u8], slot: u16, copy_id: &str) -> Vec<u8> {
    let mut name = shared_name(key, slot);
    name.extend([b":", copy_id.as_bytes()].concat());
    name
}

/// The name that versions before jobs had names of their own built `key` under, whichever job it was.
pub(crate) fn shared_name(key: &[u8], slot: u16) -> Vec<u8> {
    let tag = (0..u32::MAX)
        .map(|number| number.to_string())
        .find(|tag| key_slot(tag.as_bytes()) == slot)
        .unwrap_or_default();
    // The CRC64 of the name and its length: keys of one slot do not meet under one name.
    let fingerprint = crate::rdb::fingerprint(key);
    format!("{PREFIX}{{{tag}}}:{fingerprint:016x}:{}", key.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_key_is_in_the_slot_of_its_key() {
        for key in [b"plain".as_slice(), b"{tag}x", b"}{", b"", b"{}x", b"a}b"] {
            let slot = key_slot(key);
            let temporary = name(key, slot, "job");
            assert_eq!(key_slot(&temporary), slot);
            assert_eq!(name(key, slot, "job"), temporary);
        }
        let slot = key_slot(b"t");
        assert_ne!(name(b"{t}1", slot, "job"), name(b"{t}2", slot, "job"));
    }

    #[test]
    fn jobs_do_not_share_a_temporary_key() {
        assert_ne!(name(b"k", 1, "one"), name(b"k", 1, "other"));
        assert_ne!(name(b"k", 1, "one"), shared_name(b"k", 1));
    }

    #[test]
    fn its_lifetime_is_told_in_two_ways() {
        assert_eq!(LIFETIME.to_string().as_bytes(), LIFETIME_MS);
    }
}
