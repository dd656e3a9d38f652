//! The bytes of a snapshot that a live source makes: taken over a connection of its own, a part of the budget ahead.
//!
//! Invariant: before its first byte, what is lost is tried again; behind it, another snapshot would be another one, so the
//! job ends. A snapshot that is followed is of the history that the stream is of.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind, Side};
use crate::job::engine::{Backoff, Engine};
use crate::net::Address;
use crate::source::stream::{Ended, take_snapshot};

/// What is read ahead takes this part of the byte budget, in pieces of so many bytes at most.
const AHEAD_SHARE: usize = 8;
const PIECE: usize = 256 << 10;

/// Start to take a snapshot; what went wrong comes in the place of a piece, and nothing after it.
pub(super) fn open(engine: &Rc<Engine>) -> Receiver<Result<Vec<u8>>> {
    let ahead = (engine.spec.memory_limit / AHEAD_SHARE / PIECE).max(1);
    let (sender, receiver) = mpsc::channel(ahead);
    let taker = Rc::clone(engine);
    engine.spawn(async move {
        if let Err(error) = hand_over(&taker, &sender).await {
            // Who does not take it has ended.
            let _ = sender.send(Err(error)).await;
        }
    });
    receiver
}

async fn hand_over(engine: &Rc<Engine>, pieces: &Sender<Result<Vec<u8>>>) -> Result<()> {
    let source = &engine.spec.source;
    let mut backoff = Backoff::new();
    let mut lost: Option<Instant> = None;
    loop {
        let access = engine.login(Side::Source).current();
        let mut passed = 0;
        let begun = |id: &str| is_of_stream(engine, id);
        let Err(ended) = take_snapshot(source, &access, pieces, begun, &mut passed).await else {
            engine.health.borrow_mut().source(None, Instant::now());
            return Ok(());
        };
        let (kind, reason) = sort_out(engine, ended, source)?;
        if passed > 0 {
            let message =
                format!("source {source}: its snapshot was cut off behind {passed} bytes: {reason}");
            return Err(Error::new(ErrorKind::SourceChanged, message));
        }
        let reason = format!("source {source}: {reason}");
        let now = Instant::now();
        let since = *lost.get_or_insert_with(|| {
            engine
                .shared
                .tell(Event::new(EventKind::SourceLost, reason.clone()));
            now
        });
        let waited: Duration = now - since;
        if waited >= engine.spec.retry_for {
            return Err(Error::new(kind, format!("{reason}, for {} s", waited.as_secs())));
        }
        engine.health.borrow_mut().source(Some(reason), now);
        tokio::time::sleep(backoff.step()).await;
    }
}

/// What ended a connection, where another try may help.
fn sort_out(engine: &Engine, ended: Ended, source: &Address) -> Result<(ErrorKind, String)> {
    let message = match ended {
        Ended::Lost(reason) => return Ok((ErrorKind::SourceLost, reason)),
        Ended::LoginDenied(reason) if engine.want_access(Side::Source, source, &reason) => {
            return Ok((ErrorKind::SourceRefused, reason));
        }
        Ended::LoginDenied(reason) => format!("the source {source} rejects the connection: {reason}"),
        Ended::Denied(reason) => {
            format!(
                "the source {source} does not let this user take a snapshot: {reason} (it needs +psync +replconf +ping)"
            )
        }
        Ended::Refused(reason) => format!("no snapshot can be taken of the source {source}: {reason}"),
    };
    Err(Error::new(ErrorKind::SourceRefused, message))
}

/// A snapshot that is followed has to be of the stream's history; it was asked for later, so it does not stand before it.
fn is_of_stream(engine: &Engine, id: &str) -> std::result::Result<(), String> {
    let known = engine.follow.as_ref().and_then(|follow| follow.history());
    match known {
        Some(known) if known != id => Err(format!("its snapshot is of {id}, and its stream of {known}")),
        _ => Ok(()),
    }
}
