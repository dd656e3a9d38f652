//! A value in parts: how each type is measured and read a chunk at a time, and a chunk found again elsewhere.
//!
//! Invariant: no command here touches more than a chunk, whatever the size of the value; and all chunks, from the
//! start to the last, hold every element that was there all the while.

mod pieces;
mod same;
mod stream;
mod stream_element;
mod value;

use std::time::{Duration, Instant};

use crate::job::engine::Engine;
use crate::net::client::Commands;
use crate::resp::Tree;

pub(crate) use pieces::{Most, Oversize};
pub(crate) use same::{At, Unequal, Unexpected, expiries, is_unknown_command, parse_score};
pub(crate) use stream::{Pending, PendingPage, PendingReads, consumers, facts, groups};
pub(crate) use stream_element::StreamElement;
pub(crate) use value::id_text;

/// What a chunk should weigh: some tenths of a millisecond on either server.
pub(crate) const CHUNK_BYTES: usize = 128 * 1024;

/// While other keys flow, a part is followed by a rest so many times as long as it took.
const REST: u32 = 6;

/// What HPEXPIRETIME says of a field that is not there (any more).
pub(crate) const GONE: i64 = -2;

/// What a chunk may be at most, about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub bytes: usize,
    pub elements: usize,
}

/// Types that can be read in parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    String,
    List,
    Set,
    SortedSet,
    Hash,
    Stream,
}

/// How far a value is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Bytes or elements from the front.
    Offset(u64),
    /// Where HSCAN, SSCAN or ZSCAN goes on.
    Cursor(u64),
    /// The last entry of a stream.
    After(u64, u64),
}

/// A part of a value: elements as the reply gives them.
#[derive(Debug, Clone)]
pub(crate) struct Chunk {
    /// Fields and values, members and scores, members, elements or the bytes of a string.
    pub elements: Vec<Vec<u8>>,
    /// Entries of a stream: the ID, then names and values.
    pub entries: Vec<(Vec<u8>, Vec<Vec<u8>>)>,
    /// Expiries of a hash's fields in ms since the epoch, as many as fields, or none.
    pub expiries: Vec<i64>,
    pub next: Place,
    pub is_last: bool,
}

impl Chunk {
    /// Nothing, up to a place.
    pub fn empty(next: Place) -> Self {
        Self {
            elements: Vec::new(),
            entries: Vec::new(),
            expiries: Vec::new(),
            next,
            is_last: false,
        }
    }

    pub fn bytes(&self) -> usize {
        let plain: usize = self.elements.iter().map(|element| element.len() + 16).sum();
        let entries: usize = self
            .entries
            .iter()
            .flat_map(|(_, fields)| fields)
            .map(|field| field.len() + 16)
            .sum();
        plain + entries
    }

    pub fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.entries.is_empty()
    }

    /// How many elements to read next; as many as before (`now`) if this one tells nothing.
    pub fn next_count(&self, kind: Kind, now: usize, limits: Limits) -> usize {
        next_count(self.bytes(), self.count(kind), now, limits)
    }

    /// How many fields expire.
    pub fn expiring(&self) -> usize {
        self.expiries.iter().filter(|&&at| at > 0).count()
    }

    /// Leave out fields that were there when they were read and had expired when their expiry was: written without
    /// one, they would stay for good.
    pub fn drop_expired(&mut self) {
        if !self.expiries.contains(&GONE) {
            return;
        }
        let mut places = self.expiries.iter().flat_map(|&at| [at, at]);
        self.elements
            .retain(|_| places.next().is_none_or(|at| at != GONE));
        self.expiries.retain(|&at| at != GONE);
    }

    /// Elements as the server counts them.
    pub fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::String => self.elements.iter().map(Vec::len).sum(),
            Kind::Hash | Kind::SortedSet => self.elements.len() / 2,
            Kind::List | Kind::Set => self.elements.len(),
            Kind::Stream => self.entries.len(),
        }
    }
}

