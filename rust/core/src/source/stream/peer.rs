//! One connection to a source, as a replica has it.
//!
//! Invariant: what is waited for comes within a minute, or the connection counts as lost.

use std::time::{Duration, Instant};

use crate::net;
use crate::net::{Bytes, Connection};
use crate::resp::{Decoded, Tree};
use crate::source::stream::answer::{Answer, answer};
use crate::source::stream::ended::Ended;
use crate::source::stream::handshake;
use crate::source::stream::handshake::Handshake;

/// A source that says nothing for so long is connected to anew; it pings every 10 s by default.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// No reply of the handshake is longer; COMMAND of a server with every module has some 500 kB.
const MOST_BYTES: usize = 16 << 20;

/// The source at the other end of one connection.
pub(super) struct Peer {
    pub connection: Connection,
    pub out: Bytes,
    /// When bytes came last, or were last not asked for.
    pub heard: Instant,
}

impl Peer {
    pub fn new(connection: Connection) -> Self {
        Self {
            connection,
            out: Bytes::default(),
            heard: Instant::now(),
        }
    }

    /// Write what there is to write and wait for bytes; fails when none come for too long.
    pub async fn exchange(&mut self) -> Result<(), Ended> {
        let unread = self.connection.received().len();
        let left = SILENCE.saturating_sub(self.heard.elapsed());
        let exchange = self.connection.exchange(&mut self.out, true);
        match tokio::time::timeout(left, exchange).await {
            Err(_) => return Err(silent()),
            Ok(done) => done.map_err(|error| Ended::Lost(net::plain(&error)))?,
        }
        if self.connection.received().len() > unread {
            self.heard = Instant::now();
        }
        Ok(())
    }

    /// Wait for the replies to what a replica says at first.
    pub async fn shake_hands(&mut self, mut handshake: Handshake) -> Result<Handshake, Ended> {
        while !handshake.is_over() {
            match Tree::decode(self.connection.received())? {
                Decoded::Whole(reply, used) => {
                    self.connection.consume(used);
                    handshake.take(&reply)?;
                }
                Decoded::Partial(_) if self.connection.received().len() > MOST_BYTES => {
                    let most = MOST_BYTES >> 20;
                    return Err(Ended::Refused(format!(
                        "a reply of the handshake is longer than {most} MB"
                    )));
                }
                Decoded::Partial(_) => self.exchange().await?,
            }
        }
        Ok(handshake)
    }

    /// Ask for the stream, behind what was received of it or from anywhere, and wait for the answer.
    pub async fn ask(&mut self, from: Option<(&str, u64)>) -> Result<Answer, Ended> {
        handshake::psync(self.out.tail(), from);
        loop {
            match answer(self.connection.received())? {
                Decoded::Whole(answer, used) => {
                    self.connection.consume(used);
                    return Ok(answer);
                }
                Decoded::Partial(_) => self.exchange().await?,
            }
        }
    }
}

/// Nothing came for too long.
pub(super) fn silent() -> Ended {
    Ended::Lost(format!("nothing was heard for {} s", SILENCE.as_secs()))
}
