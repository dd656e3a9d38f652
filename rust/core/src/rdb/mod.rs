//! DUMP payloads: footer and CRC64, decoding, and whether two of them hold the same value.
//!
//! Invariants: any bytes give a result or an error, never a panic, in bounded memory; and two payloads are
//! called the same only if commands that read or consume the values give the same for both.
//!
//! Where it lives: `footer` checks and rewrites the version and the checksum; `translate` decides how a payload
//! gets into a target, `write` lays values out for older servers, `plain` finds the strings that need no RESTORE; `type_byte` says which servers know a value
//! type; `decode`, `hash` and `stream_encoding` turn bytes into a `value` or `stream`, with
//! `reader` for the RDB format and `packed` for what is packed into its strings (`listpack`, `ziplist`,
//! `zipmap`, `intset`). `file` reads RDB files, whose values become payloads without being decoded.

mod announced;
mod cursor;
mod decode;
mod describe;
mod element;
mod error;
pub mod file;
mod footer;
mod hash;
mod intset;
mod listpack;
mod lzf;
mod packed;
mod plain;
mod reader;
mod stream;
mod stream_encoding;
mod translate;
mod type_byte;
mod value;
mod write;
mod ziplist;
mod zipmap;

pub use decode::decode;
pub(crate) use describe::PartOf;
pub use describe::Show;
pub use error::PayloadError;
pub use footer::{FOOTER_LEN, Footer, fingerprint, split, verify, with_version};
pub use plain::{PlainString, plain_string};
pub use stream::{Consumer, Delivery, Entry, EntryFields, Group, History, Idempotence, Stream, StreamId};
pub use translate::{
    FieldTtl, Passage, Target, TranslateError, Translated, module_name, patch_version, seal_stream,
};
pub use type_byte::{Kind, kind_name, min_version, rewritable_version};
pub use value::{Field, Value};
pub use write::{append_string, string_payload};

/// What [`same_value`] lets each of the two decoded values take, in bytes counted roughly: 1 GiB.
pub const DECODE_LIMIT: usize = 1 << 30;

/// Returns whether two DUMP payloads hold the same value, whichever servers wrote them.
///
/// Equal bodies are the same without further checks or allocation. Others are decoded and compared by meaning
/// ([`Value::same`]): encoding and the order of sets, hashes and sorted sets don't count, and hash fields that
/// expire at `expired_by` (milliseconds since the epoch, by a server's clock) or before are taken as gone. Values of
/// modules are compared byte by byte.
///
/// Returns `TooShort`, `Checksum`, `Malformed`, `TooLarge` (more than [`DECODE_LIMIT`]) or `Unsupported` if
/// the bodies differ and one of them can't be judged.
pub fn same_value(a: &[u8], b: &[u8], expired_by: u64) -> Result<bool, PayloadError> {
    same_value_within(a, b, DECODE_LIMIT, expired_by)
}

/// [`same_value`], where each of the two decoded values may take at most `limit` bytes, counted roughly.
pub fn same_value_within(a: &[u8], b: &[u8], limit: usize, expired_by: u64) -> Result<bool, PayloadError> {
    if same_bytes(a, b)? {
        return Ok(true);
    }
    Ok(compare_values(a, b, limit, expired_by, Show::Shapes)? == Comparison::Same)
}

/// Returns whether two payloads are equal but for their footers, which is the quick way to say that the values
/// are. Returns `TooShort` for what is no payload.
#[inline]
pub fn same_bytes(a: &[u8], b: &[u8]) -> Result<bool, PayloadError> {
    let (body_a, footer_a) = split(a)?;
    let (body_b, footer_b) = split(b)?;
    Ok(body_a == body_b
        && type_byte::is_valkey(footer_a.rdb_version) == type_byte::is_valkey(footer_b.rdb_version))
}

/// How two values compare; where they differ, each is described in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Comparison {
    /// They mean the same.
    Same,
    /// Two values of one type.
    Different(String, String),
    /// Values of two types.
    OtherType(String, String),
}

