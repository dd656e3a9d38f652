//! The books of one job: which pages are open, and each partition's low-water mark.
//!
//! Invariant: a mark never passes a page with a key whose outcome is open, and everything that a checkpoint
//! hands over (counts, failures, pending keys, marks) belongs to pages below the marks. Every scanned key
//! ends in exactly one outcome. With a barrier, a checkpoint hands over only what one has confirmed. What waits to
//! be handed over is known in bytes: see [`Ledger::unrecorded`].

use std::collections::{BTreeMap, VecDeque};

use slab::Slab;

use crate::ledger::checkpoint::{Checkpoint, FollowMark, Mark};
use crate::ledger::held::Held;
use crate::ledger::progress::{Counts, Outcome};
use crate::ledger::unsettled::{Failure, FailureKind, Pending};

/// A page's number while it is open.
pub type PageId = u32;

/// Where a page comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A partition of the scan, by its place in the list given to [`Ledger::new`].
    Partition(usize),
    /// The list of keys handed over by name.
    Names,
    /// Keys that the source's stream has touched: they are in no count here.
    Followed,
}

#[derive(Debug)]
struct Page {
    origin: Origin,
    after: Mark,
    open: u32,
    counts: Counts,
    failures: Vec<Failure>,
    pending: Vec<Pending>,
    names: Vec<Vec<u8>>,
}

#[derive(Debug)]
struct Partition {
    mark: Mark,
    /// Pages in the order of the scan, the oldest first.
    pages: VecDeque<PageId>,
}

/// The books of one job.
#[derive(Debug)]
pub struct Ledger {
    partitions: Vec<Partition>,
    pages: Slab<Page>,
    open_pages: usize,
    big_positions: BTreeMap<Vec<u8>, String>,
    settled: Checkpoint,
    held: Option<Held>,
    /// Bytes of the failures, notes and pending keys that no checkpoint has handed over.
    unrecorded: usize,
    follow: Option<FollowMark>,
}

impl Ledger {
    /// Open the books for partitions that start at these marks.
    pub fn new(marks: &[Mark]) -> Self {
        Self {
            partitions: marks
                .iter()
                .map(|&mark| Partition {
                    mark,
                    pages: VecDeque::new(),
                })
                .collect(),
            pages: Slab::new(),
            open_pages: 0,
            big_positions: BTreeMap::new(),
            settled: Checkpoint::default(),
            held: None,
            unrecorded: 0,
            follow: None,
        }
    }

    /// The source was followed up to here by an earlier run.
    #[must_use]
    pub fn with_follow(mut self, mark: Option<FollowMark>) -> Self {
        self.follow = mark;
        self
    }

    /// Hand nothing over before a barrier has confirmed it: [`Self::begin_barrier`], then [`Self::confirm`].
    #[must_use]
    pub fn with_barrier(mut self) -> Self {
        self.held = Some(Held::new(self.take_settled()));
        self
    }

    /// Enter a page of a partition: `keys` outcomes are open, `cursor` comes after it, `last` says that
    /// nothing does. `counted` keys are counted as scanned.
    pub fn open_page(
        &mut self,
        partition: usize,
        cursor: u64,
        last: bool,
        keys: u32,
        counted: u64,
    ) -> PageId {
        let after = Mark {
            index: self.partitions[partition].mark.index,
            cursor,
            done: last,
        };
        let counts = Counts {
            scanned: counted,
            ..Counts::default()
        };
        let page = self.insert(Origin::Partition(partition), after, keys, counts, Vec::new());
        self.partitions[partition].pages.push_back(page);
        if keys == 0 {
            self.close(page);
        }
        page
    }

    /// Enter a page of keys handed over by name.
    pub fn open_names(&mut self, names: Vec<Vec<u8>>) -> PageId {
        let after = Mark {
            index: 0,
            cursor: 0,
            done: false,
        };
        self.insert(Origin::Names, after, names.len() as u32, Counts::default(), names)
    }

    /// Enter a page of `keys` touched keys.
    pub fn open_followed(&mut self, keys: u32) -> PageId {
        let after = Mark {
            index: 0,
            cursor: 0,
            done: false,
        };
        self.insert(Origin::Followed, after, keys, Counts::default(), Vec::new())
    }

