//! Where the entries of a list stand that is used at its ends, and which of them the target has.
//!
//! Invariant: a list is a run of positions, each of which holds one entry for as long as it is in the list; what a
//! command takes from an end is forgotten as it comes, so a position that is filled anew is read anew. All is counted
//! from a length that was read at a known offset; a length that disagrees makes all of it unknown.

use crate::ledger::touched::Touch;
use crate::source::keys::{Change, End};

/// Changes that are remembered at most while a range is being read; with more, all is unknown.
const MOST_CHANGES: usize = 200_000;

/// Room for so many is kept.
const KEPT_CHANGES: usize = 1_000;

/// A list at one offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Run {
    /// The position of its first entry, and the one behind its last.
    pub head: i64,
    pub tail: i64,
    /// What of that the target has as it is: from the first of these positions to before the second. Where there is
    /// nothing, both are a place between the ends.
    pub held: (i64, i64),
    /// What of the target's entries is not in the list any more, at its head and at its tail.
    pub stale: (u64, u64),
}

impl Run {
    /// A list of so many entries, of which the target has none.
    fn of_length(length: u64) -> Self {
        Self {
            tail: length.cast_signed(),
            ..Self::default()
        }
    }

    /// How many entries it has.
    pub fn length(&self) -> u64 {
        self.tail.abs_diff(self.head)
    }

    /// How many entries the target has, of this list and stale ones.
    pub fn at_target(&self) -> u64 {
        self.held.1.abs_diff(self.held.0) + self.stale.0 + self.stale.1
    }

    /// Whether the target has nothing of it.
    pub fn is_nothing_held(&self) -> bool {
        self.held.0 == self.held.1
    }

    /// Whether the target has this list, and nothing else.
    pub fn is_equal(&self) -> bool {
        self.held == (self.head, self.tail) && self.stale == (0, 0)
    }

    fn apply(&mut self, change: Change) {
        let taken = |count: u64, length: u64| count.min(length).cast_signed();
        let length = self.length();
        match change {
            Change::PushIfThere(..) if length == 0 => {}
            Change::Push(End::Head, count) | Change::PushIfThere(End::Head, count) => {
                self.head -= count.cast_signed();
            }
            Change::Push(End::Tail, count) | Change::PushIfThere(End::Tail, count) => {
                self.tail += count.cast_signed();
            }
            Change::Pop(End::Head, count) => self.head += taken(count, length),
            Change::Pop(End::Tail, count) => self.tail -= taken(count, length),
            Change::Trim(first, last) => {
                // As `ltrimCommand` does it.
                let length = length.cast_signed();
                let index = |at: i64| if at < 0 { length.saturating_add(at) } else { at };
                let (first, last) = (index(first).max(0), index(last));
                if first > last || first >= length {
                    self.head = self.tail;
                } else {
                    self.tail = self.head + last.min(length - 1) + 1;
                    self.head += first;
                }
            }
        }
        let held = self.held;
        self.held.0 = held.0.clamp(self.head, self.tail);
        self.held.1 = held.1.clamp(self.held.0, self.tail);
        let lost = (self.held.0 - held.0, held.1 - self.held.1);
        if self.is_nothing_held() {
            // Wherever the place between the ends is: all that the target has is stale.
            self.stale = (self.stale.0 + self.stale.1 + held.1.abs_diff(held.0), 0);
        } else {
            self.stale.0 += lost.0.unsigned_abs();
            self.stale.1 += lost.1.unsigned_abs();
        }
    }

    /// What was read from an index on, `count` entries of it, as positions.
    pub fn positions(&self, index: u64, count: usize) -> (i64, i64) {
        let first = self.head + index.cast_signed();
        (first, first + (count as u64).cast_signed())
    }

    /// Of entries that were read, those that the target lacks before what it has, and are next to that.
    pub fn news_at_head(&self, read: (i64, i64)) -> (i64, i64) {
        let first = read.0.max(self.head);
        if first < self.held.0 && read.1 >= self.held.0 {
            (first, self.held.0)
        } else {
            (self.held.0, self.held.0)
        }
    }

    /// The same behind what it has.
    pub fn news_at_tail(&self, read: (i64, i64)) -> (i64, i64) {
        let end = read.1.min(self.tail);
        if end > self.held.1 && read.0 <= self.held.1 {
            (self.held.1, end)
        } else {
            (self.held.1, self.held.1)
        }
    }

