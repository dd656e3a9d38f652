//! Target's name → the source's names that get it: the way back of rules.
//!
//! Invariant: what is returned is every name that [`KeyMap::place`] takes and gives this name, and no other; where that
//! can't be told, the rule has no way back ([`Reverse::of`]) or the name is [`Ambiguous`]. A pure function.

use regex::bytes::Regex;

use crate::transform::keymap::{KeyMap, Scratch, Step};
use crate::transform::template::Part;

/// So many names, and so many tries, are looked at for one name.
const MOST_NAMES: usize = 256;
const MOST_TRIES: usize = 50_000;

/// More names of the source may get this name than are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// What a pattern matches, piece by piece.
#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(Vec<u8>),
    Group(usize),
}

/// The way back of one rule that rewrites.
#[derive(Debug)]
pub(crate) struct Reverse {
    pieces: Vec<Piece>,
    groups: usize,
    at_start: bool,
    at_end: bool,
}

impl Reverse {
    /// The way back of a rule; none where its template leaves out something of what its pattern matches.
    pub fn of(regex: &Regex, template: &[Part]) -> Option<Self> {
        let has = |group: usize| template.contains(&Part::Group(group));
        let mut reverse = if has(0) {
            // All that was matched stands in the result, whatever the pattern is.
            Self {
                pieces: vec![Piece::Group(0)],
                groups: 1,
                at_start: false,
                at_end: false,
            }
        } else {
            taken_apart(regex.as_str())?
        };
        reverse.groups = reverse.groups.max(regex.captures_len());
        let all_kept = reverse.pieces.iter().all(|piece| match piece {
            Piece::Text(_) => true,
            Piece::Group(group) => has(*group),
        });
        all_kept.then_some(reverse)
    }

    /// Every name that may have been rewritten to `name`: those are tried that have the template's text in their places.
    fn before(&self, template: &[Part], name: &[u8], tries: &mut usize, found: &mut Vec<Vec<u8>>) {
        let starts = if self.at_start { 0..=0 } else { 0..=name.len() };
        for start in starts {
            let mut groups = vec![None; self.groups];
            self.read(template, name, start, start, &mut groups, tries, found);
        }
    }

    /// Read the rest of the template at `at`, with the `groups` that are known.
    #[allow(clippy::too_many_arguments, reason = "the state of one walk")]
    fn read<'n>(
        &self,
        template: &[Part],
        name: &'n [u8],
        start: usize,
        at: usize,
        groups: &mut Vec<Option<&'n [u8]>>,
        tries: &mut usize,
        found: &mut Vec<Vec<u8>>,
    ) {
        *tries += 1;
        if *tries > MOST_TRIES || found.len() > MOST_NAMES {
            return;
        }
        let Some((part, rest)) = template.split_first() else {
            if !self.at_end || at == name.len() {
                let whole = self.put_together(&name[..start], groups, &name[at..]);
                // Where the last group is open, each of its ends gives the same.
                if found.last() != Some(&whole) {
                    found.push(whole);
                }
            }
            return;
        };
        let known = match part {
            Part::Text(text) => Some(text.as_slice()),
            Part::Group(group) => groups[*group],
        };
        match (known, part) {
            (Some(text), _) => {
                if name[at..].starts_with(text) {
                    self.read(rest, name, start, at + text.len(), groups, tries, found);
                }
            }
            (None, Part::Group(group)) => {
                for end in at..=name.len() {
                    groups[*group] = Some(&name[at..end]);
                    self.read(rest, name, start, end, groups, tries, found);
                }
                groups[*group] = None;
            }
            (None, Part::Text(_)) => {}
        }
    }

    fn put_together(&self, before: &[u8], groups: &[Option<&[u8]>], after: &[u8]) -> Vec<u8> {
        let mut name = before.to_vec();
        for piece in &self.pieces {
            name.extend_from_slice(match piece {
                Piece::Text(text) => text,
                Piece::Group(group) => groups[*group].unwrap_or_default(),
            });
        }
        name.extend_from_slice(after);
        name
    }
}

