//! What holds the reading back: the operator's pause, the operator's rates, and a server that answers slowly.
//!
//! Invariant: only what is asked of the source is held back; what is under way is always finished. A job
//! without any limiter pays one branch per chunk of keys.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::throttle::budget::Throttle;

/// A server that was slow is taken for well again after so long without a slow answer.
const CALM: Duration = Duration::from_secs(1);

/// While the job is paused, it is looked at this often whether it still is.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// An answer that was waited for, or still is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Ping,
    NoPing,
    /// A reply to something that is under way anyway.
    Reply,
    NoReply,
}

/// A server that answered slowly.
#[derive(Debug)]
struct Slow {
    since: Instant,
    /// When it was last seen to be slow.
    last: Instant,
    /// Its last slow answer; of one that is still awaited, the time so far.
    latency: Duration,
    answer: Answer,
}

/// Everything that holds the reading back.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// Whether there is any, so that the rest need not be looked at.
    is_on: Cell<bool>,
    paused: Cell<Option<Instant>>,
    throttle: RefCell<Throttle>,
    /// From which latency on the reading pauses.
    threshold: Option<Duration>,
    slow: RefCell<HashMap<String, Slow>>,
}

impl Limiter {
    pub fn new(throttle: Throttle, threshold: Option<Duration>) -> Self {
        let limiter = Self {
            is_on: Cell::new(false),
            paused: Cell::new(None),
            throttle: RefCell::new(throttle),
            threshold,
            slow: RefCell::default(),
        };
        limiter.look();
        limiter
    }

    fn look(&self) {
        self.is_on.set(
            self.paused.get().is_some() || self.throttle.borrow().is_on() || !self.slow.borrow().is_empty(),
        );
    }

    /// The operator pauses the job, or lets it go on.
    pub fn pause(&self, paused: bool, now: Instant) {
        self.paused.set(paused.then(|| self.paused.get().unwrap_or(now)));
        self.look();
    }

    /// Whether the operator has paused it.
    pub fn is_paused(&self) -> bool {
        self.paused.get().is_some()
    }

    /// The operator's rates from now on.
    pub fn set_rate(&self, keys: Option<u64>, bytes: Option<u64>, now: Instant) {
        self.throttle.borrow_mut().set(keys, bytes, now);
        self.look();
    }

    /// Whether anything holds the reading back now, or may do so with the next key.
    #[inline]
    pub fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// How many keys of about `size` bytes may be asked for now.
    #[inline]
    pub fn permitted(&self, size: usize) -> usize {
        if !self.is_on.get() {
            return usize::MAX;
        }
        let now = Instant::now();
        if self.pause_reason(now).is_some() {
            return 0;
        }
        self.throttle.borrow_mut().permitted(size, now)
    }

    /// `keys` keys were asked for, and `bytes` are expected for them.
    #[inline]
    pub fn take(&self, keys: usize, bytes: usize) {
        if self.is_on.get() {
            self.throttle.borrow_mut().take(keys, bytes);
        }
    }

    /// Of the bytes that were expected, `expected` came as `actual`.
    #[inline]
    pub fn correct(&self, expected: usize, actual: usize) {
        if self.is_on.get() {
            self.throttle.borrow_mut().correct(expected, actual);
        }
    }

    /// Wait until it is worth asking for more again.
    pub async fn wait(&self) {
        let now = Instant::now();
        let wait = if self.pause_reason(now).is_some() {
            LOOK_AGAIN
        } else {
            self.throttle.borrow_mut().wait(now).min(LOOK_AGAIN)
        };
        tokio::time::sleep(wait.max(Duration::from_millis(1))).await;
    }

    /// From which latency on the reading pauses, if it does.
    pub fn threshold(&self) -> Option<Duration> {
        self.threshold
    }

    /// `node` took `latency` for an answer, or has taken that long without one. That it is well again only its
    /// pings say: while the reading pauses, there is nothing else to answer.
    pub fn measured(&self, node: &str, answer: Answer, latency: Duration, now: Instant) {
        let mut slow = self.slow.borrow_mut();
        if self.threshold.is_some_and(|threshold| latency > threshold) {
            let entry = slow.entry(node.to_owned()).or_insert_with(|| Slow {
                since: now,
                last: now,
                latency,
                answer,
            });
            (entry.last, entry.latency, entry.answer) = (now, latency, answer);
        } else if slow
            .get(node)
            .is_some_and(|slow| now.saturating_duration_since(slow.last) >= CALM)
        {
            slow.remove(node);
        }
        drop(slow);
        self.look();
    }

