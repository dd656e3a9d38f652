//! The keys that the source's stream has touched and that are not copied since.
//!
//! Invariant: the mark ([`Touched::mark`]) never passes a touch whose key was not read after it and written; a key is
//! in one copy's hands at a time, and one that is touched meanwhile is copied again; memory is bounded in bytes,
//! however many keys are touched: of what does not fit, slots are remembered instead, for a comparison.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use slab::Slab;

/// Where and when a key was touched first since it was last read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Touch {
    /// The command begins behind this offset of the stream.
    pub offset: u64,
    /// The database that is selected there.
    pub selected: u32,
    /// When it came, in milliseconds by the caller's clock.
    pub at: u32,
}

/// A key that is being copied; see [`Touched::take`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// To be given back with [`Touched::landed`] or [`Touched::returned`].
    pub id: KeyId,
    /// The key's name at the source.
    pub key: Rc<[u8]>,
}

/// Names a key while it is in the set.
pub type KeyId = u32;

/// What a comparison has to look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Doubtful {
    /// All keys.
    pub all: bool,
    /// The keys of these slots.
    pub slots: Vec<u16>,
}

/// What a key costs in memory beside its name: the entry, its place in the index and in the queue.
const ENTRY_BYTES: usize = 160;

#[derive(Debug)]
struct Entry {
    key: Rc<[u8]>,
    slot: u16,
    touch: Touch,
    copy: Copying,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copying {
    No,
    /// It is being copied as of `touch`, or later.
    Yes {
        /// It was touched since.
        again: Option<Touch>,
    },
}

/// A part of the keys that only a comparison can settle.
#[derive(Debug, Default, Clone, Copy)]
struct Doubt {
    /// Since when, if no comparison that has begun will see it.
    open: Option<Touch>,
    /// Since when, if one that is under way settles it.
    comparing: Option<Touch>,
}

impl Doubt {
    fn first(&self) -> Option<Touch> {
        earlier(self.open, self.comparing)
    }
}

fn earlier(one: Option<Touch>, other: Option<Touch>) -> Option<Touch> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.offset < one.offset { other } else { one }),
        (one, other) => one.or(other),
    }
}

/// The set.
#[derive(Debug)]
pub struct Touched {
    limit: usize,
    bytes: usize,
    entries: Slab<Entry>,
    index: HashMap<Rc<[u8]>, KeyId>,
    /// Keys by their first touch, as they came. What is here, in `again` or in `waiting` and is not so any more
    /// ([`Self::is_live`]) is passed over.
    fresh: VecDeque<(u64, KeyId)>,
    /// Keys to be taken before those, as their touches are older.
    again: BTreeSet<(u64, KeyId)>,
    /// Keys that can't be taken now: they are being copied.
    waiting: BTreeSet<(u64, KeyId)>,
    copying: BTreeSet<(u64, KeyId)>,
    slots: BTreeMap<u16, Doubt>,
    all: Doubt,
}

