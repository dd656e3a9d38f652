//! A part of a file's value as a chunk.
//!
//! Invariant: a chunk holds what the value holds, in its order; an element without an expiry has none.

use crate::chunked::parts::{Chunk, GONE, Kind, Place};
use crate::rdb;
use crate::rdb::{StreamId, Value};

impl Kind {
    /// What a value of this type is in parts; `None` for what only its module can read.
    pub fn of_rdb(kind: rdb::Kind) -> Option<Self> {
        Self::of(kind.name().as_bytes())
    }
}

impl Place {
    /// Where what follows `chunk`, which begins here, begins.
    pub fn behind(self, kind: Kind, chunk: &Chunk) -> Self {
        match self {
            Self::Offset(at) => Self::Offset(at + chunk.count(kind) as u64),
            Self::Cursor(_) | Self::After(..) => chunk.next,
        }
    }
}

impl Chunk {
    /// Bytes of a string.
    pub fn of_text(bytes: Vec<u8>, place: Place) -> Self {
        let mut chunk = Self::empty(place);
        chunk.elements.push(bytes);
        chunk.next = place.behind(Kind::String, &chunk);
        chunk
    }

    /// The elements of `value`, which begin at `place`, without those of its fields that have expired by `now`.
    pub fn of(value: Value, place: Place, now: u64) -> Self {
        let mut chunk = Self::empty(place);
        let kind = match value {
            Value::String(bytes) => return Self::of_text(bytes, place),
            Value::List(elements) => {
                chunk.elements = elements;
                Kind::List
            }
            Value::Set(members) => {
                chunk.elements = members.into_iter().collect();
                Kind::Set
            }
            Value::SortedSet(members) => {
                for (member, score) in members {
                    chunk.elements.extend([member, score_text(score)]);
                }
                Kind::SortedSet
            }
            Value::Hash(fields) => {
                let expires = fields.values().any(|field| field.expires_at_ms.is_some());
                for (name, field) in fields {
                    chunk.elements.extend([name, field.value]);
                    if expires {
                        chunk.expiries.push(match field.expires_at_ms {
                            Some(at) if at <= now => GONE,
                            Some(at) => at.cast_signed(),
                            None => -1,
                        });
                    }
                }
                chunk.drop_expired();
                Kind::Hash
            }
            Value::Stream(stream) => {
                for entry in stream.entries {
                    let fields = entry.fields.into_iter();
                    let fields = fields.flat_map(|(name, value)| [name.to_vec(), value]).collect();
                    let StreamId { ms, seq } = entry.id;
                    chunk.entries.push((id_text(entry.id), fields));
                    chunk.next = Place::After(ms, seq);
                }
                Kind::Stream
            }
            // It has no parts: nothing of it comes here.
            Value::Module(_) => return chunk,
        };
        chunk.next = place.behind(kind, &chunk);
        chunk
    }
}

/// An ID as commands name it.
pub(crate) fn id_text(StreamId { ms, seq }: StreamId) -> Vec<u8> {
    format!("{ms}-{seq}").into_bytes()
}

/// A score as commands take it: the shortest text that is read as the same number.
fn score_text(score: f64) -> Vec<u8> {
    let text = format!("{score:?}");
    text.strip_suffix(".0").unwrap_or(&text).as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::Field;

    #[test]
    fn scores_are_read_as_they_were() {
        for (score, text) in [
            (3.0, "3"),
            (-0.5, "-0.5"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (1e300, "1e300"),
            (0.1 + 0.2, "0.30000000000000004"),
        ] {
            assert_eq!(score_text(score), text.as_bytes());
            assert_eq!(text.parse(), Ok(score));
        }
    }

    #[test]
    fn fields_that_have_expired_are_left_out() {
        let field = |at| Field {
            value: b"v".to_vec(),
            expires_at_ms: at,
        };
        let fields = [("a", None), ("b", Some(50)), ("c", Some(51))];
        let fields = fields.map(|(name, at)| (name.as_bytes().to_vec(), field(at)));
        let chunk = Chunk::of(Value::Hash(fields.into()), Place::Cursor(0), 50);
        assert_eq!(chunk.elements, [b"a", b"v", b"c", b"v"]);
        assert_eq!(chunk.expiries, [-1, 51]);
    }
}
