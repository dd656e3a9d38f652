//! LZF, the compression of RDB strings.
//!
//! Invariant: the output has exactly the length that was announced, and is not allocated before that length
//! is known to be possible for the input. Format: liblzf, `lzf_d.c`.

use crate::rdb::cursor::Cursor;
use crate::rdb::error::Malformed;

const TRUNCATED: Malformed = Malformed("LZF data ends early");
const WRONG_LENGTH: Malformed = Malformed("LZF data does not have the announced length");

/// Control bytes below this one announce a run of literal bytes.
const LITERAL_LIMIT: u8 = 32;

/// The longest copy, 264 bytes, takes three bytes of input: no input grows by more than this factor.
const MAX_GROWTH: usize = 88;

/// Decompresses `input` into exactly `length` bytes.
pub(crate) fn decompress(input: &[u8], length: usize) -> Result<Vec<u8>, Malformed> {
    if length > input.len().saturating_mul(MAX_GROWTH) {
        return Err(WRONG_LENGTH);
    }
    let mut output = Vec::with_capacity(length);
    let mut cursor = Cursor::new(input);
    while let Some(control) = cursor.byte() {
        if control < LITERAL_LIMIT {
            let literals = cursor.take(usize::from(control) + 1).ok_or(TRUNCATED)?;
            make_room(&output, literals.len(), length)?;
            output.extend_from_slice(literals);
        } else {
            copy_back(control, &mut cursor, &mut output, length)?;
        }
    }
    if output.len() == length {
        Ok(output)
    } else {
        Err(WRONG_LENGTH)
    }
}

/// The furthest that a copy reaches back.
const WINDOW: usize = 1 << 13;

/// Decompresses input that comes in pieces, and holds no more of the output than what is not taken yet and what copies
/// may reach back to.
#[derive(Debug)]
pub(crate) struct Expander {
    output: Vec<u8>,
    /// Bytes of it that were taken.
    taken: usize,
    /// Bytes that are still to come.
    left: u64,
}

impl Expander {
    /// Begin with `compressed` bytes that become `length`; an error where these can't be so many.
    pub(crate) fn new(compressed: u64, length: u64) -> Result<Self, Malformed> {
        if length > compressed.saturating_mul(MAX_GROWTH as u64) {
            return Err(WRONG_LENGTH);
        }
        Ok(Self {
            output: Vec::new(),
            taken: 0,
            left: length,
        })
    }

    /// Bytes of output that were not taken yet.
    pub(crate) fn ready(&self) -> usize {
        self.output.len() - self.taken
    }

    /// Whether all output was made.
    pub(crate) fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Go on over `input` until `wanted` bytes are ready; how many bytes were used: what is left begins with a step that
    /// is not whole.
    pub(crate) fn expand(&mut self, input: &[u8], wanted: usize) -> Result<usize, Malformed> {
        let mut cursor = Cursor::new(input);
        let mut used = 0;
        while self.ready() < wanted {
            let Some(control) = cursor.byte() else { break };
            let before = self.output.len();
            let most = before.saturating_add(usize::try_from(self.left).unwrap_or(usize::MAX));
            if control < LITERAL_LIMIT {
                let Some(literals) = cursor.take(usize::from(control) + 1) else {
                    break;
                };
                make_room(&self.output, literals.len(), most)?;
                self.output.extend_from_slice(literals);
            } else {
                match copy_back(control, &mut cursor, &mut self.output, most) {
                    Err(TRUNCATED) => break,
                    done => done?,
                }
            }
            self.left -= (self.output.len() - before) as u64;
            used = cursor.position();
        }
        Ok(used)
    }

    /// Take up to `most` bytes of what is ready.
    pub(crate) fn take(&mut self, most: usize) -> Vec<u8> {
        let end = self.taken + self.ready().min(most);
        let bytes = self.output[self.taken..end].to_vec();
        self.taken = end;
        let passed = self.taken.saturating_sub(WINDOW);
        if passed > WINDOW {
            self.output.drain(..passed);
            self.taken -= passed;
        }
        bytes
    }
}

/// Repeats bytes that are already in the output; the copy may overlap what it writes.
fn copy_back(
    control: u8,
    cursor: &mut Cursor<'_>,
    output: &mut Vec<u8>,
    length: usize,
) -> Result<(), Malformed> {
    let mut count = usize::from(control >> 5);
    if count == 7 {
        count += usize::from(cursor.byte().ok_or(TRUNCATED)?);
    }
    count += 2;
    let low = cursor.byte().ok_or(TRUNCATED)?;
    let distance = (usize::from(control & 0x1f) << 8 | usize::from(low)) + 1;
    let start = output
        .len()
        .checked_sub(distance)
        .ok_or(Malformed("LZF data refers to bytes before its start"))?;
    make_room(output, count, length)?;
    for index in start..start + count {
        output.push(output[index]);
    }
    Ok(())
}

fn make_room(output: &[u8], count: usize, length: usize) -> Result<(), Malformed> {
    if count <= length - output.len() {
        Ok(())
    } else {
        Err(WRONG_LENGTH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expands_literals_and_overlapping_copies() {
        // literal "ab", then 3 + 2 bytes from two back
        assert_eq!(decompress(b"\x01ab\x60\x01", 7).as_deref(), Ok(&b"abababa"[..]));
        // literal "x", then 7 + 1 + 2 bytes from one back
        assert_eq!(
            decompress(b"\x00x\xe0\x01\x00", 11).as_deref(),
            Ok(&b"xxxxxxxxxxx"[..])
        );
        assert_eq!(decompress(b"", 0).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn holds_to_the_announced_length() {
        for length in [0, 6, 8, 5 * MAX_GROWTH + 1, usize::MAX] {
            assert_eq!(
                decompress(b"\x01ab\x60\x01", length),
                Err(WRONG_LENGTH),
                "length {length}"
            );
        }
    }

    #[test]
    fn refuses_truncated_and_dangling_data() {
        assert_eq!(decompress(b"\x05ab", 6), Err(TRUNCATED));
        assert_eq!(decompress(b"\x00a\x20", 4), Err(TRUNCATED));
        assert_eq!(decompress(b"\x00a\xe0", 12), Err(TRUNCATED));
        assert!(decompress(b"\x00a\x20\x01", 4).is_err());
    }
}
