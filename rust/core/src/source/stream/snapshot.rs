//! The snapshot behind FULLRESYNC: where it begins and ends.
//!
//! Invariant: it takes no more memory than its beginning, whatever its size; what frames it is no part of it.

use std::ops::Range;

use memchr::memmem;

use crate::source::stream::error::{StreamError, line};

/// The bytes that end a snapshot whose length was not known when it began.
const DELIMITER: usize = 40;

/// So much of a snapshot's beginning is looked at: its auxiliary fields take some 200 bytes.
const HEAD: usize = 1024;

/// Tells a snapshot from what frames it, or reads past it, whatever its size.
#[derive(Debug, Default)]
pub struct SnapshotFrame {
    end: Option<End>,
    /// Bytes of it so far.
    bytes: u64,
    /// Its beginning, with its auxiliary fields.
    head: Vec<u8>,
}

/// What some bytes have of a snapshot.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The snapshot's own bytes among them.
    pub body: Range<usize>,
    /// So many bytes are done with.
    pub used: usize,
    /// Whether the snapshot is over.
    pub is_over: bool,
}

/// How the end of a snapshot is known.
#[derive(Debug)]
enum End {
    After(u64),
    At([u8; DELIMITER]),
}

impl SnapshotFrame {
    /// Use up what `data` has of the snapshot: how many bytes, and whether it is over.
    pub fn skip(&mut self, data: &[u8]) -> Result<(usize, bool), StreamError> {
        let part = self.take(data)?;
        Ok((part.used, part.is_over))
    }

    /// Tell what `data` has of the snapshot.
    pub fn take(&mut self, data: &[u8]) -> Result<Part, StreamError> {
        let mut start = 0;
        if self.end.is_none() {
            start = data.iter().take_while(|&&byte| byte == b'\n').count();
            let Some((line, head)) = line(&data[start..])? else {
                let body = start..start;
                return Ok(Part {
                    body,
                    used: start,
                    is_over: false,
                });
            };
            self.end = Some(snapshot_end(line)?);
            start += head;
        }
        let rest = &data[start..];
        let (body, behind, is_over) = match self.end.as_mut() {
            Some(End::After(left)) => {
                let count = (rest.len() as u64).min(*left);
                *left -= count;
                (count as usize, 0, *left == 0)
            }
            Some(End::At(delimiter)) => match memmem::find(rest, delimiter.as_slice()) {
                Some(at) => (at, DELIMITER, true),
                // The delimiter may have begun.
                None => (rest.len().saturating_sub(DELIMITER - 1), 0, false),
            },
            None => (0, 0, false),
        };
        self.bytes += body as u64;
        let head = body.min(HEAD - self.head.len());
        self.head.extend_from_slice(&rest[..head]);
        Ok(Part {
            body: start..start + body,
            used: start + body + behind,
            is_over,
        })
    }

    /// The database that the stream has selected where the snapshot stands, if the snapshot tells: a replica that is
    /// followed does not repeat it.
    pub fn selected_database(&self) -> Option<u32> {
        const FIELD: &[u8] = b"\xfa\x0erepl-stream-db";
        let at = memmem::find(&self.head, FIELD)? + FIELD.len();
        // A number of 8, 16 or 32 bits, little-endian, or digits behind their length (rdb.c).
        match self.head.get(at..)? {
            [0xc0, number, ..] => Some(u32::from(*number)),
            [0xc1, low, high, ..] => Some(u32::from(u16::from_le_bytes([*low, *high]))),
            [0xc2, one, two, three, four, ..] => Some(u32::from_le_bytes([*one, *two, *three, *four])),
            [length @ 1..=9, rest @ ..] => std::str::from_utf8(rest.get(..usize::from(*length))?)
                .ok()?
                .parse()
                .ok(),
            _ => None,
        }
    }

    /// How many bytes it has had so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

fn snapshot_end(line: &[u8]) -> Result<End, StreamError> {
    let wrong = || StreamError::at("no snapshot", line);
    if let Some(delimiter) = line.strip_prefix(b"$EOF:") {
        return delimiter.try_into().map(End::At).map_err(|_| wrong());
    }
    let digits = line
        .strip_prefix(b"$")
        .and_then(|text| std::str::from_utf8(text).ok());
    digits
        .and_then(|text| text.parse().ok())
        .map(End::After)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "8f3c1d0a9b7e6f5d4c3b2a190817263544536271";

    /// Feed `data` in pieces of `size` bytes, as a connection does: what is not used stays.
    fn skip(data: &[u8], size: usize) -> (u64, Vec<u8>) {
        let mut skipper = SnapshotFrame::default();
        let mut buffer = Vec::new();
        let mut pieces = data.chunks(size);
        loop {
            let (used, over) = skipper.skip(&buffer).unwrap();
            buffer.drain(..used);
            if over {
                buffer.extend(pieces.flatten());
                return (skipper.bytes(), buffer);
            }
            assert!(buffer.len() < size + 64, "{} bytes are held", buffer.len());
            buffer.extend(pieces.next().expect("the snapshot ends"));
        }
    }

    #[test]
    fn snapshots_are_skipped_by_length_and_by_delimiter() {
        let body: Vec<u8> = (0..5000_u32).map(|number| number as u8).collect();
        let sized = [b"\n\n$5000\r\n".as_slice(), &body, b"*1\r\n"].concat();
        // The delimiter's own beginning in the snapshot is no end.
        let head = format!("$EOF:{ID}\r\n");
        let endless = [
            head.as_bytes(),
            &body,
            &ID.as_bytes()[..39],
            ID.as_bytes(),
            b"*1\r\n",
        ]
        .concat();
        for size in [1, 7, 39, 40, 41, 1000, 100_000] {
            assert_eq!(skip(&sized, size), (5000, b"*1\r\n".to_vec()), "{size}");
            assert_eq!(skip(&endless, size), (5039, b"*1\r\n".to_vec()), "{size}");
        }
        let mut empty = SnapshotFrame::default();
        assert_eq!(empty.skip(b"$0\r\n").unwrap(), (4, true));
        for wrong in ["+OK\r\n", "$EOF:short\r\n", "$-1\r\n", "$x\r\n"] {
            assert!(
                SnapshotFrame::default().skip(wrong.as_bytes()).is_err(),
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_snapshot_tells_the_database_of_its_stream() {
        for (value, expected) in [
            (b"\xc0\x05".as_slice(), Some(5)),
            (b"\xc1\x00\x01", Some(256)),
            (b"\x0212", Some(12)),
            (b"\x02-1", None),
            (b"", None),
        ] {
            let body = [b"REDIS0011\xfa\x0erepl-stream-db", value].concat();
            let mut skipper = SnapshotFrame::default();
            let sized = [format!("${}\r\n", body.len()).as_bytes(), &body].concat();
            assert_eq!(skipper.skip(&sized).unwrap(), (sized.len(), true));
            assert_eq!(skipper.selected_database(), expected, "{}", value.escape_ascii());
        }
    }
}
