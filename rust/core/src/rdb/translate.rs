//! Payloads for a target that can't load them as they are: another footer, or another layout of the value.
//!
//! Invariants: what a client sees of the value is the same before and after, but for the expiries of a hash's
//! fields where the policy gives them up; a translated value is one RESTORE, so it arrives whole or not at
//! all; and damage is never sealed with a fresh checksum.
//!
//! Why RESTORE and not commands of each type: it is atomic, keeps what no command can write (pending entries
//! of deleted messages, delivery times), and takes the same way through conflicts and redirects as any key.

use crate::rdb::error::PayloadError;
use crate::rdb::footer::{FOOTER_LEN, Footer, split, verify};
use crate::rdb::stream::Stream;
use crate::rdb::type_byte;
use crate::rdb::type_byte::{FIRST_VALKEY_VERSION, Kind};
use crate::rdb::value::Value;
use crate::rdb::{decode, write};

/// The version that all servers from Redis 6.2 on take, and that knows the plain layouts.
const PLAIN_VERSION: u16 = 9;

/// The version since which a stream has a history: Redis 7.0.
const HISTORY_VERSION: u16 = 10;

/// The version since which a hash's fields can expire in Redis: 7.4.
const FIELD_TTL_VERSION: u16 = 12;

/// What happens to the expiries of a hash's fields where the target can't hold them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldTtl {
    /// The key is a recorded failure.
    Error,
    /// The fields are copied without them.
    Drop,
}

/// How a payload gets into the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    /// As it is.
    AsIs,
    /// With this RDB version in its footer.
    Footer(u16),
    /// In another layout: see [`Target::translate`].
    Translate,
}

/// A value in a layout that the target loads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translated {
    /// The payload to restore.
    pub payload: Vec<u8>,
    /// How many fields lost their expiry.
    pub dropped_ttls: usize,
}

/// Why a payload could not be translated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// It can't be read.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// Fields with an expiry, and a target that has none.
    #[error(
        "{fields} of its fields have a TTL, which the target can't hold (--field-ttl drop copies them without)"
    )]
    FieldTtls {
        /// How many.
        fields: usize,
    },
    /// A module's value, which only the module can read.
    #[error(
        "it is a value of the module type {name}, which the target can't load: is the module loaded there?"
    )]
    Module {
        /// The type's name, as the module registered it.
        name: String,
    },
    /// All fields of a hash have expired.
    #[error("all of its fields have expired")]
    Gone,
}

/// Which payloads the target takes.
#[derive(Debug, Clone)]
pub struct Target {
    /// By RDB version: whether such a payload is passed on as it is.
    as_is: [bool; Self::VERSIONS],
    /// The newest version for types that all servers of it read alike; 0 where nothing is known.
    common: u16,
    /// The version that its hashes with field expiries are written with, if it has such.
    field_ttl: Option<u16>,
}

impl Target {
    const VERSIONS: usize = 128;

    /// A target that takes these RDB versions; with none, nothing is known and all is passed as it is.
    pub fn new(takes: &[u16]) -> Self {
        let is_valkey = takes.iter().any(|&version| version >= FIRST_VALKEY_VERSION);
        let mut as_is = [takes.is_empty(); Self::VERSIONS];
        for &version in takes {
            if let Some(entry) = as_is.get_mut(usize::from(version)) {
                // Beyond the common versions the same type byte can mean another thing to the other line.
                *entry =
                    version <= type_byte::COMMON_VERSION || (version >= FIRST_VALKEY_VERSION) == is_valkey;
            }
        }
        let newest = |wanted: &dyn Fn(u16) -> bool| takes.iter().copied().filter(|&v| wanted(v)).max();
        Self {
            as_is,
            common: newest(&|version| version <= type_byte::COMMON_VERSION).unwrap_or_default(),
            field_ttl: newest(&|version| {
                if is_valkey {
                    version >= FIRST_VALKEY_VERSION
                } else {
                    version >= FIELD_TTL_VERSION
                }
            }),
        }
    }

    /// Whether the fields of its hashes can expire.
    pub fn has_field_ttls(&self) -> bool {
        self.field_ttl.is_some()
    }

    /// Whether its streams have a history: Redis ≥ 7.0.
    pub fn has_stream_history(&self) -> bool {
        self.common >= HISTORY_VERSION
    }

    /// Returns how this payload gets into the target. Constant time, and nothing is checked.
    #[inline]
    pub fn passage(&self, payload: &[u8]) -> Passage {
        let [.., v0, v1, _, _, _, _, _, _, _, _] = *payload else {
            return Passage::AsIs;
        };
        let version = u16::from_le_bytes([v0, v1]);
        if self.as_is.get(usize::from(version)).copied().unwrap_or_default() {
            return Passage::AsIs;
        }
        match type_byte::rewritable_version(payload[0], self.common) {
            Some(version) => Passage::Footer(version),
            None => Passage::Translate,
        }
    }

