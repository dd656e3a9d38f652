//! One connection that is attached to a source as a replica, and what is known of where its stream stands.
//!
//! Invariant: a position is a place between two commands of one history: after a lost connection the stream is asked
//! for from there, and every command comes whole, at least once. What the source can't go on with is said
//! ([`Begun::Anew`]) before any command that follows is told.

use std::time::{Duration, Instant};

use crate::ledger::position::Position;
use crate::net;
use crate::net::{Access, Address, Question};
use crate::source::keys::{Effect, KeyReader};
use crate::source::stream::answer::Answer;
use crate::source::stream::ended::Ended;
use crate::source::stream::handshake;
use crate::source::stream::handshake::Handshake;
use crate::source::stream::peer::{Peer, SILENCE, silent};
use crate::source::stream::snapshot::SnapshotFrame;

/// How often what was received is acknowledged: without it the source hangs up after `repl-timeout`.
const ACK_EVERY: Duration = Duration::from_secs(1);

/// How a stream begins on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Where it was asked for.
    Resumed,
    /// At the source's present offset: what came between is not known. Without data, or behind a snapshot that was read
    /// past, of so many bytes.
    Anew {
        /// Whether the source could leave its data out.
        without_data: bool,
        /// Bytes of the snapshot.
        snapshot: u64,
    },
}

/// Who is told what the stream brings; never waited for.
pub trait Follower {
    /// The stream begins here.
    fn begun(&mut self, begun: Begun, position: &Position);
    /// A command did this; it begins behind `offset`, where `selected` is the database. The answer counts for
    /// [`Effect::KeyInPart`].
    fn effect(&mut self, effect: Effect<'_>, offset: u64, selected: u32) -> bool;
    /// All commands up to here were told of: the offset, the database that is selected, and how many commands, and how
    /// many of them wrote, since the last time.
    fn received(&mut self, offset: u64, selected: u32, commands: u64, writes: u64);
}

/// Follows one source, a connection after another.
#[derive(Debug, Default)]
pub struct Attachment {
    position: Option<Position>,
}

impl Attachment {
    /// Begin at `position`; none: anywhere.
    pub fn new(position: Option<Position>) -> Self {
        Self { position }
    }

    /// One connection's life.
    pub async fn follow(
        &mut self,
        address: &Address,
        access: &Access,
        follower: &mut impl Follower,
    ) -> Ended {
        match self.serve(address, access, follower).await {
            Ok(never) => match never {},
            Err(ended) => ended,
        }
    }

    async fn serve(
        &mut self,
        address: &Address,
        access: &Access,
        follower: &mut impl Follower,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut access = access.clone();
        // The stream selects databases itself.
        (access.database, access.untouched) = (0, false);
        let (connection, _) = net::open(address, &access, Question::Nothing).await?;
        let mut peer = Peer::new(connection);
        let begun = Handshake::begin(peer.out.tail());
        let mut handshake = peer.shake_hands(begun).await?;
        let table = handshake.take_table();
        let table = table.ok_or_else(|| Ended::Refused("no reply to COMMAND".to_owned()))?;
        let without_data = handshake.without_data;
        let begun = self.ask(&mut peer, without_data).await?;
        let Some(position) = &mut self.position else {
            return Err(Ended::Lost("no position in the stream".to_owned()));
        };
        follower.begun(begun, position);
        let mut reader = KeyReader::new(table, position.offset, position.database);
        let served = peer.read_stream(&mut reader, follower).await;
        (position.offset, position.database) = reader.start();
        served
    }

    /// Ask for the stream, and read up to where it begins.
    async fn ask(&mut self, peer: &mut Peer, without_data: bool) -> Result<Begun, Ended> {
        let from = self.position.as_ref();
        let answer = peer.ask(from.map(|at| (at.id.as_str(), at.offset))).await?;
        match (answer, &mut self.position) {
            (Answer::Continue { id }, Some(position)) => {
                if let Some(id) = id {
                    position.id = id;
                }
                Ok(Begun::Resumed)
            }
            (Answer::Continue { .. }, None) => Err(Ended::Lost("PSYNC: it goes on with nothing".to_owned())),
            (Answer::FullResync { id, offset }, position) => {
                let mut skipper = SnapshotFrame::default();
                loop {
                    let (used, over) = skipper.skip(peer.connection.received())?;
                    peer.connection.consume(used);
                    if over {
                        break;
                    }
                    peer.exchange().await?;
                }
                *position = Some(Position {
                    id,
                    offset,
                    database: skipper.selected_database().unwrap_or(0),
                });
                Ok(Begun::Anew {
                    without_data,
                    snapshot: skipper.bytes(),
                })
            }
            (other, _) => Err(handshake::no_stream(other)),
        }
    }
}

impl Peer {
    /// Read the commands, and tell of them, until the connection ends.
    async fn read_stream(
        &mut self,
        reader: &mut KeyReader,
        follower: &mut impl Follower,
    ) -> Result<std::convert::Infallible, Ended> {
        let mut tick = tokio::time::interval(ACK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut counts = reader.counts();
        loop {
            let data = self.connection.received();
            if !data.is_empty() {
                self.heard = Instant::now();
                let read = reader.read(data, |effect, offset, selected| {
                    follower.effect(effect, offset, selected)
                });
                let (commands, writes) = reader.counts();
                let (offset, selected) = reader.start();
                follower.received(offset, selected, commands - counts.0, writes - counts.1);
                counts = (commands, writes);
                let progress = read?;
                self.connection.consume(progress.used);
                if progress.need > 0 {
                    self.connection.expect(progress.need);
                }
                if reader.take_ack_wanted() {
                    handshake::acknowledge(self.out.tail(), reader.offset());
                }
            }
            tokio::select! {
                exchanged = self.connection.exchange(&mut self.out, true) => {
                    exchanged.map_err(|error| Ended::Lost(net::plain(&error)))?;
                }
                _ = tick.tick() => {
                    if self.heard.elapsed() > SILENCE {
                        return Err(silent());
                    }
                    handshake::acknowledge(self.out.tail(), reader.offset());
                }
            }
        }
    }
}
