//! The keys of one page, in the order of their slots at the target.
//!
//! Invariant: each key stands beside the slot of its name at the target, and beside that name where it is another.

use crate::slot::key_slot;
use crate::transform::keymap::{KeyMap, Scratch};

/// How keys are chosen and named, and room to do it in.
pub(crate) type Naming<'a> = (&'a KeyMap, &'a mut Scratch);

/// The keys of a page: their bytes one after another, and an index in the order of their slots at the target.
///
/// Invariant: where `renamed`, a key's bytes are followed by the length of its name at the target (4 bytes, LE)
/// and that name.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    bytes: Vec<u8>,
    index: Vec<KeyRef>,
    renamed: bool,
}

#[derive(Debug, Clone, Copy)]
struct KeyRef {
    start: usize,
    length: u32,
    slot: u16,
}

impl Keys {
    /// Copy keys and hash them.
    pub fn collect<'a>(keys: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut collected = Self::default();
        for key in keys {
            collected.index.push(KeyRef {
                start: collected.bytes.len(),
                length: key.len() as u32,
                slot: key_slot(key),
            });
            collected.bytes.extend_from_slice(key);
        }
        collected
    }

    /// Copy the keys that are taken, name and hash them.
    pub fn select<'a>(keys: impl Iterator<Item = &'a [u8]>, (map, scratch): Naming<'_>) -> Self {
        let mut selected = Self {
            renamed: map.renames(),
            ..Self::default()
        };
        for key in keys {
            if let Some((name, slot)) = map.place(key, scratch) {
                selected.push(key, name, slot);
            }
        }
        selected
    }

    /// Copy keys that were taken before, name and hash them.
    pub fn name<'a>(keys: impl Iterator<Item = &'a [u8]>, (map, scratch): Naming<'_>) -> Self {
        let mut named = Self {
            renamed: map.renames(),
            ..Self::default()
        };
        for key in keys {
            let name = map.rename(key, scratch);
            named.push(key, name, key_slot(name));
        }
        named
    }

    /// The keys of the source that get these names of the target: those of one name stand together. A name that none
    /// gets is left out; one that too many may get stands for itself.
    pub fn found<'a>(names: impl Iterator<Item = &'a [u8]>, (map, scratch): Naming<'_>) -> Self {
        let mut found = Self {
            renamed: map.renames(),
            ..Self::default()
        };
        for name in names {
            let sources = map.sources(name, scratch);
            for source in sources.unwrap_or_else(|_| vec![name.to_vec()]) {
                found.push(&source, name, key_slot(name));
            }
        }
        found
    }

    fn push(&mut self, key: &[u8], name: &[u8], slot: u16) {
        self.index.push(KeyRef {
            start: self.bytes.len(),
            length: key.len() as u32,
            slot,
        });
        self.bytes.extend_from_slice(key);
        if self.renamed {
            self.bytes.extend_from_slice(&(name.len() as u32).to_le_bytes());
            self.bytes.extend_from_slice(name);
        }
    }

    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether keys may have other names at the target.
    pub fn are_renamed(&self) -> bool {
        self.renamed
    }

    /// The name of key `number` at the target.
    #[inline]
    pub fn target(&self, number: usize) -> &[u8] {
        let (key, _) = self.get(number);
        if !self.renamed {
            return key;
        }
        let after = &self.bytes[self.index[number].start + key.len()..];
        match after.split_first_chunk::<4>() {
            Some((length, name)) => &name[..u32::from_le_bytes(*length) as usize],
            None => unreachable!("a renamed key is followed by its name"),
        }
    }

    #[inline]
    pub fn get(&self, number: usize) -> (&[u8], u16) {
        let key = &self.index[number];
        (&self.bytes[key.start..key.start + key.length as usize], key.slot)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u16)> {
        (0..self.len()).map(|number| self.get(number))
    }

    /// How long a name is in the mean, in bytes.
    pub fn mean_length(&self) -> usize {
        self.bytes.len() / self.index.len().max(1)
    }

    /// Bytes held.
    pub fn weight(&self) -> usize {
        self.bytes.capacity() + self.index.capacity() * size_of::<KeyRef>()
    }

    /// Keep the keys whose place in `taken` says so.
    pub fn retain_marked(&mut self, taken: &[bool]) {
        let mut taken = taken.iter();
        self.index.retain(|_| taken.next().copied().unwrap_or(true));
    }

    pub fn sort_by_slot(&mut self) {
        self.index.sort_unstable_by_key(|key| key.slot);
    }

    pub fn retain(&mut self, keep: impl Fn(&[u8]) -> bool) {
        let bytes = &self.bytes;
        self.index
            .retain(|key| keep(&bytes[key.start..key.start + key.length as usize]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renamed_keys_are_in_the_order_of_their_new_slots() {
        let rule = crate::transform::keymap::Rule::Rewrite {
            pattern: "^(.)x$".to_owned(),
            template: b"long:{$1}".to_vec(),
            last: false,
        };
        let map = KeyMap::new(&[rule], b"", &crate::transform::keymap::NameFilter::default())
            .expect("the rule compiles");
        let mut scratch = Scratch::default();
        let names: [&[u8]; 4] = [b"ax", b"", b"b", b"cx"];
        let mut keys = Keys::select(names.into_iter(), (&map, &mut scratch));
        keys.sort_by_slot();
        assert!(keys.are_renamed() && keys.len() == 4);
        let mut before = 0;
        for number in 0..4 {
            let (key, slot) = keys.get(number);
            assert_eq!(keys.target(number), map.rename(key, &mut scratch));
            assert_eq!(slot, key_slot(keys.target(number)));
            assert!(slot >= before);
            before = slot;
        }
    }
}
