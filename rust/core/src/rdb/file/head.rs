//! One length of the RDB format, or the head of one string.
//!
//! Invariant: a head is read whole or not at all, so that it may be cut anywhere; nothing is allocated for what it
//! announces.

/// What stands before a string's bytes, or where a length is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Head {
    /// A length, or the length of a plain string.
    Plain(u64),
    /// A string that is a number of so many bytes.
    Integer(u8),
    /// A compressed string: its bytes here, and decompressed.
    Compressed(u64, u64),
}

/// Reads the head at the beginning of `data` with its size in bytes; `None` where it is not whole yet.
#[inline]
pub(super) fn read(data: &[u8]) -> Result<Option<(Head, usize)>, &'static str> {
    let Some((&first, rest)) = data.split_first() else {
        return Ok(None);
    };
    let low = first & 0x3f;
    let plain = |length: u64, size: usize| Ok(Some((Head::Plain(length), size)));
    match first {
        0x00..=0x3f => plain(low.into(), 1),
        0x40..=0x7f => match rest.first() {
            Some(&next) => plain(u16::from_be_bytes([low, next]).into(), 2),
            None => Ok(None),
        },
        0x80 => match rest.first_chunk() {
            Some(bytes) => plain(u32::from_be_bytes(*bytes).into(), 5),
            None => Ok(None),
        },
        0x81 => match rest.first_chunk() {
            Some(bytes) => plain(u64::from_be_bytes(*bytes), 9),
            None => Ok(None),
        },
        0xc0..=0xc2 => Ok(Some((Head::Integer(1 << low), 1))),
        0xc3 => compressed(rest),
        _ => Err("a length has an unknown encoding"),
    }
}

/// Reads a length where no string may stand.
#[inline]
pub(super) fn length(data: &[u8]) -> Result<Option<(u64, usize)>, &'static str> {
    match read(data)? {
        None => Ok(None),
        Some((Head::Plain(length), size)) => Ok(Some((length, size))),
        Some(_) => Err("a string stands where a length is due"),
    }
}

fn compressed(rest: &[u8]) -> Result<Option<(Head, usize)>, &'static str> {
    let Some((compressed, first)) = length_alone(rest)? else {
        return Ok(None);
    };
    let Some((plain, second)) = length_alone(&rest[first..])? else {
        return Ok(None);
    };
    Ok(Some((Head::Compressed(compressed, plain), 1 + first + second)))
}

/// [`length`], without coming back here for a head within a head.
fn length_alone(data: &[u8]) -> Result<Option<(u64, usize)>, &'static str> {
    match data.first() {
        Some(0xc0..) => Err("a string stands where a length is due"),
        _ => length(data),
    }
}
