//! Which arguments of a command name the elements that it touches, of a set, a sorted set, a hash or a stream
//! (`stream_elements.rs`); and which commands touch the ends of a list alone (`ends.rs`).
//!
//! Invariant: what is named is all that the command changes of the key, but for the key's own expiry; one argument too
//! many does no harm, as an element is read before it is written.

use crate::source::keys::ends;
use crate::source::keys::ends::{Change, Ends};
use crate::source::keys::stream_elements::{StreamCommand, StreamLook};

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
    /// Entries, groups, and what is pending in these.
    Stream,
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
    /// As a command on a stream has them.
    Stream(StreamCommand),
}

/// What a command names, by its name in lower case; none where that is not known. Read in the servers' sources (Redis
/// 6.2 to 8.6, Valkey to 9.1), as their streams have it: SPOP comes as SREM, GEOADD as ZADD.
pub(crate) fn of(command: &[u8]) -> Option<(Option<Container>, Elements)> {
    use Container::{Hash, Set, SortedSet, Stream};
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
        b"xadd" => (Stream, Elements::Stream(StreamCommand::Add)),
        b"xtrim" => (Stream, Elements::Stream(StreamCommand::Trim)),
        b"xdel" => (Stream, Elements::Stream(StreamCommand::Delete)),
        b"xack" => (Stream, Elements::Stream(StreamCommand::Acknowledge)),
        b"xclaim" => (Stream, Elements::Stream(StreamCommand::Claim)),
        b"xgroup" => (Stream, Elements::Stream(StreamCommand::Group)),
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
    stream: StreamLook,
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
                Some(Elements::Stream(command)) => self.stream.is_here(command, at),
            }
    }

    /// Whether a short word at a place may say where the elements stand.
    pub fn wants_word(&self, at: usize) -> bool {
        match self.elements {
            Some(Elements::Fields { .. }) => self.wanted && self.fields.is_none(),
            Some(Elements::Ends(ends)) => self.wanted && ends.has_words(),
            // It comes before the key.
            Some(Elements::Stream(StreamCommand::Group)) => at == 1,
            _ => false,
        }
    }

    /// An element.
    pub fn element(&mut self, element: &[u8]) {
        if let Some(Elements::Stream(command)) = self.elements {
            self.stream.take(command, element);
        }
    }

    /// What the whole command touches, `elements` being those that stood in it; none where that is not known.
    pub fn touched(&self, elements: Vec<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
        match self.elements {
            Some(Elements::Stream(command)) => self.stream.touched(command, &elements),
            _ => Some(elements),
        }
    }

    /// A word that is no key and no element, at a place of `count`.
    pub fn word(&mut self, word: &[u8], at: usize, count: usize) {
        if let Some(Elements::Ends(ends)) = self.elements {
            return self.words.take(ends, word, at);
        }
        if let Some(Elements::Stream(StreamCommand::Group)) = self.elements
            && at == 1
        {
            return self.stream.subcommand(word);
        }
        let Some(Elements::Fields { step }) = self.elements else {
            return;
        };
        if !self.wants_word(at) {
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
    use crate::chunked::parts::StreamElement;
    use crate::resp::encode;
    use crate::source::keys::{Effect, KeyReader, Table};

    #[test]
    fn elements_of_the_commands_that_name_them() {
        assert_told(&[
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
        ]);
    }

    #[test]
    fn what_a_command_touches_of_a_stream() {
        assert_told(&[
            ("XADD k 5-1 f v", ""),
            ("XADD k NOMKSTREAM MAXLEN ~ 5 LIMIT 9 5-1 f v", ""),
            ("XADD k KEEPREF MINID = 4-0 5-1 f v", ""),
            ("XADD k MAXLEN 5 5-1 DELREF v", ""),
            ("XADD k DELREF MAXLEN = 5 5-1 f v", "whole"),
            ("XADD k ACKED MAXLEN = 5 5-1 f v", "whole"),
            ("XADD k IDMP p i 5-1 f v", "whole"),
            ("XADD k * f v", "whole"),
            ("XADD k MAXLEN 5", "whole"),
            ("XTRIM k MAXLEN = 5", ""),
            ("XTRIM k MINID 5-1 KEEPREF", ""),
            ("XTRIM k MAXLEN 5 DELREF", "whole"),
            ("XTRIM k ACKED MAXLEN 5", "whole"),
            ("XTRIM k", "whole"),
            ("XDEL k 5-1 6", "deleted 5-1 deleted 6-0"),
            ("XDEL k x", "whole"),
            ("XACK k g 5-1 6-1", "pending g 5-1 pending g 6-1"),
            (
                "XCLAIM k g c 0 5-1 TIME 9 RETRYCOUNT 1 FORCE JUSTID LASTID 5-1",
                "pending g 5-1 group g",
            ),
            ("XCLAIM k g c 0 5-1 6-1", "pending g 5-1 pending g 6-1 group g"),
            ("XCLAIM k g c 0", "whole"),
            ("XGROUP CREATE k g 5-1 ENTRIESREAD 4", "all of g"),
            ("xgroup destroy k g", "all of g"),
            ("XGROUP DELCONSUMER k g c", "all of g"),
            ("XGROUP SETID k g 5-1", "group g"),
            ("XGROUP CREATECONSUMER k g c", "group g"),
            ("XGROUP FROBNICATE k g", "whole"),
            ("XSETID k 5-1", "whole"),
            ("XDELEX k KEEPREF IDS 1 5-1", "whole"),
        ]);
    }

    fn shown(element: &[u8]) -> String {
        let text = |group: Vec<u8>| String::from_utf8(group).unwrap();
        match StreamElement::parse(element) {
            Some(StreamElement::Pending { group, id }) => {
                format!("pending {} {}-{}", text(group), id.ms, id.seq)
            }
            Some(StreamElement::Group(group)) => format!("group {}", text(group)),
            Some(StreamElement::WholeGroup(group)) => format!("all of {}", text(group)),
            Some(StreamElement::AllGroups) => "all groups".to_owned(),
            Some(StreamElement::Deleted(id)) => format!("deleted {}-{}", id.ms, id.seq),
            None => text(element.to_vec()),
        }
    }

    fn assert_told(commands: &[(&str, &str)]) {
        for (command, elements) in commands {
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
                                let shown: Vec<_> = elements.iter().map(|element| shown(element)).collect();
                                found.push(shown.join(" "));
                            }
                            _ => found.push("whole".to_owned()),
                        }
                        false
                    });
                    buffer.drain(..progress.unwrap().used);
                }
                assert_eq!(found.join(" | "), *elements, "{command}");
            }
        }
    }
}
