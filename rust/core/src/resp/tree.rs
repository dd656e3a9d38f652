//! Whole replies with all that is nested in them, owned: for questions that are asked one at a time.
//!
//! Invariant: as `decode`: bounded by the bytes that are there, whatever the lengths claimed.

use crate::resp::{Decoded, ProtocolError, Reply, decode};

/// A reply and all that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tree {
    /// `-text`
    Error(Vec<u8>),
    /// `:number`
    Integer(i64),
    /// `+text` or a bulk
    Text(Vec<u8>),
    /// A bulk or array that is nil
    Nil,
    /// `*count`, with its elements
    Array(Vec<Tree>),
}

/// Arrays nested deeper than this are no reply of a real server.
const DEEPEST: usize = 16;

impl Tree {
    /// Look for one whole reply at the start of `data`.
    pub fn decode(data: &[u8]) -> Result<Decoded<Self>, ProtocolError> {
        Self::decode_within(data, DEEPEST)
    }

    fn decode_within(data: &[u8], depth: usize) -> Result<Decoded<Self>, ProtocolError> {
        let (reply, mut at) = match decode(data)? {
            Decoded::Partial(need) => return Ok(Decoded::Partial(need)),
            Decoded::Whole(reply, used) => (reply, used),
        };
        let tree = match reply {
            Reply::Error(text) => Self::Error(text.to_vec()),
            Reply::Integer(number) => Self::Integer(number),
            Reply::Simple(text) | Reply::Bulk(Some(text)) => Self::Text(text.to_vec()),
            Reply::Bulk(None) | Reply::Array(None) => Self::Nil,
            Reply::Array(Some(_)) if depth == 0 => return Err(ProtocolError::at(data)),
            Reply::Array(Some(count)) => {
                let mut elements = Vec::new();
                for _ in 0..count {
                    match Self::decode_within(&data[at..], depth - 1)? {
                        Decoded::Partial(need) => return Ok(Decoded::Partial(at + need)),
                        Decoded::Whole(element, used) => {
                            at += used;
                            elements.push(element);
                        }
                    }
                }
                Self::Array(elements)
            }
        };
        Ok(Decoded::Whole(tree, at))
    }

    /// The elements of an array; none for anything else.
    pub fn elements(&self) -> &[Self] {
        match self {
            Self::Array(elements) => elements,
            _ => &[],
        }
    }

    /// The bytes of a text.
    pub fn text(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The number of an integer, or the one that a text spells.
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Text(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// The reply to TIME in ms since the epoch.
    pub fn milliseconds(&self) -> Option<i64> {
        match self.elements() {
            [seconds, micros] => seconds
                .integer()?
                .checked_mul(1000)?
                .checked_add(micros.integer()? / 1000),
            _ => None,
        }
    }

    /// The elements of an array.
    pub fn into_elements(self) -> Option<Vec<Self>> {
        match self {
            Self::Array(elements) => Some(elements),
            _ => None,
        }
    }

    /// The bytes of a text.
    pub fn into_text(self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The bytes of an array of texts.
    pub fn into_texts(self) -> Option<Vec<Vec<u8>>> {
        self.into_elements()?.into_iter().map(Self::into_text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nested_arrays() {
        let data = b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n+b\r\n*-1\r\n-ERR";
        let Ok(Decoded::Whole(tree, used)) = Tree::decode(data) else {
            panic!("is whole");
        };
        let inner = Tree::Array(vec![Tree::Text(b"a".to_vec()), Tree::Text(b"b".to_vec())]);
        assert_eq!(tree, Tree::Array(vec![Tree::Integer(1), inner, Tree::Nil]));
        for cut in 0..used {
            assert!(
                matches!(Tree::decode(&data[..cut]), Ok(Decoded::Partial(need)) if need > cut),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn a_time_beyond_all_numbers_is_none() {
        let time = |seconds| Tree::Array(vec![Tree::Integer(seconds), Tree::Integer(1_500)]);
        assert_eq!(time(2).milliseconds(), Some(2_001));
        assert_eq!(time(i64::MAX / 1000 + 1).milliseconds(), None);
    }

    #[test]
    fn endless_nesting_is_refused() {
        assert!(Tree::decode(&b"*1\r\n".repeat(1000)).is_err());
    }

    proptest! {
        #[test]
        fn almost_resp_is_survived(data in r"([*$:+-][0-9-]{0,3}(\r\n)?){0,12}[a-z0-9\r\n-]{0,40}") {
            let _ = Tree::decode(data.as_bytes());
        }
    }
}
