//! The first byte of a payload: which value type, in which encoding, and which servers know it.
//!
//! Invariant: this table agrees with Redis's `rdb.h` and Valkey's; a byte that is not in it is refused, not
//! guessed at.

pub(crate) const STRING: u8 = 0;
pub(crate) const LIST: u8 = 1;
pub(crate) const SET: u8 = 2;
pub(crate) const ZSET: u8 = 3;
pub(crate) const HASH: u8 = 4;
pub(crate) const ZSET_2: u8 = 5;
pub(crate) const MODULE_2: u8 = 7;
pub(crate) const HASH_ZIPMAP: u8 = 9;
pub(crate) const LIST_ZIPLIST: u8 = 10;
pub(crate) const SET_INTSET: u8 = 11;
pub(crate) const ZSET_ZIPLIST: u8 = 12;
pub(crate) const HASH_ZIPLIST: u8 = 13;
pub(crate) const LIST_QUICKLIST: u8 = 14;
pub(crate) const STREAM_LISTPACKS: u8 = 15;
pub(crate) const HASH_LISTPACK: u8 = 16;
pub(crate) const ZSET_LISTPACK: u8 = 17;
pub(crate) const LIST_QUICKLIST_2: u8 = 18;
pub(crate) const STREAM_LISTPACKS_2: u8 = 19;
pub(crate) const SET_LISTPACK: u8 = 20;
pub(crate) const STREAM_LISTPACKS_3: u8 = 21;
/// Valkey's hash with field expiries, and a pre-release layout of Redis: see [`is_valkey`].
pub(crate) const HASH_2: u8 = 22;
pub(crate) const HASH_LISTPACK_EX_PRE_GA: u8 = 23;
pub(crate) const HASH_METADATA: u8 = 24;
pub(crate) const HASH_LISTPACK_EX: u8 = 25;
pub(crate) const STREAM_LISTPACKS_4: u8 = 26;
const STREAM_LISTPACKS_5: u8 = 27;
const ARRAY: u8 = 28;
/// Redis's hashes whose field names stand in a template beside them: the first and the last type byte.
const FIRST_TEMPLATE_HASH: u8 = 29;
const LAST_TEMPLATE_HASH: u8 = 32;

/// The last type that every server of its RDB version and above reads alike.
const LAST_COMMON: u8 = STREAM_LISTPACKS_3;

/// What Redis ≥ 7.2 and every Valkey take, and what knows every common type.
pub(crate) const COMMON_VERSION: u16 = 11;

/// Versions from here on are Valkey's own; Redis counts up from below.
pub(crate) const FIRST_VALKEY_VERSION: u16 = 80;

/// Whether an RDB version is one of the Valkey line, which decides what type 22 means.
pub(crate) fn is_valkey(rdb_version: u16) -> bool {
    rdb_version >= FIRST_VALKEY_VERSION
}

/// The value types of the data model, whatever their encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string, a counter, a bitmap or a `HyperLogLog`.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set, geospatial ones included.
    SortedSet,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
    /// A value of a module.
    Module,
}

impl Kind {
    /// Returns the kind that the type byte stands for, `None` for one that is not known.
    pub fn of(type_byte: u8) -> Option<Self> {
        Some(match type_byte {
            STRING => Self::String,
            LIST | LIST_ZIPLIST | LIST_QUICKLIST | LIST_QUICKLIST_2 => Self::List,
            SET | SET_INTSET | SET_LISTPACK => Self::Set,
            ZSET | ZSET_2 | ZSET_ZIPLIST | ZSET_LISTPACK => Self::SortedSet,
            HASH
            | HASH_ZIPMAP
            | HASH_ZIPLIST
            | HASH_LISTPACK
            | HASH_2
            | HASH_LISTPACK_EX_PRE_GA
            | HASH_METADATA
            | HASH_LISTPACK_EX
            | FIRST_TEMPLATE_HASH..=LAST_TEMPLATE_HASH => Self::Hash,
            STREAM_LISTPACKS | STREAM_LISTPACKS_2 | STREAM_LISTPACKS_3 | STREAM_LISTPACKS_4
            | STREAM_LISTPACKS_5 => Self::Stream,
            MODULE_2 => Self::Module,
            _ => return None,
        })
    }

    /// Returns the name that the TYPE command gives it.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
            Self::Module => "module",
        }
    }
}

/// Returns the name that the TYPE command gives a value with this type byte, for messages.
pub fn kind_name(type_byte: u8) -> &'static str {
    Kind::of(type_byte).map_or("unknown", Kind::name)
}

