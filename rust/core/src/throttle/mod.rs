//! What bounds a run: memory, rates, latency, page sizes, waits for replies.
//!
//! Invariant: a bound holds whatever the number and size of keys.

pub mod budget;
pub(crate) mod limiter;
pub(crate) mod page_size;
pub(crate) mod reply_timer;
