//! Values as clients see them, free of encoding.
//!
//! Invariant: two payloads of the same value decode to values that are [`same`](Value::same), whichever
//! server wrote them and in which encoding.

use std::collections::{BTreeMap, BTreeSet};

use crate::rdb::stream::Stream;
use crate::rdb::type_byte::Kind;

/// The value of a key.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// The bytes of a string; a bitmap and a `HyperLogLog` are strings too.
    String(Vec<u8>),
    /// The elements of a list, head first.
    List(Vec<Vec<u8>>),
    /// The members of a set.
    Set(BTreeSet<Vec<u8>>),
    /// The members of a sorted set, with their scores.
    SortedSet(BTreeMap<Vec<u8>, f64>),
    /// The fields of a hash.
    Hash(BTreeMap<Vec<u8>, Field>),
    /// A stream, with its consumer groups.
    Stream(Box<Stream>),
    /// A module's own bytes, which only the module can read.
    Module(Vec<u8>),
}

/// The value of a hash's field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// The field's value.
    pub value: Vec<u8>,
    /// When the field expires, in milliseconds since the epoch; `None` for never.
    pub expires_at_ms: Option<u64>,
}

impl Value {
    /// Returns what kind of value it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::String(_) => Kind::String,
            Self::List(_) => Kind::List,
            Self::Set(_) => Kind::Set,
            Self::SortedSet(_) => Kind::SortedSet,
            Self::Hash(_) => Kind::Hash,
            Self::Stream(_) => Kind::Stream,
            Self::Module(_) => Kind::Module,
        }
    }

    /// Returns whether both mean the same to a client; for what counts in a stream see [`Stream::same`].
    pub fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::SortedSet(ours), Self::SortedSet(theirs)) => same_scores(ours, theirs),
            (Self::Stream(ours), Self::Stream(theirs)) => ours.same(theirs),
            (ours, theirs) => ours == theirs,
        }
    }

    /// Leaves out what expires at `expired_by` (milliseconds since the epoch, by a server's clock) or before, fields of
    /// a hash and idempotent IDs of a stream: servers drop them at different times.
    pub fn forget_expired(&mut self, expired_by: u64) {
        match self {
            Self::Hash(fields) => {
                fields.retain(|_, field| field.expires_at_ms.is_none_or(|at| at > expired_by));
            }
            Self::Stream(stream) => stream.forget_expired(expired_by),
            _ => {}
        }
    }
}

fn same_scores(ours: &BTreeMap<Vec<u8>, f64>, theirs: &BTreeMap<Vec<u8>, f64>) -> bool {
    ours.len() == theirs.len()
        && ours
            .iter()
            .zip(theirs)
            .all(|(ours, theirs)| ours.0 == theirs.0 && same_score(*ours.1, *theirs.1))
}

#[expect(
    clippy::float_cmp,
    reason = "a score was copied bit for bit or it is another score"
)]
fn same_score(ours: f64, theirs: f64) -> bool {
    ours == theirs || (ours.is_nan() && theirs.is_nan())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(score: f64) -> Value {
        Value::SortedSet([(b"m".to_vec(), score)].into())
    }

    fn field(value: &[u8], expires_at_ms: Option<u64>) -> Field {
        Field {
            value: value.into(),
            expires_at_ms,
        }
    }

    #[test]
    fn scores_compare_as_numbers() {
        assert!(scored(f64::NAN).same(&scored(f64::NAN)));
        assert!(scored(0.0).same(&scored(-0.0)));
        assert!(!scored(0.1).same(&scored(0.1 + f64::EPSILON)));
        assert!(!scored(1.0).same(&Value::SortedSet(BTreeMap::new())));
        let other = Value::SortedSet([(b"n".to_vec(), 1.0)].into());
        assert!(!scored(1.0).same(&other));
    }

    #[test]
    fn expired_fields_count_as_gone() {
        let both = Value::Hash(
            [
                (b"stays".to_vec(), field(b"1", None)),
                (b"goes".to_vec(), field(b"2", Some(1000))),
            ]
            .into(),
        );
        let one = Value::Hash([(b"stays".to_vec(), field(b"1", None))].into());
        let at = |by| {
            let mut left = both.clone();
            left.forget_expired(by);
            left
        };
        assert!(!at(999).same(&one));
        assert!(at(1000).same(&one));
    }

    #[test]
    fn a_fields_expiry_is_part_of_the_value() {
        let hash = |at| Value::Hash([(b"f".to_vec(), field(b"v", at))].into());
        assert!(hash(Some(5)).same(&hash(Some(5))));
        assert!(!hash(Some(5)).same(&hash(Some(6))));
        assert!(!hash(Some(5)).same(&hash(None)));
    }

    #[test]
    fn kinds_are_never_the_same() {
        assert!(!Value::List(vec![]).same(&Value::Set(BTreeSet::new())));
    }
}
