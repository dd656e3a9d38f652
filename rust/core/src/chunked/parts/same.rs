//! A chunk of one server's value as another has it.
//!
//! Invariant: elements are looked up by name where each server keeps its own order, and read at the same place
//! where they have one; nothing is the same that was not compared. What is not equal byte by byte is compared, and
//! described, as the values of whole payloads are (`payload::Value`), which a chunk is a small one of.

use std::collections::BTreeMap;

use crate::chunked::parts::{Chunk, GONE, Kind, Place, parse_id};
use crate::net::client::Commands;
use crate::rdb::{Entry, Field, PartOf, Show, Stream, StreamId, Value};
use crate::resp::Tree;

/// What one side and the other have instead, in short.
pub(crate) type Unequal = (String, String);

/// Where a chunk was read: as one of `count` elements at `place` of a value of `length`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct At {
    pub place: Place,
    pub count: usize,
    pub length: u64,
}

/// A reply is none that its command gives.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unexpected;

impl Kind {
    /// The command that looks elements up which were read at a place such as this.
    fn look_up(self, place: Place) -> Option<&'static [u8]> {
        match (self, place) {
            (Self::Hash, _) => Some(b"HMGET"),
            (Self::Set, _) => Some(b"SMISMEMBER"),
            (Self::SortedSet, Place::Cursor(_)) => Some(b"ZMSCORE"),
            _ => None,
        }
    }
}

impl Chunk {
    /// Members, fields or elements, without what belongs to them.
    fn names(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        let step = match kind {
            Kind::Hash | Kind::SortedSet => 2,
            _ => 1,
        };
        self.elements.iter().step_by(step).map(Vec::as_slice)
    }

    /// Ask for the same elements of `key`; the chunk was read at `place`, as one of `count`.
    pub fn ask_same(&self, kind: Kind, key: &[u8], place: Place, count: usize) -> Commands {
        let Some(command) = kind.look_up(place) else {
            return kind.read(key, place, count);
        };
        let mut arguments = vec![command, key];
        arguments.extend(self.names(kind));
        Commands::one(&arguments)
    }

    /// Ask when the fields of this chunk expire.
    pub fn ask_expiries(&self, key: &[u8]) -> Commands {
        let count = self.count(Kind::Hash).to_string();
        let mut arguments: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
        arguments.extend(self.names(Kind::Hash));
        Commands::one(&arguments)
    }

    /// What [`Self::ask_same`] was answered, as a chunk of the same names; `expiries` are those of all its fields, or
    /// none. `None` if all is equal as it stands.
    pub fn other(
        &self,
        kind: Kind,
        at: At,
        reply: Tree,
        expiries: &[i64],
    ) -> Result<Option<Self>, Unexpected> {
        let mut theirs = if kind.look_up(at.place).is_some() {
            let found = reply.into_elements().ok_or(Unexpected)?;
            if found.len() != self.names(kind).count() {
                return Err(Unexpected);
            }
            if self.has_equal(kind, &found) && self.has_equal_expiries(expiries) {
                return Ok(None);
            }
            self.found(kind, found, expiries)
        } else {
            kind.chunk(reply, at.place, at.count, at.length)
                .ok_or(Unexpected)?
        };
        theirs.drop_expired();
        Ok(
            (theirs.elements != self.elements || theirs.entries != self.entries || kind == Kind::Hash)
                .then_some(theirs),
        )
    }

    /// Whether all that was looked up is there and has the same bytes.
    fn has_equal(&self, kind: Kind, found: &[Tree]) -> bool {
        if kind == Kind::Set {
            return found.iter().all(|is_there| is_there.integer() == Some(1));
        }
        let values = self.elements.iter().skip(1).step_by(2);
        values
            .zip(found)
            .all(|(value, theirs)| theirs.text() == Some(value.as_slice()))
    }

    fn has_equal_expiries(&self, theirs: &[i64]) -> bool {
        // What a server does not tell, since it has no such thing, is never.
        let told = |all: &[i64], at: usize| all.get(at).copied().filter(|&at| at > 0);
        let count = self.expiries.len().max(theirs.len());
        (0..count).all(|at| told(&self.expiries, at) == told(theirs, at)) && !theirs.contains(&GONE)
    }

    /// Those of these elements that were found, with what belongs to them there.
    fn found(&self, kind: Kind, found: Vec<Tree>, expiries: &[i64]) -> Self {
        let mut theirs = Self {
            elements: Vec::new(),
            entries: Vec::new(),
            expiries: Vec::new(),
            next: self.next,
            is_last: self.is_last,
        };
        for (place, (name, value)) in self.names(kind).zip(found).enumerate() {
            let value = match (kind, value) {
                (Kind::Set, value) if value.integer() == Some(1) => None,
                (Kind::Hash | Kind::SortedSet, Tree::Text(value)) => Some(value),
                _ => continue,
            };
            theirs.elements.push(name.to_vec());
            theirs.elements.extend(value);
            theirs.expiries.extend(expiries.get(place));
        }
        theirs
    }