    /// The source is followed up to here, and these keys of earlier runs are settled by that.
    pub fn set_follow(&mut self, mark: FollowMark, resolved: Vec<Vec<u8>>) {
        self.follow = Some(mark);
        if !resolved.is_empty() {
            self.forget_collisions(&resolved);
        }
        self.settled.resolved.extend(resolved);
    }

    /// What was not recorded yet of names that keys of the source shared, and do no longer.
    fn forget_collisions(&mut self, resolved: &[Vec<u8>]) {
        let mut gone = 0;
        self.settled.failures.retain(|failure| {
            let is_over = failure.kind == FailureKind::Collision && resolved.contains(&failure.key);
            gone += if is_over { failure.weight() } else { 0 };
            !is_over
        });
        self.unrecorded = self.unrecorded.saturating_sub(gone);
    }

    fn insert(
        &mut self,
        origin: Origin,
        after: Mark,
        open: u32,
        counts: Counts,
        names: Vec<Vec<u8>>,
    ) -> PageId {
        self.open_pages += 1;
        self.pages.insert(Page {
            origin,
            after,
            open,
            counts,
            failures: Vec::new(),
            pending: Vec::new(),
            names,
        }) as PageId
    }

    /// `keys` keys of `page` ended as `outcome`, with `bytes` of payloads written. Returns whether the page is
    /// complete with that.
    #[inline]
    pub fn settle(&mut self, page: PageId, outcome: Outcome, keys: u32, bytes: u64) -> bool {
        let entry = &mut self.pages[page as usize];
        entry.counts.add(outcome, u64::from(keys));
        entry.counts.bytes += bytes;
        entry.open -= keys;
        let complete = entry.open == 0;
        if complete {
            self.close(page);
        }
        complete
    }

    /// A key of `page` was given up. Returns whether the page is complete with that.
    pub fn fail(&mut self, page: PageId, failure: Failure) -> bool {
        self.unrecorded += failure.weight();
        self.pages[page as usize].failures.push(failure);
        self.settle(page, Outcome::Failed, 1, 0)
    }

    /// A key is written, but something of it was given up by policy.
    pub fn note(&mut self, note: Failure) {
        self.unrecorded += note.weight();
        self.settled.notes.push(note);
    }

    /// How far a key is copied in parts.
    pub fn big_position(&self, key: &[u8]) -> Option<String> {
        self.big_positions.get(key).cloned()
    }

    /// A key is copied in parts up to here; `None` when that is over.
    pub fn set_big_position(&mut self, key: &[u8], position: Option<String>) {
        match position {
            Some(position) => self.big_positions.insert(key.to_vec(), position),
            None => self.big_positions.remove(key),
        };
    }

    /// A key of `page` is pending. Returns whether the page is complete with that.
    pub fn park(&mut self, page: PageId, pending: Pending) -> bool {
        self.unrecorded += pending.weight();
        self.pages[page as usize].pending.push(pending);
        self.settle(page, Outcome::Pending, 1, 0)
    }

    /// Bytes of the failures, notes and pending keys that no checkpoint has handed over.
    pub fn unrecorded(&self) -> usize {
        self.unrecorded
    }

    /// How many pages have keys whose outcome is open.
    pub fn open_pages(&self) -> usize {
        self.open_pages
    }

    /// A page is complete: move its partition's mark over the unbroken run of complete pages.
    fn close(&mut self, page: PageId) {
        self.open_pages -= 1;
        let Origin::Partition(partition) = self.pages[page as usize].origin else {
            let page = self.pages.remove(page as usize);
            self.enter(page);
            return;
        };
        while let Some(&oldest) = self.partitions[partition].pages.front() {
            if self.pages[oldest as usize].open > 0 {
                break;
            }
            self.partitions[partition].pages.pop_front();
            let page = self.pages.remove(oldest as usize);
            self.partitions[partition].mark = page.after;
            self.enter(page);
        }
    }

    fn enter(&mut self, page: Page) {
        if page.origin != Origin::Followed {
            self.settled.counts.merge(&page.counts);
        }
        self.settled.failures.extend(page.failures);
        self.settled.pending.extend(page.pending);
        self.settled.resolved.extend(page.names);
    }

    /// Take all that is settled by now into the next barrier; returns whether it has anything to confirm.
    pub fn begin_barrier(&mut self) -> bool {
        let fresh = self.take_settled();
        let Some(held) = &mut self.held else {
            return false;
        };
        held.add(fresh)
    }

