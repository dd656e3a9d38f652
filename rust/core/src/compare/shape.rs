//! The quick way to compare: type, expiry and length instead of the value.
//!
//! Invariant: what stands for a value here is as long as it takes to tell, starts with its kind, and is equal
//! on both sides exactly if type and length are.

use crate::rdb::Comparison;
use crate::resp::encode;

/// What TYPE says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    Absent,
    /// A type with a length, by its place in [`LENGTHS`].
    Measured(u8),
    /// A module's type: its length is not asked for.
    Other,
}

/// Types, the command that tells how long a value is, and what it counts.
const LENGTHS: [(&[u8], &[u8], &str); 6] = [
    (b"string", b"STRLEN", "bytes"),
    (b"list", b"LLEN", "elements"),
    (b"set", b"SCARD", "members"),
    (b"zset", b"ZCARD", "members"),
    (b"hash", b"HLEN", "fields"),
    (b"stream", b"XLEN", "entries"),
];

const OTHER: u8 = LENGTHS.len() as u8;

impl Shape {
    /// Read the reply to TYPE.
    pub fn of(type_name: &[u8]) -> Self {
        if type_name == b"none" {
            return Self::Absent;
        }
        LENGTHS
            .iter()
            .position(|(name, ..)| *name == type_name)
            .map_or(Self::Other, |place| Self::Measured(place as u8))
    }

    /// Append the question for the length; where there is none to ask for, one whose answer does not matter.
    pub fn ask_length(self, out: &mut Vec<u8>, key: &[u8]) {
        match self {
            Self::Measured(place) => encode::command(out, &[LENGTHS[usize::from(place)].1, key]),
            Self::Absent | Self::Other => encode::exists(out, std::iter::once(key)),
        }
    }

    /// What stands for the value; `None` where there is none.
    pub fn stand_in(self, length: i64) -> Option<[u8; 9]> {
        let (kind, length) = match self {
            Self::Absent => return None,
            Self::Measured(place) => (place, length),
            Self::Other => (OTHER, 0),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&length.to_le_bytes());
        Some(bytes)
    }

    /// The shape that a stand-in has, or an empty one.
    pub fn of_stand_in(bytes: &[u8]) -> Self {
        match bytes.first() {
            None => Self::Absent,
            Some(&OTHER) => Self::Other,
            Some(&place) => Self::Measured(place),
        }
    }
}

/// What stands for the value of a key that is only asked whether it is there.
pub(crate) const THERE: [u8; 9] = [OTHER; 9];

/// How two stand-ins that are not equal compare.
pub(crate) fn compare(ours: &[u8], theirs: &[u8]) -> Comparison {
    let (source, target) = (describe(ours), describe(theirs));
    if ours.first() == theirs.first() {
        Comparison::Different(source, target)
    } else {
        Comparison::OtherType(source, target)
    }
}

/// A stand-in for a person.
pub(crate) fn describe(bytes: &[u8]) -> String {
    match (Shape::of_stand_in(bytes), bytes.get(1..9)) {
        (Shape::Measured(place), Some(length)) => {
            let (name, _, counts) = LENGTHS[usize::from(place)];
            let length = i64::from_le_bytes(length.try_into().unwrap_or_default());
            let name = String::from_utf8_lossy(name);
            // The other type's length could not be asked for.
            if length < 0 {
                name.into_owned()
            } else {
                format!("{name} of {length} {counts}")
            }
        }
        (Shape::Other, _) => "a module's value".to_owned(),
        _ => "absent".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_tells_type_and_length() {
        let list = Shape::of(b"list").stand_in(3).expect("is there");
        let longer = Shape::of(b"list").stand_in(4).expect("is there");
        let set = Shape::of(b"set").stand_in(-1).expect("is there");
        assert_eq!(
            compare(&list, &longer),
            Comparison::Different("list of 3 elements".to_owned(), "list of 4 elements".to_owned())
        );
        assert_eq!(
            compare(&list, &set),
            Comparison::OtherType("list of 3 elements".to_owned(), "set".to_owned())
        );
        assert_eq!(Shape::of_stand_in(&set), Shape::of(b"set"));
        assert_eq!(Shape::of(b"none").stand_in(0), None);
        assert_eq!(Shape::of(b"ReJSON-RL"), Shape::Other);
    }
}