impl Kind {
    pub fn of(type_name: &[u8]) -> Option<Self> {
        Some(match type_name {
            b"string" => Self::String,
            b"list" => Self::List,
            b"set" => Self::Set,
            b"zset" => Self::SortedSet,
            b"hash" => Self::Hash,
            b"stream" => Self::Stream,
            _ => return None,
        })
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::List => "list",
            Self::Set => "set",
            Self::SortedSet => "zset",
            Self::Hash => "hash",
            Self::Stream => "stream",
        }
    }

    pub const fn start(self) -> Place {
        match self {
            Self::String | Self::List | Self::SortedSet => Place::Offset(0),
            Self::Set | Self::Hash => Place::Cursor(0),
            Self::Stream => Place::After(0, 0),
        }
    }

    /// Where to start for elements to be found whatever is written meanwhile: by cursor, where there is one.
    pub const fn scan_start(self) -> Place {
        match self {
            Self::SortedSet => Place::Cursor(0),
            other => other.start(),
        }
    }

    /// What its length counts.
    pub const fn counts(self) -> &'static str {
        match self {
            Self::String => "bytes",
            Self::List => "elements",
            Self::Set | Self::SortedSet => "members",
            Self::Hash => "fields",
            Self::Stream => "entries",
        }
    }

    /// The command that tells the length.
    pub const fn length(self) -> &'static [u8] {
        match self {
            Self::String => b"STRLEN",
            Self::List => b"LLEN",
            Self::Set => b"SCARD",
            Self::SortedSet => b"ZCARD",
            Self::Hash => b"HLEN",
            Self::Stream => b"XLEN",
        }
    }

    /// Read the part that begins at `place`, about `count` elements.
    pub fn read(self, key: &[u8], place: Place, count: usize) -> Commands {
        let text = |number: u64| number.to_string().into_bytes();
        let range = |at: u64, long: usize| [text(at), text(at + long as u64 - 1)];
        let count_text = text(count as u64);
        let scan = |name: &[u8], cursor| Commands::one(&[name, key, &text(cursor), b"COUNT", &count_text]);
        match (self, place) {
            (Self::String, Place::Offset(at)) => {
                let [first, last] = range(at, CHUNK_BYTES);
                Commands::one(&[b"GETRANGE", key, &first, &last])
            }
            (Self::List, Place::Offset(at)) => {
                let [first, last] = range(at, count);
                Commands::one(&[b"LRANGE", key, &first, &last])
            }
            (Self::SortedSet, Place::Offset(at)) => {
                let [first, last] = range(at, count);
                Commands::one(&[b"ZRANGE", key, &first, &last, b"WITHSCORES"])
            }
            (Self::SortedSet, Place::Cursor(cursor)) => scan(b"ZSCAN", cursor),
            (Self::Hash, Place::Cursor(cursor)) => scan(b"HSCAN", cursor),
            (Self::Set, Place::Cursor(cursor)) => scan(b"SSCAN", cursor),
            (_, place) => {
                let first = match place {
                    Place::After(ms, u64::MAX) => format!("{}-0", ms.saturating_add(1)),
                    Place::After(ms, seq) => format!("{ms}-{}", seq + 1),
                    _ => "-".to_owned(),
                };
                Commands::one(&[b"XRANGE", key, first.as_bytes(), b"+", b"COUNT", &count_text])
            }
        }
    }

    /// Make a chunk of the reply to [`Self::read`]; `None` if it is no such reply.
    pub fn chunk(self, reply: Tree, place: Place, count: usize, length: u64) -> Option<Chunk> {
        let mut chunk = Chunk {
            elements: Vec::new(),
            entries: Vec::new(),
            expiries: Vec::new(),
            next: place,
            is_last: false,
        };
        match (self, place) {
            (Self::String, Place::Offset(at)) => {
                let bytes = reply.into_text()?;
                let next = at + bytes.len() as u64;
                chunk.is_last = bytes.is_empty() || next >= length;
                chunk.next = Place::Offset(next);
                if !bytes.is_empty() {
                    chunk.elements.push(bytes);
                }
            }
            (Self::List | Self::SortedSet, Place::Offset(at)) => {
                chunk.elements = reply.into_texts()?;
                let next = at + chunk.count(self) as u64;
                chunk.is_last = chunk.is_empty() || next >= length;
                chunk.next = Place::Offset(next);
            }
            (Self::Hash | Self::Set | Self::SortedSet, Place::Cursor(_)) => {
                let [cursor, elements] = <[Tree; 2]>::try_from(reply.into_elements()?).ok()?;
                let digits = cursor.into_text()?;
                let cursor: u64 = std::str::from_utf8(&digits).ok()?.parse().ok()?;
                chunk.elements = elements.into_texts()?;
                chunk.is_last = cursor == 0;
                chunk.next = Place::Cursor(cursor);
            }
            (Self::Stream, Place::After(..)) => {
                for entry in reply.into_elements()? {
                    let [id, fields] = <[Tree; 2]>::try_from(entry.into_elements()?).ok()?;
                    chunk.entries.push((id.into_text()?, fields.into_texts()?));
                }
                chunk.is_last = chunk.entries.len() < count;
                if let Some((id, _)) = chunk.entries.last() {
                    let (ms, seq) = parse_id(id)?;
                    chunk.next = Place::After(ms, seq);
                }
            }
            _ => return None,
        }
        Some(chunk)
    }
}

