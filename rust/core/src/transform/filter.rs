//! Which keys are taken by what they are: type, size, TTL.
//!
//! Invariant: what can't be told is taken: its read then says what is the matter with it.

/// Filters that the source is asked about, key by key, before it is read. The default takes every key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ValueFilter {
    /// Types of which it has to be one, as TYPE names them; none: any.
    pub types: Vec<String>,
    /// Types of which it must be none.
    pub excluded_types: Vec<String>,
    /// Least size in bytes, as MEMORY USAGE counts it.
    pub min_size: Option<u64>,
    /// Largest size.
    pub max_size: Option<u64>,
    /// Only keys without a TTL.
    pub without_ttl: bool,
    /// Only keys with at least so many milliseconds left, or without a TTL.
    pub min_ttl: Option<u64>,
}

/// What is asked about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Question {
    /// TYPE.
    Type,
    /// PTTL.
    Ttl,
    /// MEMORY USAGE.
    Size,
}

impl ValueFilter {
    /// What has to be asked about each key, in order.
    pub fn questions(&self) -> Vec<Question> {
        let mut questions = Vec::new();
        if !self.types.is_empty() || !self.excluded_types.is_empty() {
            questions.push(Question::Type);
        }
        if self.without_ttl || self.min_ttl.is_some() {
            questions.push(Question::Ttl);
        }
        if self.min_size.is_some() || self.max_size.is_some() {
            questions.push(Question::Size);
        }
        questions
    }

    /// Whether a key of this type is taken; `none` is a key that is gone.
    pub fn takes_type(&self, name: &[u8]) -> bool {
        let is_named = |names: &[String]| names.iter().any(|own| own.as_bytes() == name);
        name != b"none" && (self.types.is_empty() || is_named(&self.types)) && !is_named(&self.excluded_types)
    }

    /// Whether a key with this PTTL is taken: -1 is none, -2 a key that is gone.
    pub fn takes_ttl(&self, left: i64) -> bool {
        match left {
            -1 => true,
            ..=-2 => false,
            left => !self.without_ttl && left.cast_unsigned() >= self.min_ttl.unwrap_or(0),
        }
    }

    /// Whether a key of this size is taken; `None` is a key that is gone.
    pub fn takes_size(&self, bytes: Option<i64>) -> bool {
        bytes.is_some_and(|bytes| {
            let bytes = bytes.max(0).cast_unsigned();
            bytes >= self.min_size.unwrap_or(0) && bytes <= self.max_size.unwrap_or(u64::MAX)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_matters_is_asked() {
        assert_eq!(ValueFilter::default().questions(), []);
        let filter = ValueFilter {
            excluded_types: vec!["hash".to_owned()],
            max_size: Some(9),
            min_ttl: Some(1),
            ..ValueFilter::default()
        };
        assert_eq!(
            filter.questions(),
            [Question::Type, Question::Ttl, Question::Size]
        );
        assert!(filter.takes_type(b"set") && !filter.takes_type(b"hash") && !filter.takes_type(b"none"));
        assert!(filter.takes_size(Some(9)) && !filter.takes_size(Some(10)) && !filter.takes_size(None));
        assert!(filter.takes_ttl(1) && !filter.takes_ttl(0) && filter.takes_ttl(-1) && !filter.takes_ttl(-2));
        let lasting = ValueFilter {
            types: vec!["set".to_owned()],
            without_ttl: true,
            ..ValueFilter::default()
        };
        assert!(lasting.takes_ttl(-1) && !lasting.takes_ttl(1_000_000));
        assert!(lasting.takes_type(b"set") && !lasting.takes_type(b"list"));
    }
}
