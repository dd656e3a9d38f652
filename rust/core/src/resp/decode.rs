//! Replies, borrowed from the read buffer.
//!
//! Invariant: never reads past the buffer, never allocates by a length that the peer only claims, and never
//! panics, whatever the bytes.

use std::fmt;

/// One reply that is no nested array; arrays come as their header, their elements follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// `+text`
    Simple(&'a [u8]),
    /// `-text`
    Error(&'a [u8]),
    /// `:number`
    Integer(i64),
    /// `$length`, and nil as `None`
    Bulk(Option<&'a [u8]>),
    /// `*count`, and nil as `None`
    Array(Option<usize>),
}

impl Reply<'_> {
    /// What kind of reply it is, for a message: never what it holds, which may be long.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Simple(_) => "a status",
            Self::Error(_) => "an error",
            Self::Integer(_) => "a number",
            Self::Bulk(None) | Self::Array(None) => "nil",
            Self::Bulk(Some(_)) => "a text",
            Self::Array(Some(_)) => "an array",
        }
    }
}

/// What a look at the buffer gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoded<T> {
    /// A whole reply, and how many bytes it took.
    Whole(T, usize),
    /// The reply is not all there: at least so many bytes in all are needed before it can be.
    Partial(usize),
}

/// Bytes that are no RESP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ProtocolError {
    start: Vec<u8>,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the peer sends no RESP reply that fits: \"{}\"",
            self.start.escape_ascii()
        )
    }
}

impl ProtocolError {
    /// The reply at the start of `data` is not of the kind that its command gives.
    pub(crate) fn at(data: &[u8]) -> Self {
        Self {
            start: data[..data.len().min(40)].to_vec(),
        }
    }
}

/// No status line, error or length of a real server is longer than this.
const LONGEST_LINE: usize = 64 * 1024;

/// Longest bulk that is believed: far beyond what any server's DUMP returns, far below overflow.
const LONGEST_BULK: usize = 1 << 40;

/// Look for one reply at the start of `data`.
#[inline]
pub fn decode(data: &[u8]) -> Result<Decoded<Reply<'_>>, ProtocolError> {
    let Some((&kind, rest)) = data.split_first() else {
        return Ok(Decoded::Partial(1));
    };
    match kind {
        b'+' | b'-' => {
            let Some(end) = line_end(rest).ok_or_else(|| ProtocolError::at(data))? else {
                return Ok(Decoded::Partial(data.len() + 1));
            };
            let line = &rest[..end];
            let reply = if kind == b'+' {
                Reply::Simple(line)
            } else {
                Reply::Error(line)
            };
            Ok(Decoded::Whole(reply, end + 3))
        }
        b':' | b'$' | b'*' => {
            let Some((number, digits)) = number(rest).ok_or_else(|| ProtocolError::at(data))? else {
                return Ok(Decoded::Partial(data.len() + 1));
            };
            let after = digits + 3;
            let reply = match kind {
                b':' => Reply::Integer(number),
                b'*' => Reply::Array(length(number).ok_or_else(|| ProtocolError::at(data))?),
                _ => match length(number).ok_or_else(|| ProtocolError::at(data))? {
                    None => Reply::Bulk(None),
                    Some(length) => return bulk(data, after, length),
                },
            };
            Ok(Decoded::Whole(reply, after))
        }
        _ => Err(ProtocolError::at(data)),
    }
}

/// The bulk of `length` bytes that stands at `start`.
#[inline]
fn bulk(data: &[u8], start: usize, length: usize) -> Result<Decoded<Reply<'_>>, ProtocolError> {
    let end = start + length;
    match data.get(end..end + 2) {
        Some(b"\r\n") => Ok(Decoded::Whole(Reply::Bulk(Some(&data[start..end])), end + 2)),
        Some(_) => Err(ProtocolError::at(data)),
        None => Ok(Decoded::Partial(end + 2)),
    }
}

/// How long the line at the start of `data` is, if its `\r\n` is there yet. The outer `None`: it is no line.
#[allow(clippy::option_option, reason = "no line and no line yet are two things")]
fn line_end(data: &[u8]) -> Option<Option<usize>> {
    let window = &data[..data.len().min(LONGEST_LINE)];
    match memchr::memchr(b'\r', window) {
        Some(end) => match data.get(end + 1) {
            Some(b'\n') => Some(Some(end)),
            Some(_) => None,
            None => Some(None),
        },
        None if data.len() >= LONGEST_LINE => None,
        None => Some(None),
    }
}

