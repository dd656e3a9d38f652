//! The set in a small world: a source, a stream that lags behind it, a scan, comparisons and crashes, in any order.
//!
//! Invariant: below the mark everything has reached the target, and in the end both sides are equal.

use proptest::prelude::*;

use crate::ledger::touched::*;

fn at(offset: u64) -> Touch {
    Touch {
        offset,
        selected: 0,
        at: offset as u32,
    }
}

/// What may happen, in any order.
#[derive(Debug, Clone)]
enum Step {
    /// The source writes a key.
    Write(usize),
    /// The stream brings the next so many touches.
    Deliver(usize),
    /// So many keys are taken.
    Take(usize),
    /// The taken key of this place (of those in flight) is read at the source.
    Read(usize),
    /// Its write lands, if it was read; else, or where it says so, it comes back.
    Land(usize, bool),
    /// The taken key of this place is owed from now on.
    Owe(usize),
    /// The scan opens a page with this key, if it may; closes the page of this place.
    Scan(usize),
    Close(usize),
    BeginComparison,
    EndComparison,
    /// Everything but the target and the mark is lost.
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS;
    prop::collection::vec(
        prop_oneof![
            6 => key.clone().prop_map(Step::Write),
            5 => (1..5usize).prop_map(Step::Deliver),
            4 => (1..4usize).prop_map(Step::Take),
            5 => (0..4usize).prop_map(Step::Read),
            5 => ((0..4usize), prop::bool::weighted(0.2)).prop_map(|(place, back)| Step::Land(place, back)),
            2 => (0..4usize).prop_map(Step::Owe),
            2 => key.prop_map(Step::Scan),
            2 => (0..3usize).prop_map(Step::Close),
            1 => Just(Step::BeginComparison),
            1 => Just(Step::EndComparison),
            1 => Just(Step::Crash),
        ],
        0..200,
    )
}

const KEYS: usize = 6;

/// A source, a stream that lags behind it, a target, and what is between.
struct World {
    touched: Touched,
    source: [u64; KEYS],
    target: [u64; KEYS],
    /// Keys by the offset of their commands: the n-th command begins behind offset n.
    log: Vec<usize>,
    received: usize,
    /// Copies under way: what is taken, and the version that was read.
    copies: Vec<(Taken, usize, Option<u64>)>,
    /// Pages of the scan: a key, and the version that was read.
    pages: Vec<(usize, u64)>,
    comparing: bool,
    limit: usize,
}

impl World {
    fn new(limit: usize) -> Self {
        Self {
            touched: Touched::new(limit),
            source: [0; KEYS],
            target: [0; KEYS],
            log: Vec::new(),
            received: 0,
            copies: Vec::new(),
            pages: Vec::new(),
            comparing: false,
            limit,
        }
    }

    fn deliver(&mut self, count: usize) {
        for _ in 0..count.min(self.log.len() - self.received) {
            let key = self.log[self.received];
            self.touched
                .touch(&[key as u8], key as u16 / 2, at(self.received as u64));
            self.received += 1;
        }
    }

    fn take(&mut self, count: usize) {
        let pages = &self.pages;
        let free = |key: &[u8]| !pages.iter().any(|&(page, _)| page == usize::from(key[0]));
        for taken in self.touched.take(count, 1000, u32::MAX, free) {
            let key = usize::from(taken.key[0]);
            assert!(
                !self.copies.iter().any(|&(_, other, _)| other == key),
                "two copies of a key"
            );
            assert!(
                !self.pages.iter().any(|&(other, _)| other == key),
                "a scan copies it"
            );
            self.copies.push((taken, key, None));
        }
    }

    fn land(&mut self, place: usize, back: bool) {
        let (taken, key, read) = self.copies.remove(place);
        match read {
            Some(version) if !back => {
                assert!(
                    version >= self.target[key],
                    "an older state overwrites a newer one"
                );
                self.target[key] = version;
                self.touched.landed(taken.id);
            }
            _ => self.touched.returned(taken.id),
        }
    }

