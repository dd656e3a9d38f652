//! Source key → target key, or none: the names that are taken, and the names that they get.
//!
//! Invariant: a pure function of the key's bytes, in linear time whatever the rules: the same key is mapped
//! alike when it is copied, compared and counted. Keys are bytes: in a pattern `.` is any byte, and `\d`, `\w`
//! and `\b` are ASCII.

use regex::bytes::{CaptureLocations, Regex, RegexBuilder};

use crate::error::{Error, ErrorKind, Result};
use crate::slot::{SLOTS, key_slot};

/// One step of a name's way from source to target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rule {
    /// What the pattern matches first is replaced by the template; other keys stay as they are.
    Rewrite {
        /// A regular expression of the `regex` crate.
        pattern: String,
        /// Text with `$1`, `$name`, `${1}` or `${name}` for the pattern's groups and `$$` for a dollar.
        template: Vec<u8>,
        /// A key that the pattern matches takes no further rule.
        last: bool,
    },
    /// Every key gets this prefix.
    AddPrefix(Vec<u8>),
    /// Keys that begin so lose it.
    StripPrefix(Vec<u8>),
}

/// Which keys are taken, by their names and the slots that they get.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameFilter {
    /// Globs of which one has to match, as in SCAN's MATCH; none: every key.
    pub globs: Vec<Vec<u8>>,
    /// Patterns of which one has to be found, unless a glob matches.
    pub patterns: Vec<String>,
    /// Globs of which none may match.
    pub excluded_globs: Vec<Vec<u8>>,
    /// Patterns of which none may be found.
    pub excluded_patterns: Vec<String>,
    /// Ranges of slots (both ends included) that the target's key has to be in; none: all.
    pub slots: Vec<(u16, u16)>,
}

/// The rules and the filter, compiled. See [`Self::place`].
#[derive(Debug)]
pub struct KeyMap {
    included: Option<Regex>,
    excluded: Option<Regex>,
    slots: Option<Box<[bool]>>,
    steps: Vec<Step>,
    prefix: Vec<u8>,
}

/// Room for names on their way through the rules of one [`KeyMap`]; kept from key to key.
#[derive(Debug, Default)]
pub struct Scratch {
    name: Vec<u8>,
    next: Vec<u8>,
    groups: Vec<CaptureLocations>,
}

#[derive(Debug)]
enum Step {
    Rewrite {
        regex: Regex,
        template: Vec<Part>,
        last: bool,
    },
    AddPrefix(Vec<u8>),
    StripPrefix(Vec<u8>),
}

#[derive(Debug, PartialEq, Eq)]
enum Part {
    Text(Vec<u8>),
    Group(usize),
}

/// Memory for one compiled pattern: what is larger is refused when it is compiled.
const LARGEST_PATTERN: usize = 10 << 20;

impl KeyMap {
    /// Compile rules and filter. `prefix` is put before every name, also of keys that a last rule matched.
    /// Fails with `Usage` that names the rule.
    pub fn new(rules: &[Rule], prefix: &[u8], filter: &NameFilter) -> Result<Self> {
        let steps = rules.iter().map(Step::new).collect::<Result<_>>()?;
        let slots = if filter.slots.is_empty() {
            None
        } else {
            let mut taken = vec![false; usize::from(SLOTS)];
            for &(first, last) in &filter.slots {
                if first > last || last >= SLOTS {
                    return Err(usage(format!(
                        "{first}-{last} is no range of slots from 0 to {}",
                        SLOTS - 1
                    )));
                }
                taken[usize::from(first)..=usize::from(last)].fill(true);
            }
            Some(taken.into_boxed_slice())
        };
        Ok(Self {
            included: any_of(&filter.globs, &filter.patterns)?,
            excluded: any_of(&filter.excluded_globs, &filter.excluded_patterns)?,
            slots,
            steps,
            prefix: prefix.to_vec(),
        })
    }

    /// Whether names may change; else every key that is taken keeps its own.
    pub fn renames(&self) -> bool {
        !self.steps.is_empty() || !self.prefix.is_empty()
    }

