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
mod model;
#[cfg(test)]
mod tests;
