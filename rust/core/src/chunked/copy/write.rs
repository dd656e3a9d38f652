//! Parts of a value, written.
//!
//! Invariant: chunks written in order, each once or (hashes and sets) more often, make up the value.

use crate::chunked::parts::{Chunk, Kind};
use crate::net::client::Commands;

impl Kind {
    /// Append the commands that write a chunk to `key`.
    pub(crate) fn write(self, commands: &mut Commands, key: &[u8], chunk: &Chunk) {
        let mut arguments: Vec<&[u8]> = match self {
            Self::String => vec![b"APPEND", key],
            Self::List => vec![b"RPUSH", key],
            Self::Set => vec![b"SADD", key],
            Self::SortedSet => vec![b"ZADD", key],
            Self::Hash => vec![b"HSET", key],
            Self::Stream => {
                for (id, fields) in &chunk.entries {
                    let mut arguments: Vec<&[u8]> = vec![b"XADD", key, id];
                    arguments.extend(fields.iter().map(Vec::as_slice));
                    commands.push(&arguments);
                }
                return;
            }
        };
        if self == Self::SortedSet {
            for pair in chunk.elements.chunks_exact(2) {
                arguments.extend([pair[1].as_slice(), pair[0].as_slice()]);
            }
        } else {
            arguments.extend(chunk.elements.iter().map(Vec::as_slice));
        }
        commands.push(&arguments);
        for (number, &at) in chunk.expiries.iter().enumerate() {
            if at > 0 {
                let at = at.to_string();
                let field = &chunk.elements[2 * number];
                commands.push(&[b"HPEXPIREAT", key, at.as_bytes(), b"FIELDS", b"1", field]);
            }
        }
    }
}
