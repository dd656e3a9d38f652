//! Replies: how long a server lets the commands wait that we send it anyway. It adds to the pings of `probe.rs`.
//!
//! Invariant: counted is only time in which the server owed a reply to something small that it had been sent
//! whole, had answered all before it, and this thread slept for want of anything to do. So neither a deep
//! pipeline of ours, nor a large value on a thin wire, nor a busy engine is taken for a slow server; what escapes
//! this way is left to the pings. A reply is timed now and then, not each: of the thousands in a second one is
//! always late, and a ping would not have met it either. Without a threshold nothing is counted and no clock is
//! read.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// When this thread last woke: what it found then had not been there before.
    static WOKE: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// The thread of the engine has slept and woken again.
pub(crate) fn note_wake() {
    WOKE.set(Some(Instant::now()));
}

/// How long a server is silent on one connection.
#[derive(Debug)]
pub(crate) struct ReplyTimer {
    threshold: Option<Duration>,
    /// The next reply is to be timed.
    is_due: bool,
    /// Since when the reply is owed that is being timed.
    since: Option<Instant>,
}

impl ReplyTimer {
    pub fn new(threshold: Option<Duration>) -> Self {
        Self {
            threshold,
            is_due: threshold.is_some(),
            since: None,
        }
    }

    /// Time the next reply that is waited for; returns how long one is waited for already, if that is too long.
    pub fn look(&mut self) -> Option<Duration> {
        self.is_due = self.threshold.is_some();
        self.lasting()
    }

    /// Whether a wait begins or ends that is timed: only then it matters whether a reply is owed.
    #[inline]
    pub fn is_watching(&self) -> bool {
        self.is_due || self.since.is_some()
    }

    /// Before a wait: whether a reply is owed for which the server has all it needs, and which we would read.
    #[inline]
    pub fn owed(&mut self, is_owed: bool) {
        if !is_owed {
            self.since = None;
        } else if self.since.is_none() && std::mem::take(&mut self.is_due) {
            self.since = Some(Instant::now());
        }
    }

    /// Something came: how long it was waited for, if that was timed and is too long.
    #[inline]
    pub fn broken(&mut self) -> Option<Duration> {
        self.since?;
        let reply_timer = self.lasting();
        self.since = None;
        reply_timer
    }

    fn lasting(&self) -> Option<Duration> {
        self.until(WOKE.get()?)
    }

    fn until(&self, woke: Instant) -> Option<Duration> {
        let reply_timer = woke.saturating_duration_since(self.since?);
        (reply_timer > self.threshold?).then_some(reply_timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn owing(threshold: Option<Duration>) -> (ReplyTimer, Instant) {
        let mut reply_timer = ReplyTimer::new(threshold);
        reply_timer.owed(true);
        let since = reply_timer.since.unwrap_or_else(Instant::now);
        (reply_timer, since)
    }

    #[test]
    fn a_reply_that_is_owed_for_too_long_is_told_of() {
        let (mut reply_timer, since) = owing(Some(20 * MS));
        reply_timer.owed(true);
        assert_eq!(reply_timer.until(since + 20 * MS), None);
        assert_eq!(reply_timer.until(since + 21 * MS), Some(21 * MS));
        reply_timer.owed(false);
        assert_eq!(reply_timer.until(since + 500 * MS), None);
    }

    #[test]
    fn one_reply_is_timed_at_each_look() {
        let (mut reply_timer, since) = owing(Some(20 * MS));
        reply_timer.broken();
        reply_timer.owed(true);
        assert_eq!(reply_timer.until(since + 500 * MS), None);
        reply_timer.look();
        reply_timer.owed(true);
        assert!(reply_timer.until(since + 500 * MS).is_some());
    }

    #[test]
    fn what_came_while_the_engine_was_busy_is_not_the_server_s_delay() {
        let woke = Instant::now();
        let (reply_timer, _) = owing(Some(20 * MS));
        // The thread has not slept since: the reply may have been there all the time.
        assert_eq!(reply_timer.until(woke), None);
    }

    #[test]
    fn without_a_threshold_nothing_is_measured() {
        let (mut reply_timer, since) = owing(None);
        assert_eq!(reply_timer.look(), None);
        reply_timer.owed(true);
        assert!(!reply_timer.is_watching());
        assert_eq!(reply_timer.until(since + 1000 * MS), None);
    }
}
