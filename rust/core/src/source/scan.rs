//! The scan: 2^k independent SCANs over one keyspace, and the pages that they bring.
//!
//! Invariant: partition `s` of `P` starts at cursor `s` and ends when the returned cursor is 0 or
//! `cursor & (P − 1) ≠ s`; so each key belongs to one partition for good, across rehashing, and SCAN's
//! guarantee holds per partition (SCAN walks the buckets in reverse-binary order: `dictScan` of the servers).

use std::collections::{HashMap, HashSet};

use crate::resp::ScanPage;
use crate::slot::{SLOTS, key_slot};
use crate::source::page::{Keys, Naming};
use crate::source::walk::Walk;

/// Longest key that is remembered to tell duplicates.
const LONGEST_REMEMBERED: usize = 128;

/// So many of a partition's first keys are remembered: the page before them runs over its end by a few.
const MOST_REMEMBERED: usize = 32;

/// One partition's walk.
#[derive(Debug)]
pub(crate) struct Scanner {
    /// Its place among the job's partitions.
    pub place: usize,
    /// Its index among all partitions of the scan.
    index: u64,
    /// Number of partitions minus one.
    mask: u64,
    pub cursor: u64,
    pub state: ScanState,
    /// Whether it comes to an end, once a second page is asked for.
    pub walk: Option<Walk>,
    /// COUNT of the SCAN that is on its way.
    pub count: u32,
    /// Where the partition behind it starts, if that one's first keys were scanned by an earlier run: they are looked at
    /// once more, so that they are known when this partition runs over its end.
    pub next_head: Option<u64>,
    /// How many of its first keys are still to be remembered; none where it goes on in the middle.
    unremembered: usize,
    /// The last slot of the partition, where the SCAN goes from slot to slot.
    last_slot: Option<u64>,
}

/// The partitions of a job that start at their first keys.
pub(crate) fn fresh_partitions(partitions: &[(u32, u64)]) -> HashSet<u32> {
    let fresh = partitions
        .iter()
        .filter(|(index, cursor)| u64::from(*index) == *cursor);
    fresh.map(|(index, _)| *index).collect()
}

/// The partition behind `index` of `count` in the order of SCAN; none behind the last.
fn partition_behind(index: u32, count: u32) -> Option<u32> {
    let unused = count.leading_zeros() + 1;
    let place = index.reverse_bits().checked_shr(unused).unwrap_or_default() + 1;
    (place < count).then(|| place.reverse_bits() >> unused)
}

/// Where a partition's walk stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanState {
    /// The next SCAN can be sent.
    Idle,
    /// A SCAN is on its way, or the keys of its page are still to be asked for.
    Busy,
    /// The partition is at its end.
    Done,
}

impl Scanner {
    /// Go on at `cursor` with partition `index` of `count`.
    pub fn new(place: usize, index: u32, count: u32, cursor: u64) -> Self {
        Self {
            place,
            index: u64::from(index),
            mask: u64::from(count) - 1,
            cursor,
            state: ScanState::Idle,
            walk: None,
            count: 0,
            next_head: None,
            unremembered: if cursor == u64::from(index) {
                MOST_REMEMBERED
            } else {
                0
            },
            last_slot: None,
        }
    }

    /// The SCAN goes from slot to slot, and a cursor's lowest bits name the slot: a partition is a run of slots then. One
    /// that is at its start has its index for a cursor, which names a slot before it.
    pub fn by_slot(mut self) -> Self {
        let width = u64::from(SLOTS) / (self.mask + 1);
        if self.cursor == self.index {
            self.cursor = self.index * width;
        }
        self.last_slot = Some((self.index + 1) * width - 1);
        self.unremembered = 0;
        self
    }