/// A pattern of plain text and groups, with or without anchors; none for any other.
fn taken_apart(pattern: &str) -> Option<Reverse> {
    let mut rest = pattern.as_bytes();
    let at_start = rest.strip_prefix(b"^").inspect(|after| rest = after).is_some();
    let (mut pieces, mut text, mut groups, mut at_end) = (Vec::new(), Vec::new(), 1, false);
    while let Some((&byte, after)) = rest.split_first() {
        match byte {
            b'\\' => {
                let (&escaped, after) = after.split_first()?;
                // `\<` and `\>` are borders of words.
                if !escaped.is_ascii_punctuation() || matches!(escaped, b'<' | b'>') {
                    return None;
                }
                text.push(escaped);
                rest = after;
            }
            b'(' => {
                rest = behind_group(after)?;
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                pieces.push(Piece::Group(groups));
                groups += 1;
            }
            b'$' if after.is_empty() => {
                at_end = true;
                rest = after;
            }
            b'.' | b'[' | b'*' | b'+' | b'?' | b'{' | b'|' | b'^' | b'$' | b')' => return None,
            _ => {
                text.push(byte);
                rest = after;
            }
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Some(Reverse {
        pieces,
        groups,
        at_start,
        at_end,
    })
}

/// What follows a group that captures, whose `(` is read; none for one that does not, that has one in it, or that may be
/// left out or come again.
fn behind_group(mut rest: &[u8]) -> Option<&[u8]> {
    if let Some(after) = rest.strip_prefix(b"?") {
        let name = after.strip_prefix(b"P<").or_else(|| after.strip_prefix(b"<"))?;
        rest = &name[memchr::memchr(b'>', name)? + 1..];
    }
    let mut depth = 1;
    while depth > 0 {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'\\' => rest = rest.get(1..)?,
            b'[' => rest = behind_class(rest)?,
            b'(' => {
                rest = rest.strip_prefix(b"?:")?;
                depth += 1;
            }
            b')' => depth -= 1,
            _ => {}
        }
    }
    let is_repeated = matches!(rest.first(), Some(b'*' | b'+' | b'?' | b'{'));
    (!is_repeated).then_some(rest)
}

/// What follows a class, whose `[` is read.
fn behind_class(mut rest: &[u8]) -> Option<&[u8]> {
    rest = rest.strip_prefix(b"^").unwrap_or(rest);
    rest = rest.strip_prefix(b"]").unwrap_or(rest);
    loop {
        let (&byte, after) = rest.split_first()?;
        rest = after;
        match byte {
            b'\\' => rest = rest.get(1..)?,
            b'[' => rest = behind_class(rest)?,
            b']' => return Some(rest),
            _ => {}
        }
    }
}

impl KeyMap {
    /// The pattern of the first rule that has no way back; none if every rule has one.
    pub fn without_way_back(&self) -> Option<&str> {
        self.steps().iter().find_map(|step| match step {
            Step::Rewrite { regex, reverse, .. } if reverse.is_none() => Some(regex.as_str()),
            _ => None,
        })
    }

    /// Whether no two names can get one, whichever they are.
    pub fn is_one_to_one(&self) -> bool {
        let mut steps = self.steps().iter();
        steps.all(|step| matches!(step, Step::AddPrefix(_)))
    }

    /// Every name of the source that is taken and gets the name `target`, in no order. Fails where there may be too many.
    pub fn sources(&self, target: &[u8], scratch: &mut Scratch) -> Result<Vec<Vec<u8>>, Ambiguous> {
        let Some(name) = target.strip_prefix(self.prefix()) else {
            return Ok(Vec::new());
        };
        let steps = self.steps();
        let mut tries = 0;
        let mut found = before_all(steps, vec![name.to_vec()], &mut tries)?;
        for (place, step) in steps.iter().enumerate() {
            if let Step::Rewrite { last: true, .. } = step {
                found.extend(before_all(&steps[..=place], vec![name.to_vec()], &mut tries)?);
            }
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|source| {
            self.place(source, scratch)
                .is_some_and(|(placed, _)| placed == target)
        });
        Ok(found)
    }
}

/// What names may have been before these steps.
fn before_all(steps: &[Step], mut names: Vec<Vec<u8>>, tries: &mut usize) -> Result<Vec<Vec<u8>>, Ambiguous> {
    for step in steps.iter().rev() {
        let mut found = Vec::new();
        for name in names {
            match step {
                Step::AddPrefix(prefix) => found.extend(name.strip_prefix(&prefix[..]).map(<[u8]>::to_vec)),
                Step::StripPrefix(prefix) => {
                    found.push([prefix, &name[..]].concat());
                    found.push(name);
                }
                Step::Rewrite {
                    template, reverse, ..
                } => {
                    let reverse = reverse.as_ref().ok_or(Ambiguous)?;
                    reverse.before(template.parts(), &name, tries, &mut found);
                    found.push(name);
                }
            }
            if *tries > MOST_TRIES || found.len() > MOST_NAMES {
                return Err(Ambiguous);
            }
        }
        found.sort_unstable();
        found.dedup();
        names = found;
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::keymap::{NameFilter, Rule};

    fn rewrite(pattern: &str, template: &str) -> Rule {
        Rule::Rewrite {
            pattern: pattern.to_owned(),
            template: template.as_bytes().to_vec(),
            last: false,
        }
    }

    fn map(rules: &[Rule], prefix: &[u8], filter: &NameFilter) -> KeyMap {
        KeyMap::new(rules, prefix, filter).expect("the rules compile")
    }

    fn sources(rules: &[Rule], name: &[u8]) -> Vec<String> {
        let map = map(rules, b"", &NameFilter::default());
        assert_eq!(map.without_way_back(), None);
        let found = map.sources(name, &mut Scratch::default()).expect("few names");
        found
            .iter()
            .map(|source| String::from_utf8_lossy(source).into_owned())
            .collect()
    }

    #[test]
    fn a_prefix_that_was_added_is_taken_away() {
        let rules = [Rule::AddPrefix(b"new:".to_vec())];
        assert_eq!(sources(&rules, b"new:a"), ["a"]);
        assert_eq!(sources(&rules, b"new:new:a"), ["new:a"]);
        assert!(sources(&rules, b"a").is_empty());
        let map = map(&rules, b"db2:", &NameFilter::default());
        assert!(map.is_one_to_one());
        let found = |name| map.sources(name, &mut Scratch::default());
        assert_eq!(found(b"db2:new:a"), Ok(vec![b"a".to_vec()]));
        assert_eq!(found(b"new:a"), Ok(Vec::new()));
    }

    #[test]
    fn two_names_that_get_one_are_both_found() {
        let stripped = [Rule::StripPrefix(b"old:".to_vec())];
        assert_eq!(sources(&stripped, b"a"), ["a", "old:a"]);
        // It would have lost its prefix.
        assert_eq!(sources(&stripped, b"old:a"), ["old:old:a"]);
        let tagged = [rewrite(r"^user:(\d+):(.*)$", "user:{$1}:$2")];
        assert_eq!(
            sources(&tagged, b"user:{17}:cart"),
            ["user:17:cart", "user:{17}:cart"]
        );
        assert_eq!(sources(&tagged, b"order:1"), ["order:1"]);
        assert!(sources(&tagged, b"user:17:cart").is_empty());
        let halves = [rewrite("^(.*)-(.*)$", "$1:$2")];
        assert_eq!(sources(&halves, b"a:b:c"), ["a-b:c", "a:b-c", "a:b:c"]);
        assert_eq!(sources(&[rewrite("^a$", "b")], b"b"), ["a", "b"]);
    }

    #[test]
    fn what_matched_anywhere_and_what_was_kept_whole_has_a_way_back() {
        let anywhere = [rewrite("old", "new")];
        assert_eq!(
            sources(&anywhere, b"a:new:new"),
            ["a:new:new", "a:new:old", "a:old:new"]
        );
        let whole = [rewrite(r"^session:\d+$", "{$0}")];
        assert_eq!(sources(&whole, b"{session:1}"), ["session:1", "{session:1}"]);
        let twice = [rewrite("^u(.)$", "$1-$1")];
        assert_eq!(sources(&twice, b"1-1"), ["1-1", "u1"]);
        assert_eq!(sources(&twice, b"1-2"), ["1-2"]);
        let odd = [rewrite(r"^(?P<kind>[])(]|(?:\)x))\.b", "${kind}b")];
        assert_eq!(sources(&odd, b")bc"), [").bc", ")bc"]);
    }

    #[test]
    fn rules_are_gone_back_in_order_also_from_a_last_one() {
        let last = Rule::Rewrite {
            pattern: "^a(.*)".to_owned(),
            template: b"b$1".to_vec(),
            last: true,
        };
        let rules = [last, Rule::AddPrefix(b"p:".to_vec())];
        assert_eq!(sources(&rules, b"b1"), ["a1"]);
        assert_eq!(sources(&rules, b"p:b1"), ["b1"]);
        let rules = [
            Rule::StripPrefix(b"old:".to_vec()),
            rewrite("^a", "b"),
            Rule::AddPrefix(b"new:".to_vec()),
        ];
        assert_eq!(sources(&rules, b"new:bx"), ["ax", "bx", "old:ax", "old:bx"]);
    }

    #[test]
    fn a_rule_that_drops_something_has_none() {
        for (pattern, template) in [
            (r"^user:(\d+):(.*)$", "user:$1"),
            (r"^user:\d+", "user"),
            ("^(a)?b", "$1"),
            ("^(a)+", "$1"),
            ("^((a)b)", "$1$2"),
            ("(?i)a", "b"),
            ("a|b", "c"),
            (r"\bx", "y"),
            (r"\<x", "y"),
            (r"x\>", "y"),
            ("a.", "b"),
            ("(?:a)b", "b"),
        ] {
            let map = map(&[rewrite(pattern, template)], b"", &NameFilter::default());
            assert_eq!(map.without_way_back(), Some(pattern));
        }
    }

    #[test]
    fn a_filter_holds_on_the_way_back() {
        let filter = NameFilter {
            globs: vec![b"old:*".to_vec()],
            ..NameFilter::default()
        };
        let map = map(&[Rule::StripPrefix(b"old:".to_vec())], b"", &filter);
        let found = map.sources(b"a", &mut Scratch::default());
        assert_eq!(found, Ok(vec![b"old:a".to_vec()]));
    }

    #[test]
    fn a_name_with_too_many_ways_back_is_told() {
        let rules = [rewrite("^(.*)-(.*)-(.*)-(.*)$", "$1$2$3$4")];
        let map = map(&rules, b"", &NameFilter::default());
        let found = map.sources(&[b'a'; 100], &mut Scratch::default());
        assert_eq!(found, Err(Ambiguous));
    }

    #[test]
    fn every_name_comes_back() {
        let rules = [
            rewrite(r"^user:(\d+):(.*)$", "user:{$1}:$2"),
            rewrite("cart", "basket"),
            Rule::StripPrefix(b"old:".to_vec()),
        ];
        let map = map(&rules, b"p:", &NameFilter::default());
        let mut random = fastrand::Rng::with_seed(13);
        let words = ["user", ":", "17", "cart", "{", "}", "old:", "x", "basket", "p:"];
        for _ in 0..20_000 {
            let name: String = (0..random.usize(0..7))
                .map(|_| words[random.usize(0..words.len())])
                .collect();
            let mut scratch = Scratch::default();
            let target = map.rename(name.as_bytes(), &mut scratch).to_vec();
            let found = map.sources(&target, &mut scratch).expect("few names");
            assert!(found.contains(&name.clone().into_bytes()), "{name} is not found");
        }
    }
}
