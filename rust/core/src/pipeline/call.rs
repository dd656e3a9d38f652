//! Questions and answers on a connection of their own: for what is asked seldom, one question at a time.
//!
//! Invariant: a caller whose question was not answered is not used again: its replies would be those of the
//! question before.

use std::time::Duration;

use super::Engine;
use crate::control::Side;
use crate::net::{self, Address, Bytes, Connection, HandshakeError};
use crate::resp::{Decoded, ProtocolError, Tree};

/// An answer that stays away so long is not waited for any more.
const REPLY_PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// The server is not there; another try may help.
    Lost(String),
    /// It turns us away, or speaks no RESP.
    Refused(String),
    /// It is another process than the one that was meant.
    Changed(String),
}

/// A connection to one server.
pub(super) struct Caller {
    connection: Connection,
    run_id: Option<String>,
}

impl Caller {
    /// Connect and log in; `run_id` says which process it has to be.
    pub async fn open(
        engine: &Engine,
        side: Side,
        address: &Address,
        run_id: Option<&str>,
    ) -> Result<Self, CallError> {
        let access = engine.entrance(side).current();
        let (connection, found) = net::open(address, &access, run_id.is_some())
            .await
            .map_err(|error| match error {
                HandshakeError::Lost(message) => CallError::Lost(message),
                HandshakeError::Denied(message) if engine.want_access(side, address, &message) => {
                    CallError::Lost(message)
                }
                HandshakeError::Denied(message) | HandshakeError::Refused(message) => {
                    CallError::Refused(message)
                }
            })?;
        let caller = Self {
            connection,
            run_id: found,
        };
        match (run_id, caller.run_id.as_deref().unwrap_or_default()) {
            (Some(wanted), found) if wanted != found => Err(CallError::Changed(format!(
                "is another process now (run_id {found}, the cursor is from {wanted})"
            ))),
            _ => Ok(caller),
        }
    }

    /// Send encoded commands and return their `count` replies.
    pub async fn ask(&mut self, commands: Vec<u8>, count: usize) -> Result<Vec<Tree>, CallError> {
        let mut replies = Vec::with_capacity(count);
        let mut out = Bytes::default();
        *out.tail() = commands;
        while replies.len() < count {
            replies.push(self.read(&mut out, Tree::decode).await?);
        }
        Ok(replies)
    }

    /// [`Self::ask`] for one reply.
    pub async fn ask_one(&mut self, command: Vec<u8>) -> Result<Tree, CallError> {
        self.ask_for(command, Tree::decode).await
    }

    /// Send an encoded command and return what `decode` makes of its reply, straight from the read buffer.
    pub async fn ask_for<T>(
        &mut self,
        command: Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<Decoded<T>, ProtocolError>,
    ) -> Result<T, CallError> {
        let mut out = Bytes::default();
        *out.tail() = command;
        self.read(&mut out, decode).await
    }

    async fn read<T>(
        &mut self,
        out: &mut Bytes,
        decode: impl Fn(&[u8]) -> Result<Decoded<T>, ProtocolError>,
    ) -> Result<T, CallError> {
        loop {
            match decode(self.connection.received()) {
                Ok(Decoded::Whole(reply, used)) => {
                    self.connection.consume(used);
                    return Ok(reply);
                }
                // The buffer grows by itself: how much is missing is known of the next element at best.
                Ok(Decoded::Partial(_)) => {}
                Err(error) => return Err(CallError::Refused(error.to_string())),
            }
            tokio::time::timeout(REPLY_PATIENCE, self.connection.exchange(out, true))
                .await
                .map_err(|_| {
                    let silent = REPLY_PATIENCE.as_secs();
                    CallError::Lost(format!("no reply for {silent} s"))
                })?
                .map_err(|error| CallError::Lost(net::plain(&error)))?;
        }
    }
}
