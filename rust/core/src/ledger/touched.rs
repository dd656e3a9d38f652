//! The keys that the source's stream has touched and that are not copied since.
//!
//! Invariant: the mark ([`Touched::mark`]) never passes a touch whose key was not read after it and written; a key is
//! in one copy's hands at a time, and one that is touched meanwhile is copied again; memory is bounded in bytes,
//! however many keys are touched: of what does not fit, slots are remembered instead, for a comparison. Keys that are
//! owed ([`Touched::owe`]) are the exception: they are recorded by name beside the mark, which passes them.

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
    /// See [`Touched::owe`].
    owed: bool,
    /// When it was touched last.
    last: u32,
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
    owed: BTreeSet<KeyId>,
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
            owed: BTreeSet::new(),
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
            entry.last = touch.at;
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
            owed: false,
            last: touch.at,
        }) as KeyId;
        self.index.insert(key, id);
        self.fresh.push_back((touch.offset, id));
    }

    /// Whether the key `id` is still to be taken for its touch at `offset`.
    fn is_live(&self, offset: u64, id: KeyId) -> bool {
        self.entries
            .get(id as usize)
            .is_some_and(|entry| match entry.copy {
                _ if entry.owed => false,
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
        let mut taken = self.take_owed(keys, newest, &mut free);
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

    /// A key is read from here on: its touches up to now are forgotten. Returns the first of them, if it is not being
    /// copied, as it is not in the set any more.
    pub fn withdraw(&mut self, key: &[u8]) -> Option<Touch> {
        let &id = self.index.get(key)?;
        if let Copying::Yes { again } = &mut self.entries[id as usize].copy {
            *again = None;
            return None;
        }
        let entry = self.entries.remove(id as usize);
        self.owed.remove(&id);
        self.bytes -= entry.key.len() + ENTRY_BYTES;
        self.index.remove(&entry.key);
        Some(entry.touch)
    }

    /// As [`Self::touch`], for a touch that may be older than those that came before.
    pub fn touch_before(&mut self, key: &[u8], slot: u16, touch: Touch) {
        if !self.index.contains_key(key) {
            self.touch(key, slot, touch);
        }
        let Some(&id) = self.index.get(key) else {
            // No room: its slot is in doubt.
            self.doubt(slot, touch);
            return;
        };
        let entry = &mut self.entries[id as usize];
        match &mut entry.copy {
            Copying::No if entry.touch.offset <= touch.offset => {}
            Copying::No => entry.touch = touch,
            Copying::Yes { again } => *again = earlier(*again, Some(touch)),
        }
        if !entry.owed {
            // Its touch is older than those that are fresh.
            self.again.insert((touch.offset, id));
        }
    }

    /// A key that was taken is not to be copied; these are, since the same touch. One that is owed holds no mark: they are
    /// as of `received` then.
    pub fn hand_over(&mut self, id: KeyId, others: &[(&[u8], u16)], received: Option<Touch>) {
        let Some(entry) = self.entries.get(id as usize) else {
            return;
        };
        let touch = if entry.owed { received } else { Some(entry.touch) };
        for (key, slot) in others {
            if let Some(touch) = touch {
                self.touch_before(key, *slot, touch);
            }
        }
        self.landed(id);
    }

    /// Since when a key of the set is touched.
    pub fn touch_of(&self, id: KeyId) -> Option<Touch> {
        self.entries.get(id as usize).map(|entry| entry.touch)
    }

    /// Whether there may be a key to take.
    pub fn has_ready(&self) -> bool {
        !self.again.is_empty() || !self.fresh.is_empty() || !self.owed.is_empty()
    }

    /// A key that was taken was read since and is written, or is given up for good.
    pub fn landed(&mut self, id: KeyId) {
        let Some(entry) = self.entries.get_mut(id as usize) else {
            return;
        };
        self.copying.remove(&(entry.touch.offset, id));
        let was_owed = std::mem::take(&mut entry.owed);
        self.owed.remove(&id);
        match entry.copy {
            Copying::Yes { again: Some(touch) } => {
                entry.touch = touch;
                entry.copy = Copying::No;
                // In the queue it was passed over while it was owed.
                if self.waiting.remove(&(touch.offset, id)) || was_owed {
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
        if !entry.owed {
            self.again.insert((entry.touch.offset, id));
        }
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

    /// What comes before this is copied, but for keys that are owed: the first touch of a key or slot that is not, or
    /// else `received`, where the stream has come to.
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
            if entry.owed {
                entry.touch.offset = 0;
            }
            match &mut entry.copy {
                Copying::No if entry.owed => {}
                Copying::No => self.fresh.push_back((touch.offset, id)),
                Copying::Yes { again } => {
                    if !entry.owed {
                        self.copying.insert((touch.offset, id));
                    }
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
}

mod doubtful;
#[cfg(test)]
mod model;
mod owed;
#[cfg(test)]
mod tests;
