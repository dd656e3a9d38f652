//! The keys that the bulk copy has in hand, by their hashes.
//!
//! Invariant: a key of an open page is never called free; another one may rarely be called taken, which only delays it.

use std::collections::HashMap;

use crate::ledger::books::PageId;

/// So many counters: with some ten thousand keys in hand, one key in a hundred is delayed without need.
const COUNTERS: usize = 1 << 20;

/// Open pages, and how many keys of them have which hash.
#[derive(Debug)]
pub(crate) struct Scanned {
    counters: Box<[u32]>,
    pages: HashMap<PageId, Vec<u32>>,
}

impl Scanned {
    pub fn new() -> Self {
        Self {
            counters: vec![0; COUNTERS].into_boxed_slice(),
            pages: HashMap::new(),
        }
    }

    /// A page is opened.
    pub fn open<'k>(&mut self, page: PageId, keys: impl Iterator<Item = &'k [u8]>) {
        let hashes: Vec<u32> = keys.map(hash).collect();
        for &hash in &hashes {
            self.counters[hash as usize] += 1;
        }
        self.pages.insert(page, hashes);
    }

    /// A page is complete; returns whether it was one of these.
    pub fn close(&mut self, page: PageId) -> bool {
        let Some(hashes) = self.pages.remove(&page) else {
            return false;
        };
        for hash in hashes {
            self.counters[hash as usize] -= 1;
        }
        true
    }

    /// Whether no open page has the key.
    pub fn is_free(&self, key: &[u8]) -> bool {
        self.pages.is_empty() || self.counters[hash(key) as usize] == 0
    }
}

/// FNV-1a, folded to the number of counters.
fn hash(key: &[u8]) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for &byte in key {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    ((hash ^ (hash >> 32)) as usize % COUNTERS) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_free_when_its_last_page_is_closed() {
        let mut scanned = Scanned::new();
        scanned.open(1, [b"a".as_slice(), b"b"].into_iter());
        scanned.open(2, [b"a".as_slice()].into_iter());
        assert!(!scanned.is_free(b"a") && !scanned.is_free(b"b") && scanned.is_free(b"c"));
        assert!(scanned.close(1) && !scanned.close(1));
        assert!(!scanned.is_free(b"a") && scanned.is_free(b"b"));
        assert!(scanned.close(2));
        assert!(scanned.is_free(b"a"));
    }
}
