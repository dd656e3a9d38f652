//! What only a comparison settles: slots whose keys' names did not fit, or all keys.
//!
//! Invariant: a doubt holds the mark from the first touch that it stands for until a comparison that was begun after it
//! has ended, and every key that it found is in the set.

use std::collections::HashMap;

use super::{Copying, Doubtful, ENTRY_BYTES, Touch, Touched, earlier};

impl Touched {
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
    pub(super) fn give_up_slots(&mut self, slot: u16, newest: Touch) {
        let mut weights: HashMap<u16, (usize, Touch)> = HashMap::new();
        for (_, entry) in &self.entries {
            // Its entry is needed as long as it is being copied.
            if entry.copy == Copying::No && !entry.owed {
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
            let stays = !open || entry.copy != Copying::No || entry.owed;
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

    pub(super) fn doubt(&mut self, slot: u16, since: Touch) {
        let doubt = self.slots.entry(slot).or_default();
        doubt.open = earlier(doubt.open, Some(since));
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
        self.touch_before(key, slot, first);
    }

    /// The comparison is over, and every key that differed was [found](Self::found).
    pub fn end_comparison(&mut self) {
        for doubt in self.slots.values_mut().chain([&mut self.all]) {
            doubt.comparing = None;
        }
        self.slots.retain(|_, doubt| doubt.open.is_some());
    }
}