    fn close(&mut self, place: usize) {
        let (key, version) = self.pages.remove(place);
        assert!(version >= self.target[key], "the scan overwrites a newer state");
        self.target[key] = version;
        self.touched.release();
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Write(key) => {
                self.source[key] += 1;
                self.log.push(key);
            }
            Step::Deliver(count) => self.deliver(count),
            Step::Take(count) => self.take(count),
            Step::Read(place) => {
                let source = &self.source;
                if let Some((_, key, read)) = self.copies.get_mut(place) {
                    // Read once: a copy is a look at one instant.
                    read.get_or_insert(source[*key]);
                }
            }
            Step::Land(place, back) if place < self.copies.len() => self.land(place, back),
            Step::Owe(place) => {
                if let Some((taken, ..)) = self.copies.get(place) {
                    self.touched.owe(taken.id);
                }
            }
            Step::Scan(key) => {
                let scanned = self.pages.iter().any(|&(other, _)| other == key);
                if !scanned && !self.touched.contains(&[key as u8]) {
                    self.pages.push((key, self.source[key]));
                }
            }
            Step::Close(place) if place < self.pages.len() => self.close(place),
            Step::BeginComparison if !self.comparing => {
                self.comparing = true;
                self.touched.begin_comparison();
            }
            Step::EndComparison if self.comparing => self.end_comparison(),
            Step::Crash => {
                let mark = self.touched.mark(at(self.received as u64)).offset as usize;
                let mut touched = Touched::new(self.limit);
                for key in self.owed() {
                    touched.owe_again(&[key as u8], key as u16 / 2, at(mark as u64));
                }
                *self = Self {
                    touched,
                    copies: Vec::new(),
                    pages: Vec::new(),
                    comparing: false,
                    received: mark,
                    log: std::mem::take(&mut self.log),
                    ..*self
                };
            }
            _ => {}
        }
    }

    /// All that a comparison would find is touched.
    fn end_comparison(&mut self) {
        for key in 0..KEYS {
            if self.source[key] != self.target[key] {
                self.touched.found(&[key as u8], key as u16 / 2);
            }
        }
        self.touched.end_comparison();
        self.comparing = false;
    }

    /// Below the mark, everything has reached the target.
    fn check(&mut self) {
        let mark = self.touched.mark(at(self.received as u64)).offset as usize;
        let clean = self.touched.clean(at(self.received as u64)).offset as usize;
        assert!(clean <= mark && mark <= self.received);
        let owed = self.owed();
        for key in 0..KEYS {
            let before = if owed.contains(&key) { clean } else { mark };
            let due = self.log[..before]
                .iter()
                .filter(|&&touched| touched == key)
                .count() as u64;
            assert!(self.target[key] >= due, "key {key} is not clean below {before}");
        }
        assert!(self.touched.bytes() <= self.limit + KEYS * (ENTRY_BYTES + 1));
    }

    fn owed(&self) -> Vec<usize> {
        self.touched.owed().map(|key| usize::from(key[0])).collect()
    }

    fn finish(&mut self) {
        self.deliver(usize::MAX);
        for round in 0.. {
            assert!(round < 100, "{:?} comes to no end", self.touched);
            while !self.pages.is_empty() {
                self.close(0);
            }
            for place in 0..self.copies.len() {
                self.step(&Step::Read(place));
            }
            while !self.copies.is_empty() {
                self.land(0, false);
            }
            if self.touched.is_empty() && self.touched.doubtful() == Doubtful::default() {
                break;
            }
            self.touched.begin_comparison();
            self.end_comparison();
            self.take(KEYS);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn no_touch_is_lost_and_the_mark_is_never_ahead(
        steps in steps(),
        limit in prop::sample::select(vec![2 * (ENTRY_BYTES + 1), 3 * (ENTRY_BYTES + 1), 10_000]),
    ) {
        let mut world = World::new(limit);
        for step in &steps {
            world.step(step);
            world.check();
        }
        world.finish();
        prop_assert_eq!(world.source, world.target);
        prop_assert_eq!(world.touched.mark(at(world.log.len() as u64)).offset, world.log.len() as u64);
    }
}
