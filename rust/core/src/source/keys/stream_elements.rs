//! What the commands on a stream touch of it: entries that they delete, deliveries, groups.
//!
//! Invariant: what is named here and what is looked at whenever anything was touched (the entries behind the last one, the
//! first entry, the history) is all that the command changes of the key. A word that is not known makes it the whole key.

use crate::chunked::parts::StreamElement;
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
