//! Large keys that are followed by their elements, instead of being copied whole each time they are touched.
//!
//! Invariant: such a key is at the target as of the mark, but for the elements that are remembered here, or it is being
//! built there; it is in the set of touched keys only while it is built. What is not certain makes it a touched key.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use super::ahead::Looked;
use super::given_up::Cuts;
use super::positions::Positions;
use super::{COALESCE, Follow, add};
use crate::chunked::copy::Big;
use crate::chunked::parts::Kind;
use crate::chunked::parts::StreamElement;
use crate::job::engine::Engine;
use crate::ledger::touched::Touch;
use crate::rdb::StreamId;
use crate::source::keys::Container;

/// So many keys are followed by their elements at most. A round takes a round trip to either side, and one is under way at
/// a time: with a millisecond each, a thousand keys that are all written are two seconds behind.
const MOST_KEYS: usize = 1_000;

/// Elements of all keys that are remembered at most, in bytes, and what one costs beside its name.
const MOST_BYTES: usize = 32 << 20;
const ELEMENT_BYTES: usize = 64;

/// So many ms later than a round has seen what a stream begins with, all that was done before is received as a rule.
const BEFORE_TRIMMING: u32 = 10;

/// One key.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) slot: u16,
    pub(super) target: Vec<u8>,
    pub(super) kind: Kind,
    /// Touched and not read since.
    elements: HashSet<Vec<u8>>,
    /// The first touch of those, or of the key's expiry.
    pub(super) first: Option<Touch>,
    /// The first touch of those that are being read and written.
    in_hand: Option<Touch>,
    /// It is being built under another name; the touch that was taken out of the set for it.
    pub(super) building: bool,
    base: Option<Touch>,
    /// The expiry that the target has; none: not known.
    expires_at: Option<u64>,
    /// Not before this time of the job.
    pub(super) not_before: u32,
    /// How many elements may be read in one go, as far as that is known.
    pub(super) count: usize,
    cuts: Cuts,
    /// Of a list.
    pub(super) positions: Positions,
    /// Of a stream: the first entry that the source had when a round read it, and the offset to which all was received
    /// when that round was taken; none: no round yet, and the offset at which it began to be built.
    first_seen: Option<StreamId>,
    seen: u64,
    /// All up to here is to be received before the target is trimmed to that entry: what is pending of those before it.
    trim_from: u64,
    /// What was trimmed behind this offset is at the target still, until a round has found no more of it.
    trimmed: Option<u64>,
    pub(super) looked: Option<Looked>,
}

/// Elements of one key that are to be read and written.
#[derive(Debug)]
pub(crate) struct Round {
    pub key: Rc<[u8]>,
    pub target: Vec<u8>,
    pub slot: u16,
    pub kind: Kind,
    pub elements: Vec<Vec<u8>>,
    pub expires_at: Option<u64>,
    /// See [`Part`].
    pub count: usize,
    pub cuts: Cuts,
    /// What the target is to be trimmed to.
    pub first_seen: Option<StreamId>,
    /// What the round has seen, as the part keeps it, and from which offset on the target may be trimmed to it.
    pub sees: Option<(StreamId, u64)>,
    /// Entries were trimmed since then, so one more round is due.
    pub again: bool,
    /// All up to here was received when it was taken.
    seen: u64,
}

/// The keys.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) keys: HashMap<Rc<[u8]>, Part>,
    bytes: usize,
    /// A key of which elements are being written now; it may be followed so no longer.
    in_round: Option<Rc<[u8]>>,
}

