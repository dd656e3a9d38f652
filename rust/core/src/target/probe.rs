//! Pings: how long a server lets its clients wait.
//!
//! Invariant: a ping has a connection to itself, so that it measures the server as its other clients feel it
//! and not the depth of our own pipelines; a server that can't be reached is the readers' and links' business.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::event::Side;
use crate::job::engine::Engine;
use crate::net;
use crate::net::{Address, Bytes, Connection, Question};
use crate::resp::{Decoded, decode, encode};
use crate::throttle::limiter::Answer;

/// A server is pinged this often.
const EVERY: Duration = Duration::from_millis(100);

/// After a lost connection the next is opened this much later.
const RETRY: Duration = Duration::from_secs(1);

/// An answer that takes so long is given up.
const PATIENCE: Duration = Duration::from_secs(60);

impl Engine {
    /// From which latency on the reading pauses, if it does: a job that only counts keys has no pings to end it.
    pub fn pause_above(&self) -> Option<Duration> {
        self.limiter.threshold().filter(|_| !self.spec.scan_only)
    }

    /// Ping the server `name` at `address` while `is_wanted`; nothing is done without a threshold.
    pub fn probe(
        self: &Rc<Self>,
        name: String,
        address: Address,
        side: Side,
        is_wanted: impl Fn() -> bool + 'static,
    ) {
        if self.pause_above().is_none() {
            return;
        }
        let engine = Rc::clone(self);
        self.spawn(async move {
            loop {
                if is_wanted() {
                    // A server that lets a new client wait is slow as well.
                    let access = engine.login(side).current();
                    let opened = engine
                        .timed(&name, &is_wanted, net::open(&address, &access, Question::Nothing))
                        .await;
                    if let Some(Ok((mut connection, _))) = opened {
                        while is_wanted()
                            && engine
                                .timed(&name, &is_wanted, pong(&mut connection))
                                .await
                                .flatten()
                                .is_some()
                        {
                            tokio::time::sleep(EVERY).await;
                        }
                    }
                }
                engine.limiter.forget(&name);
                tokio::time::sleep(RETRY).await;
            }
        });
    }

    /// Wait for an answer of `name`, and tell how long it took; what takes too long is told while it does.
    /// `None` where the answer is given up, or not wanted any more: a node that hangs may have been failed over.
    async fn timed<T>(
        &self,
        name: &str,
        is_wanted: impl Fn() -> bool,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let begun = Instant::now();
        let mut answer = std::pin::pin!(answer);
        while begun.elapsed() < PATIENCE && is_wanted() {
            if let Ok(answer) = tokio::time::timeout(EVERY, &mut answer).await {
                self.measured(name, Answer::Ping, begun.elapsed());
                return Some(answer);
            }
            self.measured(name, Answer::NoPing, begun.elapsed());
        }
        None
    }

    /// `server` took so long for an answer, or has taken that long without one.
    pub fn measured(&self, server: &str, answer: Answer, latency: Duration) {
        self.limiter.measured(server, answer, latency, Instant::now());
    }

    /// What the source is called in a reason.
    pub fn source_server(&self) -> String {
        format!("source {}", self.spec.source)
    }

    /// What a node of the target is called in a reason.
    pub fn target_server(node: &Address) -> String {
        format!("target {node}")
    }
}

/// Send PING and wait for any answer: one that refuses it has taken its time as well.
async fn pong(connection: &mut Connection) -> Option<()> {
    let mut out = Bytes::default();
    encode::command(out.tail(), &[b"PING"]);
    loop {
        connection.exchange(&mut out, true).await.ok()?;
        if let Decoded::Whole(_, used) = decode(connection.received()).ok()? {
            connection.consume(used);
            return Some(());
        }
    }
}
