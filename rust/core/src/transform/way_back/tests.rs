//! Names that are gone back to, and rules that have no way back.

use proptest::prelude::*;

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
    let map = map(
        &[rewrite("^(.*)-(.*)-(.*)$", "$1:$2:$3")],
        b"",
        &NameFilter::default(),
    );
    let found = map.sources(&[b':'; 100], &mut Scratch::default());
    assert_eq!(found, Err(Ambiguous));
}

#[test]
fn a_rule_of_which_two_ends_are_told_by_nothing_has_none() {
    for (pattern, template) in [
        ("^(.*)-(.*)-(.*)-(.*)$", "$1$2$3$4"),
        ("(a*)-(b*)", "$2$1"),
        ("x(a*)-(b*)", "$1$2-$1"),
    ] {
        let map = map(&[rewrite(pattern, template)], b"", &NameFilter::default());
        assert_eq!(map.without_way_back(), Some(pattern), "{template}");
    }
}

proptest! {
    /// The rules that have a way back, over names of a few bytes that are long or short, have every name among those
    /// that are found.
    #[test]
    fn a_long_name_comes_back_from_two_groups_without_anchors(
        rule in prop::sample::select(vec![
            ("(a*)-(b*)", "$1:$2", true),
            ("(a*)-(b*)", "$1$2", false),
            ("(a*)-(b*)", "{$1}$2", true),
            ("(a*)-(b*)", "{$1}-$2-$1", true),
            ("(a*)-(b*)$", "$2:$1", false),
            ("^(a*)-(b*)", "$2:$1", false),
            ("x(a*)-(b*)y", "$1:$2y", false),
            ("(a+)xy(b+)", "xy$1:$2y", true),
            ("-(a*)", "$1", false),
            ("(a*)-", "$1", false),
            ("a-(b*)", "{$0}$1", true),
        ]),
        runs in prop::collection::vec((prop::sample::select(b"aabbxy".to_vec()), 0usize..400), 0..4),
        middle in prop::sample::select(vec!["-", "--", "", "aa", "x-y"]),
    ) {
        let map = map(&[rewrite(rule.0, rule.1)], b"", &NameFilter::default());
        prop_assert_eq!(map.without_way_back(), None);
        let mut name: Vec<u8> = Vec::new();
        for (byte, count) in runs {
            name.resize(name.len() + count, byte);
            name.extend(middle.bytes());
        }
        let mut scratch = Scratch::default();
        let target = map.rename(&name, &mut scratch).to_vec();
        let found = map.sources(&target, &mut scratch);
        // Where nothing tells where a group begins or ends, each place may make another name.
        let is_told = rule.2 || name.len() < MOST_NAMES / 2;
        prop_assert!(found.map_or(!is_told, |found| found.contains(&name)));
    }
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
