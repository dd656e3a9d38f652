//! Source key → target key, or none: the names that are taken, and the names that they get.
//!
//! Invariant: a pure function of the key's bytes, in linear time whatever the rules: the same key is mapped
//! alike when it is copied, compared and counted. Keys are bytes: in a pattern `.` is any byte, and `\d`, `\w`
//! and `\b` are ASCII.

use regex::bytes::{CaptureLocations, Regex};

use crate::error::{Result, usage};
use crate::slot::{SLOTS, key_slot};
use crate::transform::inverse::Reverse;
use crate::transform::pattern::{any_of, compile};
use crate::transform::template::Template;

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
pub(crate) enum Step {
    Rewrite {
        regex: Regex,
        template: Template,
        /// None: it drops something of a name.
        reverse: Option<Reverse>,
        last: bool,
    },
    AddPrefix(Vec<u8>),
    StripPrefix(Vec<u8>),
}

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

    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
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
                    ..
                } => {
                    let groups = rewrites.next().expect("each rewrite has its groups");
                    let Some(found) = regex.captures_read(groups, name) else {
                        continue;
                    };
                    next.clear();
                    next.extend_from_slice(&name[..found.start()]);
                    template.expand(name, groups, next);
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
                let template = Template::parse(template, &regex)?;
                Self::Rewrite {
                    reverse: Reverse::of(&regex, template.parts()),
                    regex,
                    template,
                    last: *last,
                }
            }
        })
    }
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