    /// Look at the first keys of the partition behind this one, unless that is one of the `fresh` ones, which bring
    /// them in this job.
    pub fn looks_behind(mut self, fresh: &HashSet<u32>) -> Self {
        let behind = partition_behind(self.index as u32, self.mask as u32 + 1);
        self.next_head = behind.filter(|index| !fresh.contains(index)).map(u64::from);
        self
    }

    /// How many keys to ask for where the next partition's first keys are looked at.
    pub const fn head_count() -> u32 {
        MOST_REMEMBERED as u32
    }

    /// Take over the first keys of the next partition, which an earlier run has brought.
    pub fn take_head(&mut self, page: &ScanPage<'_>, head: u64, overlap: &mut Overlap) {
        // A page that runs over that partition's end as well may hold keys that nobody has brought.
        if page.cursor != 0 && page.cursor & self.mask == head {
            overlap.remember(head, &Keys::collect(page.keys()), usize::MAX);
        }
        self.state = ScanState::Idle;
    }

    /// Whether a page that returned `cursor` is the partition's last one.
    pub fn ends_with(&self, cursor: u64) -> bool {
        cursor == 0
            || match self.last_slot {
                None => cursor & self.mask != self.index,
                Some(last) => cursor & (u64::from(SLOTS) - 1) > last,
            }
    }

    /// How much of the keyspace (of 2^64) is left of the partition; `None` where it is the only one, which ends
    /// by itself.
    pub fn left(&self) -> Option<f64> {
        let width = KEYSPACE / (self.mask as f64 + 1.0);
        (self.mask > 0 && self.last_slot.is_none()).then(|| width - passed(self.index, self.cursor))
    }

    /// How much of the keyspace a page passed over that returned `cursor`.
    pub fn passed(&self, cursor: u64) -> f64 {
        if self.last_slot.is_some() {
            // Of the slots that it passes over, the node may have none.
            0.0
        } else if cursor == 0 {
            KEYSPACE - passed(0, self.cursor)
        } else {
            passed(self.cursor, cursor)
        }
    }

    /// Take over a page: its keys, in slot order, without those that another partition brought already.
    pub fn take(&mut self, page: &ScanPage<'_>, overlap: &mut Overlap, naming: Option<Naming<'_>>) -> Keys {
        let last = self.ends_with(page.cursor);
        let mut keys = match naming {
            None => Keys::collect(page.keys()),
            Some(naming) => Keys::select(page.keys(), naming),
        };
        if let Some(last_slot) = self.last_slot {
            if last {
                // They are the next partition's.
                keys.retain(|key| u64::from(key_slot(key)) <= last_slot);
            }
        } else if self.mask > 0 {
            if last {
                keys.retain(|key| !overlap.is_of_another(key, self.index));
            }
            // A page that is both first and last has run over itself: it may hold another partition's keys.
            if !last {
                overlap.remember(self.index, &keys, self.unremembered);
            }
        }
        self.unremembered = self.unremembered.saturating_sub(keys.len());
        self.cursor = page.cursor;
        self.state = if last { ScanState::Done } else { ScanState::Busy };
        keys.sort_by_slot();
        keys
    }
}

/// All cursors.
const KEYSPACE: f64 = 18_446_744_073_709_551_616.0;

/// What lies between two cursors, in the order of SCAN.
fn passed(from: u64, to: u64) -> f64 {
    to.reverse_bits().wrapping_sub(from.reverse_bits()) as f64
}

/// The first keys of every partition, but those of a page that is its last one as well; and which one's they are.
///
/// The last page of a partition runs over into the first ones of the next, so these keys come twice. Those
/// that another partition has brought, or will bring, are its business: it accounts for them. Its own are never left
/// out: a look at its head may know keys behind the place where it goes on.
#[derive(Debug, Default)]
pub(crate) struct Overlap(HashMap<Box<[u8]>, u64>);

impl Overlap {
    fn is_of_another(&self, key: &[u8], index: u64) -> bool {
        self.0.get(key).is_some_and(|&owner| owner != index)
    }

