//! Large lists that are followed by the positions of their entries (`positions.rs`).
//!
//! Invariant: what was read of a list counts only together with the offset at which it was read, once the stream has
//! come there; where it is not certain what the target holds of a list, the list is copied whole.

use std::rc::Rc;

use super::positions::Run;
use super::{Follow, LOOK_EVERY, Round};
use crate::chunked::parts::Kind;
use crate::event::{Event, EventKind};
use crate::job::engine::Engine;
use crate::ledger::touched::Touch;
use crate::source::keys::Change;
use crate::text::shown;

/// Why a list can't be told as it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unread {
    /// The stream did not come to that offset for as long as passing errors are retried.
    Late,
    /// The stream tells of another history, or the list was read in another one: it is to be read again.
    OtherHistory,
    /// The job drains.
    Drained,
    /// The list is not followed any more, or not by what was known of it.
    Left,
    /// The changes don't add up to its length.
    Length,
}

impl Follow {
    /// A command has changed the ends of a list.
    pub(super) fn touch_ends(&self, engine: &Engine, key: &[u8], change: Change, touch: Touch) {
        let noted = {
            let mut parts = self.parts.borrow_mut();
            let part = parts.keys.get_mut(key).filter(|part| part.kind == Kind::List);
            part.is_some_and(|part| {
                part.first.get_or_insert(touch);
                part.positions.note(touch, Some(change))
            })
        };
        if !noted {
            self.touch(engine, key, touch);
        }
    }

    /// A range of a list is read from now on; what the list is as far as is known. The caller ends it.
    pub fn begin_list_read(&self, key: &[u8]) -> Run {
        let mut parts = self.parts.borrow_mut();
        let known = parts
            .keys
            .get_mut(key)
            .and_then(|part| part.positions.begin_reading());
        known.unwrap_or_default()
    }

    /// A range was read at this offset of the source's history `id`, when the list was so long: what the list was then.
    /// However late the stream is, it is waited for: what is read later is no sooner told of.
    pub async fn list_read_at(
        &self,
        engine: &Engine,
        key: &[u8],
        id: &str,
        offset: u64,
        length: u64,
    ) -> Result<Run, Unread> {
        let late = tokio::time::sleep(engine.spec.retry_for);
        tokio::pin!(late);
        self.awaited.set(self.awaited.get() + 1);
        let came = loop {
            let arrived = self.arrived.notified();
            if !self.is_in_history(id) {
                break Err(Unread::OtherHistory);
            }
            if self.received().is_some_and(|touch| touch.offset >= offset) {
                break Ok(());
            }
            if engine.draining.get() {
                break Err(Unread::Drained);
            }
            tokio::select! {
                () = arrived => {}
                () = tokio::time::sleep(LOOK_EVERY) => {}
                () = &mut late => break Err(Unread::Late),
            }
        };
        self.awaited.set(self.awaited.get() - 1);
        came?;
        let mut parts = self.parts.borrow_mut();
        let part = parts.keys.get_mut(key).ok_or(Unread::Left)?;
        part.positions.read_at(offset, length).ok_or(Unread::Length)
    }

    fn is_in_history(&self, id: &str) -> bool {
        let stream = self.stream.borrow();
        stream.position.as_ref().is_some_and(|position| position.id == id)
    }

    /// The history of the target that holds what was written of a list, if anything was.
    pub fn list_history(&self, key: &[u8]) -> Option<Vec<u8>> {
        let parts = self.parts.borrow();
        parts.keys.get(key)?.positions.history.clone()
    }

    /// The target has so much of a list as it was read, in this history of its own.
    pub fn list_written(&self, key: &[u8], run: Run, history: Option<Vec<u8>>) {
        if let Some(part) = self.parts.borrow_mut().keys.get_mut(key) {
            part.positions.written(run, history);
            if run.is_equal() {
                part.first = part.positions.first_since();
            }
        }
    }

    /// The range is not read any more.
    pub fn end_list_read(&self, key: &[u8]) {
        if let Some(part) = self.parts.borrow_mut().keys.get_mut(key) {
            part.positions.end_reading();
        }
    }

    /// It is not certain what the target holds of a list: it is copied whole.
    pub fn leave_list(&self, engine: &Engine, round: &Round, why: &str) {
        self.leave_round(&round.key);
        let key: &Rc<[u8]> = &round.key;
        let message = format!("{} is copied whole again: {why}", shown(key));
        engine
            .shared
            .tell(Event::new(EventKind::ElementsGivenUp, message));
    }
}
