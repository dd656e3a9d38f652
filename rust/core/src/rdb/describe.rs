//! Values in short, for a person: what they are, and where one differs from another.
//!
//! Invariant: one line of printable ASCII without `<` or `>`, of bounded length whatever the value. What a value holds
//! is in it only where that was asked for; the names of a stream's groups and consumers are not what it holds.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::{Display, Write};

use crate::rdb::stream::{Group, Stream, StreamId};
use crate::rdb::value::{Field, Value};

/// So many bytes of a string are shown.
const SHOWN: usize = 40;

/// Scores with more digits are shown with an exponent.
const LONGEST_SCORE: usize = 20;

/// Bytes as text: escaped, in quotes, and cut where they are long.
#[derive(Debug)]
pub(crate) struct Quoted<'a>(pub &'a [u8]);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.0[..self.0.len().min(SHOWN)];
        let text = shown.escape_ascii().to_string();
        f.write_str("\"")?;
        f.write_str(&text.replace('<', "\\x3c").replace('>', "\\x3e"))?;
        f.write_str(if shown.len() < self.0.len() { "...\"" } else { "\"" })
    }
}

/// A score, in few digits.
struct Score(f64);

impl Display for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = self.0.to_string();
        if plain.len() > LONGEST_SCORE {
            return write!(f, "{:e}", self.0);
        }
        f.write_str(&plain)
    }
}

/// Whether what a value holds is shown, or only what it is and where it differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Show {
    /// Types, numbers of elements and bytes, places.
    #[default]
    Shapes,
    /// Strings, members, fields and scores too.
    Values,
}

impl Show {
    /// A piece of a value: itself, or what it is.
    fn piece(self, what: &str, bytes: &[u8]) -> String {
        match self {
            Self::Values => Quoted(bytes).to_string(),
            Self::Shapes => format!("a {what} of {} bytes", bytes.len()),
        }
    }

    fn values(self) -> bool {
        self == Self::Values
    }
}

/// What a value is a part of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PartOf {
    /// How many elements (bytes of a string) all of it has.
    pub length: u64,
    /// How many of a string's bytes or a list's elements come before the part.
    pub start: u64,
}

impl Value {
    /// What the value is, and the first place where it differs from `other`, where both are of one type.
    pub fn describe(&self, other: Option<&Self>, show: Show) -> String {
        self.describe_part(other, None, show)
    }

    /// The same for a part of a value; `other` is the same part of another value.
    pub(crate) fn describe_part(&self, other: Option<&Self>, part: Option<PartOf>, show: Show) -> String {
        let start = part.map_or(0, |part| part.start as usize);
        let head = |count: usize, of: &str| {
            let count = part.map_or(count as u64, |part| part.length);
            format!("{} of {count} {of}", self.kind().name())
        };
        match (self, other) {
            (Self::String(ours), Some(Self::String(theirs))) => {
                let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
                let head = head(ours.len(), "bytes");
                let rest = show.values().then(|| format!(" {}", Quoted(&ours[at..])));
                let rest = rest.unwrap_or_default();
                match start + at {
                    0 => head + &rest,
                    at => format!("{head}, from byte {at}{rest}"),
                }
            }
            (Self::String(ours), _) if !show.values() => head(ours.len(), "bytes"),
            (Self::String(ours), _) => format!("{} {}", head(ours.len(), "bytes"), Quoted(ours)),
            (Self::List(ours), other) => {
                let at = match other {
                    Some(Self::List(theirs)) => ours.iter().zip(theirs).take_while(|(a, b)| a == b).count(),
                    _ => 0,
                };
                let shown = ours
                    .get(at)
                    .map(|element| format!(", element {} is {}", start + at, show.piece("text", element)));
                head(ours.len(), "elements") + &shown.unwrap_or_default()
            }
            (Self::Set(ours), other) => {
                let theirs = match other {
                    Some(Self::Set(theirs)) => Some(theirs),
                    _ => None,
                };
                let only = ours
                    .iter()
                    .find(|member| theirs.is_none_or(|theirs| !theirs.contains(*member)));
                let shown = match (only, theirs) {
                    (Some(member), _) => format!(", with {}", show.piece("member", member)),
                    (None, Some(theirs)) => {
                        let lacking = theirs.iter().find(|member| !ours.contains(*member));
                        without(lacking, "member", show)
                    }
                    (None, None) => String::new(),
                };
                head(ours.len(), "members") + &shown
            }
            (Self::SortedSet(ours), other) => {
                let theirs = match other {
                    Some(Self::SortedSet(theirs)) => Some(theirs),
                    _ => None,
                };
                let one = |member: &[u8], score: &f64, other: Option<&f64>| {
                    let member = show.piece("member", member);
                    match (show, other) {
                        (Show::Values, _) => format!(", {member} has the score {}", Score(*score)),
                        (Show::Shapes, Some(_)) => format!(", {member} has another score"),
                        (Show::Shapes, None) => format!(", with {member}"),
                    }
                };
                head(ours.len(), "members") + &first_difference(ours, theirs, "member", show, one)
            }
            (Self::Hash(ours), other) => {
                let theirs = match other {
                    Some(Self::Hash(theirs)) => Some(theirs),
                    _ => None,
                };
                let one =
                    |name: &[u8], field: &Field, other: Option<&Field>| show_field(name, field, other, show);
                head(ours.len(), "fields") + &first_difference(ours, theirs, "field", show, one)
            }
            (Self::Stream(ours), other) => {
                let theirs = match other {
                    Some(Self::Stream(theirs)) => Some(theirs.as_ref()),
                    _ => None,
                };
                let shown = describe_stream(ours, theirs, part.is_some(), show);
                head(ours.entries.len(), "entries") + &shown
            }
            (Self::Module(bytes), _) => format!("module value of {} bytes", bytes.len()),
        }
    }
}

