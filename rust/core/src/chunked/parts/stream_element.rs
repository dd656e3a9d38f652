//! The parts of a stream that commands touch, as bytes among the elements of other keys.
//!
//! Invariant: the order of the bytes is the one in which the parts have to be written, and they are read back as they were.

use crate::rdb::StreamId;

/// A part of a stream that was touched. Entries that were added, and those that were trimmed from its front, have no name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StreamElement {
    /// Whether an entry is pending in a group, and for whom.
    Pending { group: Vec<u8>, id: StreamId },
    /// What a group says of itself, and that its consumers are there.
    Group(Vec<u8>),
    /// All of a group.
    WholeGroup(Vec<u8>),
    /// All of each group: no command says so, but what a source does not tell its replicas may have changed.
    AllGroups,
    /// An entry that may be deleted.
    Deleted(StreamId),
}

const PENDING: u8 = 1;
const GROUP: u8 = 2;
const WHOLE_GROUP: u8 = 3;
const ALL_GROUPS: u8 = 4;
const DELETED: u8 = 5;

impl StreamElement {
    /// As bytes, whose order is the one in which they have to be written: no message can be made pending that is not
    /// there any more.
    pub fn to_bytes(&self) -> Vec<u8> {
        let id_bytes = |id: &StreamId| [id.ms.to_be_bytes(), id.seq.to_be_bytes()].concat();
        match self {
            Self::Pending { group, id } => [&[PENDING], group.as_slice(), &id_bytes(id)].concat(),
            Self::Group(group) => [&[GROUP], group.as_slice()].concat(),
            Self::WholeGroup(group) => [&[WHOLE_GROUP], group.as_slice()].concat(),
            Self::AllGroups => vec![ALL_GROUPS],
            Self::Deleted(id) => [&[DELETED], id_bytes(id).as_slice()].concat(),
        }
    }

    /// Read [`Self::to_bytes`].
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let id = |bytes: &[u8]| {
            let (ms, seq) = bytes.split_first_chunk::<8>()?;
            let (ms, seq) = (u64::from_be_bytes(*ms), u64::from_be_bytes(seq.try_into().ok()?));
            Some(StreamId { ms, seq })
        };
        let (tag, rest) = bytes.split_first()?;
        Some(match *tag {
            PENDING => {
                let (group, last) = rest.split_at_checked(rest.len().checked_sub(16)?)?;
                Self::Pending {
                    group: group.to_vec(),
                    id: id(last)?,
                }
            }
            GROUP => Self::Group(rest.to_vec()),
            WHOLE_GROUP => Self::WholeGroup(rest.to_vec()),
            ALL_GROUPS if rest.is_empty() => Self::AllGroups,
            DELETED => Self::Deleted(id(rest)?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_come_back_in_the_order_of_their_writing() {
        let id = |ms, seq| StreamId { ms, seq };
        let elements = [
            StreamElement::Pending {
                group: b"".to_vec(),
                id: id(1, 2),
            },
            StreamElement::Pending {
                group: b"g\x00h".to_vec(),
                id: id(u64::MAX, 0),
            },
            StreamElement::Group(b"g".to_vec()),
            StreamElement::WholeGroup(b"a".to_vec()),
            StreamElement::AllGroups,
            StreamElement::Deleted(id(5, 6)),
            StreamElement::Deleted(id(300, 0)),
        ];
        let bytes: Vec<_> = elements.iter().map(StreamElement::to_bytes).collect();
        assert!(bytes.is_sorted());
        let back: Option<Vec<_>> = bytes.iter().map(|bytes| StreamElement::parse(bytes)).collect();
        assert_eq!(back.as_deref(), Some(&elements[..]));
        for nonsense in [&b""[..], b"\x01short", b"\x05\x00", b"\x04\x00", b"\x09g"] {
            assert_eq!(StreamElement::parse(nonsense), None);
        }
    }
}
