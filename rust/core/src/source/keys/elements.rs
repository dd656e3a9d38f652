//! Which arguments of a command name the elements that it touches, of a set, a sorted set or a hash; and which commands
//! touch the ends of a list alone (`ends.rs`).
//!
//! Invariant: what is named is all that the command changes of the key, but for the key's own expiry; one argument too
//! many does no harm, as an element is read before it is written.

use crate::source::keys::ends;
use crate::source::keys::ends::{Change, Ends};

/// What a key holds whose elements are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// Members.
    Set,
    /// Members with scores.
    SortedSet,
    /// Fields.
    Hash,
    /// Entries at its ends.
    List,
}

/// Where the elements stand. Places count from 0, the command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Elements {
    /// Nowhere: it changes the key's expiry alone.
    None,
    At(usize),
    /// From a place on, every `step`-th.
    From {
        first: usize,
        step: usize,
    },
    /// Behind each score, up to the end.
    Scored,
    /// Behind FIELDS and their number, every `step`-th.
    Fields {
        step: usize,
    },
    /// Nowhere: it changes the ends of a list.
    Ends(Ends),
}

/// What a command names, by its name in lower case; none where that is not known. Read in the servers' sources (Redis
/// 6.2 to 8.6, Valkey to 9.1), as their streams have it: SPOP comes as SREM, GEOADD as ZADD.
pub(crate) fn of(command: &[u8]) -> Option<(Option<Container>, Elements)> {
    use Container::{Hash, Set, SortedSet};
    let rest = |first, step| Elements::From { first, step };
    if let Some(ends) = ends::of(command) {
        return Some((Some(Container::List), Elements::Ends(ends)));
    }
    let (container, elements) = match command {
        b"expire" | b"pexpire" | b"expireat" | b"pexpireat" | b"persist" => {
            return Some((None, Elements::None));
        }
        b"sadd" | b"srem" => (Set, rest(2, 1)),
        b"smove" => (Set, Elements::At(3)),
        b"zadd" => (SortedSet, Elements::Scored),
        b"zincrby" => (SortedSet, Elements::At(3)),
        b"zrem" => (SortedSet, rest(2, 1)),
        b"hset" | b"hmset" => (Hash, rest(2, 2)),
        b"hsetnx" | b"hincrby" | b"hincrbyfloat" => (Hash, Elements::At(2)),
        b"hdel" => (Hash, rest(2, 1)),
        b"hexpire" | b"hpexpire" | b"hexpireat" | b"hpexpireat" | b"hpersist" | b"hgetdel" | b"hgetex" => {
            (Hash, Elements::Fields { step: 1 })
        }
        b"hsetex" => (Hash, Elements::Fields { step: 2 }),
        _ => return None,
    };
    Some((Some(container), elements))
}

/// The look for the elements of one command.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub container: Option<Container>,
    elements: Option<Elements>,
    /// Somebody follows a key of the command by its elements.
    pub wanted: bool,
    /// Elements behind FIELDS stand from here to here.
    fields: Option<(usize, usize)>,
    /// The number of them comes next.
    number_next: bool,
    /// What it says of the ends of a list.
    words: ends::Words,
    /// What the command touched is not known for certain.
    pub failed: bool,
}

impl Look {
    pub fn new(known: Option<(Option<Container>, Elements)>) -> Self {
        let (container, elements) = known.map_or((None, None), |(container, of)| (container, Some(of)));
        Self {
            container,
            elements,
            ..Self::default()
        }
    }

    /// Whether the command's elements can be told.
    pub fn is_known(&self) -> bool {
        self.elements.is_some()
    }

    /// Whether an element stands at a place, of `count`.
    pub fn is_here(&self, at: usize, count: usize) -> bool {
        self.wanted
            && match self.elements {
                None | Some(Elements::None | Elements::Ends(_)) => false,
                Some(Elements::At(place)) => at == place,
                Some(Elements::From { first, step }) => at >= first && (at - first).is_multiple_of(step),
                Some(Elements::Scored) => at >= 3 && (count - 1 - at).is_multiple_of(2),
                Some(Elements::Fields { step }) => self
                    .fields
                    .is_some_and(|(first, end)| at >= first && at < end && (at - first).is_multiple_of(step)),
            }
    }

