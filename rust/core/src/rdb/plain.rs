//! Payloads of plain strings, which a server is given by SET: cheaper for it than RESTORE, and the same afterwards.
//!
//! Invariant: the value is exactly the one that RESTORE would bring, and its checksum was right: what is compressed, cut
//! off or damaged is left to RESTORE, whose reply says so.

use crate::rdb::footer::verify;
use crate::rdb::type_byte;

/// The value of a plain string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainString<'a> {
    /// Its bytes.
    Bytes(&'a [u8]),
    /// An integer; the value are its digits.
    Integer(i32),
}

/// The value of a payload that holds a string, and holds it plainly.
///
/// Format: Redis `rdb.c`, `rdbLoadLenByRef` and `rdbGenericLoadStringObject`.
#[inline]
pub fn plain_string(payload: &[u8]) -> Option<PlainString<'_>> {
    let (&first, rest) = payload.split_first()?;
    if first != type_byte::STRING {
        return None;
    }
    let (&encoding, rest) = rest.split_first()?;
    let (length, rest) = match encoding {
        0x00..=0x3f => (usize::from(encoding), rest),
        0x40..=0x7f => {
            let (&low, rest) = rest.split_first()?;
            (usize::from(u16::from_be_bytes([encoding & 0x3f, low])), rest)
        }
        0x80 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::try_from(u32::from_be_bytes(*length)).ok()?, rest)
        }
        0x81 => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::try_from(u64::from_be_bytes(*length)).ok()?, rest)
        }
        0xc0 => return checked(payload, rest, 1, i8::from_le_bytes(*rest.first_chunk()?).into()),
        0xc1 => return checked(payload, rest, 2, i16::from_le_bytes(*rest.first_chunk()?).into()),
        0xc2 => return checked(payload, rest, 4, i32::from_le_bytes(*rest.first_chunk()?)),
        _ => return None,
    };
    let value = rest.get(..length)?;
    let is_whole = rest.len() - length == crate::rdb::FOOTER_LEN && verify(payload).is_ok();
    is_whole.then_some(PlainString::Bytes(value))
}

fn checked<'a>(payload: &[u8], rest: &[u8], length: usize, value: i32) -> Option<PlainString<'a>> {
    let is_whole = rest.len() == length + crate::rdb::FOOTER_LEN && verify(payload).is_ok();
    is_whole.then_some(PlainString::Integer(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::footer::Footer;

    fn payload(body: &[u8]) -> Vec<u8> {
        [body, &Footer::new(body, 10).to_bytes()].concat()
    }

    #[test]
    fn strings_of_every_encoding() {
        let long = vec![b'x'; 70_000];
        let bodies: [(Vec<u8>, PlainString<'_>); 8] = [
            (b"\0\0".to_vec(), PlainString::Bytes(b"")),
            (b"\0\x03abc".to_vec(), PlainString::Bytes(b"abc")),
            (
                [b"\0\x41\x00", &long[..256]].concat(),
                PlainString::Bytes(&long[..256]),
            ),
            (
                [b"\0\x80\x00\x01\x11\x70".as_slice(), &long].concat(),
                PlainString::Bytes(&long),
            ),
            (
                b"\0\x81\x00\x00\x00\x00\x00\x00\x00\x02ab".to_vec(),
                PlainString::Bytes(b"ab"),
            ),
            (b"\0\xc0\x80".to_vec(), PlainString::Integer(-128)),
            (b"\0\xc1\x00\x80".to_vec(), PlainString::Integer(-32_768)),
            (b"\0\xc2\xff\xff\xff\x7f".to_vec(), PlainString::Integer(i32::MAX)),
        ];
        for (body, value) in bodies {
            assert_eq!(plain_string(&payload(&body)), Some(value), "{}", body.len());
        }
    }

    #[test]
    fn what_is_no_plain_string_is_left_to_restore() {
        // Compressed, another type, an unknown encoding, a byte too few and one too many.
        for body in [
            b"\0\xc3\x05\x0aabcde".as_slice(),
            b"\x01\x03abc",
            b"\0\xc4\x00",
            b"\0\x82\x00",
            b"\0\x03ab",
            b"\0\x03abcd",
            b"\0\xc0\x01\x02",
            b"\0\xc1\x01",
            b"\0",
            b"",
        ] {
            assert_eq!(plain_string(&payload(body)), None, "{}", body.escape_ascii());
        }
        assert_eq!(plain_string(b"\0"), None);
    }

    #[test]
    fn a_damaged_string_is_left_to_restore() {
        for body in [b"\0\x03abc".as_slice(), b"\0\xc0\x05"] {
            let whole = payload(body);
            for at in 0..whole.len() {
                for bit in 0..8 {
                    let mut damaged = whole.clone();
                    damaged[at] ^= 1 << bit;
                    assert_eq!(plain_string(&damaged), None, "{at}.{bit}");
                    assert_eq!(plain_string(&whole[..at]), None, "{at}");
                }
            }
        }
    }
}
