//! How many keys one SCAN asks for.
//!
//! Invariants: the names of all pages that are under way fit into a part of the byte budget, however long they
//! are, as soon as a few have been seen; and the last pages of a partition ask for little more than what is left
//! of it, so that hardly a key comes twice: a page that runs over the end brings keys of the next partition.
//!
//! SCAN walks the buckets in reverse-binary order (`dictScan` of the servers). So the bits of a cursor, read
//! backwards, say how far it has come, and what a COUNT passes over is the same everywhere in a table.

use std::cell::Cell;

/// With nothing known of the names, so many keys are asked for; and then so many times as were seen.
const FIRST: u32 = 2;
const GROWTH: u32 = 4;

/// So many keys at the end of a partition are asked for in one go, though fewer may be left.
const LAST: u32 = 4;

/// What part of that which seems to be left is asked for: the estimate may be too high.
const CAUTION: f64 = 0.9;

/// What is known of the keys of one keyspace.
#[derive(Debug)]
pub(crate) struct Pace {
    /// COUNT at most.
    most: u32,
    /// Bytes that the names of one page may take.
    room: usize,
    /// How many keys were asked for so far.
    seen: Cell<u32>,
    /// Bytes of a reply and part of the keyspace (of 2^64), for each key that is asked for.
    bytes: Cell<f64>,
    stride: Cell<f64>,
}

impl Pace {
    /// At most `most` keys in one page, whose names should take no more than `room` bytes.
    pub fn new(most: u32, room: usize) -> Self {
        Self {
            most,
            room,
            seen: Cell::new(0),
            bytes: Cell::new(0.0),
            stride: Cell::new(0.0),
        }
    }

    /// Bytes that the names of one page may take.
    pub fn room(&self) -> usize {
        self.room
    }

    /// Whether nothing is known of the names yet: one page at a time is enough then.
    #[inline]
    pub fn is_blind(&self) -> bool {
        self.seen.get() == 0
    }

    /// How many keys to ask for, where `left` of the keyspace (of 2^64) is left of the partition, if it is known.
    #[inline]
    #[allow(
        clippy::cast_sign_loss,
        reason = "what is turned into a number of keys is at least zero"
    )]
    pub fn count(&self, left: Option<f64>) -> u32 {
        let trusted = self.seen.get().saturating_mul(GROWTH).max(FIRST);
        let fitting = (self.room as f64 / self.bytes.get().max(1.0)) as u32;
        let count = self.most.min(trusted).min(fitting.max(1));
        match left {
            Some(left) if self.stride.get() > 0.0 => {
                let rest = (left / self.stride.get() * CAUTION).ceil() as u32;
                count.min(rest.max(LAST))
            }
            _ => count,
        }
    }

    /// A page of `bytes` came, for which `count` keys were asked; it passed over `passed` of the keyspace.
    pub fn learn(&self, count: u32, bytes: usize, passed: f64) {
        let count_now = f64::from(count.max(1));
        let bytes = bytes as f64 / count_now;
        let smoothed = (self.bytes.get() * 3.0 + bytes) / 4.0;
        // Upwards at once, downwards slowly.
        self.bytes.set(smoothed.max(bytes));
        if passed > 0.0 {
            let before = f64::from(self.seen.get().min(self.most));
            let weight = count_now / (count_now + before);
            let stride = self.stride.get() * (1.0 - weight) + passed / count_now * weight;
            self.stride.set(stride);
        }
        self.seen.set(self.seen.get().saturating_add(count));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_small_and_grows() {
        let pace = Pace::new(1000, 1 << 20);
        assert!(pace.is_blind());
        let mut counts = Vec::new();
        for _ in 0..5 {
            let count = pace.count(None);
            pace.learn(count, count as usize * 20, 0.0);
            counts.push(count);
        }
        assert_eq!(counts, [2, 8, 40, 200, 1000]);
    }

    #[test]
    fn long_names_make_short_pages() {
        let pace = Pace::new(1000, 1 << 20);
        pace.learn(8, 8 << 20, 0.0);
        assert_eq!(pace.count(None), 1);
        for _ in 0..40 {
            pace.learn(1, 100, 0.0);
        }
        assert!(pace.count(None) > 100);
    }

    #[test]
    fn the_end_of_a_partition_is_neared_step_by_step() {
        let pace = Pace::new(1000, 1 << 20);
        pace.learn(1000, 1000, 1e6);
        assert_eq!(pace.count(Some(1e9)), 1000);
        assert_eq!(pace.count(Some(5e5)), 450);
        assert_eq!(pace.count(Some(1e3)), LAST);
        assert_eq!(pace.count(None), 1000);
    }
}
