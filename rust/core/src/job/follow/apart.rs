//! Keys that the mark does not speak for: what is recorded of them beside it, and read again by the next run.
//!
//! Invariant: a key that the mark has passed without a copy stands in every checkpoint that holds the mark.

use std::rc::Rc;
use std::sync::Arc;

use super::{Follow, MOST_LARGE};
use crate::chunked::parts::Kind;
use crate::event::{Event, EventKind};
use crate::job::engine::Engine;
use crate::ledger::books::PageId;
use crate::ledger::checkpoint::FollowMark;
use crate::text::shown;

/// What stands in the place of a large key's position: it is to be copied whole, whatever the mark says.
const OWED: &str = "owed";

/// The same, and behind it the type, of a key that is at the target as of the mark and is followed by its elements.
const FOLLOWED: &str = "followed ";

/// As text for the journal.
pub(super) fn texts<'a>(
    owed: &[Vec<u8>],
    followed: impl Iterator<Item = (&'a [u8], Kind)>,
) -> Arc<[(Vec<u8>, String)]> {
    let owed = owed.iter().map(|key| (key.clone(), OWED.to_owned()));
    let followed = followed.map(|(key, kind)| (key.to_vec(), format!("{FOLLOWED}{}", kind.name())));
    owed.chain(followed).collect()
}

/// The keys that an earlier run followed by their elements.
pub(super) fn followed_in(positions: &[(Vec<u8>, String)]) -> Vec<(Vec<u8>, Kind)> {
    let kind = |text: &str| Kind::of(text.strip_prefix(FOLLOWED)?.as_bytes());
    let followed = positions.iter();
    followed
        .filter_map(|(key, text)| Some((key.clone(), kind(text)?)))
        .collect()
}

/// Whether a position is none of a copy but of following.
pub(crate) fn is_apart(position: &str) -> bool {
    position == OWED || position.starts_with(FOLLOWED)
}

/// The keys that an earlier run owed.
pub(super) fn owed_in(positions: &[(Vec<u8>, String)]) -> Vec<Vec<u8>> {
    let owed = positions.iter().filter(|(_, text)| text == OWED);
    owed.map(|(key, _)| key.clone()).collect()
}

impl super::FollowSpec {
    /// What an earlier run has recorded.
    pub(crate) fn recorded(&self, positions: &[(Vec<u8>, String)]) -> Option<FollowMark> {
        let apart = positions.iter().filter(|(_, text)| is_apart(text));
        Some(FollowMark {
            position: self.from.clone()?,
            in_doubt: self.in_doubt,
            apart: apart.cloned().collect(),
        })
    }
}

impl Follow {
    /// A key of a page of ours can't be copied while it is written, and that is so all the time: it does not hold the
    /// mark, and is copied when it rests, or at the fence.
    pub fn owe(&self, engine: &Engine, page: PageId, key: &[u8]) {
        let pages = self.pages.borrow();
        let mut taken = pages.get(&page).into_iter().flat_map(|page| &page.keys);
        let Some(taken) = taken.find(|taken| &*taken.key == key) else {
            return;
        };
        self.touched.borrow_mut().owe(taken.id);
        let mut busy = self.busy.borrow_mut();
        if busy.len() >= MOST_LARGE {
            busy.clear();
        }
        if busy.insert(Rc::clone(&taken.key)) {
            engine.shared.tell(Event::new(
                EventKind::BusyKey,
                format!(
                    "{} is written all the time: it is copied when it rests, or when the writes are stopped",
                    shown(key)
                ),
            ));
        }
    }

    /// Whether a key of `page` was touched since its copy began: then what is copied is not whole.
    pub fn is_touched_since(&self, page: PageId, key: &[u8]) -> bool {
        let touched = self.touched.borrow();
        touched.is_touched_again(key) || !self.owns(page) && touched.contains(key)
    }

    /// Whether all up to an offset is waited for: then nothing is held back.
    pub fn has_fence(&self) -> bool {
        self.fence.get().is_some()
    }

    /// Keys that an earlier run owed are owed still.
    pub(super) fn owe_again(&self, engine: &Engine) {
        let Some(touch) = self.received() else {
            return;
        };
        for key in self.left_apart.take() {
            if let Some(slot) = Self::slot(engine, &key) {
                self.touched.borrow_mut().owe_again(&key, slot, touch);
            }
        }
    }
}
