//! Of which lengths, strings and fixed bytes a value is made, for each type.
//!
//! Invariant: a type is here only if its layout is certain; it agrees with what `decode` reads, which the tests hold
//! with values of real servers.

use crate::rdb::type_byte as types;

/// A piece of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// So many bytes.
    Bytes(u64),
    /// A length or a number in the form of one.
    Length,
    /// A string.
    Text,
    /// A score in the form of text.
    Score,
    /// A count, and these pieces as often.
    Each(&'static [Piece]),
    /// What a module wrote, up to its end mark.
    Module,
    /// The mark that says what comes next of a module, or that nothing does.
    ModuleMark,
}

use Piece::{Bytes, Each, Length, Module, Score, Text};

const STRING: &[Piece] = &[Text];
const STRINGS: &[Piece] = &[Each(&[Text])];
const PAIRS: &[Piece] = &[Each(&[Text, Text])];
const TEXT_SCORES: &[Piece] = &[Each(&[Text, Score])];
const SCORES: &[Piece] = &[Each(&[Text, Bytes(8)])];
const NODES: &[Piece] = &[Each(&[Length, Text])];
const MODULE: &[Piece] = &[Length, Module];
const EXPIRING_VALKEY: &[Piece] = &[Each(&[Text, Text, Bytes(8)])];
const EXPIRING_PRE_RELEASE: &[Piece] = &[Each(&[Length, Text, Text])];
const EXPIRING: &[Piece] = &[Bytes(8), Each(&[Length, Text, Text])];
const EXPIRING_PACKED: &[Piece] = &[Bytes(8), Text];

/// Entries that were delivered: ID, time, count.
const DELIVERED: Piece = Each(&[Bytes(16), Bytes(8), Length]);
const OWN: Piece = Each(&[Bytes(16)]);
const CONSUMERS: Piece = Each(&[Text, Bytes(8), OWN]);
const CONSUMERS_3: Piece = Each(&[Text, Bytes(8), Bytes(8), OWN]);
const STREAM_NODES: Piece = Each(&[Text, Text]);
/// Settings, producers with their entries, counts.
const PRODUCERS: Piece = Each(&[Text, Each(&[Text, Length, Length])]);

const STREAM: &[Piece] = &[
    STREAM_NODES,
    Length,
    Length,
    Length,
    Each(&[Text, Length, Length, DELIVERED, CONSUMERS]),
];
const STREAM_2: &[Piece] = &[
    STREAM_NODES,
    Length,
    Length,
    Length,
    // First ID, largest deleted ID, entries added.
    Length,
    Length,
    Length,
    Length,
    Length,
    Each(&[Text, Length, Length, Length, DELIVERED, CONSUMERS]),
];
const STREAM_3: &[Piece] = &[
    STREAM_NODES,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Each(&[Text, Length, Length, Length, DELIVERED, CONSUMERS_3]),
];
const STREAM_4: &[Piece] = &[
    STREAM_NODES,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Length,
    Each(&[Text, Length, Length, Length, DELIVERED, CONSUMERS_3]),
    Length,
    Length,
    PRODUCERS,
    Length,
    Length,
];

/// What a module's aux field is made of, behind its opcode: id, when it was written, its data.
pub(super) const MODULE_AUX: &[Piece] = MODULE;

/// What an import of slots is made of, behind its opcode (Valkey 9.0): the name of the job, and the slots.
pub(super) const SLOT_IMPORT: &[Piece] = &[Text, Each(&[Length, Length])];

/// Returns of what a value of this type is made; `None` for a type that is not read.
pub(super) fn of(type_byte: u8, is_valkey: bool) -> Option<&'static [Piece]> {
    Some(match type_byte {
        types::STRING
        | types::HASH_ZIPMAP
        | types::LIST_ZIPLIST
        | types::SET_INTSET
        | types::SET_LISTPACK
        | types::ZSET_ZIPLIST
        | types::ZSET_LISTPACK
        | types::HASH_ZIPLIST
        | types::HASH_LISTPACK => STRING,
        types::LIST | types::SET | types::LIST_QUICKLIST => STRINGS,
        types::LIST_QUICKLIST_2 => NODES,
        types::ZSET => TEXT_SCORES,
        types::ZSET_2 => SCORES,
        types::HASH => PAIRS,
        types::HASH_2 if is_valkey => EXPIRING_VALKEY,
        types::HASH_2 => EXPIRING_PRE_RELEASE,
        types::HASH_LISTPACK_EX_PRE_GA if !is_valkey => STRING,
        types::HASH_METADATA if !is_valkey => EXPIRING,
        types::HASH_LISTPACK_EX if !is_valkey => EXPIRING_PACKED,
        types::STREAM_LISTPACKS => STREAM,
        types::STREAM_LISTPACKS_2 => STREAM_2,
        types::STREAM_LISTPACKS_3 => STREAM_3,
        types::STREAM_LISTPACKS_4 if !is_valkey => STREAM_4,
        types::MODULE_2 => MODULE,
        _ => return None,
    })
}

/// How a value can be given out in parts.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form {
    /// A string of bytes.
    Text,
    /// So many bytes, a count, and these pieces as often; then what is left of the value.
    Elements {
        prefix: usize,
        element: &'static [Piece],
        rest: &'static [Piece],
    },
    /// Only as a whole.
    Whole(&'static [Piece]),
}

/// Returns how a value of this type is given out in parts; `None` for one that only its module can read.
pub(super) fn form_of(type_byte: u8, is_valkey: bool) -> Option<Form> {
    let elements = |prefix, element, rest| Form::Elements {
        prefix,
        element,
        rest,
    };
    Some(match of(type_byte, is_valkey)? {
        [Text] if type_byte == types::STRING => Form::Text,
        [Length, Module] => return None,
        [Each(element), rest @ ..] => elements(0, element, rest),
        [Bytes(8), Each(element)] => elements(8, element, &[]),
        whole => Form::Whole(whole),
    })
}