    /// The first difference between this, which was read at `at`, and the same names or place of the other side.
    /// Fields that expire at `expired_by` or before are gone.
    pub fn difference(
        self,
        kind: Kind,
        at: At,
        theirs: Self,
        expired_by: u64,
        show: Show,
    ) -> Result<Option<Unequal>, Unexpected> {
        let mut ours = self.into_value(kind).ok_or(Unexpected)?;
        let mut theirs = theirs.into_value(kind).ok_or(Unexpected)?;
        ours.forget_expired(expired_by);
        theirs.forget_expired(expired_by);
        if ours.same(&theirs) {
            return Ok(None);
        }
        let part = Some(PartOf {
            length: at.length,
            start: match at.place {
                Place::Offset(start) => start,
                Place::Cursor(_) | Place::After(..) => 0,
            },
        });
        Ok(Some((
            ours.describe_part(Some(&theirs), part, show),
            theirs.describe_part(Some(&ours), part, show),
        )))
    }

    /// The chunk as a value of its own.
    fn into_value(self, kind: Kind) -> Option<Value> {
        let mut elements = self.elements.into_iter();
        Some(match kind {
            Kind::String => Value::String(elements.next().unwrap_or_default()),
            Kind::List => Value::List(elements.collect()),
            Kind::Set => Value::Set(elements.collect()),
            Kind::SortedSet => {
                let mut members = BTreeMap::new();
                while let (Some(member), Some(score)) = (elements.next(), elements.next()) {
                    members.insert(member, parse_score(&score)?);
                }
                Value::SortedSet(members)
            }
            Kind::Hash => {
                let mut fields = BTreeMap::new();
                let mut expiries = self.expiries.into_iter();
                while let (Some(name), Some(value)) = (elements.next(), elements.next()) {
                    let at = expiries.next().filter(|&at| at > 0);
                    let expires_at_ms = at.map(i64::cast_unsigned);
                    fields.insert(name, Field { value, expires_at_ms });
                }
                Value::Hash(fields)
            }
            Kind::Stream => {
                let mut entries = Vec::with_capacity(self.entries.len());
                for (id, parts) in self.entries {
                    let (ms, seq) = parse_id(&id)?;
                    let mut parts = parts.into_iter();
                    let mut fields = Vec::new();
                    while let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                        fields.push((name.into(), value));
                    }
                    let id = StreamId { ms, seq };
                    entries.push(Entry { id, fields });
                }
                Value::Stream(Box::new(Stream {
                    entries,
                    last_id: StreamId { ms: 0, seq: 0 },
                    history: None,
                    groups: BTreeMap::new(),
                    idempotence: None,
                }))
            }
        })
    }
}

/// A score as servers write it: the same one is written in more than one way.
pub(crate) fn parse_score(text: &[u8]) -> Option<f64> {
    match std::str::from_utf8(text).ok()? {
        "nan" | "-nan" => Some(f64::NAN),
        text => text.parse().ok(),
    }
}

/// Expiries of fields, as HPEXPIRETIME tells them.
pub(crate) fn expiries(reply: &Tree) -> Option<Vec<i64>> {
    match reply {
        Tree::Array(items) => Some(items.iter().map(|item| item.integer().unwrap_or(-1)).collect()),
        _ => None,
    }
}