impl Parts {
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        self.keys.contains_key(key)
    }

    pub fn is_in_round(&self, key: &[u8]) -> bool {
        self.in_round.as_deref() == Some(key)
    }

    /// The key of which a round is under way.
    pub fn in_round(&self) -> Option<Rc<[u8]>> {
        self.in_round.clone()
    }

    /// Whether a round is under way, of whichever key.
    pub fn has_round(&self) -> bool {
        self.in_round.is_some()
    }

    /// The keys of a type.
    pub fn of_kind(&self, kind: Kind) -> Vec<Rc<[u8]>> {
        let keys = self.keys.iter().filter(|(_, part)| part.kind == kind);
        keys.map(|(key, _)| Rc::clone(key)).collect()
    }

    /// Keys with elements that are not at the target.
    pub fn touched(&self) -> usize {
        let open = |part: &&Part| part.first.is_some() || part.in_hand.is_some();
        self.keys.values().filter(open).count()
    }

    /// The first touch of an element that is not at the target; of keys that are at the target, or of all.
    pub fn first(&self, with_built: bool) -> Option<Touch> {
        let parts = self.keys.values().filter(|part| with_built || !part.building);
        let touches = parts.flat_map(|part| [part.first, part.in_hand, part.base]);
        touches.flatten().min_by_key(|touch| touch.offset)
    }

    /// Up to here nothing is at the target still that was trimmed; none where no key is trimmed.
    pub fn trimmed(&self) -> Option<u64> {
        self.keys.values().filter_map(|part| part.trimmed).min()
    }

    /// The keys that are at the target.
    pub fn at_target(&self) -> impl Iterator<Item = (&[u8], Kind)> {
        let parts = self.keys.iter().filter(|(_, part)| !part.building);
        parts.map(|(key, part)| (&**key, part.kind))
    }

    fn weight(elements: &HashSet<Vec<u8>>) -> usize {
        elements.iter().map(|element| element.len() + ELEMENT_BYTES).sum()
    }

    /// Follow a key so no longer; its first touch that is not at the target, if any.
    fn remove(&mut self, key: &[u8]) -> Option<(u16, Option<Touch>)> {
        let part = self.keys.remove(key)?;
        self.bytes -= Self::weight(&part.elements);
        let touches = [part.base, part.first, part.in_hand].into_iter().flatten();
        Some((part.slot, touches.min_by_key(|touch| touch.offset)))
    }
}

/// What a key is whose elements a command names.
fn kind_of(container: Container) -> Kind {
    match container {
        Container::Set => Kind::Set,
        Container::SortedSet => Kind::SortedSet,
        Container::Hash => Kind::Hash,
        Container::List => Kind::List,
        Container::Stream => Kind::Stream,
    }
}

impl Follow {
    /// Whether a key is followed by its elements, and a command for `container` may be.
    #[inline]
    pub(super) fn follows_elements(&self, key: &[u8], container: Option<Container>) -> bool {
        let parts = self.parts.borrow();
        if parts.is_empty() {
            return false;
        }
        let kind = container.map(kind_of);
        parts
            .keys
            .get(key)
            .is_some_and(|part| kind.is_none_or(|kind| kind == part.kind))
    }

    /// A command has touched these elements of a key, or its expiry.
    pub(super) fn touch_elements(&self, engine: &Engine, key: &[u8], elements: &[Vec<u8>], touch: Touch) {
        if !self.parts.borrow().contains(key) {
            return self.touch(engine, key, touch);
        }
        let mut parts = self.parts.borrow_mut();
        let parts = &mut *parts;
        let Some(part) = parts.keys.get_mut(key) else {
            return;
        };
        part.first.get_or_insert(touch);
        if part.kind == Kind::List {
            // An expiry, which adds nothing to the length.
            part.positions.note(touch, None);
        }
        for element in elements {
            if !part.elements.contains(element) {
                parts.bytes += element.len() + ELEMENT_BYTES;
                part.elements.insert(element.clone());
            }
        }
        if parts.bytes > MOST_BYTES {
            let heaviest = parts.keys.iter().max_by_key(|(_, part)| part.elements.len());
            let heaviest = heaviest.map(|(key, _)| Rc::clone(key));
            let removed = heaviest.and_then(|key| Some((parts.remove(&key)?, key)));
            if let Some(((slot, first), key)) = removed {
                self.touched
                    .borrow_mut()
                    .touch_before(&key, slot, first.unwrap_or(touch));
            }
        }
    }

    /// All of a stream's groups is touched, if it is followed by its elements; whether it is.
    pub(super) fn touch_groups(&self, engine: &Engine, key: &[u8], touch: Touch) -> bool {
        let follows = self.follows_elements(key, Some(Container::Stream));
        if follows {
            self.touch_elements(engine, key, &[StreamElement::AllGroups.to_bytes()], touch);
        }
        follows
    }

    /// A key is a touched key, as a whole.
    pub(super) fn leave_elements(&self, key: &[u8], touch: Option<Touch>) {
        let removed = self.parts.borrow_mut().remove(key);
        if let Some((slot, first)) = removed
            && let Some(first) = first.or(touch)
        {
            self.touched.borrow_mut().touch_before(key, slot, first);
        }
    }

    /// All of them are, as of `touch`: the stream began anew.
    pub(super) fn leave_all_elements(&self, touch: Touch) {
        let mut parts = self.parts.borrow_mut();
        let all: Vec<_> = parts.keys.keys().cloned().collect();
        for key in all {
            if let Some((slot, _)) = parts.remove(&key) {
                self.touched.borrow_mut().touch(&key, slot, touch);
            }
        }
    }