    /// The target has so many entries more at either end of what it has, and nothing that is stale.
    pub fn write(&mut self, head: usize, tail: usize) {
        self.held.0 -= (head as u64).cast_signed();
        self.held.1 += (tail as u64).cast_signed();
        self.stale = (0, 0);
    }
}

/// What is known of one list.
#[derive(Debug, Default)]
pub(super) struct Positions {
    /// At some offset; none: its length was never read.
    run: Option<Run>,
    /// What came since, while a range is being read at an offset that is not known yet.
    changes: Vec<(Touch, Option<Change>)>,
    reading: bool,
    /// The target's history that holds what was written.
    pub history: Option<Vec<u8>>,
}

impl Positions {
    /// A command has changed the list, or its expiry; returns whether it could be noted.
    pub fn note(&mut self, touch: Touch, change: Option<Change>) -> bool {
        if self.reading {
            self.changes.push((touch, change));
            return self.changes.len() < MOST_CHANGES;
        }
        if let (Some(run), Some(change)) = (&mut self.run, change) {
            run.apply(change);
        }
        true
    }

    /// A range is read from now on: at an offset to which all changes so far belong. The list as it is now.
    pub fn begin_reading(&mut self) -> Option<Run> {
        self.end_reading();
        self.reading = true;
        self.run
    }

    /// A range was read at `offset`, to which the stream has come, when the list was so long: the list as it was then;
    /// none where the length is not what the changes add up to.
    pub fn read_at(&mut self, offset: u64, length: u64) -> Option<Run> {
        let later = self.changes.partition_point(|(touch, _)| touch.offset < offset);
        for (_, change) in self.changes.drain(..later) {
            if let (Some(run), Some(change)) = (&mut self.run, change) {
                run.apply(change);
            }
        }
        let run = *self.run.get_or_insert_with(|| Run::of_length(length));
        (run.length() == length).then_some(run)
    }

    /// The target has so much of the list as it was read, in this history.
    pub fn written(&mut self, run: Run, history: Option<Vec<u8>>) {
        (self.run, self.history) = (Some(run), history);
    }

    /// The first change since the range was read.
    pub fn first_since(&self) -> Option<Touch> {
        self.changes.first().map(|(touch, _)| *touch)
    }

