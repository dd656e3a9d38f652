//! Target's name → the source's names that get it: the way back of rules.
//!
//! Invariant: what is returned is every name that a rule rewrites to this name, and no other; where that can't be
//! told, the rule has no way back ([`Reverse::of`]) or the name is [`Ambiguous`]. A pure function.
//!
//! Where a group ends in a name is told by the text behind it, by an anchor, or by nothing. A group that begins (or ends)
//! both the pattern and its template can't be told from what is before (or behind) the match, and need not be: put
//! together, each of its ends gives the same name. Of the other ends one at most may be told by nothing: it is tried at
//! every byte; with two of them, a long name would be tried in too many ways, and such a rule has no way back.

use memchr::memmem;
use regex::bytes::Regex;

use crate::transform::template::{Part, Template};

/// So many names, and so many tries, are looked at for one name.
pub(crate) const MOST_NAMES: usize = 256;
pub(crate) const MOST_TRIES: usize = 50_000;

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
    regex: Regex,
    pieces: Vec<Piece>,
    groups: usize,
    /// A match begins (or ends) with the name, or may be taken to: what begins both pattern and template is one group.
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
                regex: regex.clone(),
                groups: 1,
                at_start: false,
                at_end: false,
            }
        } else {
            taken_apart(regex)?
        };
        reverse.groups = reverse.groups.max(regex.captures_len());
        let all_kept = reverse.pieces.iter().all(|piece| match piece {
            Piece::Text(_) => true,
            Piece::Group(group) => has(*group),
        });
        let once = |part: &Part| template.iter().filter(|other| *other == part).count() == 1;
        let is_edge = |part: Option<&Part>, piece: Option<&Piece>| match (part, piece) {
            (Some(part @ Part::Group(group)), Some(Piece::Group(own))) => group == own && once(part),
            _ => false,
        };
        reverse.at_start |= is_edge(template.first(), reverse.pieces.first());
        reverse.at_end |= is_edge(template.last(), reverse.pieces.last());
        (all_kept && reverse.untold(template) <= 1).then_some(reverse)
    }

    /// How many ends nothing tells.
    fn untold(&self, template: &[Part]) -> usize {
        let is_text = |part: Option<&Part>| matches!(part, Some(Part::Text(_)));
        let starts_anywhere = !self.at_start && !is_text(template.first());
        let groups = template.iter().enumerate().filter(|(place, part)| {
            let is_known = matches!(part, Part::Text(_)) || template[..*place].contains(part);
            let is_told = match template.get(place + 1) {
                None => self.at_end,
                Some(next) => is_text(Some(next)),
            };
            !is_known && !is_told
        });
        usize::from(starts_anywhere) + groups.count()
    }

    /// Every name that is rewritten to `name`: those are tried that have the template's text in their places.
    pub(crate) fn before(
        &self,
        template: &Template,
        name: &[u8],
        tries: &mut usize,
        found: &mut Vec<Vec<u8>>,
    ) {
        let mut walk = Walk {
            reverse: self,
            template,
            name,
            start: 0,
            groups: vec![None; self.groups],
            tries,
            found,
        };
        match template.parts().first() {
            _ if self.at_start => walk.begin(0),
            Some(Part::Text(text)) => places(name, 0, text).for_each(|start| walk.begin(start)),
            _ => (0..=name.len()).for_each(|start| walk.begin(start)),
        }
    }

    /// Whether the rule makes `name` of `source`.
    fn gives(&self, template: &Template, source: &[u8], name: &[u8]) -> bool {
        let mut groups = self.regex.capture_locations();
        let Some(matched) = self.regex.captures_read(&mut groups, source) else {
            return false;
        };
        let mut given = source[..matched.start()].to_vec();
        template.expand(source, &groups, &mut given);
        given.extend_from_slice(&source[matched.end()..]);
        given == name
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

/// A look for the names that are rewritten to one.
struct Walk<'a> {
    reverse: &'a Reverse,
    template: &'a Template,
    name: &'a [u8],
    /// Where the match would begin, and what is known of the groups.
    start: usize,
    groups: Vec<Option<&'a [u8]>>,
    tries: &'a mut usize,
    found: &'a mut Vec<Vec<u8>>,
}

impl<'a> Walk<'a> {
    fn begin(&mut self, start: usize) {
        self.start = start;
        self.read(self.template.parts(), start);
    }

    /// Read the rest of the template at `at`.
    fn read(&mut self, rest: &'a [Part], at: usize) {
        *self.tries += 1;
        if *self.tries > MOST_TRIES || self.found.len() > MOST_NAMES {
            return;
        }
        let (name, reverse) = (self.name, self.reverse);
        let Some((part, rest)) = rest.split_first() else {
            if !reverse.at_end || at == name.len() {
                let whole = reverse.put_together(&name[..self.start], &self.groups, &name[at..]);
                if reverse.gives(self.template, &whole, name) {
                    self.found.push(whole);
                }
            }
            return;
        };
        let group = match part {
            Part::Text(text) => return self.pass(text, rest, at),
            Part::Group(group) => *group,
        };
        if let Some(text) = self.groups[group] {
            return self.pass(text, rest, at);
        }
        let mut to = |end: usize| {
            self.groups[group] = Some(&name[at..end]);
            self.read(rest, end);
        };
        match rest.first() {
            None if reverse.at_end => to(name.len()),
            Some(Part::Text(text)) => places(name, at, text).for_each(to),
            _ => (at..=name.len()).for_each(to),
        }
        self.groups[group] = None;
    }

    /// Go on behind a text that is known, if it is there.
    fn pass(&mut self, text: &[u8], rest: &'a [Part], at: usize) {
        if self.name[at..].starts_with(text) {
            self.read(rest, at + text.len());
        }
    }
}

/// Where a text stands in a name, from `at` on; also where it does so twice in one place, as `aa` in `aaa`.
fn places<'a>(name: &'a [u8], at: usize, text: &'a [u8]) -> impl Iterator<Item = usize> + 'a {
    let finder = memmem::Finder::new(text);
    let mut from = at;
    std::iter::from_fn(move || {
        let place = from + finder.find(name.get(from..)?)?;
        from = place + 1;
        Some(place)
    })
}

/// A pattern of plain text and groups, with or without anchors; none for any other.
fn taken_apart(regex: &Regex) -> Option<Reverse> {
    let mut rest = regex.as_str().as_bytes();
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
        regex: regex.clone(),
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
