//! What the workers of a handover do together: few read at a time, and several give their slots up at once.
//!
//! Invariant: no worker waits for another that is not on its way: whoever leaves without having been ready lets
//! the others look again.

use std::cell::Cell;

use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use crate::handover::Limits;

/// Whether keys of the source expire, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiries {
    Unknown,
    Some,
    None,
}

pub(crate) struct Coordinator {
    /// What the last look at the source's keyspace said.
    pub expiries: Cell<Expiries>,
    /// Who may read now, a permit a key: the source is asked for no more than these want.
    reading: Semaphore,
    reading_keys: usize,
    together: usize,
    together_keys: usize,
    preparing: Cell<usize>,
    ready: Cell<usize>,
    keys: Cell<usize>,
    lost: Cell<bool>,
    /// Whether the target's replica was waited for in vain.
    pub replica_is_late: Cell<bool>,
    go: Notify,
}

impl Coordinator {
    pub fn new(limits: &Limits) -> Self {
        Self {
            expiries: Cell::new(Expiries::Unknown),
            reading: Semaphore::new(limits.reading_keys),
            reading_keys: limits.reading_keys,
            together: limits.together,
            together_keys: limits.together_keys,
            preparing: Cell::new(0),
            ready: Cell::new(0),
            keys: Cell::new(0),
            lost: Cell::new(false),
            replica_is_late: Cell::new(false),
            go: Notify::new(),
        }
    }

    /// Wait for the turn to read a slot of `keys` keys; it lasts until what is returned is dropped.
    pub async fn turn_to_read(&self, keys: usize) -> Option<SemaphorePermit<'_>> {
        let permits = u32::try_from(keys.min(self.reading_keys)).unwrap_or(u32::MAX);
        // It is never closed.
        self.reading.acquire_many(permits).await.ok()
    }

    /// A worker begins with a slot; it is to be told ready, or to have left.
    pub fn enter(&self) {
        self.preparing.set(self.preparing.get() + 1);
    }

    /// A worker will not become ready with its slot.
    pub fn leave(&self) {
        self.preparing.set(self.preparing.get() - 1);
        self.look();
    }

    /// A node was lost: no worker is to give up a slot any more, since the copies may be gone with it.
    pub fn lose(&self) {
        self.lost.set(true);
    }

    /// A worker is ready to give up a slot of `keys` keys: wait until enough others are, or none is on its way.
    /// Returns whether it may.
    pub async fn ready(&self, keys: usize) -> bool {
        let go = self.go.notified();
        tokio::pin!(go);
        go.as_mut().enable();
        self.preparing.set(self.preparing.get() - 1);
        self.ready.set(self.ready.get() + 1);
        self.keys.set(self.keys.get() + keys);
        self.look();
        go.await;
        !self.lost.get()
    }

    fn look(&self) {
        let enough = self.ready.get() >= self.together || self.keys.get() >= self.together_keys;
        if enough || self.preparing.get() == 0 {
            self.ready.set(0);
            self.keys.set(0);
            self.go.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn coordinator(together: usize) -> Coordinator {
        Coordinator::new(&Limits {
            workers: 4,
            reading_keys: 1,
            together,
            together_keys: 100,
            chunk_keys: 1,
            chunk_bytes: 1,
            keys: 1_000,
            bytes: 1,
            key_bytes: 1,
        })
    }

    fn poll(future: std::pin::Pin<&mut impl Future<Output = bool>>) -> Poll<bool> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn is_done(future: std::pin::Pin<&mut impl Future<Output = bool>>) -> bool {
        poll(future).is_ready()
    }

    #[test]
    fn nobody_goes_once_a_node_is_lost() {
        let coordinator = coordinator(4);
        (0..2).for_each(|_| coordinator.enter());
        let mut waiting = pin!(coordinator.ready(1));
        assert_eq!(poll(waiting.as_mut()), Poll::Pending);
        coordinator.lose();
        coordinator.leave();
        assert_eq!(poll(waiting.as_mut()), Poll::Ready(false));
    }

    #[test]
    fn lanes_go_when_enough_are_ready() {
        let coordinator = coordinator(2);
        (0..3).for_each(|_| coordinator.enter());
        let mut first = pin!(coordinator.ready(1));
        assert!(!is_done(first.as_mut()));
        let mut second = pin!(coordinator.ready(1));
        assert!(is_done(second.as_mut()) && is_done(first.as_mut()));
        let mut third = pin!(coordinator.ready(1));
        assert!(is_done(third.as_mut()), "nobody else is on the way");
    }

    #[test]
    fn many_keys_are_enough() {
        let coordinator = coordinator(4);
        (0..3).for_each(|_| coordinator.enter());
        assert!(is_done(pin!(coordinator.ready(100)).as_mut()));
    }

    #[test]
    fn who_leaves_is_not_waited_for() {
        let coordinator = coordinator(4);
        (0..2).for_each(|_| coordinator.enter());
        let mut waiting = pin!(coordinator.ready(1));
        assert!(!is_done(waiting.as_mut()));
        coordinator.leave();
        assert!(is_done(waiting.as_mut()));
    }
}