    /// Returns the value in a layout that the target loads. Fields that have expired by `now_ms` are left out. A value that
    /// would take more than `limit` bytes, counted roughly, is not decoded: `TooLarge`.
    pub fn translate(
        &self,
        payload: &[u8],
        field_ttl: FieldTtl,
        now_ms: u64,
        limit: usize,
    ) -> Result<Translated, TranslateError> {
        let (body, footer) = verify(payload)?;
        if Kind::of(body[0]) == Some(Kind::Module) {
            return Err(TranslateError::Module {
                name: module_name(body).unwrap_or_else(|| "(unreadable)".to_owned()),
            });
        }
        let mut dropped_ttls = 0;
        let (body, version) = match decode(body, footer, limit)? {
            Value::String(bytes) => {
                let mut body = vec![type_byte::STRING];
                write::string(&mut body, &bytes);
                (body, PLAIN_VERSION)
            }
            Value::List(elements) => (write::list(&elements), PLAIN_VERSION),
            Value::Set(members) => (write::set(&members), PLAIN_VERSION),
            Value::SortedSet(scores) => (write::sorted_set(&scores), PLAIN_VERSION),
            Value::Hash(mut fields) => {
                fields.retain(|_, field| field.expires_at_ms.is_none_or(|at| at > now_ms));
                if fields.is_empty() {
                    return Err(TranslateError::Gone);
                }
                let expiring = fields
                    .values()
                    .filter(|field| field.expires_at_ms.is_some())
                    .count();
                match self.field_ttl {
                    _ if expiring == 0 => (write::hash(&fields), PLAIN_VERSION),
                    Some(version) if version >= FIRST_VALKEY_VERSION => {
                        (write::hash_for_valkey(&fields), version)
                    }
                    Some(version) => (write::hash_for_redis(&fields), version),
                    None if field_ttl == FieldTtl::Drop => {
                        dropped_ttls = expiring;
                        (write::hash(&fields), PLAIN_VERSION)
                    }
                    None => return Err(TranslateError::FieldTtls { fields: expiring }),
                }
            }
            Value::Stream(stream) => {
                let with_history = self.common >= HISTORY_VERSION && stream.history.is_some();
                let version = if with_history {
                    HISTORY_VERSION
                } else {
                    PLAIN_VERSION
                };
                (write::stream(&stream, with_history), version)
            }
            Value::Module(_) => unreachable!("modules are turned away above"),
        };
        let mut payload = body;
        let footer = Footer::new(&payload, version);
        payload.extend_from_slice(&footer.to_bytes());
        Ok(Translated {
            payload,
            dropped_ttls,
        })
    }
}

/// Returns the payload of a stream, with or without a history (Redis ≥ 7.0 has one).
pub fn seal_stream(stream: &Stream, with_history: bool) -> Vec<u8> {
    let mut payload = write::stream(stream, with_history);
    let version = if with_history {
        HISTORY_VERSION
    } else {
        PLAIN_VERSION
    };
    let footer = Footer::new(&payload, version);
    payload.extend_from_slice(&footer.to_bytes());
    payload
}

/// Gives a payload another RDB version, in place and without a look at its body.
///
/// The CRC is linear (initial value and final XOR are 0), and leading zeros do not change it: so the checksum
/// of the same body with another version is the old one XOR that of the two versions' difference. A payload
/// that was damaged before is so afterwards.
#[inline]
pub fn patch_version(payload: &mut [u8], rdb_version: u16) {
    if let Ok((_, footer)) = split(payload) {
        let difference = Footer::new(&[], footer.rdb_version ^ rdb_version).crc;
        let patched = Footer {
            rdb_version,
            crc: footer.crc ^ difference,
        };
        let start = payload.len() - FOOTER_LEN;
        payload[start..].copy_from_slice(&patched.to_bytes());
    }
}

