//! Strings, read as they are: where almost every key is a string, one GETRANGE brings value and size at less
//! cost to the source than MEMORY USAGE and DUMP, and the payload is made here.
//!
//! Invariant: a value is only what can be nothing else. An empty reply (GETRANGE's to a key that is absent as
//! well) and an error send their key the common way, by size and DUMP.

use crate::chunked::copy::Big;
use crate::rdb::append_string;
use crate::resp::Reply;
use crate::source::fetch::Fetch;
use crate::source::passing_on::Payload;
use crate::source::reader::SourceReader;

/// How the keys of a page are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// Their sizes, then DUMP; counts the strings.
    Dump { strings: usize },
    /// As strings.
    Plain,
    /// What was read as strings and is none: sizes, then DUMP.
    Rest,
}

/// A page with fewer keys says nothing of the others.
const TELLING: usize = 32;

/// A larger payload's room is not kept for the next one.
const KEPT: usize = 1 << 16;

impl Fetch {
    /// Whether the keys of other pages are likely strings; `None` where this page says nothing of it.
    fn are_strings(&self) -> Option<bool> {
        let keys = self.keys.len();
        match self.reading {
            _ if keys < TELLING => None,
            Reading::Dump { strings } => Some(strings * 100 >= keys * 95),
            // An error reply costs the source little more than TYPE would, but it counts them.
            Reading::Plain => Some(self.others.len() * 10 <= keys),
            Reading::Rest => None,
        }
    }

    /// Count a payload that DUMP gave: type 0 is a string; an empty one (of length 0) would not be taken for one.
    #[inline]
    pub(crate) fn count_string(&mut self, payload: Option<&[u8]>) {
        if let Reading::Dump { strings } = &mut self.reading
            && payload.is_some_and(|payload| payload.starts_with(&[0]) && !payload.starts_with(&[0, 0]))
        {
            *strings += 1;
        }
    }

    /// From now on only the keys that are no strings are read.
    fn turn_to_others(&mut self) {
        let others = std::mem::take(&mut self.others);
        self.big = (0..self.keys.len())
            .filter(|place| others.binary_search(place).is_err())
            .collect();
        self.reading = Reading::Rest;
        self.asked = self.small_from(0);
        self.read = self.asked;
    }
}

impl SourceReader {
    /// How a page that begins now is read.
    pub(crate) fn reading(&self) -> Reading {
        let engine = &self.engine;
        let copies = engine.spec.eviction.is_none() && !engine.is_quick() && !engine.minds_absent_keys();
        if copies && self.mostly_strings && !engine.plain_refused.get() {
            Reading::Plain
        } else {
            Reading::Dump { strings: 0 }
        }
    }

    /// The last byte to ask for: with it, a string is large. −1: all of it.
    pub(crate) fn last_plain_byte(&self) -> i64 {
        self.engine
            .spec
            .big_key_bytes
            .map_or(-1, |limit| limit.cast_signed() - 1)
    }

    /// A string was read: it is routed, or goes the way of large keys.
    pub(crate) fn pass_on_plain(&mut self, number: usize, read: usize, expiry: i64, value: &[u8], now: u64) {
        let spec = &self.engine.spec;
        if spec
            .big_key_bytes
            .is_some_and(|limit| value.len() as u64 >= limit)
        {
            let fetch = &self.fetches[number];
            let (key, slot) = fetch.keys.get(read);
            self.engine.take_big(Big {
                page: fetch.page,
                number: read as u32,
                slot,
                size: value.len() as u64,
                source: key.to_vec(),
                target: fetch.keys.target(read).to_vec(),
                in_doubt: false,
                refused: false,
            });
            return;
        }
        if self.engine.writing().sets {
            return self.pass_on(number, read, expiry, Some(Payload::String(value)), now, None);
        }
        let mut payload = std::mem::take(&mut self.payload);
        payload.clear();
        append_string(&mut payload, value);
        self.pass_on(number, read, expiry, Some(Payload::Dumped(&payload)), now, None);
        if payload.capacity() <= KEPT {
            self.payload = payload;
        }
    }

    /// No string was read: the key is read again the common way, with the others of its page.
    pub(crate) fn leave_to_dump(&mut self, number: usize, read: usize, reply: &Reply<'_>) {
        if matches!(reply, Reply::Error(error) if error.starts_with(b"NOPERM")) {
            self.engine.plain_refused.set(true);
        }
        self.fetches[number].others.push(read);
    }

    /// All keys of a page were read as asked: close it, or turn to those that are no strings.
    pub(crate) fn close(&mut self, number: usize) {
        if let Some(are_strings) = self.fetches[number].are_strings() {
            self.mostly_strings = are_strings;
        }
        let probes = self.engine.spec.big_key_bytes.is_some();
        let fetch = &mut self.fetches[number];
        if fetch.others.is_empty() {
            return self.finish_page(number);
        }
        fetch.turn_to_others();
        if probes {
            fetch.sized = fetch.asked;
            self.unsized_pages.push_back(number);
        } else {
            self.ready.push_back(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::source::page::Keys;

    fn page(keys: usize, reading: Reading) -> Fetch {
        let names: Vec<Vec<u8>> = (0..keys).map(|number| number.to_string().into_bytes()).collect();
        Fetch {
            page: 0,
            keys: Rc::new(Keys::collect(names.iter().map(Vec::as_slice))),
            sized: keys,
            big: Vec::new(),
            others: Vec::new(),
            reading,
            asked: keys,
            read: keys,
            scanner: None,
            shapes: Vec::new(),
        }
    }

    #[test]
    fn almost_all_keys_must_be_strings() {
        assert_eq!(page(100, Reading::Dump { strings: 95 }).are_strings(), Some(true));
        assert_eq!(
            page(100, Reading::Dump { strings: 94 }).are_strings(),
            Some(false)
        );
        assert_eq!(page(31, Reading::Dump { strings: 31 }).are_strings(), None);
        let mut plain = page(100, Reading::Plain);
        plain.others = (0..10).collect();
        assert_eq!(plain.are_strings(), Some(true));
        plain.others.push(10);
        assert_eq!(plain.are_strings(), Some(false));
    }

    #[test]
    fn only_what_is_no_string_is_read_again() {
        let mut page = page(40, Reading::Plain);
        page.others = vec![0, 7, 39];
        page.turn_to_others();
        let mut read = Vec::new();
        let mut place = page.read;
        while place < page.keys.len() {
            read.push(place);
            place = page.small_from(place + 1);
        }
        assert_eq!(read, [0, 7, 39]);
        assert_eq!(page.are_strings(), None);
    }
}
