//! The source's names of keys that are called otherwise at the target.
//!
//! Invariant: what goes to the journal (failed and pending keys) is the source's name, since a later run asks
//! the source for it. The names of a page are kept until its last key is settled; without rewriting, nothing is.

use std::collections::HashMap;
use std::rc::Rc;

use crate::job::engine::Engine;
use crate::ledger::books::PageId;
use crate::resp::Restore;
use crate::source::page::{Keys, Naming};
use crate::transform::keymap::Scratch;

/// The names of the pages that are open, and room to make the target's names in.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pages: HashMap<PageId, Rc<Keys>>,
    scratch: Scratch,
}

impl Engine {
    /// Take keys of a page of the scan or of a list: those of a scan have to pass the filter.
    pub fn with_naming<T>(&self, work: impl FnOnce(Option<Naming<'_>>) -> T) -> T {
        let mut names = self.names.borrow_mut();
        work(self.spec.key_map.as_deref().map(|map| (map, &mut names.scratch)))
    }

    /// Keep the names of a page that is opened.
    pub fn keep_names(&self, page: PageId, keys: &Rc<Keys>) {
        self.budget.hold_names(keys.weight());
        if let Some(follow) = &self.follow
            && !follow.owns(page)
        {
            follow.scan(page, keys);
        }
        if keys.are_renamed() {
            self.names.borrow_mut().pages.insert(page, Rc::clone(keys));
        }
    }

    /// The keys of a page are read.
    pub fn names_are_read(&self, keys: &Keys) {
        if !keys.are_renamed() {
            self.budget.free_names(keys.weight());
        }
    }

    /// Every key of a page is settled. The ledger may be locked.
    #[inline]
    pub fn forget_names(&self, page: PageId) {
        if let Some(follow) = &self.follow {
            follow.close(page);
        }
        if self.spec.key_map.is_none() {
            return;
        }
        if let Some(keys) = self.names.borrow_mut().pages.remove(&page) {
            self.budget.free_names(keys.weight());
        }
    }

    /// What the source calls a key of `page`.
    pub fn named(&self, page: PageId, restore: &Restore<'_>) -> Vec<u8> {
        match self.names.borrow().pages.get(&page) {
            Some(keys) => keys.get(restore.number as usize).0.to_vec(),
            None => restore.key.to_vec(),
        }
    }
}
