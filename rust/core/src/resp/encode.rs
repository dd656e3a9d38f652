//! Commands as RESP arrays of bulk strings, appended to a buffer.
//!
//! Invariant: any bytes go into keys and payloads; nothing is quoted, everything is length-prefixed.

use crate::resp::Eviction;

/// Append `$<length>\r\n<bytes>\r\n`.
#[inline]
pub fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    length(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

/// Append a whole command.
pub fn command(out: &mut Vec<u8>, arguments: &[&[u8]]) {
    length(out, b'*', arguments.len());
    for argument in arguments {
        bulk(out, argument);
    }
}

#[inline]
fn length(out: &mut Vec<u8>, kind: u8, length: usize) {
    let mut digits = itoa::Buffer::new();
    out.push(kind);
    out.extend_from_slice(digits.format(length).as_bytes());
    out.extend_from_slice(b"\r\n");
}

/// Append a number as a bulk string.
#[inline]
fn number(out: &mut Vec<u8>, number: u64) {
    let mut digits = itoa::Buffer::new();
    bulk(out, digits.format(number).as_bytes());
}

/// Append `SCAN cursor COUNT count [MATCH pattern] [TYPE type]`.
pub fn scan(out: &mut Vec<u8>, cursor: u64, count: u32, pattern: Option<&[u8]>, type_name: Option<&[u8]>) {
    let arguments = 4 + 2 * usize::from(pattern.is_some()) + 2 * usize::from(type_name.is_some());
    length(out, b'*', arguments);
    bulk(out, b"SCAN");
    number(out, cursor);
    bulk(out, b"COUNT");
    number(out, u64::from(count));
    if let Some(pattern) = pattern {
        bulk(out, b"MATCH");
        bulk(out, pattern);
    }
    if let Some(type_name) = type_name {
        bulk(out, b"TYPE");
        bulk(out, type_name);
    }
}

/// How the expiry of a key is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryCommand {
    /// `PEXPIRETIME` (Redis 7.0, Valkey): absolute, ms since the epoch.
    Absolute,
    /// `PTTL`: ms from now; made absolute with the server's own `TIME`.
    Relative,
}

/// Append the read of a key's expiry.
#[inline]
pub fn expiry(out: &mut Vec<u8>, expiry: ExpiryCommand, key: &[u8]) {
    out.extend_from_slice(match expiry {
        ExpiryCommand::Absolute => b"*2\r\n$11\r\nPEXPIRETIME\r\n".as_slice(),
        ExpiryCommand::Relative => b"*2\r\n$4\r\nPTTL\r\n".as_slice(),
    });
    bulk(out, key);
}

/// Append `DUMP key`.
#[inline]
pub fn dump(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"*2\r\n$4\r\nDUMP\r\n");
    bulk(out, key);
}

/// Append `TYPE key`.
#[inline]
pub fn type_of(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"*2\r\n$4\r\nTYPE\r\n");
    bulk(out, key);
}

/// Append `EXISTS key…`, which counts those that exist.
pub fn exists<'a>(out: &mut Vec<u8>, keys: impl ExactSizeIterator<Item = &'a [u8]>) {
    length(out, b'*', keys.len() + 1);
    bulk(out, b"EXISTS");
    for key in keys {
        bulk(out, key);
    }
}

/// Append `GETRANGE key 0 last`; −1 is the last byte.
#[inline]
pub fn getrange(out: &mut Vec<u8>, key: &[u8], last: i64) {
    out.extend_from_slice(b"*4\r\n$8\r\nGETRANGE\r\n");
    bulk(out, key);
    bulk(out, b"0");
    let mut digits = itoa::Buffer::new();
    bulk(out, digits.format(last).as_bytes());
}

/// Append `MEMORY USAGE key`.
#[inline]
pub fn memory_usage(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"*3\r\n$6\r\nMEMORY\r\n$5\r\nUSAGE\r\n");
    bulk(out, key);
}

/// Append the read of how cold or hot a key is: `OBJECT IDLETIME key` or `OBJECT FREQ key`.
pub fn object(out: &mut Vec<u8>, eviction: Eviction, key: &[u8]) {
    let measure: &[u8] = match eviction {
        Eviction::IdleTime => b"IDLETIME",
        Eviction::Frequency => b"FREQ",
    };
    command(out, &[b"OBJECT", measure, key]);
}

/// Append `IDLETIME seconds` or `FREQ counter` to the RESTORE that begins at `start` and ends the buffer.
pub fn eviction(out: &mut Vec<u8>, start: usize, (eviction, measure): (Eviction, u64)) {
    // A RESTORE has 4 to 6 arguments: one digit.
    out[start + 1] += 2;
    bulk(
        out,
        match eviction {
            Eviction::IdleTime => b"IDLETIME",
            Eviction::Frequency => b"FREQ",
        },
    );
    number(out, measure);
}

/// Append `TIME`.
#[inline]
pub fn time(out: &mut Vec<u8>) {
    out.extend_from_slice(b"*1\r\n$4\r\nTIME\r\n");
}

/// Append `ASKING`, which covers exactly the next command.
#[inline]
pub fn asking(out: &mut Vec<u8>) {
    out.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
}