    fn remember(&mut self, owner: u64, keys: &Keys, most: usize) {
        self.0.extend(
            keys.iter()
                .map(|(key, _)| key)
                .take(most)
                .filter(|key| key.len() <= LONGEST_REMEMBERED)
                .map(|key| (Box::from(key), owner)),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::{Decoded, decode_scan, encode};

    fn reply(cursor: u64, keys: &[&[u8]]) -> Vec<u8> {
        let mut data = b"*2\r\n".to_vec();
        encode::bulk(&mut data, cursor.to_string().as_bytes());
        data.extend_from_slice(format!("*{}\r\n", keys.len()).as_bytes());
        for key in keys {
            encode::bulk(&mut data, key);
        }
        data
    }

    fn take(scanner: &mut Scanner, overlap: &mut Overlap, cursor: u64, keys: &[&[u8]]) -> Vec<Vec<u8>> {
        let data = reply(cursor, keys);
        let Ok(Decoded::Whole(Ok(page), _)) = decode_scan(&data) else {
            panic!("is a page");
        };
        let keys = scanner.take(&page, overlap, None);
        keys.iter().map(|(key, _)| key.to_vec()).collect()
    }

    #[test]
    fn a_partition_ends_where_the_next_begins() {
        let scanner = Scanner::new(0, 1, 4, 1);
        assert!(!scanner.ends_with(5) && !scanner.ends_with(1 << 40 | 1));
        assert!(scanner.ends_with(0) && scanner.ends_with(3) && scanner.ends_with(6));
        let whole = Scanner::new(0, 0, 1, 0);
        assert!(whole.ends_with(0) && !whole.ends_with(7));
    }

    #[test]
    fn a_partition_of_slots_ends_behind_its_last_one() {
        let cursor = |bucket: u64, slot: u64| bucket << 14 | slot;
        // 4,096 slots each: the second has 4096 to 8191.
        let mut second = Scanner::new(0, 1, 4, 1).by_slot();
        assert_eq!(second.cursor, 4096);
        assert!(!second.ends_with(8191) && !second.ends_with(cursor(7, 5_000)));
        assert!(second.ends_with(0) && second.ends_with(8192) && second.ends_with(cursor(1, 16_000)));
        assert_eq!(
            Scanner::new(0, 1, 4, 1 << 14 | 4096).by_slot().cursor,
            1 << 14 | 4096
        );
        assert_eq!(Scanner::new(0, 0, 1, 0).by_slot().cursor, 0);
        assert!(!Scanner::new(0, 0, 1, 0).by_slot().ends_with(16_383));
        // "bar" has slot 5061, "foo" 12182, which is the last one's.
        let mut overlap = Overlap::default();
        assert_eq!(
            take(&mut second, &mut overlap, 12_182, &[b"bar", b"foo"]),
            [b"bar"]
        );
        assert_eq!(second.state, ScanState::Done);
    }

    #[test]
    fn what_is_left_of_a_partition_shrinks_in_the_order_of_the_scan() {
        let quarter = KEYSPACE / 4.0;
        let mut scanner = Scanner::new(0, 1, 4, 1);
        assert_eq!(scanner.left(), Some(quarter));
        assert_eq!(Some(scanner.passed(5)), Some(quarter / 2.0));
        scanner.cursor = 5;
        assert_eq!(scanner.left(), Some(quarter / 2.0));
        assert_eq!(Some(scanner.passed(3)), Some(quarter / 2.0));
        let whole = Scanner::new(0, 0, 1, 0);
        assert_eq!((whole.left(), whole.passed(0)), (None, KEYSPACE));
        assert_eq!(Some(Scanner::new(0, 3, 4, 3).passed(0)), Some(quarter));
    }

    #[test]
    fn keys_beyond_the_end_are_left_to_their_own_partition() {
        let mut overlap = Overlap::default();
        let mut first = Scanner::new(0, 0, 2, 0);
        let mut second = Scanner::new(1, 1, 2, 1);
        take(&mut second, &mut overlap, 5, &[b"own", b"early"]);
        assert_eq!(take(&mut first, &mut overlap, 4, &[b"a"]), [b"a"]);
        let last = take(&mut first, &mut overlap, 3, &[b"early", b"b", b"a"]);
        assert_eq!(first.state, ScanState::Done);
        assert!(last.contains(&b"b".to_vec()) && !last.contains(&b"early".to_vec()));
    }

    #[test]
    fn the_partition_behind_is_the_next_one_in_the_order_of_scan() {
        let order = |count: u32| {
            std::iter::successors(Some(0), |&index| partition_behind(index, count)).collect::<Vec<_>>()
        };
        assert_eq!(order(1), [0]);
        assert_eq!(order(2), [0, 1]);
        assert_eq!(order(8), [0, 4, 2, 6, 1, 5, 3, 7]);
        assert_eq!(order(1024).len(), 1024);
    }

    #[test]
    fn keys_that_an_earlier_run_has_brought_are_left_out_at_the_end() {
        let fresh = fresh_partitions(&[(0, 4)]);
        let mut overlap = Overlap::default();
        let mut first = Scanner::new(0, 0, 2, 4).looks_behind(&fresh);
        assert_eq!(first.next_head, Some(1));
        let data = reply(5, &[b"early"]);
        let Ok(Decoded::Whole(Ok(page), _)) = decode_scan(&data) else {
            panic!("is a page");
        };
        first.take_head(&page, 1, &mut overlap);
        assert_eq!(take(&mut first, &mut overlap, 3, &[b"early", b"b"]), [b"b"]);
        let fresh = fresh_partitions(&[(0, 4), (1, 1)]);
        assert_eq!(Scanner::new(0, 0, 2, 4).looks_behind(&fresh).next_head, None);
    }

    #[test]
    fn a_partition_that_goes_on_among_its_first_keys_brings_the_others_itself() {
        let fresh = fresh_partitions(&[(0, 4), (1, 5)]);
        let mut overlap = Overlap::default();
        let mut first = Scanner::new(0, 0, 2, 4).looks_behind(&fresh);
        let mut second = Scanner::new(1, 1, 2, 5).looks_behind(&fresh);
        let data = reply(3, &[b"brought", b"own"]);
        let Ok(Decoded::Whole(Ok(page), _)) = decode_scan(&data) else {
            panic!("is a page");
        };
        first.take_head(&page, 1, &mut overlap);
        // Its last page, and all that is left of it.
        assert_eq!(take(&mut second, &mut overlap, 0, &[b"own"]), [b"own"]);
        assert_eq!(take(&mut first, &mut overlap, 3, &[b"own", b"b"]), [b"b"]);
    }

    #[test]
    fn a_page_that_is_first_and_last_answers_for_no_other_partition() {
        let mut overlap = Overlap::default();
        let mut first = Scanner::new(0, 0, 2, 0);
        let mut second = Scanner::new(1, 1, 2, 1);
        assert_eq!(take(&mut first, &mut overlap, 0, &[b"a", b"b"]).len(), 2);
        // Twice is harmless; left to a partition that need not bring it again after a resume would be a loss.
        assert_eq!(take(&mut second, &mut overlap, 0, &[b"b", b"a"]).len(), 2);
    }

    #[test]
    fn keys_come_in_slot_order() {
        let mut scanner = Scanner::new(0, 0, 1, 0);
        let names: Vec<Vec<u8>> = (0..100)
            .map(|number| format!("key:{number}").into_bytes())
            .collect();
        let names: Vec<&[u8]> = names.iter().map(Vec::as_slice).collect();
        let taken = take(&mut scanner, &mut Overlap::default(), 0, &names);
        assert_eq!(taken.len(), 100);
        assert!(taken.is_sorted_by_key(|key| key_slot(key)));
    }
}
