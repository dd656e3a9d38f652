//! A chunk of one server's value as another has it.
//!
//! Invariant: elements are looked up by name where each server keeps its own order, and read at the same place
//! where they have one; nothing is the same that was not compared.

use super::{Chunk, Kind, Place};
use crate::payload::Quoted;
use crate::pipeline::client::Commands;
use crate::resp::Tree;

/// What one side and the other have instead, in short.
pub(in crate::pipeline) type Difference = (String, String);

/// A reply is none that its command gives.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::pipeline) struct Unexpected;

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

    /// A value in short, for a difference of which `what` is said.
    pub fn describe(self, length: impl std::fmt::Display, what: &str) -> String {
        format!("{} of {length} {}{what}", self.name(), self.counts())
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

    /// The first difference, if there is one, to what [`Self::ask_same`] was answered.
    pub fn difference(
        &self,
        kind: Kind,
        place: Place,
        count: usize,
        length: u64,
        reply: Tree,
    ) -> Result<Option<Difference>, Unexpected> {
        let difference = if kind.look_up(place).is_some() {
            self.other_member(kind, reply)?
        } else {
            let theirs = kind.chunk(reply, place, count, length).ok_or(Unexpected)?;
            self.other_at(kind, place, &theirs)
        };
        Ok(difference.map(|(ours, theirs)| {
            let shown = |what| kind.describe(length, &format!(", {what}"));
            (shown(ours), shown(theirs))
        }))
    }

    /// The first element that was looked up and is another there.
    fn other_member(&self, kind: Kind, reply: Tree) -> Result<Option<Difference>, Unexpected> {
        let found = reply.into_elements().ok_or(Unexpected)?;
        let values = self.elements.iter().skip(1).step_by(2).map(Some);
        let values = values.chain(std::iter::repeat(None));
        if found.len() != self.names(kind).count() {
            return Err(Unexpected);
        }
        for ((name, value), theirs) in self.names(kind).zip(values).zip(&found) {
            let same = match kind {
                Kind::Set => theirs.integer() == Some(1),
                Kind::Hash => theirs.text() == value.map(Vec::as_slice),
                _ => same_score(value.map(Vec::as_slice), theirs.text()),
            };
            if !same {
                let name = Quoted(name);
                let shown = |value: Option<&[u8]>| match (kind, value) {
                    (Kind::Set, Some(_)) => format!("with {name}"),
                    (_, None) => format!("without {name}"),
                    (Kind::Hash, Some(value)) => format!("{name} is {}", Quoted(value)),
                    (_, Some(score)) => format!("{name} has the score {}", Quoted(score)),
                };
                let ours = match kind {
                    Kind::Set => Some(b"".as_slice()),
                    _ => value.map(Vec::as_slice),
                };
                return Ok(Some((shown(ours), shown(theirs.text()))));
            }
        }
        Ok(None)
    }

    /// The first element that is another than the one at the same place there.
    fn other_at(&self, kind: Kind, place: Place, theirs: &Self) -> Option<Difference> {
        let start = match place {
            Place::Offset(at) => at as usize,
            _ => 0,
        };
        match kind {
            Kind::String => {
                let [ours, theirs] = [self, theirs].map(|chunk| chunk.elements.concat());
                let at = first_other(&ours, &theirs)?;
                let shown = |part: &[u8]| format!("from byte {} {}", start + at, Quoted(&part[at..]));
                Some((shown(&ours), shown(&theirs)))
            }
            Kind::Stream => {
                let at = first_other(&self.entries, &theirs.entries)?;
                let shown = |chunk: &Self| match chunk.entries.get(at) {
                    None => "and no more".to_owned(),
                    Some((id, fields)) => {
                        let fields = fields.iter().take(4).map(|field| format!(" {}", Quoted(field)));
                        format!("entry {}{}", Quoted(id), fields.collect::<String>())
                    }
                };
                Some((shown(self), shown(theirs)))
            }
            Kind::SortedSet => {
                let [ours, theirs] = [self, theirs].map(|chunk| chunk.elements.chunks(2).collect::<Vec<_>>());
                let same = |one: &[Vec<u8>], other: &[Vec<u8>]| {
                    let score = |pair: &[Vec<u8>]| pair.get(1).cloned();
                    one[0] == other[0] && same_score(score(one).as_deref(), score(other).as_deref())
                };
                let at = ours.iter().zip(&theirs).take_while(|(a, b)| same(a, b)).count();
                let shown = |all: &[&[Vec<u8>]]| match all.get(at) {
                    None => "and no more".to_owned(),
                    Some(pair) => format!("member {} is {}", start + at, Quoted(&pair[0])),
                };
                (at < ours.len().max(theirs.len())).then(|| (shown(&ours), shown(&theirs)))
            }
            _ => {
                let at = first_other(&self.elements, &theirs.elements)?;
                let shown = |chunk: &Self| {
                    let element = chunk.elements.get(at).map(Vec::as_slice).unwrap_or_default();
                    format!("element {} is {}", start + at, Quoted(element))
                };
                Some((shown(self), shown(theirs)))
            }
        }
    }

    /// The first field that expires at another time there, by the answer to [`Self::ask_expiries`].
    pub fn other_expiry(&self, theirs: &[i64]) -> Option<Difference> {
        let pairs = self.expiries.iter().zip(theirs);
        let other = self
            .names(Kind::Hash)
            .zip(pairs)
            .find(|(_, (ours, theirs))| ours != theirs);
        other.map(|(name, (&ours, &theirs))| {
            let shown = |at: i64| match at {
                1.. => format!("{} expires at {at} ms", Quoted(name)),
                _ => format!("{} does not expire", Quoted(name)),
            };
            (shown(ours), shown(theirs))
        })
    }
}