/// The number in the line at the start of `data`, and how many bytes it took, if its `\r\n` is there yet. The
/// outer `None`: it is no number.
#[inline]
#[allow(clippy::option_option, reason = "no number and no number yet are two things")]
fn number(data: &[u8]) -> Option<Option<(i64, usize)>> {
    /// `i64::MIN` has this many digits and its sign.
    const LONGEST: usize = 20;
    let negative = data.first() == Some(&b'-');
    let first = usize::from(negative);
    // Counted downwards, so that i64::MIN is read too.
    let mut value: i64 = 0;
    for (at, &byte) in data.iter().enumerate().skip(first) {
        match byte {
            b'0'..=b'9' if at < LONGEST => {
                value = value.checked_mul(10)?.checked_sub(i64::from(byte - b'0'))?;
            }
            b'\r' if at > first => {
                let value = if negative { value } else { value.checked_neg()? };
                return match data.get(at + 1) {
                    Some(b'\n') => Some(Some((value, at))),
                    Some(_) => None,
                    None => Some(None),
                };
            }
            _ => return None,
        }
    }
    Some(None)
}

/// The length that a bulk or array claims; `Some(None)` is nil (`-1`), `None` is no length.
#[inline]
#[allow(clippy::option_option, reason = "nil and nonsense are two things")]
fn length(number: i64) -> Option<Option<usize>> {
    match number {
        -1 => Some(None),
        length => usize::try_from(length)
            .ok()
            .filter(|&length| length <= LONGEST_BULK)
            .map(Some),
    }
}

/// The reply to a SCAN: the next cursor, and the keys, still in the read buffer.
#[derive(Debug, PartialEq, Eq)]
pub struct ScanPage<'a> {
    /// Where SCAN goes on; 0 at the end.
    pub cursor: u64,
    /// How many keys the page holds.
    pub count: usize,
    keys: &'a [u8],
}

impl<'a> ScanPage<'a> {
    /// The keys in the server's order.
    pub fn keys(&self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.keys;
        std::iter::from_fn(move || match decode(rest) {
            Ok(Decoded::Whole(Reply::Bulk(Some(key)), used)) => {
                rest = &rest[used..];
                Some(key)
            }
            _ => None,
        })
    }
}

/// A SCAN's reply, or the error that the server gave instead.
pub type ScanReply<'a> = Result<ScanPage<'a>, &'a [u8]>;

/// How far a SCAN's reply was looked at while it was not all there, so that a long one is not looked at from its
/// start whenever more of it has come.
#[derive(Debug, Default, Clone, Copy)]
pub struct ScanProgress {
    /// Cursor, number of keys and where they begin, once they are known.
    head: Option<(u64, usize, usize)>,
    /// How many keys were seen, and where the next one begins.
    seen: usize,
    at: usize,
}

/// Look for the reply to a SCAN at the start of `data`.
pub fn decode_scan(data: &[u8]) -> Result<Decoded<ScanReply<'_>>, ProtocolError> {
    decode_scan_on(data, &mut ScanProgress::default())
}

/// The same, where the start of `data` was looked at before: `progress` says how far. It begins anew with each
/// reply.
pub fn decode_scan_on<'a>(
    data: &'a [u8],
    progress: &mut ScanProgress,
) -> Result<Decoded<ScanReply<'a>>, ProtocolError> {
    let wrong = || ProtocolError::at(data);
    let (cursor, count, first) = if let Some(head) = progress.head {
        head
    } else {
        let (cursor, count, first) = match scan_head(data)? {
            Decoded::Partial(need) => return Ok(Decoded::Partial(need)),
            Decoded::Whole(Err(text), used) => return Ok(Decoded::Whole(Err(text), used)),
            Decoded::Whole(Ok((cursor, count)), used) => (cursor, count, used),
        };
        *progress = ScanProgress {
            head: Some((cursor, count, first)),
            seen: 0,
            at: first,
        };
        (cursor, count, first)
    };
    while progress.seen < count {
        match decode(&data[progress.at..])? {
            Decoded::Whole(Reply::Bulk(Some(_)), used) => {
                progress.at += used;
                progress.seen += 1;
            }
            Decoded::Whole(..) => return Err(wrong()),
            Decoded::Partial(need) => return Ok(Decoded::Partial(progress.at + need)),
        }
    }
    let at = std::mem::take(progress).at;
    let keys = &data[first..at];
    Ok(Decoded::Whole(Ok(ScanPage { cursor, count, keys }), at))
}

