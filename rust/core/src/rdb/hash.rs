//! Hashes, with and without fields that expire.
//!
//! Invariant: an expiry comes out in milliseconds since the epoch, however the encoding counts it. Formats:
//! Redis `rdb.c`, `rdbLoadObject`, and Valkey's for type 22.

use std::collections::BTreeMap;

use crate::rdb::error::PayloadError;
use crate::rdb::packed::Packing;
use crate::rdb::reader::{PlacedElements, Reader};
use crate::rdb::value::Field;

type Fields = BTreeMap<Vec<u8>, Field>;

/// Fields and values in turn.
pub(crate) fn read_plain(reader: &mut Reader<'_>) -> Result<Fields, PayloadError> {
    read_fields(reader, read_field)
}

/// Valkey ≥ 9: field, value, expiry (-1 for none).
pub(crate) fn read_valkey(reader: &mut Reader<'_>) -> Result<Fields, PayloadError> {
    read_fields(reader, |reader| {
        let (name, value) = read_pair(reader)?;
        let expiry = i64::from_le_bytes(reader.array()?);
        let expires_at_ms = (expiry != -1)
            .then(|| u64::try_from(expiry))
            .transpose()
            .map_err(|_| reader.malformed("a field's expiry is negative"))?;
        Ok((name, Field { value, expires_at_ms }))
    })
}

/// Redis before 7.4's release: expiry (0 for none), field, value.
pub(crate) fn read_pre_release(reader: &mut Reader<'_>) -> Result<Fields, PayloadError> {
    read_fields(reader, |reader| {
        let expiry = reader.length()?;
        let (name, value) = read_pair(reader)?;
        let expires_at_ms = (expiry != 0).then_some(expiry);
        Ok((name, Field { value, expires_at_ms }))
    })
}

/// Redis ≥ 7.4: the soonest expiry; then each field's, counted from there plus one (0 for none), field, value.
pub(crate) fn read_metadata(reader: &mut Reader<'_>) -> Result<Fields, PayloadError> {
    let soonest = u64::from_le_bytes(reader.array()?);
    read_fields(reader, |reader| {
        let after = reader.length()?;
        let (name, value) = read_pair(reader)?;
        let expires_at_ms = after
            .checked_sub(1)
            .map(|after| soonest.checked_add(after).ok_or(()))
            .transpose()
            .map_err(|()| reader.malformed("a field's expiry is out of range"))?;
        Ok((name, Field { value, expires_at_ms }))
    })
}

fn read_field(reader: &mut Reader<'_>) -> Result<(Vec<u8>, Field), PayloadError> {
    let (name, value) = read_pair(reader)?;
    let expires_at_ms = None;
    Ok((name, Field { value, expires_at_ms }))
}

fn read_pair(reader: &mut Reader<'_>) -> Result<(Vec<u8>, Vec<u8>), PayloadError> {
    Ok((reader.kept_string()?, reader.kept_string()?))
}

