//! The byte budget, what bounds memory, whatever the number and size of keys; and the operator's rates.
//!
//! Invariant: nothing more is asked of the source while names, values and promises are at the limit, and
//! nothing more is read from it while names and values alone are. One value is always let through, so that a
//! value larger than the whole budget moves too, by itself, and nothing can wait for ever.

use std::cell::Cell;
use std::time::{Duration, Instant};

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

    /// Whether no keys or values are on their way to the target.
    pub fn is_empty_of_values(&self) -> bool {
        self.values.get() == 0
    }

    /// Whether more may be read.
    pub fn has_room(&self) -> bool {
        self.values.get() == 0 || self.held() < self.limit
    }

    /// Wake who waits: something else than bytes was in the way, and may be so no longer.
    pub fn wake(&self) {
        self.freed.notify_waiters();
    }

    /// Wait until bytes are freed.
    pub async fn wait_freed(&self) {
        self.freed.notified().await;
    }
}

/// What may be taken of one thing in a second: a balance that fills with time and may go below zero, so that
/// one thing larger than all of a second passes too, and is waited for afterwards.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    per_second: f64,
    balance: f64,
    filled: Instant,
}

impl Bucket {
    /// What may be taken at once after a while without taking, in seconds' worth.
    const BURST: f64 = 0.05;

    fn new(per_second: u64, now: Instant) -> Self {
        Self {
            per_second: per_second.max(1) as f64,
            balance: 0.0,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_secs_f64();
        let most = (self.per_second * Self::BURST).max(1.0);
        self.balance = (self.balance + passed * self.per_second).min(most);
        self.filled = now;
    }

    /// How long until the balance reaches `wanted`.
    fn wait(&self, wanted: f64) -> Duration {
        Duration::try_from_secs_f64((wanted - self.balance) / self.per_second).unwrap_or_default()
    }
}

/// How many keys and bytes may be asked of the source in a second; either may be without a limit.
#[derive(Debug, Default)]
pub struct Throttle {
    keys: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Throttle {
    /// Limits from the start on.
    pub fn new(keys: Option<u64>, bytes: Option<u64>) -> Self {
        let mut throttle = Self::default();
        throttle.set(keys, bytes, Instant::now());
        throttle
    }

    /// Other limits from now on; what was taken too much under an old one is forgotten.
    pub fn set(&mut self, keys: Option<u64>, bytes: Option<u64>, now: Instant) {
        self.keys = keys.map(|rate| Bucket::new(rate, now));
        self.bytes = bytes.map(|rate| Bucket::new(rate, now));
    }

    /// Whether there is any limit.
    pub fn is_on(&self) -> bool {
        self.keys.is_some() || self.bytes.is_some()
    }

    /// How many keys of about `size` bytes may be asked for now.
    #[allow(
        clippy::cast_sign_loss,
        reason = "what is turned into a number of keys is at least zero"
    )]
    pub fn permitted(&mut self, size: usize, now: Instant) -> usize {
        let mut permitted = usize::MAX;
        if let Some(keys) = &mut self.keys {
            keys.fill(now);
            permitted = keys.balance.max(0.0) as usize;
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.fill(now);
            let fitting = if bytes.balance > 0.0 {
                (bytes.balance / size.max(1) as f64).max(1.0) as usize
            } else {
                0
            };
            permitted = permitted.min(fitting);
        }
        permitted
    }

    /// `keys` keys were asked for, and `bytes` are expected for them.
    pub fn take(&mut self, keys: usize, bytes: usize) {
        if let Some(bucket) = &mut self.keys {
            bucket.balance -= keys as f64;
        }
        if let Some(bucket) = &mut self.bytes {
            bucket.balance -= bytes as f64;
        }
    }

    /// Of the bytes that were expected, `expected` came as `actual`.
    pub fn correct(&mut self, expected: usize, actual: usize) {
        if let Some(bucket) = &mut self.bytes {
            bucket.balance += expected as f64 - actual as f64;
        }
    }

    /// How long until anything may be asked for again.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let mut wait = Duration::ZERO;
        if let Some(keys) = &mut self.keys {
            keys.fill(now);
            wait = keys.wait(1.0);
        }
        if let Some(bytes) = &mut self.bytes {
            bytes.fill(now);
            wait = wait.max(bytes.wait(1.0));
        }
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Take all that is allowed for ten seconds, a look every `step`; return keys and bytes.
    fn ten_seconds(throttle: &mut Throttle, start: Instant, step: Duration, size: usize) -> (usize, usize) {
        let (mut keys, mut now) = (0, start);
        while now < start + Duration::from_secs(10) {
            now += step;
            let allowed = throttle.permitted(size, now).min(128);
            throttle.take(allowed, allowed * size);
            keys += allowed;
        }
        (keys, keys * size)
    }

    #[test]
    fn rates_are_kept_whatever_the_steps() {
        let start = Instant::now();
        for step in [1, 7, 30] {
            let step = Duration::from_millis(step);
            let mut throttle = Throttle::default();
            throttle.set(Some(1000), None, start);
            let (keys, _) = ten_seconds(&mut throttle, start, step, 100);
            assert!((9_900..=10_100).contains(&keys), "{keys} keys");
            throttle.set(None, Some(1_000_000), start);
            let (_, bytes) = ten_seconds(&mut throttle, start, step, 1000);
            assert!((9_800_000..=10_100_000).contains(&bytes), "{bytes} bytes");
        }
    }

    #[test]
    fn a_value_beyond_a_second_s_worth_is_waited_for_afterwards() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        throttle.set(None, Some(1000), start);
        let now = start + Duration::from_secs(1);
        assert_eq!(throttle.permitted(5000, now), 1);
        throttle.take(1, 5000);
        assert_eq!(throttle.permitted(5000, now), 0);
        assert!(throttle.wait(now) > Duration::from_secs(4));
        throttle.correct(5000, 40);
        assert!(throttle.wait(now) < Duration::from_millis(10));
    }

    #[test]
    fn one_key_a_second() {
        let start = Instant::now();
        let mut throttle = Throttle::default();
        throttle.set(Some(1), None, start);
        assert_eq!(throttle.permitted(1, start), 0);
        assert_eq!(throttle.wait(start), Duration::from_secs(1));
        assert_eq!(throttle.permitted(1, start + Duration::from_secs(5)), 1);
    }

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
