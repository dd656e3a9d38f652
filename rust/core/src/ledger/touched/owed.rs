//! Keys that are owed: written so often that they can't be copied before they rest.
//!
//! Invariant: an owed key does not hold the mark, and is not clean before it has landed. Who records the mark records
//! with it which keys are owed.

use std::rc::Rc;

use super::{Copying, KeyId, Taken, Touch, Touched};

/// An owed key is taken when it was not touched for so many milliseconds.
pub(super) const OWED_REST: u32 = 2_000;

impl Touched {
    /// Take owed keys that rest.
    pub(super) fn take_owed(
        &mut self,
        keys: usize,
        newest: u32,
        free: &mut impl FnMut(&[u8]) -> bool,
    ) -> Vec<Taken> {
        let mut taken = Vec::new();
        for &id in &self.owed {
            let entry = &mut self.entries[id as usize];
            let rests = entry.last.saturating_add(OWED_REST) <= newest;
            if taken.len() < keys && entry.copy == Copying::No && rests && free(&entry.key) {
                entry.copy = Copying::Yes { again: None };
                taken.push(Taken {
                    id,
                    key: Rc::clone(&entry.key),
                });
            }
        }
        taken
    }

    /// A key that was taken can't be copied as long as it is written, and that is so all the time: it does not hold the
    /// mark from now on, until it has landed. Who records the mark records [`Self::owed`] with it.
    pub fn owe(&mut self, id: KeyId) {
        if let Some(entry) = self.entries.get_mut(id as usize)
            && !entry.owed
        {
            self.copying.remove(&(entry.touch.offset, id));
            entry.owed = true;
            self.owed.insert(id);
        }
    }

    /// The same of a key that is being copied, by its name.
    pub fn owe_copying(&mut self, key: &[u8]) {
        if let Some(&id) = self.index.get(key)
            && self.entries[id as usize].copy != Copying::No
        {
            self.owe(id);
        }
    }

    /// A key that an earlier run owed: it is taken at once, and nothing is clean before it has landed.
    pub fn owe_again(&mut self, key: &[u8], slot: u16, touch: Touch) {
        self.touch(key, slot, touch);
        if let Some(&id) = self.index.get(key) {
            self.owe(id);
            let entry = &mut self.entries[id as usize];
            (entry.touch.offset, entry.last) = (0, 0);
        }
    }

    /// A key was written up to now, which was not heard of by [`Self::touch`].
    pub fn note_written(&mut self, key: &[u8], at: u32) {
        if let Some(&id) = self.index.get(key) {
            self.entries[id as usize].last = at;
        }
    }

    /// The keys that are owed.
    pub fn owed(&self) -> impl Iterator<Item = &[u8]> {
        self.owed.iter().map(|&id| &*self.entries[id as usize].key)
    }

    /// Whether a key that is being copied was touched since it was taken.
    pub fn is_touched_again(&self, key: &[u8]) -> bool {
        let entry = self.index.get(key).map(|&id| &self.entries[id as usize]);
        entry.is_some_and(|entry| matches!(entry.copy, Copying::Yes { again: Some(_) }))
    }

    /// As [`Self::mark`], with the keys that are owed.
    pub fn clean(&mut self, received: Touch) -> Touch {
        let mark = self.mark(received);
        let owed = self.owed.iter().flat_map(|&id| {
            let entry = &self.entries[id as usize];
            // What a comparison has found may be older than the touch for which it is copied now.
            match entry.copy {
                Copying::Yes { again } => [Some(entry.touch), again],
                Copying::No => [Some(entry.touch), None],
            }
        });
        owed.flatten()
            .chain([mark])
            .min_by_key(|touch| touch.offset)
            .unwrap_or(mark)
    }
}