    /// `node` is not to be had, or serves nothing any more: that is not a matter of latency.
    pub fn forget(&self, node: &str) {
        self.slow.borrow_mut().remove(node);
        self.look();
    }

    /// Why the reading is paused, if it is.
    pub fn pause_reason(&self, now: Instant) -> Option<String> {
        if let Some(since) = self.paused.get() {
            return Some(format!(
                "by the operator, {} s",
                now.saturating_duration_since(since).as_secs()
            ));
        }
        let threshold = self.threshold?;
        let slow = self.slow.borrow();
        let (node, slow) = slow.iter().min_by_key(|(node, slow)| (slow.since, *node))?;
        let answer = match slow.answer {
            Answer::Ping => "took",
            Answer::NoPing => "has not answered for",
            Answer::Reply => "let our commands wait for",
            Answer::NoReply => "has let our commands wait for",
        };
        Some(format!(
            "the {node} {answer} {} ms (limit {} ms), {} s",
            slow.latency.as_millis(),
            threshold.as_millis(),
            now.saturating_duration_since(slow.since).as_secs()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn limiter(threshold: Option<Duration>) -> Limiter {
        Limiter::new(Throttle::default(), threshold)
    }

    #[test]
    fn without_restraint_anything_is_allowed() {
        let limiter = limiter(Some(10 * MS));
        assert!(!limiter.is_on());
        assert_eq!(limiter.permitted(1000), usize::MAX);
    }

    #[test]
    fn a_pause_allows_nothing_and_keeps_its_beginning() {
        let limiter = limiter(None);
        let start = Instant::now();
        limiter.pause(true, start);
        limiter.pause(true, start + 5000 * MS);
        assert_eq!(limiter.permitted(1), 0);
        assert_eq!(
            limiter.pause_reason(start + 7000 * MS).as_deref(),
            Some("by the operator, 7 s")
        );
        limiter.pause(false, start + 8000 * MS);
        assert_eq!(limiter.permitted(1), usize::MAX);
    }

    #[test]
    fn a_slow_server_pauses_until_it_was_calm_for_a_while() {
        let limiter = limiter(Some(100 * MS));
        let start = Instant::now();
        limiter.measured("source a", Answer::Ping, 99 * MS, start);
        assert_eq!(limiter.pause_reason(start), None);
        limiter.measured("source a", Answer::Ping, 250 * MS, start);
        let reason = limiter.pause_reason(start).expect("is paused");
        assert!(reason.contains("source a took 250 ms (limit 100 ms)"), "{reason}");
        limiter.measured("source a", Answer::Ping, 5 * MS, start + 500 * MS);
        assert_eq!(limiter.permitted(1), 0);
        limiter.measured("source a", Answer::Ping, 5 * MS, start + 1000 * MS);
        assert!(!limiter.is_on());
    }

    #[test]
    fn slow_replies_pause_and_good_pings_end_it() {
        let limiter = limiter(Some(100 * MS));
        let start = Instant::now();
        limiter.measured("target a", Answer::Ping, 5 * MS, start);
        limiter.measured("target a", Answer::Reply, 250 * MS, start);
        let reason = limiter.pause_reason(start).expect("is paused");
        assert!(
            reason.contains("target a let our commands wait for 250 ms"),
            "{reason}"
        );
        limiter.measured("target a", Answer::Ping, 5 * MS, start + 900 * MS);
        assert!(limiter.is_on());
        limiter.measured("target a", Answer::Ping, 5 * MS, start + 1000 * MS);
        assert!(!limiter.is_on());
    }

    #[test]
    fn a_server_that_is_gone_is_not_slow() {
        let limiter = limiter(Some(100 * MS));
        limiter.measured("target b", Answer::NoPing, 300 * MS, Instant::now());
        assert!(limiter.is_on());
        limiter.forget("target b");
        assert!(!limiter.is_on());
    }
}
