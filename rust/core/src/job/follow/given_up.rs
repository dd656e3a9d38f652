//! Large keys that are not followed by their elements any more.
//!
//! Invariant: a key that can't be followed so is not built for it again and again, and is told of; a type whose elements
//! nobody may read or write is told of once. What is so only for now, as in a failover, is asked again after a while.

use std::collections::HashMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Follow, MOST_LARGE};
use crate::chunked::copy::{CUT_PATIENCE, MOST_CUTS};
use crate::chunked::parts::Kind;
use crate::event::{Event, EventKind};
use crate::job::engine::Engine;
use crate::text::shown;

/// A key that was given up so often is copied as other large keys are, as long as the job runs.
const MOST_TIMES: u32 = 3;

/// For so long large keys of a type are copied whole where they can't be followed for now: a failover takes less.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// What was given up.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    keys: HashMap<Rc<[u8]>, u32>,
    /// Types, and up to when; none: as long as the job runs.
    kinds: Vec<(Kind, Option<u32>)>,
}

impl GivenUp {
    /// Whether a key of this type is not to be followed by its elements at the time `now` of the job.
    pub fn has(&self, key: &[u8], kind: Kind, now: u32) -> bool {
        let holds = |(of, until): &(Kind, Option<u32>)| *of == kind && until.is_none_or(|until| now < until);
        self.kinds.iter().any(holds) || self.keys.get(key).is_some_and(|&times| times >= MOST_TIMES)
    }

    /// Keys of this type are not to be followed so until then; returns whether that is new.
    fn refuse(&mut self, kind: Kind, until: Option<u32>) -> bool {
        if let Some((_, known)) = self.kinds.iter_mut().find(|(of, _)| *of == kind) {
            *known = known.and(until);
            return false;
        }
        self.kinds.push((kind, until));
        true
    }

    /// Once more; returns whether it was the last time.
    fn add(&mut self, key: &Rc<[u8]>) -> bool {
        if self.keys.len() >= MOST_LARGE {
            self.keys.clear();
        }
        let times = self.keys.entry(Rc::clone(key)).or_default();
        *times += 1;
        *times >= MOST_TIMES
    }
}

/// Connections that ended, one after another, while a round went over them.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Cuts {
    times: u32,
    since: Option<Instant>,
}

impl Cuts {
    /// One more; returns whether they show that an element of the key can't be sent.
    pub fn again(&mut self, now: Instant, retry_for: Duration) -> bool {
        self.times += 1;
        let since = *self.since.get_or_insert(now);
        self.times >= MOST_CUTS && now - since >= CUT_PATIENCE.min(retry_for)
    }
}

impl Follow {
    /// What a round found shows that the key has to be copied whole.
    pub fn give_up_elements(&self, engine: &Engine, key: &Rc<[u8]>, why: &str) {
        self.leave_round(key);
        let is_last = self.given_up.borrow_mut().add(key);
        let then = if is_last {
            "; it is not followed by its elements any more"
        } else {
            ""
        };
        let message = format!("{} is copied whole again: {why}{then}", shown(key));
        engine
            .shared
            .tell(Event::new(EventKind::ElementsGivenUp, message));
    }

    /// Elements of keys of this type can't be read or written for want of permissions: such keys are copied whole.
    pub fn refuse_elements(&self, engine: &Engine, kind: Kind, why: &str) {
        self.refuse(engine, kind, why, None);
    }

    /// The same, but only for now.
    pub fn refuse_for_now(&self, engine: &Engine, kind: Kind, why: &str) {
        let until = self.now().saturating_add(REFUSED_FOR.as_millis() as u32);
        self.refuse(engine, kind, why, Some(until));
    }

    fn refuse(&self, engine: &Engine, kind: Kind, why: &str, until: Option<u32>) {
        if self.given_up.borrow_mut().refuse(kind, until) {
            let for_now = if until.is_some() { " for now" } else { "" };
            let message = format!(
                "large keys of type {} are copied whole{for_now}, not followed by their elements: {why}",
                kind.name()
            );
            engine
                .shared
                .tell(Event::new(EventKind::ElementsRefused, message));
        }
        let received = self.received();
        let keys = self.parts.borrow().of_kind(kind);
        for key in keys {
            self.leave_elements(&key, received);
        }
        self.publish(engine);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_for_now_is_asked_again_and_what_is_denied_is_not() {
        let mut given_up = GivenUp::default();
        assert!(given_up.refuse(Kind::List, Some(100)));
        assert!(given_up.has(b"queue", Kind::List, 99));
        assert!(!given_up.has(b"queue", Kind::Set, 99));
        assert!(!given_up.has(b"queue", Kind::List, 100));
        assert!(!given_up.refuse(Kind::List, Some(200)), "told already");
        assert!(given_up.has(b"queue", Kind::List, 199));
        given_up.refuse(Kind::List, None);
        given_up.refuse(Kind::List, Some(300));
        assert!(given_up.has(b"queue", Kind::List, 300), "it is denied");
    }
}
