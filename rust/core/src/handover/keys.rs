//! The keys of a slot, one after the other in one buffer.
//!
//! Invariant: `ends` is where each key ends in `names`, in the order in which they were listed.

use crate::slot::key_slot;

#[derive(Debug, Default)]
pub(crate) struct Keys {
    names: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    pub fn clear(&mut self) {
        self.names.clear();
        self.ends.clear();
    }

    pub fn push(&mut self, key: &[u8]) {
        self.names.extend_from_slice(key);
        self.ends.push(self.names.len());
    }

    /// A key that is not of this slot: the list is another's.
    pub fn astray(&self, slot: u16) -> Option<&[u8]> {
        (0..self.len())
            .map(|place| self.get(place))
            .find(|key| key_slot(key) != slot)
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.names[start..self.ends[place]]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_another_slot_is_astray() {
        let mut keys = Keys::default();
        keys.push(b"{one}a");
        keys.push(b"{one}b");
        assert_eq!(keys.astray(key_slot(b"one")), None);
        keys.push(b"other");
        assert_eq!(keys.astray(key_slot(b"one")), Some(b"other".as_slice()));
    }
}
