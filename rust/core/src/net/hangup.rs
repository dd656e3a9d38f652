//! Hanging up from another thread on a node that does not answer.
//!
//! Invariant: once hung up, always hung up: what waits is woken, and what would begin to wait later is not let.

use std::sync::Arc;

use tokio::sync::watch;

/// A way to hang up, shared by its clones.
#[derive(Clone, Debug)]
pub struct Hangup(Arc<watch::Sender<bool>>);

impl Default for Hangup {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(false)))
    }
}

impl Hangup {
    /// Hang up on everybody who heeds it. May be called by any thread, and again.
    pub fn hang_up(&self) {
        self.0.send_replace(true);
    }

    /// Wait until somebody hangs up.
    pub async fn hung_up(&self) {
        // The sender is ours, so it is never gone.
        let _ = self.0.subscribe().wait_for(|hung_up| *hung_up).await;
    }
}
