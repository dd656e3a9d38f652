//! A look at names alone: what rules make of them, where they go, and which of them would meet.
//!
//! Invariant: a collision is two keys of the source with one name in one database of the target; a key that
//! SCAN returns twice is none. Memory stays within the limit, whatever the number of keys: names are told by
//! 64-bit hashes, a slice of them in each pass, and only names whose hash comes twice are looked at in a last
//! pass.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};

use crate::job::control::lock;
use crate::slot::{SLOTS, key_slot};
use crate::transform::keymap::{KeyMap, Scratch};

/// So many names that come twice are looked at; more of them are only counted.
const MOST_SUSPECTS: usize = 50_000;

/// So many sources of one name are kept.
const MOST_SOURCES: usize = 4;

/// A key and what becomes of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renamed {
    /// The database of the source.
    pub database: u32,
    /// The key at the source, and its slot.
    pub source: (Vec<u8>, u16),
    /// The key at the target, and its slot.
    pub target: (Vec<u8>, u16),
}

/// Keys of the source that would get one name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collision {
    /// The database of the target.
    pub database: u32,
    /// The name.
    pub target: Vec<u8>,
    /// Some of its sources: database and key.
    pub sources: Vec<(u32, Vec<u8>)>,
    /// How many keys there are in all; if there are more than `sources`, keys that SCAN returned twice count.
    pub keys: u64,
}

/// What a survey found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Keys seen.
    pub keys: u64,
    /// Keys that get another name.
    pub renamed: u64,
    /// Some keys, those first that get another name.
    pub samples: Vec<Renamed>,
    /// How many keys each slot would have under the old names, and under the new ones.
    pub slots: (Vec<u64>, Vec<u64>),
    /// The collisions, as far as they were looked at.
    pub collisions: Vec<Collision>,
    /// Whether there were more names that come twice than could be looked at.
    pub more: bool,
}

#[derive(Debug)]
enum Pass {
    /// Not begun.
    Before,
    /// Hashes of slice `.0` are collected.
    Collect(u64),
    /// Names of suspicious hashes are looked at.
    Resolve,
    Done,
}

#[derive(Debug)]
struct Books {
    slices: u64,
    pass: Pass,
    hashes: Vec<u64>,
    suspects: HashMap<u64, Option<Collision>>,
    wanted_samples: usize,
    plain_samples: Vec<Renamed>,
    scratch: Scratch,
    found: Findings,
}

/// A survey; fed by scan-only jobs, pass by pass.
#[derive(Debug)]
pub struct Survey(Mutex<Books>);

impl Survey {
    /// A survey of about `expected` keys in `memory` bytes that keeps `samples` of them.
    pub fn new(expected: u64, memory: u64, samples: usize) -> Self {
        let slices = (expected * size_of::<u64>() as u64)
            .div_ceil(memory.max(1 << 16))
            .max(1);
        let none = vec![0; usize::from(SLOTS)];
        Self(Mutex::new(Books {
            slices,
            pass: Pass::Before,
            hashes: Vec::new(),
            suspects: HashMap::new(),
            wanted_samples: samples,
            plain_samples: Vec::new(),
            scratch: Scratch::default(),
            found: Findings {
                slots: (none.clone(), none),
                ..Findings::default()
            },
        }))
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        lock(&self.0)
    }

    /// Begin the next pass over all keys; false if none is needed any more.
    pub fn next_pass(&self) -> bool {
        let mut books = self.books();
        let next = match books.pass {
            Pass::Before => Pass::Collect(0),
            Pass::Collect(slice) => {
                books.find_suspects();
                if slice + 1 < books.slices {
                    Pass::Collect(slice + 1)
                } else if books.suspects.is_empty() {
                    Pass::Done
                } else {
                    Pass::Resolve
                }
            }
            Pass::Resolve => {
                books.conclude();
                Pass::Done
            }
            Pass::Done => Pass::Done,
        };
        books.pass = next;
        !matches!(books.pass, Pass::Done)
    }

    /// Take keys of database `from`, which go to database `to`: source's name, target's name and slot.
    pub fn add<'a>(&self, from: u32, to: u32, keys: impl Iterator<Item = (&'a [u8], &'a [u8], u16)>) {
        let mut books = self.books();
        for (source, target, slot) in keys {
            books.add(from, to, source, target, slot);
        }
    }

    /// Take keys that are not scanned, but given.
    pub fn add_names<'a>(
        &self,
        from: u32,
        to: u32,
        keys: impl Iterator<Item = &'a [u8]>,
        map: Option<&KeyMap>,
    ) {
        let mut books = self.books();
        let mut scratch = std::mem::take(&mut books.scratch);
        for key in keys {
            match map {
                None => books.add(from, to, key, key, key_slot(key)),
                Some(map) => {
                    if let Some((name, slot)) = map.place(key, &mut scratch) {
                        books.add(from, to, key, name, slot);
                    }
                }
            }
        }
    }

    /// What was found so far.
    pub fn findings(&self) -> Findings {
        let books = self.books();
        let mut found = books.found.clone();
        let room = books.wanted_samples.saturating_sub(found.samples.len());
        found
            .samples
            .extend(books.plain_samples.iter().take(room).cloned());
        found
    }
}