/// Returns the first RDB version that knows the type byte; `None` for one that is not known here.
///
/// For 22 that is Redis's; Valkey knows its own 22 from version 80 on.
pub fn min_version(type_byte: u8) -> Option<u16> {
    Some(match type_byte {
        STRING | LIST | SET | ZSET | HASH => 1,
        HASH_ZIPMAP | LIST_ZIPLIST | SET_INTSET | ZSET_ZIPLIST => 2,
        HASH_ZIPLIST => 4,
        LIST_QUICKLIST => 7,
        ZSET_2 | MODULE_2 => 8,
        STREAM_LISTPACKS => 9,
        HASH_LISTPACK | ZSET_LISTPACK | LIST_QUICKLIST_2 | STREAM_LISTPACKS_2 => 10,
        SET_LISTPACK | STREAM_LISTPACKS_3 => 11,
        HASH_2 | HASH_LISTPACK_EX_PRE_GA | HASH_METADATA | HASH_LISTPACK_EX => 12,
        STREAM_LISTPACKS_4 => 13,
        STREAM_LISTPACKS_5 => 14,
        FIRST_TEMPLATE_HASH..=LAST_TEMPLATE_HASH => 15,
        _ => return None,
    })
}

/// Returns what a type is that is known by name alone, and the server that writes it: what `rdb.h` of Redis 8.8
/// and 8.10 and of Valkey 9.2 have besides.
pub(crate) fn newer_type(type_byte: u8, rdb_version: u16) -> Option<&'static str> {
    Some(match type_byte {
        HASH_LISTPACK_EX_PRE_GA if is_valkey(rdb_version) => {
            "a hash stored by paths, as Valkey 9.2 and later write it"
        }
        STREAM_LISTPACKS_5 => "a stream as Redis 8.8 and later write it",
        ARRAY => "an array, as Redis 8.8 and later write it",
        FIRST_TEMPLATE_HASH..=LAST_TEMPLATE_HASH => {
            "a hash stored by a template, as Redis 8.10 and later write it"
        }
        _ => return None,
    })
}

/// Returns the RDB version to put into the footer so that a target that takes versions up to `target_max`
/// loads the value as it is; `None` where the value has to be translated.
///
/// No decoder looks at the footer's version, so any version that the target takes and that knows the type
/// serves. It is never above 11, because Valkey ≥ 9 takes 80 but not 12 to 79. A module's value needs the
/// same module on the target besides.
pub fn rewritable_version(type_byte: u8, target_max: u16) -> Option<u16> {
    let version = target_max.min(COMMON_VERSION);
    let known = min_version(type_byte).is_some_and(|needed| needed <= version);
    (known && type_byte <= LAST_COMMON).then_some(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_type_has_a_kind_and_a_version() {
        for type_byte in 0..=u8::MAX {
            assert_eq!(
                Kind::of(type_byte).is_some(),
                min_version(type_byte).is_some(),
                "type {type_byte}"
            );
        }
        assert_eq!(kind_name(17), "zset");
        assert_eq!(kind_name(8), "unknown");
    }

    #[test]
    fn types_of_newer_servers_are_refused_by_name() {
        let said = |type_byte, rdb_version| {
            let error = crate::rdb::PayloadError::Unsupported {
                type_byte,
                rdb_version,
            };
            error.to_string()
        };
        for type_byte in 27..=32 {
            let text = said(type_byte, 14);
            assert!(text.contains("Redis 8.") && !text.contains("not known"), "{text}");
        }
        assert!(said(23, 81).contains("Valkey 9.2"));
        assert!(said(33, 15).contains("not known to this version of Slotferry"));
    }

    #[test]
    fn only_the_footer_is_rewritten_where_the_target_knows_the_type() {
        // (type, what the target takes) → the version to write
        let cases = [
            (STRING, 9, Some(9)),
            (STRING, 12, Some(11)),
            (STREAM_LISTPACKS, 9, Some(9)),
            (HASH_LISTPACK, 9, None),
            (HASH_LISTPACK, 10, Some(10)),
            (SET_LISTPACK, 10, None),
            (SET_LISTPACK, 80, Some(11)),
            (MODULE_2, 80, Some(11)),
            (HASH_2, 80, None),
            (HASH_METADATA, 12, None),
            (STREAM_LISTPACKS_5, 80, None),
            (8, 80, None),
            (255, 80, None),
        ];
        for (type_byte, target_max, expected) in cases {
            assert_eq!(
                rewritable_version(type_byte, target_max),
                expected,
                "type {type_byte} to {target_max}"
            );
        }
    }
}
