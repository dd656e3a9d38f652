//! What is wrong with a stream, and the lines that it begins with.
//!
//! Invariant: an error quotes a few bytes, and a line is of bounded length.

use memchr::memchr;

/// No line of the protocol is longer.
pub(crate) const LONGEST_LINE: usize = 64 * 1024;

/// What is no replication stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the source sends no replication stream: {what} at \"{}\"", start.escape_ascii())]
pub struct StreamError {
    what: &'static str,
    start: Vec<u8>,
}

impl StreamError {
    pub(crate) fn at(what: &'static str, data: &[u8]) -> Self {
        Self {
            what,
            start: data[..data.len().min(40)].to_vec(),
        }
    }
}

/// The line at the start of `data` without its end, and how many bytes it takes; `None` if its end is not there yet.
pub(crate) fn line(data: &[u8]) -> Result<Option<(&[u8], usize)>, StreamError> {
    let window = &data[..data.len().min(LONGEST_LINE)];
    match memchr(b'\n', window) {
        Some(end) => {
            let line = &data[..end];
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
        }
        None if data.len() >= LONGEST_LINE => Err(StreamError::at("no end of a line", data)),
        None => Ok(None),
    }
}