impl Touched {
    /// An empty set that takes up to `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            bytes: 0,
            entries: Slab::new(),
            index: HashMap::new(),
            fresh: VecDeque::new(),
            again: BTreeSet::new(),
            waiting: BTreeSet::new(),
            copying: BTreeSet::new(),
            slots: BTreeMap::new(),
            all: Doubt::default(),
        }
    }

    /// How many keys are in it, those counted that are being copied.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no key is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many keys are being copied.
    pub fn copying(&self) -> usize {
        self.copying.len()
    }

    /// Whether a key is in it: then it will be copied, or is being copied.
    #[inline]
    pub fn contains(&self, key: &[u8]) -> bool {
        self.index.contains_key(key)
    }

    /// A command has touched a key. Touches come in the order of the stream.
    pub fn touch(&mut self, key: &[u8], slot: u16, touch: Touch) {
        if let Some(&id) = self.index.get(key) {
            let entry = &mut self.entries[id as usize];
            if let Copying::Yes { again } = &mut entry.copy
                && again.is_none()
            {
                *again = Some(touch);
                self.fresh.push_back((touch.offset, id));
            }
            return;
        }
        if self.slots.get(&slot).is_some_and(|doubt| doubt.open.is_some()) {
            return;
        }
        let weight = key.len() + ENTRY_BYTES;
        if self.bytes + weight > self.limit {
            self.give_up_slots(slot, touch);
            if self.slots.get(&slot).is_some_and(|doubt| doubt.open.is_some()) {
                return;
            }
        }
        self.bytes += weight;
        let key: Rc<[u8]> = Rc::from(key);
        let id = self.entries.insert(Entry {
            key: Rc::clone(&key),
            slot,
            touch,
            copy: Copying::No,
        }) as KeyId;
        self.index.insert(key, id);
        self.fresh.push_back((touch.offset, id));
    }

    /// What happened to the keys at `touch` is not known: only a comparison of all settles it.
    pub fn doubt_all(&mut self, touch: Touch) {
        self.all.open = earlier(self.all.open, Some(touch));
    }

    /// Whether all keys are, and no comparison that settles it has begun.
    pub fn is_all_in_doubt(&self) -> bool {
        self.all.open.is_some()
    }

    /// Whether keys of some slots are, and no comparison that settles it has begun.
    pub fn are_slots_in_doubt(&self) -> bool {
        self.slots.values().any(|doubt| doubt.open.is_some())
    }

    /// There is no room: forget the keys of the slots that take the most of it, until half of it is free, and remember
    /// the slots. `newest` is where a key of `slot` was touched that does not fit.
    #[cold]
    fn give_up_slots(&mut self, slot: u16, newest: Touch) {
        let mut weights: HashMap<u16, (usize, Touch)> = HashMap::new();
        for (_, entry) in &self.entries {
            // Its entry is needed as long as it is being copied.
            if entry.copy == Copying::No {
                let known = weights.entry(entry.slot).or_insert((0, entry.touch));
                known.0 += entry.key.len() + ENTRY_BYTES;
                if entry.touch.offset < known.1.offset {
                    known.1 = entry.touch;
                }
            }
        }
        let mut heaviest: Vec<_> = weights.into_iter().collect();
        heaviest.sort_unstable_by_key(|&(slot, (weight, _))| (std::cmp::Reverse(weight), slot));
        let mut bytes = self.bytes;
        for (slot, (weight, first)) in heaviest {
            // A slot that was given up while its keys were being copied may have got them back.
            let is_open = self.slots.get(&slot).is_some_and(|doubt| doubt.open.is_some());
            if is_open || bytes > self.limit / 2 {
                bytes -= weight;
                self.doubt(slot, first);
            }
        }
        if bytes + ENTRY_BYTES > self.limit {
            // Nothing but keys that are being copied: there are few of them, and the limit is small.
            self.doubt(slot, newest);
        }
        let (slots, index) = (&self.slots, &mut self.index);
        let mut freed = 0;
        self.entries.retain(|_, entry| {
            let open = slots.get(&entry.slot).is_some_and(|doubt| doubt.open.is_some());
            let stays = !open || entry.copy != Copying::No;
            if !stays {
                index.remove(&entry.key);
                freed += entry.key.len() + ENTRY_BYTES;
            }
            stays
        });
        self.bytes -= freed;
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.retain(|&(offset, id)| self.is_live(offset, id));
        fresh.shrink_to_fit();
        self.fresh = fresh;
        self.entries.shrink_to_fit();
        self.index.shrink_to_fit();
    }

    fn doubt(&mut self, slot: u16, since: Touch) {
        let doubt = self.slots.entry(slot).or_default();
        doubt.open = earlier(doubt.open, Some(since));
    }

    /// Whether the key `id` is still to be taken for its touch at `offset`.
    fn is_live(&self, offset: u64, id: KeyId) -> bool {
        self.entries
            .get(id as usize)
            .is_some_and(|entry| match entry.copy {
                Copying::No => entry.touch.offset == offset,
                Copying::Yes { again } => again.is_some_and(|touch| touch.offset == offset),
            })
    }

    /// Take keys to be copied, the ones first that were touched first: up to `keys`, about up to `bytes` of names, and
    /// none that was touched after `newest`. A key that is not `free` (something else copies it) waits for
    /// [`Self::release`].
    pub fn take(
        &mut self,
        keys: usize,
        bytes: usize,
        newest: u32,
        mut free: impl FnMut(&[u8]) -> bool,
    ) -> Vec<Taken> {
        let mut taken = Vec::new();
        let mut weight = 0;
        while taken.len() < keys && weight < bytes {
            let next = self.again.pop_first().map(|place| (place, true));
            let Some(((offset, id), is_again)) = next.or_else(|| Some((self.fresh.pop_front()?, false)))
            else {
                break;
            };
            if !self.is_live(offset, id) {
                continue;
            }
            let entry = &mut self.entries[id as usize];
            if entry.copy == Copying::No && entry.touch.at > newest {
                if is_again {
                    self.again.insert((offset, id));
                } else {
                    self.fresh.push_front((offset, id));
                }
                break;
            }
            if entry.copy != Copying::No || !free(&entry.key) {
                self.waiting.insert((offset, id));
                continue;
            }
            entry.copy = Copying::Yes { again: None };
            self.copying.insert((offset, id));
            weight += entry.key.len();
            taken.push(Taken {
                id,
                key: Rc::clone(&entry.key),
            });
        }
        taken
    }

    /// Whether there may be a key to take.
    pub fn has_ready(&self) -> bool {
        !self.again.is_empty() || !self.fresh.is_empty()
    }

    /// A key that was taken was read since and is written, or is given up for good.
    pub fn landed(&mut self, id: KeyId) {
        let Some(entry) = self.entries.get_mut(id as usize) else {
            return;
        };
        self.copying.remove(&(entry.touch.offset, id));
        match entry.copy {
            Copying::Yes { again: Some(touch) } => {
                entry.touch = touch;
                entry.copy = Copying::No;
                if self.waiting.remove(&(touch.offset, id)) {
                    self.again.insert((touch.offset, id));
                }
            }
            Copying::Yes { again: None } | Copying::No => {
                let entry = self.entries.remove(id as usize);
                self.bytes -= entry.key.len() + ENTRY_BYTES;
                self.index.remove(&entry.key);
            }
        }
    }

    /// A key that was taken could not be written: it is to be taken again.
    pub fn returned(&mut self, id: KeyId) {
        let Some(entry) = self.entries.get_mut(id as usize) else {
            return;
        };
        self.copying.remove(&(entry.touch.offset, id));
        if let Copying::Yes { again: Some(again) } = entry.copy
            && again.offset < entry.touch.offset
        {
            entry.touch = again;
        }
        entry.copy = Copying::No;
        self.again.insert((entry.touch.offset, id));
    }

    /// Something else has finished its copying: keys that waited for it can be taken.
    pub fn release(&mut self) {
        let (waiting, entries) = (&mut self.waiting, &self.entries);
        if waiting.is_empty() {
            return;
        }
        let is_held = |id: KeyId| {
            let entry = entries.get(id as usize);
            entry.is_some_and(|entry| entry.copy != Copying::No)
        };
        let (held, free) = waiting.iter().copied().partition(|&(_, id)| is_held(id));
        self.waiting = held;
        let mut free: BTreeSet<_> = free;
        self.again.append(&mut free);
    }

    /// What comes before this is copied: the first touch of a key or slot that is not, or else `received`, where the
    /// stream has come to.
    pub fn mark(&mut self, received: Touch) -> Touch {
        while self
            .fresh
            .front()
            .is_some_and(|&(offset, id)| !self.is_live(offset, id))
        {
            self.fresh.pop_front();
        }
        for set in [true, false] {
            loop {
                let set_of = if set { &self.again } else { &self.waiting };
                let Some(&(offset, id)) = set_of.first() else {
                    break;
                };
                if self.is_live(offset, id) {
                    break;
                }
                if set { &mut self.again } else { &mut self.waiting }.pop_first();
            }
        }
        let queued = [self.fresh.front(), self.again.first(), self.waiting.first()];
        let queued = queued.into_iter().flatten().filter_map(|&(_, id)| {
            let entry = &self.entries[id as usize];
            match entry.copy {
                Copying::Yes { again } => again,
                Copying::No => Some(entry.touch),
            }
        });
        let copying = self
            .copying
            .first()
            .map(|&(_, id)| self.entries[id as usize].touch);
        let doubts = self.slots.values().chain([&self.all]).filter_map(Doubt::first);
        let first = queued
            .chain(copying)
            .chain(doubts)
            .min_by_key(|touch| touch.offset);
        first
            .filter(|touch| touch.offset < received.offset)
            .unwrap_or(received)
    }

    /// The stream began anew, and its offsets count in another history: all that is here is as if it had been touched at
    /// `touch`.
    pub fn rebase(&mut self, touch: Touch) {
        self.again.clear();
        self.waiting.clear();
        self.copying.clear();
        self.fresh.clear();
        for (id, entry) in &mut self.entries {
            let id = id as KeyId;
            entry.touch = touch;
            match &mut entry.copy {
                Copying::No => self.fresh.push_back((touch.offset, id)),
                Copying::Yes { again } => {
                    self.copying.insert((touch.offset, id));
                    if let Some(again) = again {
                        *again = touch;
                        self.fresh.push_back((touch.offset, id));
                    }
                }
            }
        }
        for doubt in self.slots.values_mut().chain([&mut self.all]) {
            for since in [&mut doubt.open, &mut doubt.comparing].into_iter().flatten() {
                *since = touch;
            }
        }
    }

    /// How much a comparison has to look at before the mark moves on; one that is under way counted.
    pub fn doubtful(&self) -> Doubtful {
        Doubtful {
            all: self.all.first().is_some(),
            slots: self.slots.keys().copied().collect(),
        }
    }

    /// A comparison begins, as of now: what it has to look at. Keys of these slots that are touched from now on are
    /// remembered by name again.
    pub fn begin_comparison(&mut self) -> Doubtful {
        for doubt in self.slots.values_mut().chain([&mut self.all]) {
            doubt.comparing = earlier(doubt.comparing, doubt.open.take());
        }
        self.doubtful()
    }

    /// The comparison that is under way has found that a key differs: it is to be copied for the touch, whichever it was,
    /// that the comparison was begun for.
    pub fn found(&mut self, key: &[u8], slot: u16) {
        let of_slot = self.slots.get(&slot).and_then(|doubt| doubt.comparing);
        let Some(first) = earlier(of_slot, self.all.comparing) else {
            return;
        };
        if !self.index.contains_key(key) {
            self.touch(key, slot, first);
        }
        let Some(&id) = self.index.get(key) else {
            // No room: its slot is in doubt again.
            self.doubt(slot, first);
            return;
        };
        let entry = &mut self.entries[id as usize];
        match &mut entry.copy {
            Copying::No if entry.touch.offset <= first.offset => {}
            Copying::No => entry.touch = first,
            Copying::Yes { again } => *again = earlier(*again, Some(first)),
        }
        // Its touch is older than those that are fresh.
        self.again.insert((first.offset, id));
    }

    /// The comparison is over, and every key that differed was [found](Self::found).
    pub fn end_comparison(&mut self) {
        for doubt in self.slots.values_mut().chain([&mut self.all]) {
            doubt.comparing = None;
        }
        self.slots.retain(|_, doubt| doubt.open.is_some());
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(offset: u64) -> Touch {
        Touch {
            offset,
            selected: 0,
            at: offset as u32,
        }
    }

    fn names(taken: &[Taken]) -> Vec<&[u8]> {
        taken.iter().map(|taken| &*taken.key).collect()
    }

    #[test]
    fn a_key_is_in_one_copys_hands_and_keeps_its_first_touch() {
        let mut touched = Touched::new(10_000);
        touched.touch(b"a", 1, at(10));
        touched.touch(b"b", 2, at(20));
        touched.touch(b"a", 1, at(30));
        assert_eq!(touched.mark(at(40)), at(10));
        let taken = touched.take(10, 100, u32::MAX, |_| true);
        assert_eq!(names(&taken), [b"a", b"b"]);
        touched.touch(b"a", 1, at(50));
        touched.touch(b"a", 1, at(60));
        assert!(touched.take(10, 100, u32::MAX, |_| true).is_empty());
        assert_eq!(touched.mark(at(70)), at(10));
        touched.landed(taken[0].id);
        assert_eq!(touched.mark(at(70)), at(20));
        touched.landed(taken[1].id);
        assert_eq!(touched.mark(at(70)), at(50));
        let taken = touched.take(10, 100, u32::MAX, |_| true);
        assert_eq!(names(&taken), [b"a"]);
        touched.landed(taken[0].id);
        assert_eq!((touched.mark(at(70)), touched.bytes()), (at(70), 0));
    }

    #[test]
    fn a_key_that_comes_back_is_taken_first_and_holds_the_mark() {
        let mut touched = Touched::new(10_000);
        touched.touch(b"a", 1, at(10));
        let taken = touched.take(1, 100, u32::MAX, |_| true);
        touched.touch(b"b", 2, at(20));
        touched.touch(b"a", 1, at(30));
        touched.returned(taken[0].id);
        assert_eq!(touched.mark(at(40)), at(10));
        let taken = touched.take(10, 100, u32::MAX, |_| true);
        assert_eq!(names(&taken), [b"a", b"b"]);
        for taken in &taken {
            touched.landed(taken.id);
        }
        assert!(touched.take(10, 100, u32::MAX, |_| true).is_empty() && touched.is_empty());
        assert_eq!(touched.mark(at(40)), at(40));
    }

    #[test]
    fn a_key_that_something_else_copies_waits() {
        let mut touched = Touched::new(10_000);
        touched.touch(b"a", 1, at(10));
        touched.touch(b"b", 2, at(20));
        assert_eq!(names(&touched.take(10, 100, u32::MAX, |key| key != b"a")), [b"b"]);
        assert!(touched.take(10, 100, u32::MAX, |_| true).is_empty());
        touched.release();
        assert_eq!(names(&touched.take(10, 100, u32::MAX, |_| true)), [b"a"]);
    }

    #[test]
    fn what_does_not_fit_becomes_slots_that_a_comparison_settles() {
        let mut touched = Touched::new(10 * (ENTRY_BYTES + 2));
        for number in 0..10_u64 {
            let slot = (number % 3) as u16;
            touched.touch(format!("{number:02}").as_bytes(), slot, at(number * 10));
        }
        touched.touch(b"10", 2, at(100));
        assert!(touched.bytes() <= 10 * (ENTRY_BYTES + 2));
        assert_eq!(touched.doubtful().slots, [0, 1]);
        assert_eq!(touched.mark(at(200)), at(0));
        // Not remembered by name until a comparison begins.
        touched.touch(b"00", 0, at(110));
        assert!(!touched.contains(b"00"));
        assert_eq!(touched.begin_comparison().slots, [0, 1]);
        touched.touch(b"00", 0, at(120));
        assert!(touched.contains(b"00"));
        assert_eq!(touched.mark(at(200)), at(0));
        touched.end_comparison();
        assert_eq!(touched.mark(at(200)), at(20));
        touched.doubt_all(at(130));
        assert!(touched.doubtful().all);
        touched.begin_comparison();
        touched.doubt_all(at(140));
        touched.end_comparison();
        assert!(touched.doubtful().all);
    }

    #[test]
    fn a_key_that_was_touched_a_moment_ago_is_left_until_later() {
        let mut touched = Touched::new(10_000);
        touched.touch(b"a", 1, at(10));
        touched.touch(b"b", 2, at(20));
        let taken = touched.take(10, 100, 10, |_| true);
        assert_eq!(names(&taken), [b"a"]);
        touched.returned(taken[0].id);
        assert!(touched.take(10, 100, 9, |_| true).is_empty());
        assert_eq!(names(&touched.take(10, 100, 20, |_| true)), [b"a", b"b"]);
    }

    #[test]
    fn in_another_history_all_counts_from_where_it_begins() {
        let mut touched = Touched::new(10_000);
        touched.touch(b"a", 1, at(1000));
        touched.touch(b"b", 2, at(2000));
        let taken = touched.take(1, 100, u32::MAX, |_| true);
        touched.touch(b"a", 1, at(3000));
        touched.doubt_all(at(3000));
        touched.rebase(at(5));
        touched.touch(b"c", 3, at(7));
        assert_eq!(touched.mark(at(9)), at(5));
        touched.begin_comparison();
        touched.end_comparison();
        touched.landed(taken[0].id);
        let taken = touched.take(10, 100, u32::MAX, |_| true);
        assert_eq!(taken.len(), 3);
        for taken in taken {
            touched.landed(taken.id);
        }
        assert_eq!((touched.mark(at(9)), touched.len()), (at(9), 0));
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
                    *self = Self {
                        touched: Touched::new(self.limit),
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
            assert!(mark <= self.received);
            for key in 0..KEYS {
                let due = self.log[..mark].iter().filter(|&&touched| touched == key).count() as u64;
                assert!(
                    self.target[key] >= due,
                    "key {key} is not clean below the mark {mark}"
                );
            }
            assert!(self.touched.bytes() <= self.limit + KEYS * (ENTRY_BYTES + 1));
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
}
