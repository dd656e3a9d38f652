//! Whether a SCAN comes to an end: what its cursors say of that.
//!
//! Invariant: a walk over a keyspace that is served as servers do it is never given up. SCAN walks the buckets in
//! reverse-binary order (`dictScan` of the servers), so its cursors, read backwards, only grow, across rehashing too;
//! in a cluster they do so slot by slot, with the slot in the lowest 14 bits (Redis 7.4, Valkey 8 on). A cursor that
//! comes twice goes in a circle; one that does not grow, or grows by next to nothing, ends nowhere.

use std::time::{Duration, Instant};

/// Bits of a slot in a cursor of a cluster's node.
const SLOT_BITS: u32 = 14;

/// With so many keys, it is looked at how many there would be in all: no keyspace has more than the second number.
const TELLING: u64 = 100_000;
const MOST_KEYS: f64 = (1_u64 << 44) as f64;

/// Of the keyspace, pages without a key must pass over this part in the time in which there should be progress.
const LEAST_PART: f64 = 1e-6;

const KEYSPACE: f64 = 18_446_744_073_709_551_616.0;
const KEYSPACE_BY_SLOT: f64 = KEYSPACE * (1 << SLOT_BITS) as f64;

/// A place in the keyspace, in the order of a lone keyspace and in that of a cluster's node.
type Place = (u64, u128);

/// One walk over a keyspace.
#[derive(Debug)]
pub(crate) struct Walk {
    patience: Duration,
    start: Place,
    /// How far it has come, and when it last came farther.
    farthest: Place,
    advanced: Instant,
    /// Since when pages have held no key, and how far it had come then.
    barren: Option<(Instant, Place)>,
    keys: u64,
    /// A cursor that was seen, and after how many more another takes its place (Brent's algorithm).
    seen: u64,
    steps: u64,
    next: u64,
}

impl Walk {
    /// Begin at `cursor`; what makes no progress for `patience` is given up.
    pub fn new(cursor: u64, patience: Duration) -> Self {
        Self {
            patience,
            start: place(cursor),
            farthest: place(cursor),
            advanced: Instant::now(),
            barren: None,
            keys: 0,
            seen: cursor,
            steps: 0,
            next: 1,
        }
    }

    /// The walk was held back on purpose: that time does not count.
    pub fn excuse(&mut self, now: Instant) {
        self.advanced = now;
        self.barren = None;
    }

    /// A page of `keys` keys came, and with it `cursor`, which is not the end. Fails with the reason to give up.
    pub fn step(&mut self, cursor: u64, keys: usize, now: Instant) -> Result<(), String> {
        if cursor == self.seen {
            return Err(format!("its SCAN goes in a circle: cursor {cursor} came twice"));
        }
        self.steps += 1;
        if self.steps == self.next {
            (self.seen, self.steps, self.next) = (cursor, 0, self.next.saturating_mul(2));
        }
        self.keys += keys as u64;
        let at = place(cursor);
        if at.0 > self.farthest.0 || at.1 > self.farthest.1 {
            self.advanced = now;
        } else if now - self.advanced >= self.patience {
            let waited = (now - self.advanced).as_secs();
            return Err(format!(
                "its SCAN has come no farther for {waited} s, at cursor {cursor}"
            ));
        }
        self.farthest = (self.farthest.0.max(at.0), self.farthest.1.max(at.1));
        if keys > 0 {
            self.barren = None;
        } else {
            let (since, from) = *self.barren.get_or_insert((now, self.farthest));
            if now - since >= self.patience {
                if part(from, self.farthest) < LEAST_PART {
                    let waited = (now - since).as_secs();
                    return Err(format!(
                        "its SCAN has found no key and come next to nowhere for {waited} s, at cursor {cursor}"
                    ));
                }
                self.barren = Some((now, self.farthest));
            }
        }
        if self.keys >= TELLING && part(self.start, self.farthest) * MOST_KEYS < self.keys as f64 {
            return Err(format!(
                "its SCAN gave {} keys and has come next to nowhere, at cursor {cursor}",
                self.keys
            ));
        }
        Ok(())
    }
}

fn place(cursor: u64) -> Place {
    let slot = cursor & ((1 << SLOT_BITS) - 1);
    let by_slot = u128::from(slot) << 64 | u128::from((cursor >> SLOT_BITS).reverse_bits());
    (cursor.reverse_bits(), by_slot)
}

/// What part of the keyspace lies between two places, in the order in which it is more.
fn part(from: Place, to: Place) -> f64 {
    let whole = (to.0 - from.0) as f64 / KEYSPACE;
    whole.max((to.1 - from.1) as f64 / KEYSPACE_BY_SLOT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn walk() -> (Walk, Instant) {
        let walk = Walk::new(0, 5 * SECOND);
        let start = walk.advanced;
        (walk, start)
    }

    #[test]
    fn a_circle_is_noticed_whatever_its_length() {
        for length in [1_u64, 2, 3, 100, 5000] {
            let (mut walk, now) = walk();
            let mut cursors = (1..=length).cycle().map(|step| step << 32);
            let steps = (0..length * 4).find(|_| walk.step(cursors.next().unwrap(), 10, now).is_err());
            assert!(steps.is_some(), "{length}");
        }
    }

    #[test]
    fn cursors_that_grow_the_wrong_way_end() {
        let (mut walk, start) = walk();
        let step = |number: u32| walk.step(u64::from(number), 0, start + SECOND / 1000 * number);
        let ended = (1..200_000_u32).map(step).find_map(Result::err);
        assert!(ended.is_some_and(|why| why.contains("cursor")));
    }

    #[test]
    fn cursors_that_grow_by_next_to_nothing_end() {
        let (mut walk, start) = walk();
        let step = |number: u32| walk.step(u64::from(number).reverse_bits(), 0, start + SECOND * number);
        assert!((1..10).map(step).any(|step| step.is_err()));
        let (mut walk, start) = self::walk();
        let step = |number: u64| walk.step(number.reverse_bits(), 1000, start);
        assert!((1..200).map(step).any(|step| step.is_err()));
    }

    #[test]
    fn a_sparse_table_is_walked_over_as_long_as_it_takes() {
        let (mut walk, start) = walk();
        for page in 1..10_000_u32 {
            let cursor = (u64::from(page) << 44).reverse_bits();
            walk.step(cursor, 0, start + SECOND * page).unwrap();
        }
    }

    proptest! {
        /// A table of 2^bits buckets that is scanned in steps and resized now and then, as the servers do it.
        #[test]
        fn no_real_scan_is_given_up(
            sizes in proptest::collection::vec(4_u32..30, 1..6),
            steps in proptest::collection::vec(1_u64..5, 1..300),
            slot in proptest::option::of(0_u64..16_384),
        ) {
            let (mut walk, mut now) = walk();
            let mut cursor = 0_u64;
            for (number, step) in steps.iter().enumerate() {
                let bits = sizes[number * sizes.len() / steps.len()];
                let mask = (1_u64 << bits) - 1;
                for _ in 0..*step {
                    cursor = ((cursor | !mask).reverse_bits().wrapping_add(1)).reverse_bits();
                    if cursor == 0 {
                        return Ok(());
                    }
                }
                let shown = slot.map_or(cursor, |slot| cursor << SLOT_BITS | slot);
                now += SECOND;
                prop_assert_eq!(walk.step(shown, number % 3, now), Ok(()));
            }
        }
    }
}
