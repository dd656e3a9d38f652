//! A part of the keys, chosen by their names.
//!
//! Invariant: whether a key belongs to the sample depends on its name and the share alone. So both directions
//! of a verification, its resume, and the repair after it look at the same keys.

/// So many of every 2^32 keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample(u32);

impl Sample {
    /// The part `share` of all keys, above 0 and below 1; `None` for any other number.
    pub fn new(share: f64) -> Option<Self> {
        #[allow(clippy::cast_sign_loss, reason = "it was found to be above 0")]
        let threshold = (share * 2f64.powi(32)) as u32;
        (share > 0.0 && share < 1.0).then_some(Self(threshold.max(1)))
    }

    /// Whether the key belongs to the sample.
    pub fn takes(self, key: &[u8]) -> bool {
        (hash(key) >> 32) < u64::from(self.0)
    }
}

/// FNV-1a with the finish of `MurmurHash3`, which spreads names that differ in their last digit alone.
fn hash(key: &[u8]) -> u64 {
    let mut hash = key.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_part() {
        for share in [0.0, -0.1, 1.0, 1.5, f64::NAN, f64::INFINITY] {
            assert_eq!(Sample::new(share), None, "{share}");
        }
        assert!(Sample::new(1e-12).is_some_and(|sample| sample.0 == 1));
    }

    #[test]
    fn the_sample_has_the_size_that_was_asked_for() {
        for share in [0.01, 0.05, 0.5] {
            let sample = Sample::new(share).expect("a part");
            let taken = (0..100_000)
                .filter(|number| sample.takes(format!("user:{number}").as_bytes()))
                .count() as f64;
            let expected = share * 100_000.0;
            assert!((taken - expected).abs() < expected / 10.0, "{share}: {taken}");
        }
    }
}
