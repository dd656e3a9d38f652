//! A snapshot of a source, taken over a connection of its own, without the commands behind it.
//!
//! Invariant: the bytes are handed over as they come, no more than one read of them held here; who takes them sets the
//! pace, and the source's child waits meanwhile.

use std::time::Instant;

use tokio::sync::mpsc::Sender;

use crate::error::Result as EngineResult;
use crate::net;
use crate::net::{Access, Address, Question};
use crate::source::stream::answer::Answer;
use crate::source::stream::ended::Ended;
use crate::source::stream::handshake;
use crate::source::stream::handshake::Handshake;
use crate::source::stream::peer::Peer;
use crate::source::stream::snapshot::SnapshotFrame;

/// Take a snapshot, and hand its bytes over, `passed` of them so far; `begun` is given its history and
/// its offset there before the first of them, and may refuse it with a reason. Returns when it is over, or nobody takes its bytes any more.
pub(crate) async fn take_snapshot(
    address: &Address,
    access: &Access,
    pieces: &Sender<EngineResult<Vec<u8>>>,
    begun: impl FnOnce(&str, u64) -> Result<(), String>,
    passed: &mut u64,
) -> Result<(), Ended> {
    let mut access = access.clone();
    (access.database, access.untouched) = (0, false);
    let (connection, _) = net::open(address, &access, Question::Nothing).await?;
    let mut peer = Peer::new(connection);
    let handshake = Handshake::begin_snapshot(peer.out.tail());
    peer.shake_hands(handshake).await?;
    match peer.ask(None).await? {
        Answer::FullResync { id, offset } => begun(&id, offset).map_err(Ended::Lost)?,
        Answer::Continue { .. } => return Err(Ended::Lost("PSYNC: it goes on with nothing".to_owned())),
        other => return Err(handshake::no_stream(other)),
    }
    let mut frame = SnapshotFrame::default();
    loop {
        let part = frame.take(peer.connection.received())?;
        if !part.body.is_empty() {
            let piece = peer.connection.received()[part.body].to_vec();
            *passed += piece.len() as u64;
            if pieces.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
            // It was not listened to for as long as that took.
            peer.heard = Instant::now();
        }
        peer.connection.consume(part.used);
        if part.is_over {
            return Ok(());
        }
        peer.exchange().await?;
    }
}
