//! The barrier before a checkpoint: WAIT, on every connection that has acknowledged writes.
//!
//! Invariant: with `wait_replicas`, nothing enters a checkpoint before that many replicas of each primary
//! that acknowledged it have confirmed it. What a connection that is lost had acknowledged since its last
//! WAIT may be gone with its node: the job ends then (`TargetFailedOver`), and the control plane starts the
//! next one at the confirmed marks.
//!
//! WAIT covers the writes of its own connection (its reply comes after theirs, and it counts replicas that
//! have reached their offset). A key that was found *unchanged* is no write of ours: it is covered by any
//! later write of the same connection, and if there is none, by the replica being in sync.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::error::ErrorKind;
use crate::job::engine::Engine;
use crate::resp::{Decoded, ProtocolError, Reply, decode, encode};
use crate::target::closing::{Closing, Closings};
use crate::target::flight::{Flight, ReadProgress};
use crate::target::link::Link;
use crate::text::said;

/// While keys flow, a barrier is held this often.
const EVERY: Duration = Duration::from_millis(200);

/// After one that failed, at least so long passes to the next, and twice the WAIT's own time: it holds up
/// its connection.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// One barrier: a WAIT to each link that needs it.
#[derive(Debug)]
pub(crate) struct Round {
    open: Cell<usize>,
    short: RefCell<Option<String>>,
    done: Notify,
}

impl Round {
    fn answered(&self, short: Option<String>) {
        if let Some(short) = short {
            self.short.borrow_mut().get_or_insert(short);
        }
        self.open.set(self.open.get() - 1);
        if self.open.get() == 0 {
            self.done.notify_one();
        }
    }
}

/// A WAIT on its way.
#[derive(Debug)]
pub(crate) struct Wait {
    command: Vec<u8>,
    closing: Closing,
    round: Rc<Round>,
    reply: Option<Result<i64, String>>,
}

impl Wait {
    pub fn bytes(&self) -> &[u8] {
        &self.command
    }

    /// Read the replies, as far as they are here.
    pub fn read(&mut self, data: &[u8], closings: &Closings) -> ReadProgress {
        if let Some(reply) = &self.reply {
            return closings.read(self.closing, data, reply.is_ok());
        }
        let (reply, used) = match decode(data)? {
            Decoded::Partial(need) => return Ok((0, false, need)),
            Decoded::Whole(reply, _) if self.closing.is_answered_by(&reply) => {
                return Err(ProtocolError::at(data));
            }
            Decoded::Whole(reply, used) => (reply, used),
        };
        self.reply = Some(match reply {
            Reply::Integer(replicas) => Ok(replicas),
            Reply::Error(text) => Err(said(text)),
            other => Err(format!("{}, which WAIT never gives", other.kind())),
        });
        let (closed, done, need) = self.read(&data[used..], closings)?;
        Ok((used + closed, done, need))
    }

    /// Take the reply of `link` for what it means.
    pub fn settle(self, engine: &Engine, link: &Link) {
        let wanted = i64::from(engine.spec.wait_replicas);
        let short = match self.reply {
            Some(Ok(replicas)) if replicas >= wanted => {
                // Replies come in order: what was acknowledged until now was written before the WAIT.
                link.unconfirmed.set(false);
                None
            }
            Some(Ok(replicas)) => Some(format!(
                "{replicas} of {wanted} replicas of {} confirm",
                link.address
            )),
            Some(Err(text)) if text.starts_with("NOPERM") => {
                engine.stop(
                    ErrorKind::TargetRefused,
                    format!(
                        "the target's node {} refuses the barrier before a checkpoint: {text}",
                        link.address
                    ),
                );
                return;
            }
            // It is a replica now, or was made one while the WAIT went on.
            Some(Err(text)) => return engine.failed_over(link, &text),
            None => None,
        };
        self.round.answered(short);
    }
}

impl Engine {
    /// Whether checkpoints wait for replicas.
    pub fn has_barrier(&self) -> bool {
        self.spec.wait_replicas > 0
    }

    /// What `link` acknowledged since its last WAIT may be lost: go back to what is confirmed.
    pub fn failed_over(&self, link: &Link, reason: &str) {
        self.stop(
            ErrorKind::TargetFailedOver,
            format!(
                "the target's node {} may have lost what its replicas had not confirmed: {reason}",
                link.address
            ),
        );
    }

    /// Hold barriers until the job ends.
    pub fn hold_barriers(self: &Rc<Self>) {
        if self.has_barrier() && !self.spec.scan_only {
            self.spawn(hold(Rc::clone(self)));
        }
    }
}

async fn hold(engine: Rc<Engine>) {
    let mut held_back: Option<Instant> = None;
    let mut pause = EVERY;
    loop {
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // At the end nobody waits for the clock.
            () = engine.barrier_wanted.notified(), if held_back.is_none() => {}
        }
        if !engine.shared.ledger().begin_barrier() {
            continue;
        }
        let short = barrier(&engine).await;
        let now = Instant::now();
        if let Some(short) = short {
            let since = *held_back.get_or_insert(now);
            let reason = format!("checkpoint held back: {short}");
            if engine.is_idle() && now - since >= engine.spec.retry_for {
                let waited = (now - since).as_secs();
                return engine.stop(ErrorKind::TargetLost, format!("{reason}, for {waited} s"));
            }
            engine.health.borrow_mut().barrier(Some((since, reason)));
            pause = AFTER_FAILURE.max(2 * engine.spec.wait_timeout);
        } else {
            engine.shared.ledger().confirm();
            engine.health.borrow_mut().barrier(None);
            held_back = None;
            pause = EVERY;
            engine.changed.notify_one();
        }
    }
}

/// One barrier over all links with writes to confirm; returns who is short of replicas, if anybody is.
async fn barrier(engine: &Rc<Engine>) -> Option<String> {
    let links = engine.unconfirmed_links();
    if links.is_empty() {
        return None;
    }
    let round = Rc::new(Round {
        open: Cell::new(links.len()),
        short: RefCell::default(),
        done: Notify::new(),
    });
    let replicas = engine.spec.wait_replicas.to_string();
    let timeout = engine.spec.wait_timeout.as_millis().max(1).to_string();
    for link in links {
        let mut command = Vec::new();
        encode::command(&mut command, &[b"WAIT", replicas.as_bytes(), timeout.as_bytes()]);
        let closing = engine.closings.close(&mut command);
        link.enqueue(Flight::Wait(Wait {
            command,
            closing,
            round: Rc::clone(&round),
            reply: None,
        }));
    }
    // A link that is lost meanwhile ends the job.
    round.done.notified().await;
    round.short.take()
}
