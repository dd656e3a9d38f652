//! Values in short, for a person: what they are, and where one differs from another.
//!
//! Invariant: one line of printable ASCII without `<` or `>`, of bounded length whatever the value.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Write};

use super::stream::{Group, Stream, StreamId};
use super::value::{Field, Value};

/// So many bytes of a string are shown.
const SHOWN: usize = 40;

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

impl Value {
    /// What the value is, and the first place where it differs from `other`, where both are of one type.
    pub fn describe(&self, other: Option<&Self>) -> String {
        match (self, other) {
            (Self::String(ours), Some(Self::String(theirs))) => {
                let at = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
                let rest = Quoted(&ours[at..]);
                if at == 0 {
                    format!("string of {} bytes {rest}", ours.len())
                } else {
                    format!("string of {} bytes, from byte {at} {rest}", ours.len())
                }
            }
            (Self::String(ours), _) => format!("string of {} bytes {}", ours.len(), Quoted(ours)),
            (Self::List(ours), other) => {
                let at = match other {
                    Some(Self::List(theirs)) => ours.iter().zip(theirs).take_while(|(a, b)| a == b).count(),
                    _ => 0,
                };
                let shown = ours
                    .get(at)
                    .map(|element| format!(", element {at} is {}", Quoted(element)));
                counted("list", ours.len(), "elements", shown)
            }
            (Self::Set(ours), other) => {
                let only = ours
                    .iter()
                    .find(|member| !matches!(other, Some(Self::Set(theirs)) if theirs.contains(*member)));
                let shown = only.map(|member| format!(", with {}", Quoted(member)));
                counted("set", ours.len(), "members", shown)
            }
            (Self::SortedSet(ours), other) => {
                let theirs = match other {
                    Some(Self::SortedSet(theirs)) => Some(theirs),
                    _ => None,
                };
                let shown = first_difference(ours, theirs)
                    .map(|(member, score)| format!(", {} has the score {score}", Quoted(member)));
                counted("zset", ours.len(), "members", shown)
            }
            (Self::Hash(ours), other) => {
                let theirs = match other {
                    Some(Self::Hash(theirs)) => Some(theirs),
                    _ => None,
                };
                let shown = first_difference(ours, theirs).map(|(name, field)| show_field(name, field));
                counted("hash", ours.len(), "fields", shown)
            }
            (Self::Stream(ours), other) => {
                let theirs = match other {
                    Some(Self::Stream(theirs)) => Some(theirs.as_ref()),
                    _ => None,
                };
                describe_stream(ours, theirs)
            }
            (Self::Module(bytes), _) => format!("module value of {} bytes", bytes.len()),
        }
    }
}

fn counted(kind: &str, count: usize, of: &str, shown: Option<String>) -> String {
    format!("{kind} of {count} {of}{}", shown.unwrap_or_default())
}

/// The first entry that the other map lacks or has with another value.
fn first_difference<'a, V: PartialEq>(
    ours: &'a BTreeMap<Vec<u8>, V>,
    theirs: Option<&BTreeMap<Vec<u8>, V>>,
) -> Option<(&'a Vec<u8>, &'a V)> {
    ours.iter()
        .find(|(name, value)| theirs.and_then(|theirs| theirs.get(*name)) != Some(value))
}

fn show_field(name: &[u8], field: &Field) -> String {
    let expiry = field
        .expires_at_ms
        .map(|at| format!(", expires at {at} ms"))
        .unwrap_or_default();
    format!(", {} is {}{expiry}", Quoted(name), Quoted(&field.value))
}

fn describe_stream(ours: &Stream, theirs: Option<&Stream>) -> String {
    let mut text = format!(
        "stream of {} entries up to {}",
        ours.entries.len(),
        Id(ours.last_id)
    );
    let Some(theirs) = theirs else {
        return text;
    };
    let at = ours
        .entries
        .iter()
        .zip(&theirs.entries)
        .take_while(|(a, b)| a == b)
        .count();
    if ours.entries != theirs.entries
        && let Some(entry) = ours.entries.get(at)
    {
        let fields = entry
            .fields
            .iter()
            .take(2)
            .map(|(name, value)| format!(" {}={}", Quoted(name), Quoted(value)));
        let _ = write!(text, ", entry {}{}", Id(entry.id), fields.collect::<String>());
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
        text += &describe_group(name, group, theirs.groups.get(name));
    } else if ours.groups.len() != theirs.groups.len() {
        let _ = write!(text, ", {} groups", ours.groups.len());
    }
    text
}

fn describe_group(name: &[u8], ours: &Group, theirs: Option<&Group>) -> String {
    let mut text = format!(
        ", group {} at {}, {} pending, {} consumers",
        Quoted(name),
        Id(ours.last_id),
        ours.pending.len(),
        ours.consumers.len()
    );
    let Some(theirs) = theirs else {
        return text;
    };
    if ours.known_entries_read() != theirs.known_entries_read()
        && let Some(read) = ours.known_entries_read()
    {
        let _ = write!(text, ", {read} entries read");
    }
    let other = ours
        .pending
        .iter()
        .find(|(id, delivery)| theirs.pending.get(id) != Some(delivery));
    if let Some((id, delivery)) = other {
        let _ = write!(
            text,
            ", {} delivered {} times, last at {} ms",
            Id(*id),
            delivery.count,
            delivery.delivered_at_ms
        );
    }
    text
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
        (ours.describe(Some(theirs)), theirs.describe(Some(ours)))
    }

    #[test]
    fn strings_are_shown_from_where_they_differ() {
        let long = |last: u8| Value::String([vec![b'x'; 1000], vec![last]].concat());
        let (ours, theirs) = both(&long(b'a'), &long(b'<'));
        assert_eq!(ours, "string of 1001 bytes, from byte 1000 \"a\"");
        assert_eq!(theirs, "string of 1001 bytes, from byte 1000 \"\\x3c\"");
        let cut = Value::String(vec![b'y'; 100]).describe(None);
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
        assert_eq!(ours, "hash of 1 fields, \"f\" is \"v\", expires at 7 ms");
        assert_eq!(theirs, "hash of 1 fields, \"f\" is \"v\"");
    }

    #[test]
    fn other_types_are_named() {
        let list = Value::List(vec![]);
        assert_eq!(list.describe(Some(&Value::String(vec![]))), "list of 0 elements");
    }
}
