//! Large keys that are not followed by their elements any more.
//!
//! Invariant: a key that can't be followed so is not built for it again and again, and is told of; a type whose elements
//! nobody may read or write is told of once.

use std::collections::HashMap;
use std::rc::Rc;

use super::{Follow, MOST_LARGE};
use crate::chunked::parts::Kind;
use crate::event::{Event, EventKind};
use crate::job::engine::Engine;
use crate::text::shown;

/// A key that was given up so often is copied as other large keys are, as long as the job runs.
const MOST_TIMES: u32 = 3;

/// What was given up.
#[derive(Debug, Default)]
pub(super) struct GivenUp {
    keys: HashMap<Rc<[u8]>, u32>,
    kinds: Vec<Kind>,
}

impl GivenUp {
    /// Whether a key of this type is not to be followed by its elements.
    pub fn has(&self, key: &[u8], kind: Kind) -> bool {
        self.kinds.contains(&kind) || self.keys.get(key).is_some_and(|&times| times >= MOST_TIMES)
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
        let mut given_up = self.given_up.borrow_mut();
        if !given_up.kinds.contains(&kind) {
            given_up.kinds.push(kind);
            let message = format!(
                "large keys of type {} are copied whole, not followed by their elements: {why}",
                kind.name()
            );
            engine
                .shared
                .tell(Event::new(EventKind::ElementsRefused, message));
        }
        drop(given_up);
        let received = self.received();
        let keys = self.parts.borrow().of_kind(kind);
        for key in keys {
            self.leave_elements(&key, received);
        }
        self.publish(engine);
    }
}
