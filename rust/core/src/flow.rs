//! The byte budget: what bounds memory, whatever the number and size of keys.
//!
//! Invariant: nothing more is asked of the source while names, values and promises are at the limit, and
//! nothing more is read from it while names and values alone are. One value is always let through, so that a
//! value larger than the whole budget moves too, by itself, and nothing can wait for ever.

use std::cell::Cell;

use tokio::sync::Notify;

/// Bytes held now, and bytes that have been asked for but are not here yet.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    /// Names of keys whose values are still to be read.
    names: Cell<usize>,
    /// Keys and values on their way to the target.
    values: Cell<usize>,
    /// Values on their way from the source.
    promised: Cell<usize>,
    freed: Notify,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            names: Cell::new(0),
            values: Cell::new(0),
            promised: Cell::new(0),
            freed: Notify::new(),
        }
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.names.get() + self.values.get()
    }

    /// Promise `bytes` of values, if they fit beside all the rest, or if there is no other value.
    pub fn promise(&self, bytes: usize) -> bool {
        let others = self.values.get() + self.promised.get();
        if others > 0 && self.names.get() + others + bytes > self.limit {
            return false;
        }
        self.promised.set(self.promised.get() + bytes);
        true
    }

    /// Take a promise back: its bytes are here (see [`Self::hold`]) or will not come.
    pub fn redeem(&self, bytes: usize) {
        self.promised.set(self.promised.get().saturating_sub(bytes));
        self.freed.notify_waiters();
    }

    /// Count `bytes` of keys and values as held.
    pub fn hold(&self, bytes: usize) {
        self.values.set(self.values.get() + bytes);
    }

    /// Count `bytes` of keys and values as freed, and wake who waits for that.
    pub fn free(&self, bytes: usize) {
        self.values.set(self.values.get().saturating_sub(bytes));
        self.freed.notify_waiters();
    }

    /// Count `bytes` of names as held.
    pub fn hold_names(&self, bytes: usize) {
        self.names.set(self.names.get() + bytes);
    }

    /// Count `bytes` of names as freed, and wake who waits for that.
    pub fn free_names(&self, bytes: usize) {
        self.names.set(self.names.get().saturating_sub(bytes));
        self.freed.notify_waiters();
    }

    /// Whether there are names enough for now: more pages can wait until these are read.
    pub fn is_full_of_names(&self) -> bool {
        self.names.get() > self.limit / 4
    }

    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        self.values.get() == 0 || self.held() < self.limit
    }

    /// Wait until bytes are freed.
    pub async fn wait_freed(&self) {
        self.freed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn promises_stop_at_the_limit() {
        let budget = Budget::new(100);
        assert!(budget.promise(60));
        assert!(!budget.promise(60));
        budget.redeem(60);
        budget.hold(90);
        assert!(!budget.promise(20));
        assert!(budget.has_room());
        budget.free(90);
        assert!(budget.promise(20));
    }

    #[test]
    fn a_value_larger_than_the_budget_passes_alone() {
        let budget = Budget::new(100);
        assert!(budget.promise(1000));
        assert!(!budget.promise(1));
        budget.redeem(1000);
        budget.hold(1000);
        assert!(!budget.has_room());
        assert!(!budget.promise(1));
        budget.free(1000);
        assert!(budget.promise(1));
    }

    #[test]
    fn names_alone_never_stop_the_next_value() {
        let budget = Budget::new(100);
        budget.hold_names(500);
        assert!(budget.is_full_of_names());
        assert!(budget.has_room());
        assert!(budget.promise(50));
        assert!(!budget.promise(50));
        budget.redeem(50);
        budget.hold(50);
        assert!(!budget.has_room());
        budget.free(50);
        assert!(budget.has_room());
    }
}
