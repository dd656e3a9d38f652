//! What the commands on a stream touch of it: entries that they delete, deliveries, groups.
//!
//! Invariant: what is named here and what is looked at whenever anything was touched (the entries behind the last one, the
//! first entry, the history) is all that the command changes of the key. A word that is not known makes it the whole key.

use crate::rdb::StreamId;

/// A command on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamCommand {
    Add,
    Trim,
    Delete,
    Acknowledge,
    Claim,
    Group,
}

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

/// The look at one command on a stream, as its arguments pass.
#[derive(Debug, Default)]
pub(crate) struct StreamLook {
    /// XGROUP's.
    subcommand: Vec<u8>,
    /// What comes next is the threshold of a trim, or the number behind LIMIT.
    threshold_next: bool,
    limit_next: bool,
    /// A word has come that is no option.
    past_options: bool,
}

impl StreamLook {
    /// Whether the argument at a place names what is touched.
    pub fn is_here(&self, command: StreamCommand, at: usize) -> bool {
        match command {
            StreamCommand::Add | StreamCommand::Trim => at >= 2 && !self.past_options,
            StreamCommand::Delete | StreamCommand::Acknowledge | StreamCommand::Claim => at >= 2,
            StreamCommand::Group => at >= 3,
        }
    }

    /// The word before XGROUP's key.
    pub fn subcommand(&mut self, word: &[u8]) {
        self.subcommand = word.to_ascii_uppercase();
    }

    /// An argument for which [`Self::is_here`] holds.
    pub fn take(&mut self, command: StreamCommand, word: &[u8]) {
        if !matches!(command, StreamCommand::Add | StreamCommand::Trim) {
            return;
        }
        if self.threshold_next {
            self.threshold_next = matches!(word, b"=" | b"~");
        } else if self.limit_next {
            self.limit_next = false;
        } else {
            match &*word.to_ascii_uppercase() {
                b"MAXLEN" | b"MINID" => self.threshold_next = true,
                b"LIMIT" => self.limit_next = true,
                // What refers to a deleted entry stays as it is.
                b"NOMKSTREAM" | b"KEEPREF" => {}
                _ => self.past_options = true,
            }
        }
    }

    /// What the whole command touches, `words` being the arguments that were taken; none where that is not known.
    pub fn touched(&self, command: StreamCommand, words: &[Vec<u8>]) -> Option<Vec<Vec<u8>>> {
        let elements = match command {
            StreamCommand::Add => {
                // Anything but an ID is an option that does more.
                parse_id(words.last()?).filter(|_| self.past_options)?;
                Vec::new()
            }
            StreamCommand::Trim if self.past_options || words.len() < 2 => return None,
            StreamCommand::Trim => Vec::new(),
            StreamCommand::Delete => words
                .iter()
                .map(|word| parse_id(word).map(StreamElement::Deleted))
                .collect::<Option<_>>()?,
            StreamCommand::Acknowledge => {
                let (group, ids) = words.split_first()?;
                ids.iter().map(|id| pending(group, id)).collect::<Option<_>>()?
            }
            StreamCommand::Claim => {
                let [group, _consumer, _idle, ids @ ..] = words else {
                    return None;
                };
                let mut elements: Vec<_> = ids.iter().map_while(|id| pending(group, id)).collect();
                if elements.is_empty() {
                    return None;
                }
                elements.push(StreamElement::Group(group.clone()));
                elements
            }
            StreamCommand::Group => {
                let group = words.first()?.clone();
                match &*self.subcommand {
                    b"CREATE" | b"DESTROY" | b"DELCONSUMER" => vec![StreamElement::WholeGroup(group)],
                    b"SETID" | b"CREATECONSUMER" => vec![StreamElement::Group(group)],
                    _ => return None,
                }
            }
        };
        Some(elements.iter().map(StreamElement::to_bytes).collect())
    }
}

fn pending(group: &[u8], id: &[u8]) -> Option<StreamElement> {
    Some(StreamElement::Pending {
        group: group.to_vec(),
        id: parse_id(id)?,
    })
}

/// An ID, of which the second half may be missing: that is 0.
fn parse_id(word: &[u8]) -> Option<StreamId> {
    let word = std::str::from_utf8(word).ok()?;
    let (ms, seq) = word.split_once('-').unwrap_or((word, "0"));
    Some(StreamId {
        ms: ms.parse().ok()?,
        seq: seq.parse().ok()?,
    })
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
