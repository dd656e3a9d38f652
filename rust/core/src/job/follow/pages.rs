//! Touched keys on their way through the pipeline, a page at a time.
//!
//! Invariant: a key of a page is landed, or given back, exactly when the page is complete.

use std::collections::HashSet;
use std::rc::Rc;

use super::{COALESCE, Follow, MOST_LARGE, MOST_PAGES, PAGE_BYTES, PAGE_KEYS, Page, add};
use crate::job::engine::Engine;
use crate::ledger::books::PageId;
use crate::ledger::progress::Outcome;
use crate::ledger::touched::Taken;
use crate::ledger::unsettled::Pending;
use crate::source::page::Keys;

impl Follow {
    /// Whether a key is in the set: then the scan leaves it out.
    #[inline]
    pub fn has(&self, key: &[u8]) -> bool {
        self.touched.borrow().contains(key) || self.parts.borrow().contains(key)
    }

    /// The bulk copy begins with a page.
    pub fn scan(&self, page: PageId, keys: &Keys) {
        let by_target = self.siblings.is_on;
        let names = (0..keys.len()).map(|place| {
            if by_target {
                keys.target(place)
            } else {
                keys.get(place).0
            }
        });
        self.scanned.borrow_mut().open(page, names);
    }

    /// Take the next keys, in pages; none now: empty.
    pub fn take(&self) -> Vec<Vec<Taken>> {
        if self.pages.borrow().len() >= MOST_PAGES || self.over.get() || self.waits.get() {
            return Vec::new();
        }
        if self.siblings.is_on {
            return self.siblings.take();
        }
        let scanned = self.scanned.borrow();
        let taken = self.take_touched(|key| scanned.is_free(key));
        self.in_pages(taken)
    }

    /// Take touched keys that are `free`, and of which no elements are being written.
    pub(super) fn take_touched(&self, mut free: impl FnMut(&[u8]) -> bool) -> Vec<Taken> {
        let newest = match self.fence.get() {
            Some(_) => u32::MAX,
            None => self.now().saturating_sub(COALESCE.as_millis() as u32),
        };
        let parts = self.parts.borrow();
        let mut touched = self.touched.borrow_mut();
        touched.take(PAGE_KEYS, PAGE_BYTES, newest, |key| {
            !parts.is_in_round(key) && free(key)
        })
    }

    /// Large keys have pages of their own, for which others need not wait.
    pub(super) fn in_pages(&self, taken: Vec<Taken>) -> Vec<Vec<Taken>> {
        let large = self.large.borrow();
        let (alone, together): (Vec<_>, Vec<_>) =
            taken.into_iter().partition(|taken| large.contains(&taken.key));
        let mut pages: Vec<Vec<Taken>> = alone.into_iter().map(|taken| vec![taken]).collect();
        if !together.is_empty() {
            pages.push(together);
        }
        pages
    }

    /// A page of taken keys is opened.
    pub fn open(&self, page: PageId, keys: Vec<Taken>) {
        let returned = Vec::new();
        self.pages.borrow_mut().insert(page, Page { keys, returned });
    }

    /// Whether a page is one of ours.
    #[inline]
    pub fn owns(&self, page: PageId) -> bool {
        self.pages.borrow().contains_key(&page)
    }

    /// `keys` keys of a page of ours are written.
    pub fn count(&self, outcome: Outcome, keys: u64, bytes: u64) {
        if matches!(outcome, Outcome::Migrated | Outcome::Unchanged) {
            add(&self.figures.copied, keys);
            add(&self.figures.bytes, bytes);
        }
    }

    /// The source lacks a key of ours: it is deleted.
    pub fn count_deletion(&self) {
        add(&self.figures.deleted, 1);
    }

    /// A key of a page of ours could not be written now: it is to be taken again.
    pub fn give_back(&self, page: PageId, key: &[u8]) {
        let mut pages = self.pages.borrow_mut();
        if let Some(page) = pages.get_mut(&page)
            && let Some(place) = page.keys.iter().position(|taken| &*taken.key == key)
        {
            page.returned.push(place);
        }
    }

    /// A page is complete, whichever it is.
    pub fn close(&self, page: PageId) {
        let Some(page) = self.pages.borrow_mut().remove(&page) else {
            if self.scanned.borrow_mut().close(page) {
                self.touched.borrow_mut().release();
                self.woken.notify_one();
            }
            return;
        };
        let mut touched = self.touched.borrow_mut();
        let mut owed = self.owed.borrow_mut();
        let mut busy = self.busy.borrow_mut();
        for (place, taken) in page.keys.iter().enumerate() {
            self.siblings.let_go(taken.id);
            if page.returned.contains(&place) {
                touched.returned(taken.id);
                continue;
            }
            touched.landed(taken.id);
            busy.remove(&taken.key);
            if !owed.is_empty()
                && let Some(key) = owed.take(&*taken.key)
            {
                self.resolved.borrow_mut().push(key);
            }
        }
        if self.siblings.is_on {
            touched.release();
        }
        drop((touched, owed, busy));
        self.woken.notify_one();
        if self.fence.get().is_some() {
            self.progressed.notify_one();
        }
    }

    /// A key is copied in chunks, for which others should not wait.
    pub fn note_large(&self, key: &[u8]) {
        let mut large = self.large.borrow_mut();
        if large.len() >= MOST_LARGE {
            large.clear();
        }
        large.insert(Rc::from(key));
    }

    /// A key that the bulk copy could not copy, since it is written to all the time, is followed instead.
    pub fn take_over(&self, engine: &Engine, key: &[u8]) {
        self.owed.borrow_mut().insert(key.to_vec());
        self.touch_now(engine, &[key.to_vec()], false);
    }

    /// Keys of an earlier run that were pending or failed: copied as if they had been touched.
    pub(crate) fn touch_owed(&self, engine: &Engine) {
        let owed: HashSet<Vec<u8>> = self.owed.borrow().clone();
        self.touch_now(engine, &owed.into_iter().collect::<Vec<_>>(), false);
    }
}

impl Engine {
    /// Whether a page holds touched keys.
    #[inline]
    pub fn is_followed(&self, page: PageId) -> bool {
        self.follow.as_ref().is_some_and(|follow| follow.owns(page))
    }

    /// A page of touched keys has an outcome, in the books of following and not in those of the copy.
    pub(crate) fn park_followed(&self, page: PageId, pending: &Pending) {
        if let Some(follow) = &self.follow {
            follow.give_back(page, &pending.key);
        }
        let complete = {
            let mut ledger = self.shared.ledger();
            let complete = ledger.settle(page, Outcome::Pending, 1, 0);
            if ledger.open_pages() == 0 {
                self.changed.notify_one();
            }
            complete
        };
        if complete {
            self.forget_names(page);
        }
    }
}