/// The first entry that the other map lacks or has with another value, shown with that value; or what only the
/// other map has.
fn first_difference<V: PartialEq>(
    ours: &BTreeMap<Vec<u8>, V>,
    theirs: Option<&BTreeMap<Vec<u8>, V>>,
    what: &str,
    show: Show,
    describe: impl Fn(&[u8], &V, Option<&V>) -> String,
) -> String {
    let found = |name: &Vec<u8>| theirs.and_then(|theirs| theirs.get(name));
    if let Some((name, value)) = ours.iter().find(|(name, value)| found(name) != Some(value)) {
        return describe(name, value, found(name));
    }
    let mut others = theirs.into_iter().flat_map(BTreeMap::keys);
    without(others.find(|name| !ours.contains_key(*name)), what, show)
}

fn without(name: Option<&Vec<u8>>, what: &str, show: Show) -> String {
    name.map_or_else(String::new, |name| {
        format!(", without {}", show.piece(what, name))
    })
}

/// A field; where the other has the same value, only when it expires.
fn show_field(name: &[u8], field: &Field, other: Option<&Field>, show: Show) -> String {
    let name = show.piece("field", name);
    let value = show.piece("text", &field.value);
    match (field.expires_at_ms, other) {
        (Some(at), Some(other)) if other.value == field.value => format!(", {name} expires at {at} ms"),
        (None, Some(other)) if other.value == field.value => format!(", {name} does not expire"),
        (Some(at), _) => format!(", {name} is {value}, expires at {at} ms"),
        (None, _) => format!(", {name} is {value}"),
    }
}

/// What is said of a stream besides its length; of a part of one, nothing is counted.
fn describe_stream(ours: &Stream, theirs: Option<&Stream>, is_part: bool, show: Show) -> String {
    let mut text = String::new();
    if theirs.is_none_or(|theirs| !is_part || theirs.last_id != ours.last_id) {
        let _ = write!(text, " up to {}", Id(ours.last_id));
    }
    let Some(theirs) = theirs else {
        return text;
    };
    if ours.entries != theirs.entries {
        let at = ours
            .entries
            .iter()
            .zip(&theirs.entries)
            .take_while(|(a, b)| a == b)
            .count();
        if let Some(entry) = ours.entries.get(at) {
            let fields = entry
                .fields
                .iter()
                .take(if show.values() { 2 } else { 0 })
                .map(|(name, value)| format!(" {}={}", Quoted(name), Quoted(value)));
            let _ = write!(text, ", entry {}{}", Id(entry.id), fields.collect::<String>());
        } else {
            text.push_str(", and no more");
        }
    }
    if let (Some(mine), Some(other)) = (ours.history, theirs.history)
        && mine != other
    {
        let _ = write!(
            text,
            ", {} entries added, highest deleted {}",
            mine.entries_added,
            Id(mine.max_deleted_id)
        );
    }
    let other_group = ours
        .groups
        .iter()
        .find(|(name, group)| theirs.groups.get(*name).is_none_or(|other| !group.same(other)));
    if let Some((name, group)) = other_group {
        text += &describe_group(name, group, theirs.groups.get(name), is_part);
    } else if ours.groups.len() != theirs.groups.len() {
        let _ = write!(text, ", {} groups", ours.groups.len());
    }
    text
}