/// How many elements to read next where the last `count` had so many `bytes`; as many as before (`now`) if there were none.
pub(crate) fn next_count(bytes: usize, count: usize, now: usize, limits: Limits) -> usize {
    match bytes.checked_div(count) {
        Some(average) => (limits.bytes / average.max(1)).clamp(1, limits.elements),
        None => now,
    }
}

/// How many elements to read first, of a value of `length` elements that takes `size` bytes.
pub(crate) fn first_count(size: u64, length: u64) -> usize {
    const MOST: u64 = 64;
    let average = (size / length.max(1)).max(1);
    (CHUNK_BYTES as u64 / average).clamp(1, MOST) as usize
}

impl Place {
    /// As text for the journal.
    pub fn text(self) -> String {
        match self {
            Self::Offset(at) => format!("offset:{at}"),
            Self::Cursor(cursor) => format!("cursor:{cursor}"),
            Self::After(ms, seq) => format!("after:{ms}-{seq}"),
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        let (what, value) = text.split_once(':')?;
        Some(match what {
            "offset" => Self::Offset(value.parse().ok()?),
            "cursor" => Self::Cursor(value.parse().ok()?),
            "after" => {
                let (ms, seq) = parse_id(value.as_bytes())?;
                Self::After(ms, seq)
            }
            _ => return None,
        })
    }
}

/// The two halves of a stream ID.
pub(crate) fn parse_id(id: &[u8]) -> Option<(u64, u64)> {
    let (ms, seq) = std::str::from_utf8(id).ok()?.split_once('-')?;
    Some((ms.parse().ok()?, seq.parse().ok()?))
}

impl Engine {
    /// Wait while the operator pauses or limits the job, until a chunk may pass; false where the job drains.
    pub(crate) async fn may_read_part(&self) -> bool {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        while !self.draining.get() && self.limiter.permitted(CHUNK_BYTES) == 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if self.draining.get() {
            return false;
        }
        self.limiter.take(0, CHUNK_BYTES);
        true
    }

    /// After a part that took since `begun`: while other keys flow, leave them most of the servers' time; not at a fence,
    /// which writers may be waiting for.
    pub(crate) async fn rest(&self, begun: Instant) {
        let is_waited_for = self.follow.as_ref().is_some_and(|follow| follow.has_fence());
        if self.readers_running.get() > 0 && !is_waited_for {
            tokio::time::sleep(begun.elapsed() * REST).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_the_journal() {
        for place in [
            Place::Offset(7),
            Place::Cursor(u64::MAX),
            Place::After(5, u64::MAX),
        ] {
            assert_eq!(Place::parse(&place.text()), Some(place));
        }
        assert_eq!(Place::parse("offset"), None);
        assert_eq!(Place::parse("else:1"), None);
    }

    #[test]
    fn fields_that_have_expired_meanwhile_are_left_out() {
        let element = |text: &str| text.as_bytes().to_vec();
        let mut chunk = Chunk {
            elements: ["a", "1", "gone", "2", "c", "3"].map(element).to_vec(),
            entries: Vec::new(),
            expiries: vec![-1, -2, 99],
            next: Place::Cursor(0),
            is_last: true,
        };
        chunk.drop_expired();
        assert_eq!(chunk.elements, ["a", "1", "c", "3"].map(element));
        assert_eq!(chunk.expiries, [-1, 99]);
    }

    #[test]
    fn large_elements_are_read_one_by_one() {
        assert_eq!(first_count(50_000_000, 100), 1);
        assert_eq!(first_count(8_000_000, 100_000), 64);
        assert_eq!(first_count(0, 0), 64);
    }

    #[test]
    fn the_last_chunk_is_known() {
        let bulk = |text: &str| Tree::Text(text.into());
        let list = Tree::Array(vec![bulk("a"), bulk("b")]);
        let chunk = Kind::List.chunk(list, Place::Offset(3), 2, 5).expect("a chunk");
        assert_eq!((chunk.next, chunk.is_last), (Place::Offset(5), true));
        let page = Tree::Array(vec![bulk("9"), Tree::Array(vec![bulk("f"), bulk("v")])]);
        let chunk = Kind::Hash.chunk(page, Place::Cursor(0), 10, 5).expect("a chunk");
        assert_eq!((chunk.next, chunk.is_last), (Place::Cursor(9), false));
        assert!(Kind::Hash.chunk(bulk("x"), Place::Cursor(0), 10, 5).is_none());
    }
}