/// Returns the name of a module's type: nine characters of six bits in the high bits of its ID
/// (Redis `module.c`, `moduleTypeEncodeId`).
pub fn module_name(body: &[u8]) -> Option<String> {
    const CHARACTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let &[type_byte::MODULE_2, 0x81, i0, i1, i2, i3, i4, i5, i6, i7, ..] = body else {
        return None;
    };
    let id = u64::from_be_bytes([i0, i1, i2, i3, i4, i5, i6, i7]) >> 10;
    let name = (0..9)
        .rev()
        .map(|place| CHARACTERS[(id >> (6 * place) & 0x3f) as usize]);
    Some(name.map(char::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::{DECODE_LIMIT as LIMIT, with_version};

    const REDIS_6: &[u16] = &[9];
    const REDIS_7_0: &[u16] = &[9, 10];
    const REDIS_8: &[u16] = &[9, 10, 11, 12];
    const VALKEY_8: &[u16] = &[9, 10, 11];
    const VALKEY_9: &[u16] = &[9, 10, 11, 80];

    fn sealed(body: &[u8], rdb_version: u16) -> Vec<u8> {
        [body, &Footer::new(body, rdb_version).to_bytes()].concat()
    }

    fn passage(takes: &[u16], type_byte: u8, rdb_version: u16) -> Passage {
        Target::new(takes).passage(&sealed(&[type_byte, 0], rdb_version))
    }

    #[test]
    fn a_patched_footer_is_that_of_a_new_payload() {
        let old = sealed(b"\x00\x03abc", 80);
        let mut patched = old.clone();
        patch_version(&mut patched, 9);
        assert_eq!(Ok(&patched), with_version(&old, 9).as_ref());
    }

    #[test]
    fn damage_stays_damage() {
        let mut damaged = sealed(b"\x00\x03abc", 80);
        damaged[2] ^= 1;
        patch_version(&mut damaged, 9);
        assert!(matches!(verify(&damaged), Err(PayloadError::Checksum { .. })));
        patch_version(&mut damaged[..4], 9);
    }

    #[test]
    fn a_payload_takes_the_shortest_way() {
        use Passage::{AsIs, Footer, Translate};
        let cases = [
            (VALKEY_9, 0, 80, AsIs),
            (VALKEY_9, 21, 11, AsIs),
            (VALKEY_9, 21, 12, Footer(11)),
            (VALKEY_9, 24, 12, Translate),
            (REDIS_8, 0, 80, Footer(11)),
            (REDIS_8, 22, 80, Translate),
            (REDIS_8, 25, 12, AsIs),
            (VALKEY_8, 20, 80, Footer(11)),
            (REDIS_7_0, 18, 11, Footer(10)),
            (REDIS_7_0, 20, 11, Translate),
            (REDIS_6, 5, 12, Footer(9)),
            (REDIS_6, 16, 10, Translate),
            (REDIS_6, 200, 10, Translate),
            (&[], 200, 99, AsIs),
            // Relaxed version checks: the payload is taken, but its types are the other line's.
            (&[9, 11, 12, 80], 24, 12, Translate),
        ];
        for (takes, type_byte, version, expected) in cases {
            assert_eq!(
                passage(takes, type_byte, version),
                expected,
                "type {type_byte} of {version} for {takes:?}"
            );
        }
        assert_eq!(Target::new(REDIS_6).passage(b"short"), AsIs);
    }

    #[test]
    fn field_ttls_follow_the_policy_where_the_target_has_none() {
        let hash = sealed(
            b"\x16\x03\x01a\x011\xff\xff\xff\xff\xff\xff\xff\xff\x01b\x012\xe8\x03\0\0\0\0\0\0\
              \x01c\x013\x05\0\0\0\0\0\0\0",
            80,
        );
        let target = Target::new(VALKEY_8);
        assert_eq!(
            target.translate(&hash, FieldTtl::Error, 10, LIMIT),
            Err(TranslateError::FieldTtls { fields: 1 })
        );
        let dropped = target
            .translate(&hash, FieldTtl::Drop, 10, LIMIT)
            .expect("dropped");
        assert_eq!(dropped.dropped_ttls, 1);
        assert_eq!(
            dropped.payload[..10],
            *b"\x04\x02\x01a\x011\x01b\x012"[..10].as_ref()
        );
        // After the last one expired, nothing stands in the way.
        assert!(target.translate(&hash, FieldTtl::Error, 1000, LIMIT).is_ok());
        let all_gone = sealed(b"\x16\x01\x01b\x012\xe8\x03\0\0\0\0\0\0", 80);
        assert_eq!(
            target.translate(&all_gone, FieldTtl::Drop, 1000, LIMIT),
            Err(TranslateError::Gone)
        );
    }

    #[test]
    fn modules_are_named() {
        // "tair-json", encoding version 0 (six bits a character).
        let characters = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let id = b"tair-json".iter().fold(0u64, |id, character| {
            id << 6
                | characters
                    .iter()
                    .position(|known| known == character)
                    .expect("known") as u64
        }) << 10;
        let body = [&[7, 0x81][..], &id.to_be_bytes(), b"\x00"].concat();
        assert_eq!(module_name(&body).as_deref(), Some("tair-json"));
        assert_eq!(module_name(b"\x07\x01"), None);
        let error = Target::new(REDIS_6).translate(&sealed(&body, 80), FieldTtl::Drop, 0, LIMIT);
        assert_eq!(
            error,
            Err(TranslateError::Module {
                name: "tair-json".to_owned()
            })
        );
    }
}