    /// No range is being read any more.
    pub fn end_reading(&mut self) {
        self.reading = false;
        for (_, change) in self.changes.drain(..) {
            if let (Some(run), Some(change)) = (&mut self.run, change) {
                run.apply(change);
            }
        }
        // The room of a burst is given back.
        if self.changes.capacity() > KEPT_CHANGES {
            self.changes.shrink_to(KEPT_CHANGES);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A list as the servers have it, whose entries are never the same.
    #[derive(Default)]
    struct Model {
        entries: VecDeque<u64>,
        next: u64,
    }

    impl Model {
        fn apply(&mut self, change: Change) {
            let is_there = !self.entries.is_empty();
            match change {
                Change::PushIfThere(..) if !is_there => {}
                Change::Push(end, count) | Change::PushIfThere(end, count) => {
                    for _ in 0..count {
                        self.next += 1;
                        match end {
                            End::Head => self.entries.push_front(self.next),
                            End::Tail => self.entries.push_back(self.next),
                        }
                    }
                }
                Change::Pop(end, count) => {
                    for _ in 0..count {
                        match end {
                            End::Head => self.entries.pop_front(),
                            End::Tail => self.entries.pop_back(),
                        };
                    }
                }
                Change::Trim(first, last) => {
                    let length = i64::try_from(self.entries.len()).unwrap();
                    let index = |bound: i64| if bound < 0 { length + bound } else { bound };
                    let entries = (0..length).zip(std::mem::take(&mut self.entries));
                    let kept = entries.filter(|(at, _)| *at >= index(first) && *at <= index(last));
                    self.entries = kept.map(|(_, entry)| entry).collect();
                }
            }
        }
    }

    fn changes() -> impl Strategy<Value = Change> {
        let end = || prop::sample::select(vec![End::Head, End::Tail]);
        prop_oneof![
            4 => (end(), 1u64..6).prop_map(|(end, count)| Change::Push(end, count)),
            1 => (end(), 1u64..3).prop_map(|(end, count)| Change::PushIfThere(end, count)),
            4 => (end(), 0u64..8).prop_map(|(end, count)| Change::Pop(end, count)),
            1 => (-12i64..12, -12i64..12).prop_map(|(first, last)| Change::Trim(first, last)),
        ]
    }

    /// Changes of which the stream has told when a range is asked for, those that happen until it is read, and those
    /// that are told of before its reply is; the index and the number of entries that are asked for at the head and at
    /// the tail; and whether what was read is written.
    type Step = (Vec<Change>, Vec<Change>, Vec<Change>, u64, usize, bool);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let some = || prop::collection::vec(changes(), 0..5);
        prop::collection::vec((some(), some(), some(), 0u64..3, 0usize..9, any::<bool>()), 1..40)
    }

    fn touch(offset: u64) -> Touch {
        Touch {
            offset,
            selected: 0,
            at: 0,
        }
    }

    fn part(entries: &[u64], read: (i64, i64), news: (i64, i64)) -> Vec<u64> {
        if news.0 == news.1 {
            return Vec::new();
        }
        entries[index(news.0 - read.0)..index(news.1 - read.0)].to_vec()
    }

    fn index(number: i64) -> usize {
        usize::try_from(number).unwrap()
    }

    fn small(number: u64) -> usize {
        usize::try_from(number).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_by_positions_is_the_list(begun in 0u64..20, steps in steps()) {
            let mut source = Model::default();
            source.apply(Change::Push(End::Tail, begun));
            let mut target: VecDeque<u64> = VecDeque::new();
            let (mut positions, mut offset) = (Positions::default(), 0);
            for (before, meanwhile, after, slack, count, is_written) in steps {
                for change in before {
                    source.apply(change);
                    positions.note(touch(offset), Some(change));
                    offset += 10;
                }
                let guess = positions.begin_reading().unwrap_or_default();
                // What happens up to the read, and behind it, is told of after it.
                for &change in &meanwhile {
                    source.apply(change);
                }
                let entries: Vec<u64> = source.entries.iter().copied().collect();
                let at = offset + 10 * meanwhile.len() as u64;
                for &change in &after {
                    source.apply(change);
                }
                for change in meanwhile.into_iter().chain(after) {
                    positions.note(touch(offset), Some(change));
                    offset += 10;
                }
                let run = positions.read_at(at, entries.len() as u64);
                prop_assert!(run.is_some(), "the length is not what the changes add up to");
                let mut run = run.unwrap();
                prop_assert_eq!(run.at_target(), target.len() as u64);
                let range = |index: u64| {
                    let from = small(index).min(entries.len());
                    &entries[from..(from + count).min(entries.len())]
                };
                let tail_index = guess.held.1.abs_diff(guess.head).saturating_sub(slack);
                let (at_head, at_tail) = (range(0), range(tail_index));
                let head_read = run.positions(0, at_head.len());
                let tail_read = run.positions(tail_index, at_tail.len());
                let (head, tail) = (run.news_at_head(head_read), run.news_at_tail(tail_read));
                if is_written {
                    let stale = run.stale;
                    target.drain(..small(stale.0));
                    target.truncate(target.len() - small(stale.1));
                    let (head, tail) = (part(at_head, head_read, head), part(at_tail, tail_read, tail));
                    run.write(head.len(), tail.len());
                    for entry in head.into_iter().rev() {
                        target.push_front(entry);
                    }
                    target.extend(tail);
                    positions.written(run, None);
                    let held = index(run.held.0 - run.head)..index(run.held.1 - run.head);
                    prop_assert_eq!(target.iter().copied().collect::<Vec<_>>(), &entries[held]);
                    prop_assert_eq!(run.is_equal(), target == entries);
                }
                positions.end_reading();
            }
        }
    }

    #[test]
    fn a_length_that_the_changes_do_not_add_up_to_is_noticed() {
        let mut positions = Positions::default();
        positions.begin_reading();
        // Told of again, or of another list: before the first read it does not count.
        positions.note(touch(5), Some(Change::Push(End::Tail, 3)));
        assert_eq!(positions.read_at(10, 7).map(|run| run.length()), Some(7));
        positions.end_reading();
        positions.note(touch(10), Some(Change::Pop(End::Head, 2)));
        positions.begin_reading();
        assert_eq!(positions.read_at(20, 6), None);
    }
}