/// Expiries of fields, as HPEXPIRETIME tells them.
pub(in crate::pipeline) fn expiries(reply: &Tree) -> Option<Vec<i64>> {
    match reply {
        Tree::Array(items) => Some(items.iter().map(|item| item.integer().unwrap_or(-1)).collect()),
        _ => None,
    }
}

/// The server is older than the command.
pub(in crate::pipeline) fn is_unknown_command(reply: &Tree) -> bool {
    matches!(reply, Tree::Error(text) if text.starts_with(b"ERR unknown command"))
}

/// Where two sequences part; `None` if they are the same.
fn first_other<T: PartialEq>(ours: &[T], theirs: &[T]) -> Option<usize> {
    let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
    (at < ours.len().max(theirs.len())).then_some(at)
}

/// Scores are the same as numbers, however versions write them.
fn same_score(ours: Option<&[u8]>, theirs: Option<&[u8]>) -> bool {
    let number = |text: Option<&[u8]>| std::str::from_utf8(text?).ok()?.parse::<f64>().ok();
    ours == theirs || number(ours).is_some_and(|ours| Some(ours) == number(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(kind: Kind, reply: Tree) -> Chunk {
        kind.chunk(reply, kind.start(), 10, 2).expect("a chunk")
    }

    fn text(text: &str) -> Tree {
        Tree::Text(text.into())
    }

    fn texts(all: &[&str]) -> Tree {
        Tree::Array(all.iter().copied().map(text).collect())
    }

    #[test]
    fn what_is_looked_up_is_the_same_or_named() {
        let ours = chunk(
            Kind::Hash,
            Tree::Array(vec![text("0"), texts(&["f", "1", "g", "2"])]),
        );
        let told = |reply| ours.difference(Kind::Hash, Place::Cursor(0), 10, 2, reply);
        assert_eq!(told(texts(&["1", "2"])), Ok(None));
        let other = Tree::Array(vec![text("1"), Tree::Nil]);
        let expected = (
            "hash of 2 fields, \"g\" is \"2\"",
            "hash of 2 fields, without \"g\"",
        );
        assert_eq!(
            told(other),
            Ok(Some((expected.0.to_owned(), expected.1.to_owned())))
        );
        assert_eq!(told(texts(&["1"])), Err(Unexpected));
        assert_eq!(told(Tree::Nil), Err(Unexpected));
    }

    #[test]
    fn scores_are_numbers_by_place_and_by_name() {
        let ours = chunk(Kind::SortedSet, texts(&["a", "3", "b", "0.10000000000000001"]));
        let told = |place, reply| ours.difference(Kind::SortedSet, place, 10, 2, reply);
        assert_eq!(told(Place::Offset(0), texts(&["a", "3.0", "b", "0.1"])), Ok(None));
        assert_eq!(told(Place::Cursor(0), texts(&["3", "0.1"])), Ok(None));
        for (place, reply) in [
            (Place::Offset(0), texts(&["a", "3", "b", "0.2"])),
            (Place::Offset(0), texts(&["a", "3"])),
            (Place::Cursor(0), texts(&["3", "0.2"])),
            (Place::Cursor(0), Tree::Array(vec![text("3"), Tree::Nil])),
        ] {
            assert!(matches!(told(place, reply), Ok(Some(_))), "{place:?}");
        }
    }

    #[test]
    fn what_is_read_at_the_same_place_may_be_longer_there() {
        let ours = chunk(Kind::List, texts(&["a"]));
        let told = ours.difference(Kind::List, Place::Offset(0), 10, 2, texts(&["a", "b"]));
        let (_, theirs) = told.expect("a reply").expect("a difference");
        assert_eq!(theirs, "list of 2 elements, element 1 is \"b\"");
    }
}
