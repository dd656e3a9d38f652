//! What of large keys is compared with the source while writes flow, so that little is left when they are stopped.
//!
//! Invariant: an element of a key that is called equal at a fence was compared, and was equal, since it was written last.
//!
//! Why that holds. Sets, sorted sets and hashes that are followed by their elements are scanned at the source, and what the
//! scan names is looked up on both sides ([`Looked`]); no round, which is what writes such a key at the target, is under way
//! meanwhile. An element that is not equal is *open*, and so are all elements of every round that is taken from then on.
//! At a fence, all is clean: of each touch a round was taken. Take an element that is not open then, and its last comparison.
//! If the source's had changed since, the stream would have named it (or the key as a whole, which ends its being followed,
//! and with that all that is known here), and a round behind the comparison would have made it open. If the target's had
//! been written since, by us, a round would have. So both are as they were found: equal. Open ones are compared while writes
//! are stopped. A scan returns what is there all the while; what came later was touched. So every element of the source is at
//! the target, and where both have equally many, the target has no other.
//!
//! A node of the target that is lost, or slots that are another's, end all of that: what was written may be gone there.
//!
//! What is not proven so is compared whole: a hash of which fields expire by themselves, a key with an element that is not
//! equal at the fence, whose length or expiry is not, or that was not scanned to its end. What somebody else writes to the
//! target behind a comparison is seen by the length alone, as it is behind any other comparison.

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::mpsc;

use super::{Follow, add};
use crate::chunked::parts::{Kind, Place};
use crate::job::engine::Engine;

/// So many open elements are compared again while writes flow; fewer are left for the fence.
const WORTH: usize = if cfg!(test) { 2 } else { 200 };

/// A key whose open elements were compared is not looked at again for so many ms.
const AGAIN_AFTER: u32 = if cfg!(test) { 0 } else { 200 };

/// Open elements of one key that are remembered, in bytes; with more, it is not compared ahead.
const MOST_BYTES: usize = 8 << 20;

/// What is done about it.
#[derive(Debug, Default)]
pub(super) enum Mode {
    #[default]
    Off,
    /// Writes flow.
    Ahead,
    /// All is clean and writes are stopped: what is open is compared, and who asked is told what is proven.
    Fence {
        answer: mpsc::SyncSender<Vec<Vec<u8>>>,
        proven: Vec<Vec<u8>>,
    },
}

/// How far a key is compared.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// No other has this number: what was asked before all was forgotten is not answered to this one.
    generation: u64,
    /// Where its scan goes on; none: it is done.
    place: Option<Place>,
    /// Elements that are to be compared.
    open: HashSet<Vec<u8>>,
    bytes: usize,
    /// How many are compared in one go: it follows from how large they are.
    count: usize,
    /// It can't be proven so.
    is_unsuitable: bool,
    /// What was open was compared at the fence, and something was not equal, or all was.
    is_over: bool,
    not_before: u32,
}

impl Looked {
    fn new(kind: Kind, count: usize, generation: u64) -> Self {
        Self {
            generation,
            count,
            place: Some(kind.scan_start()),
            is_unsuitable: !matches!(kind, Kind::Set | Kind::SortedSet | Kind::Hash),
            ..Self::default()
        }
    }

    /// These are to be compared: they were not equal, or are being written.
    pub fn open(&mut self, elements: &[Vec<u8>]) {
        for element in elements {
            if !self.open.contains(element) {
                self.bytes += element.len();
                self.open.insert(element.clone());
            }
        }
        if self.bytes > MOST_BYTES {
            (self.is_unsuitable, self.bytes, self.open) = (true, 0, HashSet::new());
        }
    }

    /// Take elements that are to be compared, about `count`.
    fn take(&mut self, count: usize) -> Vec<Vec<u8>> {
        let some: Vec<_> = self.open.iter().take(count).cloned().collect();
        for element in &some {
            self.open.remove(element);
            self.bytes -= element.len();
        }
        some
    }

    fn is_scanned(&self) -> bool {
        self.is_unsuitable || self.place.is_none()
    }
}

/// Elements of one key that are to be compared.
#[derive(Debug)]
pub(crate) struct Ahead {
    pub key: Rc<[u8]>,
    pub target: Vec<u8>,
    pub slot: u16,
    pub kind: Kind,
    pub what: What,
    /// About so many elements; and, once they are compared, how many it is next time.
    pub count: usize,
    generation: u64,
}