fn describe_group(name: &[u8], ours: &Group, theirs: Option<&Group>, is_part: bool) -> String {
    let mut text = format!(", group {} at {}", Quoted(name), Id(ours.last_id));
    if !is_part {
        let _ = write!(
            text,
            ", {} pending, {} consumers",
            ours.pending.len(),
            ours.consumers.len()
        );
    }
    let Some(theirs) = theirs else {
        return text;
    };
    if ours.known_entries_read() != theirs.known_entries_read()
        && let Some(read) = ours.known_entries_read()
    {
        let _ = write!(text, ", {read} entries read");
    }
    let other = ours
        .consumers
        .keys()
        .find(|name| !theirs.consumers.contains_key(*name));
    if let Some(name) = other {
        let _ = write!(text, ", consumer {}", Quoted(name));
    }
    let other = ours
        .pending
        .iter()
        .find(|(id, delivery)| theirs.pending.get(id) != Some(delivery));
    let other = other.or_else(|| ours.pending.get_key_value(&other_holder(ours, theirs)?));
    if let Some((id, delivery)) = other {
        let mut consumers = ours.consumers.iter();
        let holder = consumers.find(|(_, consumer)| consumer.pending.contains(id));
        let holder = holder.map_or(b"".as_slice(), |(name, _)| name);
        let _ = write!(
            text,
            ", {} delivered {} times, last at {} ms to {}",
            Id(*id),
            delivery.count,
            delivery.delivered_at_ms,
            Quoted(holder)
        );
    }
    text
}

/// The first entry that is pending for another consumer there.
fn other_holder(ours: &Group, theirs: &Group) -> Option<StreamId> {
    ours.consumers.iter().find_map(|(name, consumer)| {
        let theirs = &theirs.consumers.get(name)?.pending;
        consumer.pending.symmetric_difference(theirs).next().copied()
    })
}

struct Id(StreamId);