    /// The target's name and slot for a key of the source; `None` if the key is not taken.
    #[inline]
    pub fn place<'k>(&self, key: &'k [u8], scratch: &'k mut Scratch) -> Option<(&'k [u8], u16)> {
        if let Some(included) = &self.included
            && !included.is_match(key)
        {
            return None;
        }
        if let Some(excluded) = &self.excluded
            && excluded.is_match(key)
        {
            return None;
        }
        let name = self.rename(key, scratch);
        let slot = key_slot(name);
        if let Some(slots) = &self.slots
            && !slots[usize::from(slot)]
        {
            return None;
        }
        Some((name, slot))
    }

    /// The target's name of a key, whether the filter takes it or not.
    pub fn rename<'k>(&self, key: &'k [u8], scratch: &'k mut Scratch) -> &'k [u8] {
        if !self.renames() {
            return key;
        }
        let Scratch { name, next, groups } = scratch;
        if groups.is_empty() {
            groups.extend(self.steps.iter().filter_map(|step| match step {
                Step::Rewrite { regex, .. } => Some(regex.capture_locations()),
                _ => None,
            }));
        }
        name.clear();
        name.extend_from_slice(key);
        let mut rewrites = groups.iter_mut();
        for step in &self.steps {
            match step {
                Step::AddPrefix(prefix) => {
                    name.splice(..0, prefix.iter().copied());
                }
                Step::StripPrefix(prefix) => {
                    if name.starts_with(prefix) {
                        name.drain(..prefix.len());
                    }
                }
                Step::Rewrite {
                    regex,
                    template,
                    last,
                } => {
                    let groups = rewrites.next().expect("each rewrite has its groups");
                    let Some(found) = regex.captures_read(groups, name) else {
                        continue;
                    };
                    next.clear();
                    next.extend_from_slice(&name[..found.start()]);
                    for part in template {
                        match part {
                            Part::Text(text) => next.extend_from_slice(text),
                            // A group that takes no part in the match stands for nothing.
                            Part::Group(group) => {
                                if let Some((start, end)) = groups.get(*group) {
                                    next.extend_from_slice(&name[start..end]);
                                }
                            }
                        }
                    }
                    next.extend_from_slice(&name[found.end()..]);
                    std::mem::swap(name, next);
                    if *last {
                        break;
                    }
                }
            }
        }
        name.splice(..0, self.prefix.iter().copied());
        name
    }
}

impl Step {
    fn new(rule: &Rule) -> Result<Self> {
        Ok(match rule {
            Rule::AddPrefix(prefix) => Self::AddPrefix(prefix.clone()),
            Rule::StripPrefix(prefix) => Self::StripPrefix(prefix.clone()),
            Rule::Rewrite {
                pattern,
                template,
                last,
            } => {
                let regex = compile(pattern)?;
                let template = parse_template(template, &regex)?;
                Self::Rewrite {
                    regex,
                    template,
                    last: *last,
                }
            }
        })
    }
}

fn usage(message: String) -> Error {
    Error::new(ErrorKind::Usage, message)
}

fn compile(pattern: &str) -> Result<Regex> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .dot_matches_new_line(true)
        .size_limit(LARGEST_PATTERN)
        .build()
        .map_err(|error| {
            usage(format!(
                "the pattern {pattern:?} does not compile: {}",
                one_line(&error)
            ))
        })
}

/// The error's last line: the ones before draw the pattern.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let line = text.lines().last().unwrap_or_default().trim();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

/// One expression that matches what any of the globs or patterns does; `None` without any.
fn any_of(globs: &[Vec<u8>], patterns: &[String]) -> Result<Option<Regex>> {
    // Each by itself first, so that an error names the one at fault and parentheses can't pair across.
    for pattern in patterns {
        compile(pattern)?;
    }
    let all: Vec<String> = globs
        .iter()
        .map(|glob| glob_pattern(glob))
        .chain(patterns.iter().map(|pattern| format!("(?:{pattern})")))
        .collect();
    if all.is_empty() {
        return Ok(None);
    }
    compile(&all.join("|")).map(Some)
}

/// A glob as the servers read it (`stringmatchlen` in their `util.c`), as a pattern: `*` any bytes, `?` one,
/// `[a-z]` and `[^a-z]` sets, `\` takes the next byte as it is.
fn glob_pattern(glob: &[u8]) -> String {
    use std::fmt::Write as _;
    let literal = |out: &mut String, byte: u8| {
        let _ = write!(out, "\\x{byte:02X}");
    };
    let mut out = String::from(r"\A");
    let mut rest = glob;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'*' => out.push_str(".*"),
            b'?' => out.push('.'),
            b'\\' if !rest.is_empty() => {
                literal(&mut out, rest[0]);
                rest = &rest[1..];
            }
            b'[' => {
                let negated = rest.first() == Some(&b'^');
                if negated {
                    rest = &rest[1..];
                }
                let mut set = String::new();
                // A set without an end takes all the rest.
                loop {
                    match rest {
                        [] => break,
                        [b']', after @ ..] => {
                            rest = after;
                            break;
                        }
                        [b'\\', byte, after @ ..] => {
                            literal(&mut set, *byte);
                            rest = after;
                        }
                        [first, b'-', last, after @ ..] => {
                            literal(&mut set, *first.min(last));
                            set.push('-');
                            literal(&mut set, *first.max(last));
                            rest = after;
                        }
                        [byte, after @ ..] => {
                            literal(&mut set, *byte);
                            rest = after;
                        }
                    }
                }
                match (negated, set.is_empty()) {
                    (false, true) => out.push_str(r"[^\x00-\xFF]"),
                    (true, true) => out.push('.'),
                    (false, false) => {
                        let _ = write!(out, "[{set}]");
                    }
                    (true, false) => {
                        let _ = write!(out, "[^{set}]");
                    }
                }
            }
            other => literal(&mut out, other),
        }
    }
    out.push_str(r"\z");
    out
}