/// What is to be compared.
#[derive(Debug)]
pub(crate) enum What {
    /// Those that a scan names from there on.
    Scan(Place),
    Elements(Vec<Vec<u8>>),
    /// The lengths and the expiries.
    Ends,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Came {
    /// These were not equal, or could not be compared; and where the scan goes on.
    Unequal(Vec<Vec<u8>>, Option<Place>),
    /// Whether the lengths and the expiries are equal.
    Ends(bool),
    /// The key can't be proven so.
    Unsuitable,
}

impl Follow {
    /// Compare large keys from now on, while writes flow; how many are not scanned to their end.
    pub fn compare_ahead(&self) -> usize {
        if !matches!(*self.ahead.borrow(), Mode::Ahead) {
            *self.ahead.borrow_mut() = Mode::Ahead;
        }
        let mut parts = self.parts.borrow_mut();
        let parts = parts.keys.values_mut().filter(|part| !part.building);
        parts
            .filter_map(|part| {
                let (kind, count) = (part.kind, part.count);
                let looked = part.looked.get_or_insert_with(|| {
                    add(&self.looks, 1);
                    Looked::new(kind, count, self.looks.get())
                });
                (!looked.is_scanned()).then_some(())
            })
            .count()
    }

    /// All up to a fence is clean and writes are stopped: tell the keys that are proven to be equal. What is known of
    /// others is forgotten.
    pub fn compare_at_fence(&self, answer: mpsc::SyncSender<Vec<Vec<u8>>>) {
        let proven = Vec::new();
        *self.ahead.borrow_mut() = Mode::Fence { answer, proven };
        self.end_of_comparing();
    }

    /// What is to be compared next.
    pub fn next_ahead(&self) -> Option<Ahead> {
        let at_fence = match *self.ahead.borrow() {
            Mode::Off => return None,
            Mode::Ahead => false,
            Mode::Fence { .. } => true,
        };
        let now = self.now();
        let mut parts = self.parts.borrow_mut();
        let found = parts.keys.iter_mut().find_map(|(key, part)| {
            let looked = part.looked.as_mut().filter(|looked| !looked.is_unsuitable)?;
            let count = looked.count;
            let what = if at_fence {
                if looked.is_over || looked.place.is_some() {
                    return None;
                }
                if looked.open.is_empty() {
                    What::Ends
                } else {
                    What::Elements(looked.take(count))
                }
            } else if let Some(place) = looked.place {
                What::Scan(place)
            } else if looked.open.len() >= WORTH && looked.not_before <= now {
                if looked.open.len() <= count {
                    looked.not_before = now.saturating_add(AGAIN_AFTER);
                }
                What::Elements(looked.take(count))
            } else {
                return None;
            };
            Some(Ahead {
                key: Rc::clone(key),
                target: part.target.clone(),
                slot: part.slot,
                kind: part.kind,
                what,
                count,
                generation: looked.generation,
            })
        });
        drop(parts);
        if found.is_none() {
            self.end_of_comparing();
        }
        found
    }

    /// What came of a comparison.
    pub fn compared_ahead(&self, ahead: &Ahead, came: Came) {
        let mut parts = self.parts.borrow_mut();
        let Some(looked) = parts
            .keys
            .get_mut(&ahead.key)
            .and_then(|part| part.looked.as_mut())
            .filter(|looked| looked.generation == ahead.generation)
        else {
            return;
        };
        looked.count = ahead.count;
        let mut mode = self.ahead.borrow_mut();
        match (came, &ahead.what, &mut *mode) {
            (Came::Unsuitable, ..) => looked.is_unsuitable = true,
            (Came::Ends(is_equal), _, Mode::Fence { proven, .. }) => {
                looked.is_over = true;
                // What was written meanwhile would be open.
                if is_equal && looked.open.is_empty() {
                    proven.push(ahead.key.to_vec());
                }
            }
            (Came::Unequal(unequal, _), What::Elements(_), Mode::Fence { .. }) => {
                looked.is_over = !unequal.is_empty();
            }
            (Came::Unequal(unequal, next), what, _) => {
                looked.open(&unequal);
                if matches!(what, What::Scan(_)) {
                    looked.place = next;
                }
            }
            (Came::Ends(_), ..) => {}
        }
    }

    /// A node of the target was lost, or slots are another's: what was found equal may be gone or older there.
    pub fn forget_compared(&self) {
        for part in self.parts.borrow_mut().keys.values_mut() {
            part.looked = None;
        }
        if let Mode::Fence { proven, .. } = &mut *self.ahead.borrow_mut() {
            proven.clear();
        }
    }

    /// Tell who asked at a fence, if nothing is left to be compared.
    fn end_of_comparing(&self) {
        let mut parts = self.parts.borrow_mut();
        let is_left = |looked: &Looked| !looked.is_unsuitable && !looked.is_over && looked.place.is_none();
        let mut all = parts.keys.values().filter_map(|part| part.looked.as_ref());
        if !matches!(*self.ahead.borrow(), Mode::Fence { .. }) || all.any(is_left) {
            return;
        }
        for part in parts.keys.values_mut() {
            part.looked = None;
        }
        if let Mode::Fence { answer, proven } = self.ahead.take() {
            // Who asked may have given up.
            let _ = answer.try_send(proven);
        }
    }
}

impl Engine {
    /// See [`Follow::forget_compared`]; where nothing is followed, nothing was compared.
    pub fn forget_compared(&self) {
        if let Some(follow) = &self.follow {
            follow.forget_compared();
        }
    }
}

#[cfg(test)]
mod tests;
