//! The bytes of a snapshot that a live source makes: taken over a connection of its own, a part of the budget ahead.
//!
//! Invariant: before its first byte, what is lost is tried again; behind it, another snapshot would be another one, so the
//! job ends. A snapshot was begun after it was asked for, and one that is followed is of the history that the stream is of.

use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, Receiver, Sender};

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, EventKind, Side};
use crate::job::engine::{Backoff, Engine};
use crate::net::Address;
use crate::net::client::{CallError, Commands};
use crate::reply::info_field;
use crate::resp::Tree;
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
        let taken = match offset_now(engine).await {
            Ok(least) => {
                let begun = |id: &str, offset: u64| {
                    is_of_now(offset, least)?;
                    is_of_stream(engine, id)?;
                    engine.health.borrow_mut().source(None, Instant::now());
                    Ok(())
                };
                take_snapshot(source, &access, pieces, begun, &mut passed).await
            }
            Err(ended) => Err(ended),
        };
        let Err(ended) = taken else {
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

/// How far the source's history has come.
async fn offset_now(engine: &Engine) -> std::result::Result<u64, Ended> {
    let call = async {
        let mut client = engine.converse(Side::Source, &engine.spec.source, None).await?;
        client.call(Commands::one(&[b"INFO", b"replication"])).await
    };
    let replies = call.await.map_err(|error| match error {
        CallError::Lost(reason) | CallError::Changed(reason) => Ended::Lost(reason),
        CallError::Refused(reason) => Ended::Refused(reason),
    })?;
    let info = replies.first().and_then(Tree::text).map(String::from_utf8_lossy);
    let offset = info
        .as_deref()
        .and_then(|info| info_field(info, "master_repl_offset")?.parse().ok());
    offset.ok_or_else(|| Ended::Refused("it does not tell its offset (INFO replication)".to_owned()))
}

/// Who has its snapshots go over a disk sends one that it has begun for another replica, which may be as old as that is long.
fn is_of_now(offset: u64, least: u64) -> std::result::Result<(), String> {
    if offset < least {
        return Err(format!(
            "it sends a snapshot that it had begun for another replica before (offset {offset}, {least} by now); \
             the next one is waited for"
        ));
    }
    Ok(())
}

/// A snapshot that is followed has to be of the stream's history.
fn is_of_stream(engine: &Engine, id: &str) -> std::result::Result<(), String> {
    let known = engine.follow.as_ref().and_then(|follow| follow.history());
    match known {
        Some(known) if known != id => Err(format!("its snapshot is of {id}, and its stream of {known}")),
        _ => Ok(()),
    }
}
