//! Where the keys of a command stand, and the look for them as its arguments pass.
//!
//! Invariant: each argument is looked at once, in order; what says where keys stand is known before they come, or the
//! key is held until it is.

use crate::source::keys::elements::{Container, Elements, Look};
use crate::source::keys::{LONGEST_NAME, LONGEST_WORD};

/// What a command does that touches no key by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    NoData,
    Select,
    SwapDb,
    FlushDb,
    FlushAll,
    Function,
    Publish,
    Script,
    Replconf,
    Unknown,
}

/// Where keys stand. Places count from 0, the command's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Every `step`-th from `first` to `last`, which counts from the end where it is negative.
    Range {
        first: usize,
        last: i64,
        step: usize,
    },
    /// The number of keys stands at `count`, and they stand behind it, every `step`-th.
    Counted {
        count: usize,
        step: usize,
    },
    /// The key behind the last STORE of a SORT.
    Sort,
    /// The keys behind STORE and STOREDIST, from a place on.
    Geo {
        from: usize,
    },
    /// The first half of what is behind STREAMS.
    Streams,
    /// The third, unless it is empty, and all behind KEYS.
    Migrate,
    /// The second, in the database behind DB.
    Copy,
    /// The first, here and in the database that is the second.
    Move,
    Class(Class),
}

/// What an argument turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Key,
    /// A key that is told when the command is whole.
    Held,
    /// An element of a key that is followed by its elements.
    Element,
    Word,
}

/// The look for the keys of one command.
#[derive(Debug)]
pub(crate) struct Plan {
    layout: Layout,
    name: Vec<u8>,
    /// Arguments in all, and the one that comes next.
    count: usize,
    at: usize,
    /// From here to here stand keys, where that had to be found out.
    keys: (usize, usize),
    /// The next argument is a key, or belongs to the word before.
    key_next: bool,
    pass_over: usize,
    numbers: [Option<u32>; 2],
    is_getack: bool,
    incomplete: bool,
    /// Keys so far.
    pub found: u64,
    pub elements: Look,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            layout: Layout::Class(Class::Unknown),
            name: Vec::new(),
            count: 0,
            at: 0,
            keys: (0, 0),
            key_next: false,
            pass_over: 0,
            numbers: [None; 2],
            is_getack: false,
            incomplete: false,
            found: 0,
            elements: Look::default(),
        }
    }
}

impl Plan {
    /// A command of `count` arguments begins.
    pub fn begin(&mut self, count: usize) {
        let mut name = std::mem::take(&mut self.name);
        name.clear();
        *self = Self {
            name,
            count,
            ..Self::default()
        };
    }

    /// The command's name has come, and with it where its keys stand.
    pub fn choose(&mut self, layout: Layout, elements: Option<(Option<Container>, Elements)>, name: &[u8]) {
        self.layout = layout;
        self.elements = Look::new(elements);
        self.name.extend_from_slice(name);
        match layout {
            Layout::Range { first, last, .. } => {
                let end = match usize::try_from(last) {
                    Ok(last) => last + 1,
                    Err(_) => (self.count + 1).saturating_sub(last.unsigned_abs() as usize),
                };
                self.keys = (first, end.min(self.count));
                self.incomplete = self.keys.0 >= self.keys.1;
            }
            Layout::Counted { count, .. } => self.incomplete = count >= self.count,
            Layout::Copy | Layout::Move | Layout::Migrate => self.incomplete = self.count < 3,
            _ => {}
        }
    }

    /// The place of the argument that comes next.
    pub fn at(&self) -> usize {
        self.at
    }

    /// It is over.
    pub fn pass(&mut self) {
        self.at += 1;
    }

    /// Whether an argument of `length` bytes has to be looked at.
    #[inline]
    pub fn wants(&mut self, length: u64) -> bool {
        if self.at == 0 {
            return length <= LONGEST_WORD;
        }
        if self.is_key_here() {
            return length <= LONGEST_NAME;
        }
        if self.elements.is_here(self.at, self.count) {
            return length <= LONGEST_NAME;
        }
        if self.elements.wants_word(self.at) {
            return length <= LONGEST_WORD;
        }
        length <= LONGEST_WORD && !matches!(self.layout, Layout::Range { .. })
    }