/// Cursor and number of keys of a SCAN, or the error that the server gave instead.
type ScanHead<'a> = Result<(u64, usize), &'a [u8]>;

/// Cursor and number of keys of a SCAN's reply.
fn scan_head(data: &[u8]) -> Result<Decoded<ScanHead<'_>>, ProtocolError> {
    let wrong = || ProtocolError::at(data);
    let mut at = match decode(data)? {
        Decoded::Whole(Reply::Array(Some(2)), used) => used,
        Decoded::Whole(Reply::Error(text), used) => return Ok(Decoded::Whole(Err(text), used)),
        Decoded::Whole(..) => return Err(wrong()),
        Decoded::Partial(need) => return Ok(Decoded::Partial(need)),
    };
    let cursor = match decode(&data[at..])? {
        Decoded::Whole(Reply::Bulk(Some(digits)), used) => {
            at += used;
            std::str::from_utf8(digits)
                .ok()
                .and_then(|digits| digits.parse().ok())
                .ok_or_else(wrong)?
        }
        Decoded::Whole(..) => return Err(wrong()),
        Decoded::Partial(need) => return Ok(Decoded::Partial(at + need)),
    };
    match decode(&data[at..])? {
        Decoded::Whole(Reply::Array(Some(count)), used) => Ok(Decoded::Whole(Ok((cursor, count)), at + used)),
        Decoded::Whole(..) => Err(wrong()),
        Decoded::Partial(need) => Ok(Decoded::Partial(at + need)),
    }
}