impl Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.0.ms, self.0.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(ours: &Value, theirs: &Value) -> (String, String) {
        (
            ours.describe(Some(theirs), Show::Values),
            theirs.describe(Some(ours), Show::Values),
        )
    }

    #[test]
    fn strings_are_shown_from_where_they_differ() {
        let long = |last: u8| Value::String([vec![b'x'; 1000], vec![last]].concat());
        let (ours, theirs) = both(&long(b'a'), &long(b'<'));
        assert_eq!(ours, "string of 1001 bytes, from byte 1000 \"a\"");
        assert_eq!(theirs, "string of 1001 bytes, from byte 1000 \"\\x3c\"");
        let cut = Value::String(vec![b'y'; 100]).describe(None, Show::Values);
        assert_eq!(cut, format!("string of 100 bytes \"{}...\"", "y".repeat(40)));
    }

    #[test]
    fn collections_name_the_first_difference() {
        let list = |last: &[u8]| Value::List(vec![b"a".to_vec(), last.to_vec()]);
        assert_eq!(
            both(&list(b"b"), &list(b"c")).1,
            "list of 2 elements, element 1 is \"c\""
        );
        let zset = |score| Value::SortedSet([(b"m".to_vec(), score)].into());
        assert_eq!(
            both(&zset(1.5), &zset(2.0)).0,
            "zset of 1 members, \"m\" has the score 1.5"
        );
        let set = |member: &[u8]| Value::Set([b"a".to_vec(), member.to_vec()].into());
        assert_eq!(
            both(&set(b"x\n"), &set(b"y")).0,
            "set of 2 members, with \"x\\n\""
        );
        let hash = |expires_at_ms| {
            let value = b"v".to_vec();
            Value::Hash([(b"f".to_vec(), Field { value, expires_at_ms })].into())
        };
        let (ours, theirs) = both(&hash(Some(7)), &hash(None));
        assert_eq!(ours, "hash of 1 fields, \"f\" expires at 7 ms");
        assert_eq!(theirs, "hash of 1 fields, \"f\" does not expire");
    }

    #[test]
    fn a_part_is_told_by_its_place_in_the_whole() {
        let part = Some(PartOf {
            length: 900,
            start: 100,
        });
        let list = |last: &[u8]| Value::List(vec![b"a".to_vec(), last.to_vec()]);
        let told = list(b"b").describe_part(Some(&list(b"c")), part, Show::Values);
        assert_eq!(told, "list of 900 elements, element 101 is \"b\"");
        let set = |members: &[&[u8]]| Value::Set(members.iter().map(|member| member.to_vec()).collect());
        let told = set(&[b"a"]).describe_part(Some(&set(&[b"a", b"b"])), part, Show::Values);
        assert_eq!(told, "set of 900 members, without \"b\"");
    }

    #[test]
    fn other_types_are_named() {
        let list = Value::List(vec![]);
        let text = list.describe(Some(&Value::String(vec![])), Show::Values);
        assert_eq!(text, "list of 0 elements");
    }

    #[test]
    fn a_score_has_few_digits() {
        let zset = |score| Value::SortedSet([(b"m".to_vec(), score)].into());
        for (score, shown) in [
            (1e300, "1e300"),
            (-f64::MAX, "-1.7976931348623157e308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (1e15, "1000000000000000"),
            (0.1 + 0.2, "0.30000000000000004"),
            (f64::INFINITY, "inf"),
        ] {
            let text = zset(score).describe(None, Show::Values);
            assert_eq!(text, format!("zset of 1 members, \"m\" has the score {shown}"));
        }
    }

    #[test]
    fn shapes_tell_where_values_differ_and_hold_nothing_of_them() {
        let text = |bytes: &str| bytes.as_bytes().to_vec();
        let secret = || text("s3cret");
        let zset = |score| Value::SortedSet([(secret(), score)].into());
        let hash =
            |value: Vec<u8>, expires_at_ms| Value::Hash([(secret(), Field { value, expires_at_ms })].into());
        let cases = [
            (
                Value::String(text("xs3cret")),
                Value::String(text("x")),
                "string of 7 bytes, from byte 1",
                "string of 1 bytes, from byte 1",
            ),
            (
                Value::List(vec![secret()]),
                Value::List(vec![]),
                "list of 1 elements, element 0 is a text of 6 bytes",
                "list of 0 elements",
            ),
            (
                Value::Set([secret()].into()),
                Value::Set([].into()),
                "set of 1 members, with a member of 6 bytes",
                "set of 0 members, without a member of 6 bytes",
            ),
            (
                zset(1.5),
                zset(2.5),
                "zset of 1 members, a member of 6 bytes has another score",
                "zset of 1 members, a member of 6 bytes has another score",
            ),
            (
                zset(1.5),
                Value::SortedSet([].into()),
                "zset of 1 members, with a member of 6 bytes",
                "zset of 0 members, without a member of 6 bytes",
            ),
            (
                hash(secret(), None),
                hash(text("s3cret!"), Some(7)),
                "hash of 1 fields, a field of 6 bytes is a text of 6 bytes",
                "hash of 1 fields, a field of 6 bytes is a text of 7 bytes, expires at 7 ms",
            ),
        ];
        for (ours, theirs, said, answered) in cases {
            assert_eq!(ours.describe(Some(&theirs), Show::Shapes), said);
            assert_eq!(theirs.describe(Some(&ours), Show::Shapes), answered);
            let alone = ours.describe(None, Show::Shapes);
            assert!(!alone.contains("s3cret"), "{alone}");
        }
    }
}