/// Take a template apart; every group that it names has to be one of the pattern's.
fn parse_template(template: &[u8], regex: &Regex) -> Result<Vec<Part>> {
    let shown = || template.escape_ascii();
    let mut parts = Vec::new();
    let mut text = Vec::new();
    let mut rest = template;
    while let Some(dollar) = memchr::memchr(b'$', rest) {
        text.extend_from_slice(&rest[..dollar]);
        rest = &rest[dollar + 1..];
        if let Some(after) = rest.strip_prefix(b"$") {
            text.push(b'$');
            rest = after;
            continue;
        }
        let name = if let Some(after) = rest.strip_prefix(b"{") {
            let end = memchr::memchr(b'}', after)
                .ok_or_else(|| usage(format!("the template {} has a '${{' without its '}}'", shown())))?;
            rest = &after[end + 1..];
            &after[..end]
        } else {
            let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let length = if digits > 0 {
                digits
            } else {
                rest.iter()
                    .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'_')
                    .count()
            };
            let (name, after) = rest.split_at(length);
            rest = after;
            name
        };
        let group = group_number(name, regex).ok_or_else(|| {
            usage(format!(
                "the template {} names the group '{}', which the pattern {:?} does not have (write $$ for a dollar)",
                shown(),
                name.escape_ascii(),
                regex.as_str()
            ))
        })?;
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Group(group));
    }
    text.extend_from_slice(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

fn group_number(name: &[u8], regex: &Regex) -> Option<usize> {
    let name = std::str::from_utf8(name).ok()?;
    if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()) {
        return name.parse().ok().filter(|&group| group < regex.captures_len());
    }
    regex
        .capture_names()
        .position(|group| group.is_some_and(|group| group == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewrite(pattern: &str, template: &str) -> Rule {
        Rule::Rewrite {
            pattern: pattern.to_owned(),
            template: template.as_bytes().to_vec(),
            last: false,
        }
    }

    fn renamed(rules: &[Rule], key: &[u8]) -> Vec<u8> {
        let map = KeyMap::new(rules, b"", &NameFilter::default()).expect("the rules compile");
        let mut scratch = Scratch::default();
        let (name, slot) = map.place(key, &mut scratch).expect("nothing is filtered");
        assert_eq!(slot, key_slot(name));
        name.to_vec()
    }

    fn refused(rule: Rule) -> String {
        KeyMap::new(&[rule], b"", &NameFilter::default())
            .expect_err("the rule is wrong")
            .message
    }

    #[test]
    fn the_braces_of_a_hash_tag_are_text() {
        let rules = [rewrite(r"^user:(\d+):(.*)$", "user:{$1}:$2")];
        assert_eq!(renamed(&rules, b"user:17:cart"), b"user:{17}:cart");
        assert_eq!(renamed(&rules, b"order:17"), b"order:17");
        assert_eq!(renamed(&rules, b"user:17:\xff\n\x00"), b"user:{17}:\xff\n\x00");
    }

    #[test]
    fn rules_go_in_order_each_on_the_result_of_the_one_before() {
        let rules = [
            Rule::StripPrefix(b"old:".to_vec()),
            rewrite("^a", "b"),
            rewrite("^b", "c"),
            Rule::AddPrefix(b"new:".to_vec()),
        ];
        assert_eq!(renamed(&rules, b"old:ax"), b"new:cx");
        assert_eq!(renamed(&rules, b"old"), b"new:old");
    }

    #[test]
    fn after_the_last_rule_of_a_key_none_follows() {
        let last = Rule::Rewrite {
            pattern: "^a".to_owned(),
            template: b"b".to_vec(),
            last: true,
        };
        let rules = [last, Rule::AddPrefix(b"p:".to_vec())];
        assert_eq!(renamed(&rules, b"a"), b"b");
        assert_eq!(renamed(&rules, b"x"), b"p:x");
        let map = KeyMap::new(&rules, b"db2:", &NameFilter::default()).expect("the rules compile");
        assert_eq!(map.rename(b"a", &mut Scratch::default()), b"db2:b");
    }

    #[test]
    fn what_matches_first_is_replaced_and_the_rest_stays() {
        assert_eq!(renamed(&[rewrite("o+", "0")], b"foo boo"), b"f0 boo");
    }

    #[test]
    fn groups_by_number_and_name() {
        let pattern = r"^(?P<kind>\w+):(\d+)(x)?";
        assert_eq!(
            renamed(&[rewrite(pattern, "$2:${kind}_$kind.${2}0$$$3")], b"a:1"),
            b"1:a_a.10$"
        );
    }

    #[test]
    fn wrong_rules_are_named() {
        assert!(refused(rewrite("(", "x")).contains("\"(\" does not compile: unclosed group"));
        assert!(refused(rewrite("a", "$1")).contains("names the group '1'"));
        assert!(refused(rewrite("(a)", "$b")).contains("names the group 'b'"));
        assert!(refused(rewrite("(a)", "${1")).contains("without its '}'"));
        assert!(refused(rewrite("(a)", "5$")).contains("names the group ''"));
        assert!(refused(rewrite("a{1000}{1000}{1000}", "")).contains("size limit"));
    }

    #[test]
    fn filters_by_name_and_slot() {
        let filter = NameFilter {
            globs: vec![b"user:*".to_vec()],
            patterns: vec!["^order:[0-9]+$".to_owned()],
            excluded_globs: vec![b"*:tmp".to_vec()],
            excluded_patterns: vec!["secret|hidden".to_owned()],
            slots: Vec::new(),
        };
        let map = KeyMap::new(&[], b"", &filter).expect("the filter compiles");
        let taken = |key: &[u8]| map.place(key, &mut Scratch::default()).is_some();
        assert!(taken(b"user:1") && taken(b"order:1"));
        assert!(!taken(b"order:x") && !taken(b"user:tmp") && !taken(b"user:hidden:2") && !taken(b"other"));

        let slot = key_slot(b"b");
        let filter = NameFilter {
            slots: vec![(slot, slot)],
            ..NameFilter::default()
        };
        let map = KeyMap::new(&[rewrite("^a$", "b")], b"", &filter).expect("the filter compiles");
        // The slot is the target's.
        assert!(map.place(b"a", &mut Scratch::default()).is_some());
        assert!(map.place(b"c", &mut Scratch::default()).is_none());
    }

    #[test]
    fn alternatives_of_one_pattern_do_not_reach_into_the_next() {
        let filter = NameFilter {
            patterns: vec!["a)|(b".to_owned()],
            ..NameFilter::default()
        };
        assert!(KeyMap::new(&[], b"", &filter).is_err());
    }

    #[test]
    fn globs_mean_what_they_mean_to_the_servers() {
        for (glob, yes, no) in [
            (
                &b"h?llo"[..],
                &[&b"hello"[..], b"h\nllo", b"h\xffllo"][..],
                &[&b"hllo"[..], b"hello2"][..],
            ),
            (b"h*o", &[b"ho", b"h\x00\n o"], &[b"h", b"xho"]),
            (b"h[ae]llo", &[b"hallo", b"hello"], &[b"hillo", b"h[llo"]),
            (b"h[^e]llo", &[b"hallo"], &[b"hello"]),
            (b"h[b-a]", &[b"ha", b"hb"], &[b"hc", b"h-"]),
            (br"h\*", &[b"h*"], &[b"ha", br"h\*"]),
            (br"h[\]]", &[b"h]"], &[b"h\\"]),
            (b"h[ab", &[b"ha"], &[b"h[ab"]),
            (b"h\\", &[b"h\\"], &[b"h"]),
            (b"[]", &[], &[b"", b"]"]),
            (b"a.c|d", &[b"a.c|d"], &[b"abc|d", b"d"]),
        ] {
            let filter = NameFilter {
                globs: vec![glob.to_vec()],
                ..NameFilter::default()
            };
            let map = KeyMap::new(&[], b"", &filter).expect("a glob always compiles");
            for key in yes {
                assert!(
                    map.place(key, &mut Scratch::default()).is_some(),
                    "{} {}",
                    glob.escape_ascii(),
                    key.escape_ascii()
                );
            }
            for key in no {
                assert!(
                    map.place(key, &mut Scratch::default()).is_none(),
                    "{} {}",
                    glob.escape_ascii(),
                    key.escape_ascii()
                );
            }
        }
    }
}
