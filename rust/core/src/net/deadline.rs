//! When a peer that owes a reply has waited for too long with it.
//!
//! Invariant: a large reply has as long as its bytes take at a slow line's rate, and a peer that sends a byte now and
//! then gains next to nothing by it, nor does one that stops in the middle. Whoever waits says what progress is, by
//! [`Deadline::restart`]: a reply that is whole, never bytes alone.

use std::time::{Duration, Instant};

/// Bytes in a second that a slow line carries.
const SLOWEST: u32 = 4096;

/// How long a reply is waited for.
#[derive(Debug)]
pub struct Deadline {
    patience: Duration,
    since: Instant,
    bytes: u64,
    /// When the last of them came.
    heard: Instant,
}

impl Deadline {
    /// Wait for `patience`, from now on.
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            since: Instant::now(),
            bytes: 0,
            heard: Instant::now(),
        }
    }

    /// A reply has come whole, or none is owed: the next has its own time.
    #[inline]
    pub fn restart(&mut self, now: Instant) {
        self.since = now;
        self.bytes = 0;
    }

    /// So many bytes of the reply have come.
    #[inline]
    pub fn received(&mut self, bytes: usize, now: Instant) {
        if bytes > 0 {
            self.bytes += bytes as u64;
            self.heard = now;
        }
    }

    /// For how long the reply stays away, beyond the time that its bytes may take.
    pub fn overdue(&self, now: Instant) -> Duration {
        let allowed = Duration::from_secs(self.bytes) / SLOWEST;
        now.saturating_duration_since(self.since).saturating_sub(allowed)
    }

    /// Whether the reply is not waited for any more: not at all, or since nothing more of it comes.
    pub fn is_over(&self, now: Instant) -> bool {
        let stopped = self.bytes > 0 && now.saturating_duration_since(self.heard) > self.patience;
        stopped || self.overdue(now) > self.patience
    }

    /// How long it is waited for.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    /// What is said of a reply that is not waited for any more.
    pub fn reason(&self) -> String {
        let patience = self.patience.as_secs_f64();
        if self.bytes == 0 {
            format!("no reply for {patience:.0} s")
        } else {
            format!("no whole reply for {patience:.0} s, {} bytes of it", self.bytes)
        }
    }

    /// How long to wait until it may be over, if nothing comes meanwhile.
    pub fn left(&self, now: Instant) -> Duration {
        let allowed = Duration::from_secs(self.bytes) / SLOWEST;
        let end = self.since + self.patience + allowed;
        let stopped = if self.bytes > 0 {
            self.heard + self.patience
        } else {
            end
        };
        end.min(stopped).saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_byte_a_second_is_no_progress() {
        let mut deadline = Deadline::new(60 * SECOND);
        let start = deadline.since;
        for _ in 0..60 {
            deadline.received(1, start + 60 * SECOND);
        }
        assert!(!deadline.is_over(start + 60 * SECOND));
        assert!(deadline.is_over(start + 61 * SECOND));
        assert!(deadline.reason().contains("60 bytes"));
    }

    #[test]
    fn a_large_reply_has_as_long_as_a_slow_line_takes() {
        let mut deadline = Deadline::new(60 * SECOND);
        let start = deadline.since;
        for second in 1..=150 {
            deadline.received(SLOWEST as usize * 2 / 3, start + second * SECOND);
        }
        assert!(!deadline.is_over(start + 159 * SECOND));
        assert!(deadline.is_over(start + 161 * SECOND));
        deadline.restart(start + 161 * SECOND);
        assert!(!deadline.is_over(start + 221 * SECOND));
    }

    #[test]
    fn a_reply_that_stops_in_the_middle_is_not_waited_for() {
        let mut deadline = Deadline::new(SECOND);
        let start = deadline.since;
        deadline.received(100 * SLOWEST as usize, start);
        assert!(!deadline.is_over(start + SECOND));
        assert!(deadline.is_over(start + 2 * SECOND));
        assert_eq!(deadline.left(start), SECOND);
    }
}