    /// The barrier holds: all that it was begun with may be recorded.
    pub fn confirm(&mut self) {
        if let Some(held) = &mut self.held {
            held.confirm();
        }
    }

    /// Whether a barrier has confirmed all that is settled by now.
    pub fn is_confirmed(&self) -> bool {
        let marks = self.partitions.iter().map(|partition| &partition.mark);
        self.held.as_ref().is_none_or(|held| {
            held.is_confirmed()
                && self.settled.counts == held.confirmed().counts
                && self.settled.has_no_keys()
                && marks.eq(&held.confirmed().marks)
        })
    }

    /// Hand over what may be recorded as done now.
    pub fn checkpoint(&mut self) -> Checkpoint {
        let checkpoint = self.take_recordable();
        self.unrecorded = self.unrecorded.saturating_sub(checkpoint.weight());
        checkpoint
    }

    fn take_recordable(&mut self) -> Checkpoint {
        match &mut self.held {
            None => self.take_settled(),
            Some(held) => {
                let checkpoint = held.take_confirmed();
                Checkpoint {
                    // They claim nothing: what the target has of such a key is looked at before it goes on.
                    big_positions: positions(&self.big_positions, checkpoint.follow.as_ref()),
                    ..checkpoint
                }
            }
        }
    }

    fn take_settled(&mut self) -> Checkpoint {
        Checkpoint {
            marks: self.partitions.iter().map(|partition| partition.mark).collect(),
            counts: self.settled.counts,
            failures: std::mem::take(&mut self.settled.failures),
            pending: std::mem::take(&mut self.settled.pending),
            notes: std::mem::take(&mut self.settled.notes),
            big_positions: positions(&self.big_positions, self.follow.as_ref()),
            resolved: std::mem::take(&mut self.settled.resolved),
            follow: self.follow.clone(),
        }
    }
}

