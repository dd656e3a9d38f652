//! Which keys a command of the stream touches, found while its arguments come in.
//!
//! Invariant: never fewer keys than the command may change: what is not known for certain is [`Effect::Unknown`], and
//! only a whole comparison answers that. No more than one key and a few short words of a command are held.

mod elements;
mod ends;
mod layout;
mod stream_elements;
mod table;

pub use elements::Container;
pub use ends::{Change, End};
use layout::{Class, Layout, Place, Plan};
pub use table::{Table, TableError};

use crate::source::stream::{Commands, Item, StreamError};

/// What a command did, as far as a copy is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect<'a> {
    /// It may have changed this key.
    Key {
        /// The key's database.
        database: u32,
        /// The key.
        name: &'a [u8],
    },
    /// It may have changed no more of this key than elements of it and its expiry. Who answers true is told which:
    /// [`Self::Elements`] or [`Self::Ends`], or [`Self::Key`] where that turns out not to be known.
    KeyInPart {
        /// The key's database.
        database: u32,
        /// The key.
        name: &'a [u8],
        /// What the key holds, if the command says so.
        container: Option<Container>,
    },
    /// These elements of a key, or its expiry, may have changed.
    Elements {
        /// The key's database.
        database: u32,
        /// The key.
        name: &'a [u8],
        /// Members, fields, or what is named of a stream; none: no more than its expiry and, of a stream, its ends.
        elements: &'a [Vec<u8>],
    },
    /// Entries of a list were added or taken at an end, and nothing else of it changed. Told once a command.
    Ends {
        /// The key's database.
        database: u32,
        /// The key.
        name: &'a [u8],
        /// What was done.
        change: Change,
    },
    /// It emptied a database; `None`: all of them.
    Flushed(Option<u32>),
    /// It swapped two databases.
    Swapped(u32, u32),
    /// It changed the library of functions.
    Functions,
    /// A message to subscribers: no data.
    Published,
    /// A script was loaded or flushed: no data.
    Script,
    /// What it changed is not known; here is its name, or why.
    Unknown(&'a [u8]),
}

/// No longer name is held: a command with one is [`Effect::Unknown`].
pub const LONGEST_NAME: u64 = 1 << 20;

/// Elements of a command that are held: one with more may have changed all of the key.
const MOST_ELEMENT_BYTES: usize = 4 << 20;

/// No command and no word of its syntax is longer.
const LONGEST_WORD: u64 = 64;

/// Reads a stream of commands and tells what they did.
#[derive(Debug)]
pub struct KeyReader {
    commands: Commands,
    table: Table,
    /// The database that the stream has selected, and the one before the command that is under way.
    database: u32,
    database_before: u32,
    plan: Plan,
    /// A key whose database comes behind it.
    held: Vec<u8>,
    /// Keys of the command that are followed by their elements, each with its number among the keys, and those.
    in_part: Vec<(u64, Vec<u8>)>,
    elements: Vec<Vec<u8>>,
    element_bytes: usize,
    wants_ack: bool,
    /// Commands that are whole, and those of them that touched keys.
    count: u64,
    writes: u64,
}

/// What a look at the stream used up, and how much is needed before there can be more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are used up.
    pub used: usize,
    /// So many bytes in all are needed, where that is known; else 0.
    pub need: usize,
}

impl KeyReader {
    /// Read a stream that goes on behind `offset` with `database` selected.
    pub fn new(table: Table, offset: u64, database: u32) -> Self {
        Self {
            commands: Commands::new(offset),
            table,
            database,
            database_before: database,
            plan: Plan::default(),
            held: Vec::new(),
            in_part: Vec::new(),
            elements: Vec::new(),
            element_bytes: 0,
            wants_ack: false,
            count: 0,
            writes: 0,
        }
    }

    /// All bytes up to here were used.
    pub fn offset(&self) -> u64 {
        self.commands.offset()
    }

    /// Where the command begins that is under way or comes next, and the database that is selected there.
    pub fn start(&self) -> (u64, u32) {
        (self.commands.start(), self.database_before)
    }

    /// Whether the source has asked for an acknowledgement since the last call.
    pub fn take_ack_wanted(&mut self) -> bool {
        std::mem::take(&mut self.wants_ack)
    }

    /// How many commands were read, and how many of them touched keys.
    pub fn counts(&self) -> (u64, u64) {
        (self.count, self.writes)
    }

