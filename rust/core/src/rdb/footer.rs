//! The footer of a DUMP payload: RDB version and checksum.
//!
//! Invariant: a footer is only rewritten so that damage is never sealed with a fresh checksum. Nothing here
//! allocates but `with_version`.
//!
//! Layout (Redis `cluster.c`, `createDumpPayload`): `type (1) | value | RDB version (2, LE) | CRC64 (8, LE)`,
//! the CRC over everything before it.

use crc::{CRC_64_REDIS, Crc, Digest, Table};

use crate::rdb::error::PayloadError;

/// Bytes of the footer.
pub const FOOTER_LEN: usize = 10;

const VERSION_LEN: usize = 2;

/// Sixteen lookup tables, so that sixteen bytes are folded a step: this runs over every byte that is checked.
static CRC64: Crc<u64, Table<16>> = Crc::<u64, Table<16>>::new(&CRC_64_REDIS);

/// What stands at the end of every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// The RDB version of the server that wrote the payload.
    pub rdb_version: u16,
    /// CRC64 (Redis variant) of type, value and version.
    pub crc: u64,
}

impl Footer {
    /// Makes the footer of `body` (type byte and value) for another RDB version.
    pub fn new(body: &[u8], rdb_version: u16) -> Self {
        let mut digest = CRC64.digest();
        digest.update(body);
        digest.update(&rdb_version.to_le_bytes());
        Self {
            rdb_version,
            crc: digest.finalize(),
        }
    }

    /// Returns the footer as it stands in a payload.
    pub fn to_bytes(self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        bytes[..VERSION_LEN].copy_from_slice(&self.rdb_version.to_le_bytes());
        bytes[VERSION_LEN..].copy_from_slice(&self.crc.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; FOOTER_LEN]) -> Self {
        let [v0, v1, crc @ ..] = bytes;
        Self {
            rdb_version: u16::from_le_bytes([v0, v1]),
            crc: u64::from_le_bytes(crc),
        }
    }
}

/// Begins a CRC64 over bytes that come one after another.
pub(crate) fn checksum() -> Digest<'static, u64, Table<16>> {
    CRC64.digest()
}

/// Returns the CRC64 of any bytes, to tell names apart.
pub fn fingerprint(bytes: &[u8]) -> u64 {
    CRC64.checksum(bytes)
}

/// Splits a payload into its body (type byte and value, never empty) and its footer, unchecked.
///
/// Returns `TooShort` where there is no room for both.
pub fn split(payload: &[u8]) -> Result<(&[u8], Footer), PayloadError> {
    match payload.split_last_chunk::<FOOTER_LEN>() {
        Some((body, footer)) if !body.is_empty() => Ok((body, Footer::from_bytes(*footer))),
        _ => Err(PayloadError::TooShort {
            length: payload.len(),
        }),
    }
}

/// Splits a payload like [`split`] and checks its CRC64; returns `Checksum` where it is wrong.
pub fn verify(payload: &[u8]) -> Result<(&[u8], Footer), PayloadError> {
    let (body, footer) = split(payload)?;
    let computed = Footer::new(body, footer.rdb_version).crc;
    if computed == footer.crc {
        Ok((body, footer))
    } else {
        Err(PayloadError::Checksum {
            stored: footer.crc,
            computed,
        })
    }
}

/// Returns the payload with another RDB version in its footer and the checksum that goes with it.
///
/// The body stays as it is: [`rewritable_version`](crate::rdb::rewritable_version) says for which targets that is
/// enough. Returns `TooShort` or `Checksum` for a payload that was damaged before.
pub fn with_version(payload: &[u8], rdb_version: u16) -> Result<Vec<u8>, PayloadError> {
    let (body, _) = verify(payload)?;
    let mut rewritten = Vec::with_capacity(payload.len());
    rewritten.extend_from_slice(body);
    rewritten.extend_from_slice(&Footer::new(body, rdb_version).to_bytes());
    Ok(rewritten)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `SET k 10`, `DUMP k` on Redis 2.8 (the example of the DUMP documentation).
    const TEN: &[u8] = b"\x00\xc0\n\x06\x00\xf8r?\xc5\xfb\xfb_(";

    #[test]
    fn crc64_has_the_published_check_value() {
        assert_eq!(CRC64.checksum(b"123456789"), 0xe9c6_d914_c4b8_d9ca);
    }

    #[test]
    fn splits_and_verifies_a_documented_payload() {
        let (body, footer) = verify(TEN).expect("a documented payload");
        assert_eq!(body, b"\x00\xc0\n");
        assert_eq!(footer.rdb_version, 6);
        assert_eq!(footer.to_bytes(), TEN[3..]);
    }

    #[test]
    fn any_changed_bit_breaks_the_checksum() {
        for bit in 0..TEN.len() * 8 {
            let mut damaged = TEN.to_vec();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(verify(&damaged), Err(PayloadError::Checksum { .. })));
            assert!(with_version(&damaged, 11).is_err());
        }
    }

    #[test]
    fn rewrites_the_version_and_back() {
        let newer = with_version(TEN, 11).expect("a sound payload");
        assert_eq!(newer[..3], TEN[..3]);
        assert_eq!(verify(&newer).expect("rewritten").1.rdb_version, 11);
        assert_eq!(with_version(&newer, 6).expect("rewritten"), TEN);
    }

    #[test]
    fn a_payload_needs_a_type_byte_and_a_footer() {
        for length in 0..=FOOTER_LEN {
            assert_eq!(split(&[0; 16][..length]), Err(PayloadError::TooShort { length }));
        }
        assert!(split(&[0; FOOTER_LEN + 1]).is_ok());
    }
}