fn read_fields(
    reader: &mut Reader<'_>,
    read_field: impl Fn(&mut Reader<'_>) -> Result<(Vec<u8>, Field), PayloadError>,
) -> Result<Fields, PayloadError> {
    let mut fields = Fields::new();
    for _ in 0..reader.length()? {
        let (name, field) = read_field(reader)?;
        add_field(&mut fields, name, field, reader)?;
    }
    Ok(fields)
}

/// Fields and values in turn, in one string.
pub(crate) fn read_packed(reader: &mut Reader<'_>, packing: Packing) -> Result<Fields, PayloadError> {
    read_packed_fields(reader, packing, |_| Ok(None))
}

/// Redis ≥ 7.4: the soonest expiry, then as below.
pub(crate) fn read_expiring_packed(reader: &mut Reader<'_>) -> Result<Fields, PayloadError> {
    // Nothing counts from the soonest expiry here: it is there for servers that keep values on disk.
    reader.array::<8>()?;
    read_pre_release_packed(reader)
}

/// Redis before 7.4's release: a listpack of field, value, expiry (0 for none).
pub(crate) fn read_pre_release_packed(reader: &mut Reader<'_>) -> Result<Fields, PayloadError> {
    read_packed_fields(reader, Packing::Listpack, |elements| {
        let expiry = elements.due("the last field of a hash lacks its expiry")?;
        let expires_at_ms = expiry
            .as_int()
            .and_then(|at| u64::try_from(at).ok())
            .ok_or_else(|| elements.malformed("a field's expiry is not a time"))?;
        Ok((expires_at_ms != 0).then_some(expires_at_ms))
    })
}

fn read_packed_fields(
    reader: &mut Reader<'_>,
    packing: Packing,
    read_expiry: impl Fn(&mut PlacedElements<'_>) -> Result<Option<u64>, PayloadError>,
) -> Result<Fields, PayloadError> {
    let mut fields = Fields::new();
    let blob = reader.string()?;
    let mut elements = blob.elements(packing)?;
    while let Some(name) = elements.next() {
        let name = reader.keep(name?)?;
        let value = reader.keep(elements.due("the last field of a hash lacks its value")?)?;
        let expires_at_ms = read_expiry(&mut elements)?;
        let field = Field { value, expires_at_ms };
        add_field(&mut fields, name, field, reader)?;
    }
    Ok(fields)
}

fn add_field(
    fields: &mut Fields,
    name: Vec<u8>,
    field: Field,
    reader: &Reader<'_>,
) -> Result<(), PayloadError> {
    match fields.insert(name, field) {
        None => Ok(()),
        Some(_) => Err(reader.malformed("a hash holds a field twice")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::listpack::tests::pack;
    use crate::rdb::{Footer, Value, decode};

    const REDIS: u16 = 12;
    const VALKEY: u16 = 80;

    fn read(body: &[u8], rdb_version: u16) -> Result<Vec<(String, Option<u64>)>, PayloadError> {
        match decode(body, Footer::new(body, rdb_version), 10_000)? {
            Value::Hash(fields) => Ok(fields
                .into_iter()
                .map(|(name, field)| {
                    let pair = [name, field.value].concat();
                    (String::from_utf8_lossy(&pair).into(), field.expires_at_ms)
                })
                .collect()),
            other => panic!("no hash: {other:?}"),
        }
    }

    /// Two fields: `a` = `1` without expiry, `b` = `2` that expires at 1000.
    fn expected() -> Vec<(String, Option<u64>)> {
        vec![("a1".into(), None), ("b2".into(), Some(1000))]
    }

    #[test]
    fn type_22_depends_on_who_wrote_it() {
        let valkey = b"\x16\x02\x01a\x011\xff\xff\xff\xff\xff\xff\xff\xff\x01b\x012\xe8\x03\0\0\0\0\0\0";
        let redis = b"\x16\x02\x00\x01a\x011\x43\xe8\x01b\x012";
        assert_eq!(read(valkey, VALKEY), Ok(expected()));
        assert_eq!(read(redis, REDIS), Ok(expected()));
        assert!(read(valkey, REDIS).is_err());
        assert!(read(redis, VALKEY).is_err());
    }

    #[test]
    fn expiries_count_from_the_soonest() {
        let body = b"\x18\xe8\x03\0\0\0\0\0\0\x03\x00\x01a\x011\x01\x01b\x012\x06\x01c\x013";
        let mut fields = expected();
        fields.push(("c3".into(), Some(1005)));
        assert_eq!(read(body, REDIS), Ok(fields));
    }

    #[test]
    fn packed_expiries_are_absolute() {
        let listpack = pack(&[b"\x81a", b"\x01", b"\x00", b"\x81b", b"\x02", b"\xf1\xe8\x03"]);
        let string = [&[listpack.len() as u8][..], &listpack].concat();
        let pre_release = [&b"\x17"[..], &string].concat();
        let released = [&b"\x19\xe8\x03\0\0\0\0\0\0"[..], &string].concat();
        assert_eq!(read(&pre_release, REDIS), Ok(expected()));
        assert_eq!(read(&released, REDIS), Ok(expected()));
    }

    #[test]
    fn expiries_out_of_range_are_refused() {
        let negative = b"\x16\x01\x01a\x011\xfe\xff\xff\xff\xff\xff\xff\xff";
        assert!(read(negative, VALKEY).is_err());
        let beyond = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\x01\x02\x01a\x011";
        assert!(read(beyond, REDIS).is_err());
        let listpack = pack(&[b"\x81a", b"\x01", b"\xdf\xff"]);
        let packed = [&[0x17, listpack.len() as u8][..], &listpack].concat();
        assert!(read(&packed, REDIS).is_err());
        let incomplete = pack(&[b"\x81a", b"\x01"]);
        let packed = [&[0x17, incomplete.len() as u8][..], &incomplete].concat();
        assert!(read(&packed, REDIS).is_err());
    }
}