impl Books {
    fn add(&mut self, from: u32, to: u32, source: &[u8], target: &[u8], slot: u16) {
        match self.pass {
            Pass::Collect(slice) => {
                if slice == 0 {
                    self.look(from, source, target, slot);
                }
                let hash = hash_of(to, target);
                if hash % self.slices == slice {
                    self.hashes.push(hash);
                }
            }
            Pass::Resolve => {
                if let Some(entry) = self.suspects.get_mut(&hash_of(to, target)) {
                    let collision = entry.get_or_insert_with(|| Collision {
                        database: to,
                        target: target.to_vec(),
                        sources: Vec::new(),
                        keys: 0,
                    });
                    collision.add(to, target, from, source);
                }
            }
            Pass::Before | Pass::Done => {}
        }
    }

    fn look(&mut self, database: u32, source: &[u8], target: &[u8], slot: u16) {
        let before = key_slot(source);
        self.found.keys += 1;
        self.found.slots.0[usize::from(before)] += 1;
        self.found.slots.1[usize::from(slot)] += 1;
        let is_renamed = source != target;
        self.found.renamed += u64::from(is_renamed);
        let samples = if is_renamed {
            &mut self.found.samples
        } else {
            &mut self.plain_samples
        };
        if samples.len() < self.wanted_samples {
            samples.push(Renamed {
                database,
                source: (source.to_vec(), before),
                target: (target.to_vec(), slot),
            });
        }
    }

    fn find_suspects(&mut self) {
        self.hashes.sort_unstable();
        for pair in self.hashes.windows(2) {
            if pair[0] == pair[1] && !self.suspects.contains_key(&pair[0]) {
                if self.suspects.len() == MOST_SUSPECTS {
                    self.found.more = true;
                    break;
                }
                self.suspects.insert(pair[0], None);
            }
        }
        self.hashes.clear();
    }

    fn conclude(&mut self) {
        let suspects = std::mem::take(&mut self.suspects);
        self.found.collisions = suspects
            .into_values()
            .flatten()
            .filter(|collision| collision.sources.len() > 1)
            .collect();
        self.found
            .collisions
            .sort_by(|one, other| (one.database, &one.target).cmp(&(other.database, &other.target)));
    }
}

impl Collision {
    fn add(&mut self, to: u32, target: &[u8], from: u32, source: &[u8]) {
        if (self.database, self.target.as_slice()) != (to, target) {
            return; // another name with the same hash
        }
        if self
            .sources
            .iter()
            .any(|(database, key)| *database == from && key == source)
        {
            return;
        }
        self.keys += 1;
        if self.sources.len() < MOST_SOURCES {
            self.sources.push((from, source.to_vec()));
        }
    }
}

fn hash_of(database: u32, name: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    database.hash(&mut hasher);
    hasher.write(name);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::keymap::{NameFilter, Rule};

    type Keys<'a> = &'a [(u32, &'a [u8])];

    fn survey(memory: u64, keys: Keys<'_>, rules: &[Rule]) -> (Findings, usize) {
        let survey = Survey::new(keys.len() as u64, memory, 2);
        let map = KeyMap::new(rules, b"", &NameFilter::default()).expect("the rules compile");
        let mut passes = 0;
        while survey.next_pass() {
            passes += 1;
            for (database, key) in keys {
                survey.add_names(*database, 0, std::iter::once(*key), Some(&map));
            }
        }
        (survey.findings(), passes)
    }

    #[test]
    fn keys_that_are_scanned_twice_do_not_collide() {
        let (found, passes) = survey(1 << 20, &[(0, b"a"), (0, b"b"), (0, b"a")], &[]);
        assert_eq!((found.collisions.len(), found.keys, passes), (0, 3, 2));
        assert_eq!(found.samples.len(), 2);
    }

    #[test]
    fn keys_of_two_databases_and_keys_that_a_rule_makes_one_collide() {
        let rules = [Rule::StripPrefix(b"old:".to_vec())];
        let keys: Keys<'_> = &[
            (0, b"a"),
            (2, b"a"),
            (0, b"old:b"),
            (0, b"b"),
            (0, b"c"),
            (2, b"old:a"),
        ];
        let (found, _) = survey(1 << 20, keys, &rules);
        assert_eq!(found.renamed, 2);
        assert_eq!(found.samples[0].source.0, b"old:b");
        let collisions: Vec<_> = found
            .collisions
            .iter()
            .map(|collision| (collision.target.as_slice(), collision.keys))
            .collect();
        assert_eq!(collisions, [(&b"a"[..], 3), (b"b", 2)]);
        assert_eq!(
            found.collisions[1].sources,
            [(0, b"old:b".to_vec()), (0, b"b".to_vec())]
        );
        assert_eq!(found.slots.1.iter().sum::<u64>(), 6);
    }

    #[test]
    fn little_memory_takes_more_passes_and_finds_the_same() {
        let names: Vec<Vec<u8>> = (0..50_000)
            .map(|number| (number / 2 * 2 + number % 2 * 2 / 3).to_string().into_bytes())
            .collect();
        let keys: Vec<(u32, &[u8])> = names
            .iter()
            .enumerate()
            .map(|(number, name)| (number as u32 % 2, name.as_slice()))
            .collect();
        let (found, passes) = survey(1 << 16, &keys, &[]);
        assert_eq!(found.collisions.len(), 25_000);
        assert!(passes > 5 && !found.more);
    }
}