    /// A large key that is written is built at the target from now on: its elements are read from here on. Returns
    /// whether it may be, and whether there is room for one more.
    pub fn begin_elements(&self, big: &Big, kind: Kind) -> bool {
        let mut parts = self.parts.borrow_mut();
        if parts.keys.len() >= MOST_KEYS || self.given_up.borrow().has(&big.source, kind, self.now()) {
            return false;
        }
        let mut touched = self.touched.borrow_mut();
        let part = Part {
            slot: big.slot,
            target: big.target.clone(),
            kind,
            elements: HashSet::new(),
            first: None,
            in_hand: None,
            building: true,
            base: touched.withdraw(&big.source),
            expires_at: None,
            not_before: 0,
            count: 1,
            cuts: Cuts::default(),
            positions: Positions::default(),
            first_seen: None,
            seen: self.received().map_or(0, |touch| touch.offset),
            trim_from: 0,
            trimmed: None,
            looked: None,
        };
        // Recorded by name, it does not hold the mark however long it takes.
        touched.owe_copying(&big.source);
        parts.keys.insert(Rc::from(big.source.as_slice()), part);
        true
    }

    /// Whether a key is at the target, and kept up to date there: a scan may bring it once more.
    pub fn keeps(&self, key: &[u8]) -> bool {
        self.parts
            .borrow()
            .keys
            .get(key)
            .is_some_and(|part| !part.building)
    }

    /// Whether a key is still being built; not, if it was touched as a whole.
    pub fn is_building(&self, key: &[u8]) -> bool {
        self.parts
            .borrow()
            .keys
            .get(key)
            .is_some_and(|part| part.building)
    }

    /// Take the elements of a key that is being built, if they are so many.
    pub fn take_built(&self, key: &[u8], least: usize) -> Vec<Vec<u8>> {
        let mut parts = self.parts.borrow_mut();
        let parts = &mut *parts;
        match parts.keys.get_mut(key) {
            Some(part) if part.building && part.elements.len() >= least => {
                parts.bytes -= Parts::weight(&part.elements);
                part.in_hand = [part.in_hand, part.first.take()]
                    .into_iter()
                    .flatten()
                    .min_by_key(|touch| touch.offset);
                part.elements.drain().collect()
            }
            _ => Vec::new(),
        }
    }

    /// The elements that were taken of a key that is being built are written.
    pub fn built(&self, key: &[u8]) {
        if let Some(part) = self.parts.borrow_mut().keys.get_mut(key) {
            part.in_hand = None;
        }
    }

    /// A key is built, and has its name and this expiry. Its page is to be settled only after this: a checkpoint without
    /// that page knows the key from here on, and the mark does not pass it any more.
    pub fn publish_elements(&self, engine: &Engine, key: &[u8], expires_at: u64, count: usize) {
        if let Some(part) = self.parts.borrow_mut().keys.get_mut(key) {
            (part.building, part.base, part.in_hand) = (false, None, None);
            if part.kind == Kind::Stream {
                // What was trimmed meanwhile is there still.
                part.first = part.first.or(self.received());
                part.trimmed = Some(part.seen);
            }
            (part.expires_at, part.count) = (Some(expires_at), count);
        }
        self.publish(engine);
    }

    /// The keys that an earlier run followed by their elements.
    pub(super) fn go_on_with_elements(&self, engine: &Engine) {
        for (key, kind) in self.left_followed.take() {
            // What was written of a list behind the mark is not known: once it is touched, it is copied whole.
            if kind == Kind::List {
                continue;
            }
            let placed = engine.with_naming(|naming| match naming {
                None => Some((key.clone(), crate::slot::key_slot(&key))),
                Some((map, scratch)) => map.place(&key, scratch).map(|(name, slot)| (name.to_vec(), slot)),
            });
            if let Some((target, slot)) = placed {
                // What was trimmed before the mark may be there still.
                let trimmed = self.received().filter(|_| kind == Kind::Stream);
                let before = trimmed.map(|touch| touch.offset.saturating_sub(1));
                let part = Part {
                    slot,
                    target,
                    kind,
                    elements: HashSet::new(),
                    first: trimmed,
                    in_hand: None,
                    building: false,
                    base: None,
                    expires_at: None,
                    not_before: 0,
                    count: 1,
                    cuts: Cuts::default(),
                    positions: Positions::default(),
                    first_seen: None,
                    seen: before.unwrap_or_default(),
                    trim_from: 0,
                    trimmed: before,
                    looked: None,
                };
                self.parts.borrow_mut().keys.insert(Rc::from(key), part);
            }
        }
    }