/// Append `RESTORE-ASKING key ttl payload`, which a node that imports the slot takes (what MIGRATE sends); `ttl`
/// in ms from then on, 0 for none.
pub fn restore_asking(out: &mut Vec<u8>, key: &[u8], ttl: u64, payload: &[u8]) {
    out.reserve(key.len() + payload.len() + 96);
    out.extend_from_slice(b"*4\r\n$14\r\nRESTORE-ASKING\r\n");
    bulk(out, key);
    number(out, ttl);
    bulk(out, payload);
}

/// Append the beginning of a command of `arguments` arguments; they follow by [`bulk`].
pub fn head(out: &mut Vec<u8>, arguments: usize) {
    length(out, b'*', arguments);
}

/// Append `RESTORE key ttl payload [REPLACE] [ABSTTL]`.
///
/// `expires_at` is ms since the epoch; 0 means that the key does not expire. Returns where the payload ends.
#[inline]
pub fn restore(out: &mut Vec<u8>, key: &[u8], expires_at: u64, payload: &[u8], replace: bool) -> usize {
    // Room for all the rest of it, an eviction's measure and a batch's seal: a buffer of a large value grows once.
    out.reserve(key.len() + payload.len() + 224);
    let arguments = 4 + u8::from(replace) + u8::from(expires_at > 0);
    out.extend_from_slice(&[b'*', b'0' + arguments]);
    out.extend_from_slice(b"\r\n$7\r\nRESTORE\r\n");
    bulk(out, key);
    if expires_at == 0 {
        out.extend_from_slice(b"$1\r\n0\r\n");
    } else {
        number(out, expires_at);
    }
    bulk(out, payload);
    let end = out.len() - b"\r\n".len();
    if replace {
        out.extend_from_slice(b"$7\r\nREPLACE\r\n");
    }
    if expires_at > 0 {
        out.extend_from_slice(b"$6\r\nABSTTL\r\n");
    }
    end
}

/// Append `SET key value [NX] [PXAT expires-at]`; `expires_at` as in [`restore`].
#[inline]
pub fn set(out: &mut Vec<u8>, key: &[u8], expires_at: u64, value: &[u8], replace: bool) {
    out.reserve(key.len() + value.len() + 224);
    let arguments = 3 + u8::from(!replace) + 2 * u8::from(expires_at > 0);
    out.extend_from_slice(&[b'*', b'0' + arguments]);
    out.extend_from_slice(b"\r\n$3\r\nSET\r\n");
    bulk(out, key);
    bulk(out, value);
    if !replace {
        out.extend_from_slice(b"$2\r\nNX\r\n");
    }
    if expires_at > 0 {
        out.extend_from_slice(b"$4\r\nPXAT\r\n");
        number(out, expires_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written<T>(write: impl FnOnce(&mut Vec<u8>) -> T) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("the tests use text only")
    }

    #[test]
    fn restore_with_and_without_expiry() {
        assert_eq!(
            written(|out| restore(out, b"k", 0, b"pay", false)),
            "*4\r\n$7\r\nRESTORE\r\n$1\r\nk\r\n$1\r\n0\r\n$3\r\npay\r\n"
        );
        assert_eq!(
            written(|out| restore(out, b"k", 17, b"", true)),
            "*6\r\n$7\r\nRESTORE\r\n$1\r\nk\r\n$2\r\n17\r\n$0\r\n\r\n$7\r\nREPLACE\r\n$6\r\nABSTTL\r\n"
        );
    }

    #[test]
    fn set_with_and_without_expiry() {
        assert_eq!(
            written(|out| set(out, b"k", 0, b"value", true)),
            "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n"
        );
        assert_eq!(
            written(|out| set(out, b"k", 17, b"", false)),
            "*6\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n$2\r\nNX\r\n$4\r\nPXAT\r\n$2\r\n17\r\n"
        );
    }

    #[test]
    fn restore_with_a_measure_of_its_use() {
        let text = written(|out| {
            out.extend_from_slice(b"before");
            restore(out, b"k", 17, b"", true);
            eviction(out, 6, (Eviction::IdleTime, 99));
        });
        assert!(text.starts_with("before*8\r\n$7\r\nRESTORE"), "{text}");
        assert!(
            text.ends_with("ABSTTL\r\n$8\r\nIDLETIME\r\n$2\r\n99\r\n"),
            "{text}"
        );
    }

    #[test]
    fn scan_with_filters() {
        assert_eq!(
            written(|out| scan(out, u64::MAX, 10, Some(b"a*"), Some(b"set"))),
            "*8\r\n$4\r\nSCAN\r\n$20\r\n18446744073709551615\r\n$5\r\nCOUNT\r\n$2\r\n10\r\n\
             $5\r\nMATCH\r\n$2\r\na*\r\n$4\r\nTYPE\r\n$3\r\nset\r\n"
        );
    }

    #[test]
    fn reads_of_a_key() {
        assert_eq!(
            written(|out| expiry(out, ExpiryCommand::Relative, b"k")),
            "*2\r\n$4\r\nPTTL\r\n$1\r\nk\r\n"
        );
        assert_eq!(
            written(|out| expiry(out, ExpiryCommand::Absolute, b"")),
            "*2\r\n$11\r\nPEXPIRETIME\r\n$0\r\n\r\n"
        );
        assert_eq!(written(|out| dump(out, b"k")), "*2\r\n$4\r\nDUMP\r\n$1\r\nk\r\n");
    }
}