    /// Whether a key stands at the next place.
    #[inline]
    fn is_key_here(&self) -> bool {
        let (first, end) = self.keys;
        let in_keys = self.at >= first && self.at < end;
        match self.layout {
            Layout::Range { step, .. } | Layout::Counted { step, .. } => {
                in_keys && (self.at - first).is_multiple_of(step)
            }
            Layout::Copy => self.at == 2,
            Layout::Move => self.at == 1,
            Layout::Migrate => self.at == 3 || in_keys,
            Layout::Sort | Layout::Geo { .. } => self.key_next,
            Layout::Streams => in_keys,
            Layout::Class(_) => false,
        }
    }

    /// An argument was not looked at; returns whether it may have been a name.
    pub fn skipped(&mut self, _length: u64) -> bool {
        let was_name = self.at == 0 || self.is_key_here();
        self.elements.failed |= self.elements.is_here(self.at, self.count);
        if was_name {
            // It is told of already, by the reason.
            self.layout = Layout::Class(Class::NoData);
        }
        self.follow(b"");
        was_name
    }

    /// Look at an argument.
    #[inline]
    pub fn take(&mut self, bytes: &[u8]) -> Place {
        if self.is_key_here() {
            return match self.layout {
                Layout::Copy | Layout::Move => Place::Held,
                Layout::Migrate if self.at == 3 && bytes.is_empty() => Place::Word,
                _ => {
                    self.key_next = false;
                    self.incomplete &= matches!(self.layout, Layout::Counted { .. });
                    Place::Key
                }
            };
        }
        if self.elements.is_here(self.at, self.count) {
            self.elements.element(bytes);
            return Place::Element;
        }
        self.elements.word(bytes, self.at, self.count);
        self.follow(bytes);
        Place::Word
    }

    /// What a word says of what comes behind it.
    fn follow(&mut self, word: &[u8]) {
        if self.pass_over > 0 {
            self.pass_over -= 1;
            return;
        }
        let is = |text: &str| word.eq_ignore_ascii_case(text.as_bytes());
        let at = self.at;
        match self.layout {
            Layout::Counted { count, step } if at == count => {
                let keys = number(word).map_or(0, |keys| keys as usize * step);
                self.keys = (at + 1, (at + 1).saturating_add(keys).min(self.count));
                // Without a key, or with fewer than it says, what it touched is not known.
                self.incomplete = keys == 0 || at + keys >= self.count;
            }
            Layout::Sort if at >= 2 => {
                if is("STORE") {
                    (self.key_next, self.incomplete) = (true, true);
                } else if is("LIMIT") {
                    self.pass_over = 2;
                } else if is("BY") || is("GET") {
                    self.pass_over = 1;
                }
            }
            Layout::Geo { from } if at >= from && (is("STORE") || is("STOREDIST")) => {
                (self.key_next, self.incomplete) = (true, true);
            }
            Layout::Streams if self.keys.1 == 0 && is("STREAMS") => {
                let keys = (self.count - at - 1) / 2;
                self.keys = (at + 1, at + 1 + keys);
                self.incomplete = keys == 0;
            }
            Layout::Migrate if at > 5 && self.keys.1 == 0 && is("KEYS") => self.keys = (at + 1, self.count),
            Layout::Migrate if at > 5 && self.keys.1 == 0 => {
                self.pass_over = if is("AUTH") {
                    1
                } else {
                    2 * usize::from(is("AUTH2"))
                };
            }
            Layout::Copy if at > 2 && is("DB") => self.key_next = true,
            Layout::Copy if self.key_next => {
                self.key_next = false;
                self.numbers[0] = number(word);
                self.incomplete |= self.numbers[0].is_none();
            }
            Layout::Move if at == 2 => self.numbers[0] = number(word),
            Layout::Class(Class::Select | Class::SwapDb) if at <= 2 => self.numbers[at - 1] = number(word),
            Layout::Class(Class::Replconf) if at == 1 => self.is_getack = is("GETACK"),
            _ => {}
        }
    }

    pub fn layout(&self) -> Layout {
        self.layout
    }

    pub fn name(&self) -> &[u8] {
        &self.name
    }

    /// The databases that it names.
    pub fn numbers(&self) -> [Option<u32>; 2] {
        self.numbers
    }

    pub fn is_getack(&self) -> bool {
        self.is_getack
    }

    /// Whether there is less of the command than its syntax wants.
    pub fn is_incomplete(&self) -> bool {
        self.incomplete && !matches!(self.layout, Layout::Class(_))
    }
}

fn number(word: &[u8]) -> Option<u32> {
    std::str::from_utf8(word).ok()?.parse().ok()
}