    /// Use up what there is of the stream; `tell` gets each effect with the offset behind which its command begins and
    /// the database that is selected there; what it answers counts for [`Effect::KeyInPart`].
    pub fn read(
        &mut self,
        data: &[u8],
        mut tell: impl FnMut(Effect<'_>, u64, u32) -> bool,
    ) -> Result<Progress, StreamError> {
        let mut used = 0;
        loop {
            // Of the command that is under way: with its end, the next one's place is known.
            let (start, before) = (self.commands.start(), self.database_before);
            let plan = &mut self.plan;
            let step = self.commands.next(&data[used..], |length| plan.wants(length))?;
            used += step.used;
            let Some(item) = step.item else {
                return Ok(Progress {
                    used,
                    need: step.need,
                });
            };
            match item {
                Item::Begin(count) => self.plan.begin(count),
                Item::Argument(bytes) => {
                    if self.plan.at() == 0 {
                        let (layout, elements) = self.table.find(bytes);
                        self.plan.choose(layout, elements, bytes);
                    } else {
                        self.argument(bytes, |effect| tell(effect, start, before));
                    }
                    self.plan.pass();
                }
                Item::Skipped(length) => {
                    if self.plan.skipped(length) {
                        tell(Effect::Unknown(b"a name of more than 1 MB"), start, before);
                    }
                    self.plan.pass();
                }
                Item::End => {
                    self.count += 1;
                    self.end(|effect| tell(effect, start, before));
                    self.database_before = self.database;
                }
            }
        }
    }

    /// An argument that was wanted.
    #[inline]
    fn argument(&mut self, bytes: &[u8], mut tell: impl FnMut(Effect<'_>) -> bool) {
        let (database, name) = (self.database, bytes);
        match self.plan.take(bytes) {
            Place::Key if self.plan.elements.is_known() => {
                self.plan.found += 1;
                let container = self.plan.elements.container;
                if tell(Effect::KeyInPart {
                    database,
                    name,
                    container,
                }) {
                    self.plan.elements.wanted = true;
                    self.in_part.push((self.plan.found - 1, bytes.to_vec()));
                }
            }
            Place::Key => {
                self.plan.found += 1;
                tell(Effect::Key { database, name });
            }
            Place::Element => {
                self.element_bytes += bytes.len();
                if self.element_bytes > MOST_ELEMENT_BYTES {
                    self.plan.elements.failed = true;
                } else {
                    self.elements.push(bytes.to_vec());
                }
            }
            Place::Held => {
                self.held.clear();
                self.held.extend_from_slice(bytes);
            }
            Place::Word => {}
        }
    }

    /// A command is whole.
    fn end(&mut self, mut tell: impl FnMut(Effect<'_>) -> bool) {
        if !self.in_part.is_empty() {
            self.end_in_part(&mut tell);
        }
        let numbers = self.plan.numbers();
        let name = self.held.as_slice();
        match self.plan.layout() {
            Layout::Copy => {
                let database = numbers[0].unwrap_or(self.database);
                self.plan.found += 1;
                tell(Effect::Key { database, name });
            }
            Layout::Move => {
                self.plan.found += 1;
                let database = self.database;
                tell(Effect::Key { database, name });
                match numbers[0] {
                    Some(database) => tell(Effect::Key { database, name }),
                    None => tell(Effect::Unknown(b"MOVE")),
                };
            }
            Layout::Class(class) => self.end_of_class(class, numbers, &mut tell),
            _ => {}
        }
        if self.plan.is_incomplete() {
            tell(Effect::Unknown(self.plan.name()));
        }
        self.writes += u64::from(self.plan.found > 0);
        if self.held.capacity() > LONGEST_WORD as usize * 64 {
            self.held = Vec::new();
        }
    }

    /// The same, where keys of it are followed by their elements.
    #[cold]
    fn end_in_part(&mut self, tell: &mut impl FnMut(Effect<'_>) -> bool) {
        let is_whole = self.plan.elements.is_whole() && !self.plan.is_incomplete();
        let (database, elements) = (self.database, std::mem::take(&mut self.elements));
        let is_named = is_whole && !self.plan.elements.has_ends();
        let touched = is_named.then(|| self.plan.elements.touched(elements)).flatten();
        for (number, name) in &std::mem::take(&mut self.in_part) {
            let change = self.plan.elements.change(*number, self.plan.at());
            if let Some(change) = change.filter(|_| is_whole) {
                tell(Effect::Ends {
                    database,
                    name,
                    change,
                });
            } else if let Some(elements) = &touched {
                tell(Effect::Elements {
                    database,
                    name,
                    elements,
                });
            } else {
                tell(Effect::Key { database, name });
            }
        }
        self.element_bytes = 0;
    }

    fn end_of_class(
        &mut self,
        class: Class,
        numbers: [Option<u32>; 2],
        tell: &mut impl FnMut(Effect<'_>) -> bool,
    ) {
        let effect = match (class, numbers) {
            (Class::SwapDb, [Some(one), Some(other)]) => Effect::Swapped(one, other),
            (Class::Select, [Some(database), _]) => return self.database = database,
            (Class::Select | Class::SwapDb | Class::Unknown, _) => Effect::Unknown(self.plan.name()),
            (Class::FlushDb, _) => Effect::Flushed(Some(self.database)),
            (Class::FlushAll, _) => Effect::Flushed(None),
            (Class::Function, _) => Effect::Functions,
            (Class::Publish, _) => Effect::Published,
            (Class::Script, _) => Effect::Script,
            (Class::Replconf, _) => return self.wants_ack |= self.plan.is_getack(),
            (Class::NoData, _) => return,
        };
        tell(effect);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::resp::encode;

    /// Everything that the commands in `text` (words, a line a command) touch; `!` marks other effects.
    fn effects(text: &str) -> Vec<String> {
        let mut data = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            encode::command(&mut data, &words);
        }
        read(&data, data.len())
    }

    fn read(data: &[u8], size: usize) -> Vec<String> {
        let mut reader = KeyReader::new(Table::of_tests(), 0, 0);
        let (mut found, mut buffer) = (Vec::new(), Vec::new());
        for piece in data.chunks(size) {
            buffer.extend(piece);
            let progress = reader
                .read(&buffer, |effect, _, _| {
                    found.push(match effect {
                        Effect::Key { database, name } | Effect::KeyInPart { database, name, .. } => {
                            format!("{database}:{}", name.escape_ascii())
                        }
                        Effect::Unknown(name) => format!("!unknown {}", name.escape_ascii()),
                        other => format!("!{other:?}"),
                    });
                    false
                })
                .unwrap();
            buffer.drain(..progress.used);
        }
        assert!(buffer.is_empty());
        assert_eq!(reader.offset(), data.len() as u64);
        found
    }

    #[test]
    fn keys_by_the_table_and_by_what_is_known() {
        for (command, keys) in [
            ("set a 1", "0:a"),
            ("SeT a 1 PXAT 5", "0:a"),
            ("DEL a b c", "0:a 0:b 0:c"),
            ("MSET a 1 b 2", "0:a 0:b"),
            ("RENAME a b", "0:a 0:b"),
            ("LMOVE a b LEFT LEFT", "0:a 0:b"),
            ("BLPOP a b 0", "0:a 0:b"),
            ("SUNIONSTORE d a b", "0:d"),
            ("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "0:d"),
            ("ZRANGESTORE d a 0 -1", "0:d"),
            ("BITOP AND d a b", "0:d"),
            ("PFMERGE d a b", "0:d"),
            ("COPY a b", "0:b"),
            ("COPY a b REPLACE DB 3", "3:b"),
            ("COPY a DB", "0:DB"),
            ("COPY a DB DB 4", "4:DB"),
            ("MOVE a 2", "0:a 2:a"),
            ("XGROUP CREATE s g $", "0:s"),
            ("XCLAIM s g c 0 1-1 FORCE", "0:s"),
            ("SORT a STORE d", "0:d"),
            ("SORT a BY STORE LIMIT 0 STORE GET STORE STORE d", "0:d"),
            ("SORT a", ""),
            ("GEORADIUS a 1 2 3 m STORE d", "0:d"),
            ("GEORADIUS a 1 2 3 m COUNT 5 STOREDIST d", "0:d"),
            ("GEORADIUSBYMEMBER a m 3 m STORE d", "0:d"),
            ("GEOSEARCHSTORE d a FROMMEMBER m", "0:d"),
            ("EVAL x 2 a b c", "0:a 0:b"),
            ("EVALSHA x 1 a", "0:a"),
            ("FCALL f 1 a b", "0:a"),
            ("LMPOP 2 a b LEFT", "0:a 0:b"),
            ("BZMPOP 0 1 z MIN", "0:z"),
            ("MSETEX 2 a 1 b 2 KEEPTTL", "0:a 0:b"),
            ("XREADGROUP GROUP g c COUNT 1 STREAMS s t > >", "0:s 0:t"),
            ("MIGRATE h 1 a 0 9", "0:a"),
            ("MIGRATE h 1 a 0 9 KEYS a b", "0:a 0:a 0:b"),
            ("JSON.NEW a", "0:a"),
        ] {
            assert_eq!(effects(command).join(" "), keys, "{command}");
        }
    }

    #[test]
    fn what_is_no_key() {
        for (command, effect) in [
            ("PING", ""),
            ("MULTI\nSET a 1\nEXEC", "0:a"),
            ("SELECT 3\nSET a 1\nSELECT 0\nSET b 1", "3:a 0:b"),
            ("SELECT 2\nFLUSHDB ASYNC", "!Flushed(Some(2))"),
            ("flushall", "!Flushed(None)"),
            ("SWAPDB 0 5", "!Swapped(0, 5)"),
            ("FUNCTION LOAD REPLACE code", "!Functions"),
            ("PUBLISH a b\nSPUBLISH a b", "!Published !Published"),
            ("SCRIPT LOAD x", "!Script"),
            ("REPLCONF GETACK *", ""),
            ("EVAL x 0", "!unknown EVAL"),
            ("EVAL x nonsense a", "!unknown EVAL"),
            ("EVAL x 3 a b", "0:a 0:b !unknown EVAL"),
            ("MSETEX 2 a 1 b", "0:a 0:b !unknown MSETEX"),
            ("SORT a STORE", "!unknown SORT"),
            ("SET", "!unknown SET"),
            ("MOVE a b", "0:a !unknown MOVE"),
            ("SELECT x", "!unknown SELECT"),
            ("FROBNICATE a", "!unknown FROBNICATE"),
            ("MODULE.HIDDEN a b", "!unknown MODULE.HIDDEN"),
            ("MODULE.WRITES", "!unknown MODULE.WRITES"),
            ("MODULE.TELLS", ""),
        ] {
            assert_eq!(effects(command).join(" "), effect, "{command}");
        }
    }

    #[test]
    fn an_effect_comes_with_the_place_before_its_command() {
        let (mut data, mut places) = (Vec::new(), Vec::new());
        for command in [
            ["SELECT", "4"],
            ["DEL", "a"],
            ["FLUSHDB", "SYNC"],
            ["SELECT", "2"],
            ["FROBNICATE", "x"],
        ] {
            places.push(10 + data.len() as u64);
            encode::command(&mut data, &command.map(str::as_bytes));
        }
        let mut reader = KeyReader::new(Table::of_tests(), 10, 7);
        let mut found = Vec::new();
        reader
            .read(&data, |_, offset, selected| {
                found.push((offset, selected));
                false
            })
            .unwrap();
        assert_eq!(found, [(places[1], 4), (places[2], 4), (places[4], 2)]);
    }

    #[test]
    fn an_acknowledgement_is_asked_for_once() {
        let mut data = Vec::new();
        encode::command(&mut data, &[b"REPLCONF", b"getack", b"*"]);
        let mut reader = KeyReader::new(Table::of_tests(), 7, 0);
        reader.read(&data, |_, _, _| false).unwrap();
        assert!(reader.take_ack_wanted() && !reader.take_ack_wanted());
        assert_eq!(reader.start(), (7 + data.len() as u64, 0));
    }

    #[test]
    fn a_value_is_not_held_and_a_name_that_is_too_long_is_no_key() {
        let long = vec![b'n'; LONGEST_NAME as usize + 1];
        let mut data = Vec::new();
        encode::command(&mut data, &[b"SET", &long, b"v"]);
        encode::command(&mut data, &[b"SET", b"a", &long]);
        encode::command(&mut data, &[&long, b"a"]);
        assert_eq!(
            read(&data, 10_000),
            [
                "!unknown a name of more than 1 MB",
                "0:a",
                "!unknown a name of more than 1 MB"
            ]
        );
    }

    proptest! {
        #[test]
        fn the_same_keys_however_the_stream_is_cut(
            words in prop::collection::vec(prop::collection::vec(prop::sample::select(vec![
                "SET", "MSET", "EVAL", "SORT", "STORE", "COPY", "DB", "STREAMS", "XREADGROUP", "KEYS", "MIGRATE",
                "GEORADIUS", "SELECT", "MOVE", "BLPOP", "a", "b", "", "0", "1", "2", "-1", "99999999999999999999",
            ]), 1..9), 1..6),
            size in 1usize..50,
        ) {
            let mut data = Vec::new();
            for line in &words {
                let line: Vec<&[u8]> = line.iter().map(|word| word.as_bytes()).collect();
                encode::command(&mut data, &line);
            }
            prop_assert_eq!(read(&data, size), read(&data, data.len()));
        }
    }
}