/// The server is older than the command.
pub(crate) fn is_unknown_command(reply: &Tree) -> bool {
    matches!(reply, Tree::Error(text) if text.starts_with(b"ERR unknown command"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: Kind, reply: Tree) -> Chunk {
        kind.chunk(reply, kind.scan_start(), 10, 2).expect("a chunk")
    }

    fn text(text: &str) -> Tree {
        Tree::Text(text.into())
    }

    fn texts(all: &[&str]) -> Tree {
        Tree::Array(all.iter().copied().map(text).collect())
    }

    /// A page of SCAN.
    fn page(all: &[&str]) -> Tree {
        Tree::Array(vec![text("0"), texts(all)])
    }

    /// What is told of a chunk that was answered so, by a server's clock at 1000.
    fn told(kind: Kind, ours: Tree, our_expiries: &[i64], reply: Tree, expiries: &[i64]) -> Told {
        let mut ours = chunk(kind, ours);
        ours.expiries = our_expiries.to_vec();
        let at = At {
            place: kind.scan_start(),
            count: 10,
            length: 2,
        };
        match ours.other(kind, at, reply, expiries)? {
            Some(theirs) => ours.difference(kind, at, theirs, 1000, Show::Values),
            None => Ok(None),
        }
    }

    type Told = Result<Option<Unequal>, Unexpected>;

    fn both(ours: &str, theirs: &str) -> Unequal {
        (ours.to_owned(), theirs.to_owned())
    }

    #[test]
    fn what_is_looked_up_is_the_same_or_named() {
        let hash = |reply| told(Kind::Hash, page(&["f", "1", "g", "2"]), &[], reply, &[]);
        assert_eq!(hash(texts(&["1", "2"])), Ok(None));
        assert_eq!(
            hash(Tree::Array(vec![text("1"), Tree::Nil])),
            Ok(Some(both(
                "hash of 2 fields, \"g\" is \"2\"",
                "hash of 2 fields, without \"g\""
            )))
        );
        assert_eq!(hash(texts(&["1"])), Err(Unexpected));
        assert_eq!(hash(Tree::Nil), Err(Unexpected));
        let set = |reply| told(Kind::Set, page(&["a", "b"]), &[], reply, &[]);
        assert_eq!(set(Tree::Array(vec![Tree::Integer(1); 2])), Ok(None));
        assert_eq!(
            set(Tree::Array(vec![Tree::Integer(1), Tree::Integer(0)])),
            Ok(Some(both(
                "set of 2 members, with \"b\"",
                "set of 2 members, without \"b\""
            )))
        );
    }

    #[test]
    fn fields_expire_alike_or_are_told() {
        let hash = |ours: &[i64], theirs: &[i64]| {
            told(
                Kind::Hash,
                page(&["f", "1", "g", "2"]),
                ours,
                texts(&["1", "2"]),
                theirs,
            )
        };
        assert_eq!(hash(&[-1, 5000], &[-1, 5000]), Ok(None));
        // A server without field TTLs tells none.
        assert_eq!(hash(&[], &[-1, -1]), Ok(None));
        assert_eq!(hash(&[-1, -1], &[]), Ok(None));
        let told = Ok(Some(both(
            "hash of 2 fields, \"g\" expires at 5000 ms",
            "hash of 2 fields, \"g\" does not expire",
        )));
        assert_eq!(hash(&[-1, 5000], &[-1, -1]), told);
        assert_eq!(hash(&[-1, 5000], &[]), told);
        assert!(matches!(hash(&[], &[-1, 5000]), Ok(Some(_))));
        assert!(matches!(hash(&[-1, 5000], &[-1, 5001]), Ok(Some(_))));
    }

    #[test]
    fn what_has_expired_by_the_servers_clock_is_gone() {
        let ours = || page(&["f", "1", "g", "2"]);
        let lacking = |at| {
            let reply = Tree::Array(vec![text("1"), Tree::Nil]);
            told(Kind::Hash, ours(), &[-1, at], reply, &[-1, GONE])
        };
        assert_eq!(lacking(1000), Ok(None));
        assert!(matches!(lacking(1001), Ok(Some(_))));
        // It went between the reading of its value and of its expiry there.
        let gone = told(Kind::Hash, ours(), &[-1, 900], texts(&["1", "2"]), &[-1, GONE]);
        assert_eq!(gone, Ok(None));
        let gone = told(Kind::Hash, ours(), &[-1, -1], texts(&["1", "2"]), &[-1, GONE]);
        assert!(matches!(gone, Ok(Some(_))));
    }

    #[test]
    fn scores_are_numbers() {
        let zset = |reply| {
            told(
                Kind::SortedSet,
                page(&["a", "3", "b", "0.10000000000000001"]),
                &[],
                reply,
                &[],
            )
        };
        assert_eq!(zset(texts(&["3", "0.1"])), Ok(None));
        assert!(matches!(zset(texts(&["3", "0.2"])), Ok(Some(_))));
        assert!(matches!(
            zset(Tree::Array(vec![text("3"), Tree::Nil])),
            Ok(Some(_))
        ));
        let reply = |score: &str| told(Kind::SortedSet, page(&["a", "nan"]), &[], texts(&[score]), &[]);
        assert_eq!(reply("-nan"), Ok(None));
        assert_eq!(reply("what"), Err(Unexpected));
    }

    #[test]
    fn what_is_read_at_the_same_place_may_be_longer_there() {
        assert_eq!(
            told(Kind::List, texts(&["a"]), &[], texts(&["a", "b"]), &[]),
            Ok(Some(both(
                "list of 2 elements",
                "list of 2 elements, element 1 is \"b\""
            )))
        );
    }
}