/// Look for the reply to TIME at the start of `data`: ms since the epoch.
pub fn decode_time(data: &[u8]) -> Result<Decoded<u64>, ProtocolError> {
    let mut at = match decode(data)? {
        Decoded::Whole(Reply::Array(Some(2)), used) => used,
        Decoded::Whole(..) => return Err(ProtocolError::at(data)),
        Decoded::Partial(need) => return Ok(Decoded::Partial(need)),
    };
    let mut parts = [0u64; 2];
    for part in &mut parts {
        match decode(&data[at..])? {
            Decoded::Whole(Reply::Bulk(Some(digits)), used) => {
                at += used;
                *part = std::str::from_utf8(digits)
                    .ok()
                    .and_then(|digits| digits.parse().ok())
                    .ok_or_else(|| ProtocolError::at(data))?;
            }
            Decoded::Whole(..) => return Err(ProtocolError::at(data)),
            Decoded::Partial(need) => return Ok(Decoded::Partial(at + need)),
        }
    }
    let [seconds, micros] = parts;
    Ok(Decoded::Whole(
        seconds.saturating_mul(1000).saturating_add(micros / 1000),
        at,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(data: &[u8]) -> (Reply<'_>, usize) {
        match decode(data).expect("is RESP") {
            Decoded::Whole(reply, used) => (reply, used),
            Decoded::Partial(need) => panic!("partial, needs {need}"),
        }
    }

    #[test]
    fn every_kind() {
        assert_eq!(whole(b"+OK\r\nrest"), (Reply::Simple(b"OK"), 5));
        assert_eq!(whole(b"-ERR no\r\n"), (Reply::Error(b"ERR no"), 9));
        assert_eq!(whole(b":-2\r\n"), (Reply::Integer(-2), 5));
        assert_eq!(whole(b":-9223372036854775808\r\n").0, Reply::Integer(i64::MIN));
        assert_eq!(whole(b"$-1\r\n"), (Reply::Bulk(None), 5));
        assert_eq!(whole(b"$4\r\na\r\nb\r\n"), (Reply::Bulk(Some(b"a\r\nb")), 10));
        assert_eq!(whole(b"*3\r\n"), (Reply::Array(Some(3)), 4));
        assert_eq!(whole(b"*-1\r\n"), (Reply::Array(None), 5));
    }

    #[test]
    fn partial_replies_say_what_they_need() {
        assert_eq!(decode(b""), Ok(Decoded::Partial(1)));
        assert_eq!(decode(b"+OK\r"), Ok(Decoded::Partial(5)));
        assert_eq!(decode(b"$5\r\nab"), Ok(Decoded::Partial(11)));
    }

    #[test]
    fn what_is_no_resp() {
        for data in [
            b"HTTP/1.1 400 Bad Request\r\n".as_slice(),
            b"$x\r\n",
            b"$-2\r\n",
            b":\r\n",
            b":1x\r\n",
            b"+a\rb",
            b"$2\r\nabcd",
            b"$99999999999999999999\r\n",
        ] {
            assert!(decode(data).is_err(), "{}", data.escape_ascii());
        }
        assert!(decode(&vec![b'+'; LONGEST_LINE + 1]).is_err());
    }

    #[test]
    fn a_scan_page() {
        let data = b"*2\r\n$2\r\n17\r\n*2\r\n$1\r\na\r\n$3\r\n\r\n\x00\r\n+next";
        let Ok(Decoded::Whole(Ok(page), used)) = decode_scan(data) else {
            panic!("is a page");
        };
        assert_eq!((page.cursor, page.count, used), (17, 2, data.len() - 5));
        assert_eq!(page.keys().collect::<Vec<_>>(), [b"a".as_slice(), b"\r\n\x00"]);
        for cut in 0..used {
            assert!(
                matches!(decode_scan(&data[..cut]), Ok(Decoded::Partial(need)) if need > cut),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_page_that_comes_in_pieces_is_looked_at_once() {
        let data = b"*2\r\n$2\r\n17\r\n*3\r\n$1\r\na\r\n$3\r\nbcd\r\n$0\r\n\r\n+next";
        let mut progress = ScanProgress::default();
        let mut at = 0;
        for cut in 0..data.len() - 5 {
            assert!(
                matches!(decode_scan_on(&data[..cut], &mut progress), Ok(Decoded::Partial(need)) if need > cut)
            );
            assert!(progress.at >= at && progress.at <= cut, "{progress:?}");
            at = progress.at;
        }
        let Ok(Decoded::Whole(Ok(page), used)) = decode_scan_on(data, &mut progress) else {
            panic!("is a page");
        };
        assert_eq!((page.cursor, page.count, used), (17, 3, data.len() - 5));
        assert_eq!(page.keys().collect::<Vec<_>>(), [b"a".as_slice(), b"bcd", b""]);
        assert!(progress.head.is_none() && at > 20);
    }

    #[test]
    fn the_servers_clock() {
        let data = b"*2\r\n$10\r\n1700000000\r\n$6\r\n123456\r\n";
        assert_eq!(
            decode_time(data),
            Ok(Decoded::Whole(1_700_000_000_123, data.len()))
        );
        for cut in 0..data.len() {
            assert!(matches!(decode_time(&data[..cut]), Ok(Decoded::Partial(need)) if need > cut));
        }
        assert!(decode_time(b"*2\r\n:1\r\n").is_err());
    }

    #[test]
    fn a_scan_error() {
        assert_eq!(
            decode_scan(b"-NOPERM no\r\n"),
            Ok(Decoded::Whole(Err(b"NOPERM no".as_slice()), 12))
        );
        assert!(decode_scan(b":1\r\n").is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(data in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&data);
            let _ = decode_scan(&data);
        }

        #[test]
        fn almost_resp_is_survived(data in r"[*$:+-][0-9-]{0,3}(\r\n)?[*$:+a-z0-9\r\n-]{0,40}") {
            let _ = decode(data.as_bytes());
            let _ = decode_scan(data.as_bytes());
        }

        #[test]
        fn bulks_come_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut data = Vec::new();
            crate::resp::encode::bulk(&mut data, &bytes);
            prop_assert_eq!(decode(&data), Ok(Decoded::Whole(Reply::Bulk(Some(&bytes)), data.len())));
            for cut in 0..data.len() {
                prop_assert!(matches!(decode(&data[..cut]), Ok(Decoded::Partial(_))));
            }
        }
    }
}