/// How far keys are copied in parts; what following says of a key goes first.
fn positions(copied: &BTreeMap<Vec<u8>, String>, follow: Option<&FollowMark>) -> Vec<(Vec<u8>, String)> {
    let mut all = copied.clone();
    all.extend(follow.iter().flat_map(|mark| mark.apart.iter().cloned()));
    all.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::unsettled::FailureKind;
    use proptest::prelude::*;

    fn start(index: u32) -> Mark {
        Mark {
            index,
            cursor: u64::from(index),
            done: false,
        }
    }

    #[test]
    fn the_mark_waits_for_the_oldest_page() {
        let mut ledger = Ledger::new(&[start(0)]);
        let first = ledger.open_page(0, 10, false, 2, 2);
        let second = ledger.open_page(0, 20, true, 1, 1);
        ledger.settle(second, Outcome::Migrated, 1, 5);
        assert_eq!(ledger.checkpoint().marks, [start(0)]);
        assert_eq!(ledger.checkpoint().counts, Counts::default());
        ledger.settle(first, Outcome::Migrated, 1, 5);
        ledger.park(
            first,
            Pending {
                key: b"k".to_vec(),
                slot: 1,
                reason: "CLUSTERDOWN".to_owned(),
            },
        );
        assert!(ledger.unrecorded() > 11);
        let checkpoint = ledger.checkpoint();
        assert_eq!(ledger.unrecorded(), 0);
        assert_eq!(
            checkpoint.marks,
            [Mark {
                index: 0,
                cursor: 20,
                done: true
            }]
        );
        assert_eq!((checkpoint.counts.scanned, checkpoint.counts.migrated), (3, 2));
        assert_eq!((checkpoint.counts.pending, checkpoint.counts.bytes), (1, 10));
        assert_eq!(checkpoint.pending.len(), 1);
        assert!(ledger.checkpoint().pending.is_empty());
        assert_eq!(ledger.open_pages(), 0);
    }

    #[test]
    fn with_a_barrier_nothing_is_handed_over_before_it_holds() {
        let mut ledger = Ledger::new(&[start(0)]).with_barrier();
        assert!(ledger.is_confirmed());
        let first = ledger.open_page(0, 10, false, 1, 1);
        let second = ledger.open_page(0, 20, true, 1, 1);
        ledger.settle(first, Outcome::Migrated, 1, 5);
        assert_eq!(ledger.checkpoint().marks, [start(0)]);
        assert!(ledger.begin_barrier());
        let pending = Pending {
            key: b"k".to_vec(),
            slot: 1,
            reason: "CLUSTERDOWN".to_owned(),
        };
        ledger.park(second, pending);
        assert_eq!(ledger.checkpoint().marks, [start(0)]);
        assert!(ledger.unrecorded() > 0);
        ledger.confirm();
        let checkpoint = ledger.checkpoint();
        assert_eq!((checkpoint.marks[0].cursor, checkpoint.counts.scanned), (10, 1));
        assert!(checkpoint.pending.is_empty() && !ledger.is_confirmed());

        // A barrier that does not hold takes nothing away from the next.
        assert!(ledger.begin_barrier());
        assert!(ledger.begin_barrier());
        ledger.confirm();
        let checkpoint = ledger.checkpoint();
        assert!(checkpoint.marks[0].done && ledger.is_confirmed());
        assert_eq!((checkpoint.counts.settled(), checkpoint.pending.len()), (2, 1));
        assert_eq!(ledger.unrecorded(), 0);
        assert!(ledger.checkpoint().pending.is_empty());
    }

    #[test]
    fn a_barrier_hands_notes_over_as_well() {
        let mut ledger = Ledger::new(&[start(0)]).with_barrier();
        let page = ledger.open_page(0, 0, true, 1, 1);
        ledger.note(Failure {
            key: b"k".to_vec(),
            slot: 1,
            kind: FailureKind::FieldTtlDropped,
            message: String::new(),
            sides: None,
            node: String::new(),
        });
        // The key is still on its way when a barrier is begun.
        ledger.begin_barrier();
        ledger.settle(page, Outcome::Migrated, 1, 5);
        assert!(ledger.begin_barrier());
        ledger.confirm();
        assert_eq!(ledger.checkpoint().notes.len(), 1);
        assert!(ledger.checkpoint().notes.is_empty() && ledger.is_confirmed());
    }

    #[test]
    fn positions_in_large_keys_wait_for_no_barrier() {
        let mut ledger = Ledger::new(&[start(0)]).with_barrier();
        ledger.set_big_position(b"k", Some("offset:5".to_owned()));
        assert_eq!(ledger.checkpoint().big_positions.len(), 1);
        ledger.set_big_position(b"k", None);
        assert!(ledger.checkpoint().big_positions.is_empty() && ledger.is_confirmed());
    }

    #[test]
    fn names_are_resolved_when_their_page_is_complete() {
        let mut ledger = Ledger::new(&[]);
        let page = ledger.open_names(vec![b"a".to_vec(), b"b".to_vec()]);
        ledger.settle(page, Outcome::Migrated, 1, 1);
        assert!(ledger.checkpoint().resolved.is_empty());
        ledger.settle(page, Outcome::Vanished, 1, 0);
        let checkpoint = ledger.checkpoint();
        assert_eq!(checkpoint.resolved, [b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(checkpoint.counts.scanned, 0);
    }

    #[test]
    fn empty_pages_move_the_mark() {
        let mut ledger = Ledger::new(&[start(1)]);
        ledger.open_page(0, 9, false, 0, 0);
        assert_eq!(ledger.checkpoint().marks[0].cursor, 9);
    }

    proptest! {
        /// Whatever the order in which keys settle, the marks pass complete pages only, and at the end the
        /// outcomes add up to what was scanned.
        #[test]
        fn marks_never_run_ahead(
            sizes in proptest::collection::vec(0u32..4, 1..12),
            order in proptest::collection::vec(any::<proptest::sample::Index>(), 48),
        ) {
            let mut ledger = Ledger::new(&[start(0)]);
            let mut open = Vec::new();
            let mut left = Vec::new();
            for (number, &size) in sizes.iter().enumerate() {
                let page = ledger.open_page(0, number as u64 + 1, false, size, u64::from(size));
                open.extend(std::iter::repeat_n((number, page), size as usize));
                left.push(size);
            }
            let mut picks = order.into_iter();
            while !open.is_empty() {
                let pick = picks.next().map_or(0, |pick| pick.index(open.len()));
                let (number, page) = open.swap_remove(pick);
                ledger.settle(page, Outcome::Migrated, 1, 0);
                left[number] -= 1;
                let unbroken = left.iter().take_while(|&&left| left == 0).count();
                prop_assert_eq!(ledger.checkpoint().marks[0].cursor, unbroken as u64);
            }
            let counts = ledger.checkpoint().counts;
            prop_assert_eq!(counts.settled(), counts.scanned);
        }
    }
}