    /// Whether a short word may say where the elements stand.
    pub fn wants_word(&self) -> bool {
        self.wanted
            && match self.elements {
                Some(Elements::Fields { .. }) => self.fields.is_none(),
                Some(Elements::Ends(ends)) => ends.has_words(),
                _ => false,
            }
    }

    /// A word that is no key and no element, at a place of `count`.
    pub fn word(&mut self, word: &[u8], at: usize, count: usize) {
        if let Some(Elements::Ends(ends)) = self.elements {
            return self.words.take(ends, word, at);
        }
        let Some(Elements::Fields { step }) = self.elements else {
            return;
        };
        if !self.wants_word() {
            return;
        }
        if std::mem::take(&mut self.number_next) {
            let number = std::str::from_utf8(word)
                .ok()
                .and_then(|word| word.parse::<usize>().ok());
            let end = number.and_then(|number| (at + 1).checked_add(number.checked_mul(step)?));
            match end.filter(|&end| end <= count) {
                Some(end) => self.fields = Some((at + 1, end)),
                None => self.failed = true,
            }
        } else {
            self.number_next = word.eq_ignore_ascii_case(b"FIELDS");
        }
    }

    /// Whether the command changes the ends of lists.
    pub fn has_ends(&self) -> bool {
        matches!(self.elements, Some(Elements::Ends(_)))
    }

    /// What the command, of `count` arguments, did to the ends of its key with this number; none where it is not certain.
    pub fn change(&self, key: u64, count: usize) -> Option<Change> {
        match self.elements {
            Some(Elements::Ends(ends)) if !self.failed => ends.change(key, count, &self.words),
            _ => None,
        }
    }

    /// The command is whole: whether all its elements were told.
    pub fn is_whole(&self) -> bool {
        let found = !matches!(self.elements, Some(Elements::Fields { .. })) || self.fields.is_some();
        found && !self.failed
    }
}

#[cfg(test)]
mod tests {
    use crate::resp::encode;
    use crate::source::keys::{Effect, KeyReader, Table};

    #[test]
    fn elements_of_the_commands_that_name_them() {
        for (command, elements) in [
            ("SADD k a b", "a b"),
            ("SREM k a b", "a b"),
            ("SMOVE k k2 m", "m | m"),
            ("ZADD k 1 a 2 b", "a b"),
            ("ZADD k XX CH 1 a 2 b", "CH a b"),
            ("ZINCRBY k 1 a", "a"),
            ("HSET k f 1 g 2", "f g"),
            ("HDEL k f g", "f g"),
            ("HINCRBY k f 5", "f"),
            ("HPEXPIREAT k 99 NX FIELDS 2 f g", "f g"),
            ("hsetex k FNX PXAT 99 FIELDS 2 f 1 g 2", "f g"),
            ("PEXPIREAT k 99", ""),
            ("PERSIST k", ""),
            ("HPEXPIREAT k 99 FIELDS 3 f g", "whole"),
            ("HPEXPIREAT k 99 FIELDS x f", "whole"),
            ("HPERSIST k f", "whole"),
        ] {
            let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
            let mut data = Vec::new();
            encode::command(&mut data, &words);
            for size in [1, 7, data.len()] {
                let mut reader = KeyReader::new(Table::of_tests(), 0, 0);
                let (mut found, mut buffer) = (Vec::new(), Vec::new());
                for piece in data.chunks(size) {
                    buffer.extend(piece);
                    let progress = reader.read(&buffer, |effect, _, _| {
                        match effect {
                            Effect::KeyInPart { .. } => return true,
                            Effect::Elements { elements, .. } => {
                                found.push(String::from_utf8(elements.join(&b' ')).unwrap());
                            }
                            _ => found.push("whole".to_owned()),
                        }
                        false
                    });
                    buffer.drain(..progress.unwrap().used);
                }
                assert_eq!(found.join(" | "), elements, "{command}");
            }
        }
    }
}
