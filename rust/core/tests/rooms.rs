//! The rooms of `src`: each names only those that it may know, as ARCHITECTURE.md says it.
//!
//! Invariant: what reads the source and what writes the target never name each other, and what stands below knows
//! nothing of what stands above. A new room, and a new way between two, is entered here on purpose.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Rooms that any other may name: they name none themselves, but each other.
const LEAVES: &[&str] = &["error", "event", "slot", "text"];

/// Each other room, and those that it may name besides. `lib.rs` names them all.
const ROOMS: &[(&str, &[&str])] = &[
    ("resp", &[]),
    ("rdb", &[]),
    ("transform", &[]),
    ("reply", &["net"]),
    ("topology", &["net"]),
    ("net", &["resp"]),
    ("ledger", &[]),
    ("throttle", &[]),
    (
        "source",
        &[
            "chunked",
            "compare",
            "job",
            "ledger",
            "net",
            "rdb",
            "reply",
            "resp",
            "throttle",
            "transform",
        ],
    ),
    (
        "target",
        &[
            "chunked", "compare", "job", "ledger", "net", "rdb", "reply", "resp", "throttle", "topology",
        ],
    ),
    (
        "compare",
        &[
            "job", "ledger", "net", "rdb", "reply", "resp", "source", "target", "throttle",
        ],
    ),
    (
        "chunked",
        &[
            "compare", "job", "ledger", "net", "rdb", "reply", "resp", "target", "topology",
        ],
    ),
    (
        "job",
        &[
            "chunked",
            "compare",
            "ledger",
            "net",
            "rdb",
            "reply",
            "resp",
            "source",
            "target",
            "throttle",
            "topology",
            "transform",
        ],
    ),
    ("handover", &["net", "rdb", "reply", "resp"]),
];

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder is there") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() {
            files.extend(source_files(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    files
}

/// The room that a file belongs to: its folder in `src`, or its own name there.
fn room_of(src: &Path, file: &Path) -> String {
    let inside = file.strip_prefix(src).expect("it is below src");
    let first = inside.components().next().expect("it has a name");
    let name = first.as_os_str().to_string_lossy();
    name.trim_end_matches(".rs").to_owned()
}

#[test]
fn each_room_names_only_those_that_it_may_know() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let path = Regex::new(r"\bcrate::(\w+|\{)").expect("the pattern is right");
    let others = ROOMS.iter().map(|(room, _)| *room);
    let known: BTreeSet<&str> = LEAVES.iter().copied().chain(others).collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for file in source_files(&src) {
        let room = room_of(&src, &file);
        if room == "lib" {
            continue;
        }
        if !known.contains(room.as_str()) {
            wrong.push(format!("{} is in a room that is not listed here", file.display()));
        }
        let may: &[&str] = ROOMS
            .iter()
            .find(|(name, _)| *name == room)
            .map_or(&[], |(_, may)| *may);
        let text = fs::read_to_string(&file).expect("it is text");
        for (number, line) in text.lines().enumerate() {
            for found in path.captures_iter(line) {
                let other = &found[1];
                if other != room && !LEAVES.contains(&other) && !may.contains(&other) {
                    wrong.push(format!("{}:{}: {room} names {other}", file.display(), number + 1));
                }
            }
        }
        seen.insert(room);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(
        seen.iter().map(String::as_str).eq(known),
        "a room is listed that is not there"
    );
}

#[test]
fn the_two_ends_of_a_way_are_apart() {
    for (one, other) in [
        ("source", "target"),
        ("target", "source"),
        ("rdb", "resp"),
        ("resp", "net"),
    ] {
        let (_, may) = ROOMS.iter().find(|(room, _)| *room == one).expect("it is listed");
        assert!(!may.contains(&other), "{one} may not know {other}");
    }
}

/// Rooms whose files name each other in one direction only. In the others a shared state names its parts, which name it.
const WITHOUT_CIRCLES: &[&str] = &["resp", "rdb", "transform", "net", "ledger", "throttle"];

/// The file that a path of names leads to: the longest that is one. Inside of `folder`, without its ending.
fn file_of(files: &BTreeMap<String, String>, path: &str) -> Option<String> {
    let mut names: Vec<&str> = path.split("::").collect();
    while !names.is_empty() {
        let file = names.join("/");
        if files.contains_key(&file) {
            return Some(file);
        }
        names.pop();
    }
    None
}

/// The files of a room by their path below `src` (`rdb/mod.rs` is `rdb`), with their text, without tests.
fn files_of(src: &Path, room: &str) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    for file in source_files(&src.join(room)) {
        let inside = file.strip_prefix(src).expect("it is below src");
        let name = inside.to_string_lossy().replace('\\', "/");
        let name = name.trim_end_matches(".rs").trim_end_matches("/mod").to_owned();
        let text = fs::read_to_string(&file).expect("it is text");
        let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        if !name.ends_with("tests") {
            files.insert(name, text.to_owned());
        }
    }
    files
}

#[test]
fn no_files_of_a_room_name_each_other_in_a_circle() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let path = Regex::new(r"(?m)^\s*(?:pub(?:\(crate\))? )?use crate::((?:\w+::)*\w+)")
        .expect("the pattern is right");
    for room in WITHOUT_CIRCLES {
        let files = files_of(&src, room);
        // What a room's `mod.rs` hands on is defined below it: only what it is named for from above counts.
        let mut left: BTreeMap<&String, BTreeSet<String>> = files
            .iter()
            .map(|(file, text)| {
                let named = path
                    .captures_iter(text)
                    .filter_map(|found| file_of(&files, &found[1]));
                (file, named.filter(|other| other != file).collect())
            })
            .collect();
        assert!(left.len() > 1, "{room} has files");
        // Whoever names nobody that is left is in no circle.
        loop {
            let names: BTreeSet<String> = left.keys().map(|file| (*file).clone()).collect();
            let before = left.len();
            left.retain(|_, named| named.iter().any(|other| names.contains(other)));
            if left.len() == before {
                break;
            }
        }
        assert!(left.is_empty(), "in a circle, or behind one: {left:?}");
    }
}