/// Decodes two DUMP payloads, each in at most `limit` bytes counted roughly, and compares what they mean.
///
/// Hash fields that expire at `expired_by` or before are taken as gone, as in [`same_value`]. Returns the errors of [`same_value`].
pub fn compare_values(
    a: &[u8],
    b: &[u8],
    limit: usize,
    expired_by: u64,
    show: Show,
) -> Result<Comparison, PayloadError> {
    let (body_a, footer_a) = verify(a)?;
    let (body_b, footer_b) = verify(b)?;
    let kinds = (Kind::of(body_a[0]), Kind::of(body_b[0]));
    if let (Some(kind_a), Some(kind_b)) = kinds
        && kind_a != kind_b
    {
        return Ok(Comparison::OtherType(
            describe(a, limit, show).unwrap_or_else(|_| kind_a.name().to_owned()),
            describe(b, limit, show).unwrap_or_else(|_| kind_b.name().to_owned()),
        ));
    }
    let mut value_a = decode(body_a, footer_a, limit)?;
    let mut value_b = decode(body_b, footer_b, limit)?;
    value_a.forget_expired(expired_by);
    value_b.forget_expired(expired_by);
    Ok(if value_a.same(&value_b) {
        Comparison::Same
    } else {
        Comparison::Different(
            value_a.describe(Some(&value_b), show),
            value_b.describe(Some(&value_a), show),
        )
    })
}

/// Returns what a payload holds, in short, decoding it in at most `limit` bytes. Returns the errors of
/// [`same_value`].
pub fn describe(payload: &[u8], limit: usize, show: Show) -> Result<String, PayloadError> {
    let (body, footer) = verify(payload)?;
    Ok(decode(body, footer, limit)?.describe(None, show))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(body: &[u8], rdb_version: u16) -> Vec<u8> {
        [body, &Footer::new(body, rdb_version).to_bytes()].concat()
    }

    #[test]
    fn equal_bodies_are_the_same_whatever_the_version() {
        let body = b"\x1a not decoded";
        assert_eq!(same_value(&sealed(body, 13), &sealed(body, 14), 0), Ok(true));
    }

    #[test]
    fn equal_bytes_of_type_22_differ_between_server_lines() {
        // For Redis one field that expires at 1; for Valkey it ends early.
        let body = b"\x16\x01\x01\x01a\x01b";
        let redis = sealed(body, 12);
        assert_eq!(same_value(&redis, &redis, 0), Ok(true));
        assert!(same_value(&redis, &sealed(body, 80), 0).is_err());
    }

    #[test]
    fn encoding_and_order_do_not_count() {
        let integers = sealed(b"\x0b\x0c\x02\0\0\0\x02\0\0\0\x01\0\x02\0", 9);
        let strings = sealed(b"\x02\x02\x012\xc0\x01", 11);
        let list = sealed(b"\x01\x02\x012\xc0\x01", 11);
        let turned = sealed(b"\x01\x02\xc0\x01\x012", 11);
        assert_eq!(same_value(&integers, &strings, 0), Ok(true));
        assert_eq!(same_value(&strings, &list, 0), Ok(false));
        assert_eq!(same_value(&list, &turned, 0), Ok(false));
    }

    #[test]
    fn modules_are_the_same_byte_by_byte_only() {
        let [one, other] = [b"\x07one", b"\x07two"].map(|body| sealed(body, 11));
        assert_eq!(same_value(&one, &one, 0), Ok(true));
        assert_eq!(same_value(&one, &other, 0), Ok(false));
    }

    #[test]
    fn damage_is_reported_not_called_a_difference() {
        let sound = sealed(b"\x00\x01a", 11);
        let mut damaged = sealed(b"\x00\x01b", 11);
        damaged[2] = b'c';
        for (a, b) in [(&sound, &damaged), (&damaged, &sound)] {
            assert!(matches!(same_value(a, b, 0), Err(PayloadError::Checksum { .. })));
        }
        assert_eq!(
            same_value(&sound, b"", 0),
            Err(PayloadError::TooShort { length: 0 })
        );
    }
}