    /// The next elements to be read and written, those first that were touched first.
    pub fn take_round(&self) -> Option<Round> {
        if self.over.get() {
            return None;
        }
        let now = self.now();
        let newest = match self.fence.get() {
            Some(_) => u32::MAX,
            None => now.saturating_sub(COALESCE.as_millis() as u32),
        };
        let seen = self.received().map_or(0, |touch| touch.offset);
        let mut parts = self.parts.borrow_mut();
        let parts = &mut *parts;
        let ready = parts.keys.iter_mut().filter_map(|(key, part)| {
            let first = part.first.filter(|first| first.at <= newest)?;
            (!part.building && part.not_before <= now).then_some((first.offset, key, part))
        });
        let (_, key, part) = ready.min_by_key(|(offset, ..)| *offset)?;
        parts.bytes -= Parts::weight(&part.elements);
        part.in_hand = part.first.take();
        parts.in_round = Some(Rc::clone(key));
        let elements: Vec<_> = part.elements.drain().collect();
        if let Some(looked) = &mut part.looked {
            looked.open(&elements);
        }
        Some(Round {
            key: Rc::clone(key),
            target: part.target.clone(),
            slot: part.slot,
            kind: part.kind,
            elements,
            expires_at: part.expires_at,
            count: part.count,
            cuts: part.cuts,
            first_seen: part.first_seen.filter(|_| part.trim_from <= seen),
            sees: None,
            again: false,
            seen,
        })
    }

    /// A round is written, with this expiry.
    pub fn end_round(&self, round: &Round, expires_at: u64) {
        add(&self.figures.copied, 1);
        let mut parts = self.parts.borrow_mut();
        parts.in_round = None;
        if let Some(part) = parts.keys.get_mut(&round.key) {
            part.in_hand = None;
            (part.expires_at, part.count) = (Some(expires_at), round.count);
            part.cuts = Cuts::default();
            // The target could not be trimmed yet to what was seen before: that comes first.
            let waits = part.first_seen.is_some() && round.first_seen.is_none();
            if round.again {
                part.first = part.first.or(self.received());
                part.not_before = self.now() + BEFORE_TRIMMING;
                // The target is trimmed to what the round before this one saw.
                part.trimmed = part.trimmed.filter(|_| waits).or(Some(part.seen));
            } else {
                part.trimmed = None;
            }
            if !waits {
                part.first_seen = round.sees.map(|(first, _)| first);
                part.trim_from = round.sees.map_or(0, |(_, offset)| offset);
                part.seen = round.seen;
            }
        }
        drop(parts);
        self.touched.borrow_mut().release();
        self.woken.notify_one();
        if self.fence.get().is_some() {
            self.progressed.notify_one();
        }
    }

    /// A round could not be written now: its elements are taken again after a while.
    pub fn put_back(&self, round: Round, after: Duration) {
        let not_before = self.now().saturating_add(after.as_millis() as u32);
        let mut parts = self.parts.borrow_mut();
        let parts = &mut *parts;
        parts.in_round = None;
        if let Some(part) = parts.keys.get_mut(&round.key) {
            part.first = part.in_hand.take().or(part.first);
            part.not_before = not_before;
            (part.count, part.cuts) = (round.count, round.cuts);
            // It may have been set, though nothing was heard of it.
            part.expires_at = None;
            for element in round.elements {
                let weight = element.len() + ELEMENT_BYTES;
                if part.elements.insert(element) {
                    parts.bytes += weight;
                }
            }
        }
        self.touched.borrow_mut().release();
    }

    /// A key could not be built: it is touched still, which is recorded before its page may settle.
    pub fn leave_building(&self, engine: &Engine, key: &[u8]) {
        self.leave_elements(key, self.received());
        // If it is owed, it has not rested.
        self.touched.borrow_mut().note_written(key, self.now());
        self.publish(engine);
    }

    /// Whether a round of this key is under way.
    pub fn is_in_round(&self, key: &[u8]) -> bool {
        self.parts.borrow().is_in_round(key)
    }

    /// A round is over, and its key is copied whole.
    pub fn leave_round(&self, key: &[u8]) {
        self.leave_elements(key, self.received());
        self.parts.borrow_mut().in_round = None;
        self.touched.borrow_mut().release();
        self.woken.notify_one();
    }
}
