//! The keys of a slot, one after the other in one buffer.
//!
//! Invariant: `ends` is where each key ends in `names`, in the order in which they were listed.

#[derive(Debug, Default)]
pub(super) struct Keys {
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

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn get(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.names[start..self.ends[place]]
    }
}
