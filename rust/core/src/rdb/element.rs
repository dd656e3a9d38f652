//! One element of a packed encoding. Invariant: an integer and its decimal text are the same element.

/// An element of a listpack, ziplist, zipmap or intset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Element<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl Element<'_> {
    /// Returns the element as clients see it.
    pub(crate) fn to_vec(self) -> Vec<u8> {
        match self {
            Self::Int(number) => itoa::Buffer::new().format(number).into(),
            Self::Bytes(bytes) => bytes.into(),
        }
    }

    /// Returns how many bytes [`Self::to_vec`] has at most.
    pub(crate) fn max_len(self) -> usize {
        match self {
            Self::Int(_) => itoa::Buffer::new().format(i64::MIN).len(),
            Self::Bytes(bytes) => bytes.len(),
        }
    }

    pub(crate) fn as_int(self) -> Option<i64> {
        match self {
            Self::Int(number) => Some(number),
            Self::Bytes(bytes) => str::from_utf8(bytes).ok()?.parse().ok(),
        }
    }

    /// Returns the element as a sorted set's score.
    pub(crate) fn as_score(self) -> Option<f64> {
        match self {
            // The server casts just so; what is exact as text is exact here.
            Self::Int(number) => Some(number as f64),
            Self::Bytes(bytes) => parse_score(bytes),
        }
    }
}

/// Parses the text of a score as servers write it (`%.17g`, `inf`, `-inf`, `nan`).
pub(crate) fn parse_score(text: &[u8]) -> Option<f64> {
    str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_their_text_are_alike() {
        for number in [0, -1, 127, i64::MIN, i64::MAX] {
            let text = number.to_string();
            let packed = Element::Int(number);
            let plain = Element::Bytes(text.as_bytes());
            assert_eq!(packed.to_vec(), plain.to_vec());
            assert_eq!(plain.as_int(), Some(number));
            assert_eq!(packed.as_score(), plain.as_score());
            assert!(packed.to_vec().len() <= packed.max_len());
        }
    }

    #[test]
    fn scores_are_read_as_servers_write_them() {
        assert_eq!(parse_score(b"0.10000000000000001"), Some(0.1));
        assert_eq!(parse_score(b"1.0000000000000001e+300"), Some(1e300));
        assert_eq!(parse_score(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_score(b"inf"), Some(f64::INFINITY));
        assert!(parse_score(b"nan").is_some_and(f64::is_nan));
        assert_eq!(parse_score(b"one"), None);
        assert_eq!(parse_score(b"\xff"), None);
    }
}
