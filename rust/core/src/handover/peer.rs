//! One connection of a handover: commands go out as they are written, replies are looked at as they come.
//!
//! Invariant: `outstanding` counts the replies that are still to come; a connection that broke is not used again.

use std::time::Duration;

use crate::net::{self, Access, Address, Bytes, Connection, HandshakeError, Outgoing};
use crate::resp::{Decoded, Reply, decode, encode};

/// A node that answers nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Peer {
    connection: Connection,
    out: Bytes,
    pub outstanding: usize,
}

impl Peer {
    /// Connect and log in. The error says why that failed.
    pub async fn open(address: &Address, access: &Access, name: &str) -> Result<Self, String> {
        let (connection, _) = net::open(address, access, false)
            .await
            .map_err(|error| match error {
                HandshakeError::Lost(why) | HandshakeError::Denied(why) | HandshakeError::Refused(why) => why,
            })?;
        let mut peer = Self {
            connection,
            out: Bytes::default(),
            outstanding: 0,
        };
        // What tells our connections from others after a crash.
        peer.add(1, |out| {
            encode::command(out, &[b"CLIENT", b"SETNAME", name.as_bytes()]);
        });
        let mut refusal = None;
        peer.replies(1, |reply| {
            if let Reply::Error(text) = reply {
                refusal = Some(String::from_utf8_lossy(text).into_owned());
            }
            0
        })
        .await?;
        refusal.map_or(Ok(peer), Err)
    }

    /// Append commands that will have `replies` replies.
    pub fn add(&mut self, replies: usize, write: impl FnOnce(&mut Vec<u8>)) {
        write(self.out.tail());
        self.outstanding += replies;
    }

    /// Send what was appended, without waiting for replies.
    pub async fn send(&mut self) -> Result<(), String> {
        while !self.out.chunk().is_empty() {
            tokio::time::timeout(PATIENCE, self.connection.exchange(&mut self.out, false))
                .await
                .map_err(|_| silent())?
                .map_err(|error| net::plain(&error))?;
        }
        Ok(())
    }

    /// Give `on` the next `count` replies; it returns how many elements follow one, which it is given as well.
    pub async fn replies(
        &mut self,
        count: usize,
        mut on: impl FnMut(Reply<'_>) -> usize,
    ) -> Result<(), String> {
        let mut left = count;
        self.outstanding = self.outstanding.saturating_sub(count);
        while left > 0 {
            match decode(self.connection.received()).map_err(|error| error.to_string())? {
                Decoded::Whole(reply, used) => {
                    left += on(reply);
                    left -= 1;
                    self.connection.consume(used);
                    continue;
                }
                Decoded::Partial(need) => self.connection.expect(need),
            }
            tokio::time::timeout(PATIENCE, self.connection.exchange(&mut self.out, true))
                .await
                .map_err(|_| silent())?
                .map_err(|error| net::plain(&error))?;
        }
        Ok(())
    }

    /// Read what is outstanding, and forget it.
    pub async fn drain(&mut self) -> Result<(), String> {
        self.replies(self.outstanding, |reply| match reply {
            Reply::Array(Some(count)) => count,
            _ => 0,
        })
        .await
    }
}

fn silent() -> String {
    format!("no reply for {} s", PATIENCE.as_secs())
}
