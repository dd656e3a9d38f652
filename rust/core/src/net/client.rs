//! A connection that asks and waits: for the few conversations that are no pipeline.
//!
//! Invariant: a call's replies are whole and in the order of its commands, or the client is not used again: its
//! replies would be those of the call before.

use std::time::{Duration, Instant};

use crate::net;
use crate::net::{Bytes, Connection, Deadline, Outgoing};
use crate::resp::{Decoded, ProtocolError, Tree, encode};

/// An answer that stays away so long is not waited for any more, or no longer than passing errors are retried.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The server is not there; another try may help.
    Lost(String),
    /// It rejects the connection, or speaks no RESP.
    Refused(String),
    /// It is another process than the one that was meant.
    Changed(String),
}

impl CallError {
    /// What it says, where all of them are met in one way.
    pub fn into_text(self) -> String {
        match self {
            Self::Lost(text) | Self::Refused(text) | Self::Changed(text) => text,
        }
    }
}

/// Why a piece of a command was not taken.
pub(crate) enum NotTaken {
    /// The connection is lost, for this reason.
    Lost(String),
    /// The server answered with this error, in the middle of the command.
    Refused(Vec<u8>),
}

/// Encoded commands that are sent together.
#[derive(Debug, Default)]
pub(crate) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    pub fn one(arguments: &[&[u8]]) -> Self {
        let mut commands = Self::default();
        commands.push(arguments);
        commands
    }

    /// What stands encoded in `bytes` already: `count` commands, of which the first may have been begun before.
    pub fn encoded(bytes: Vec<u8>, count: usize) -> Self {
        Self { bytes, count }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn push(&mut self, arguments: &[&[u8]]) {
        encode::command(&mut self.bytes, arguments);
        self.count += 1;
    }

    pub fn append(&mut self, other: &Self) {
        self.bytes.extend_from_slice(&other.bytes);
        self.count += other.count;
    }
}

/// A connection to one server.
pub(crate) struct Client {
    connection: Connection,
    deadline: Deadline,
}

impl Client {
    /// Talk over what is opened; an answer that stays away for `patience` is not waited for any longer.
    pub fn new(connection: Connection, patience: Duration) -> Self {
        Self {
            connection,
            deadline: Deadline::new(PATIENCE.min(patience)),
        }
    }

    /// Send commands and return their replies.
    pub async fn call(&mut self, commands: Commands) -> Result<Vec<Tree>, CallError> {
        self.check_nothing_left()?;
        let mut replies = Vec::with_capacity(commands.count);
        let mut out = Bytes::default();
        *out.tail() = commands.bytes;
        self.deadline.restart(Instant::now());
        while replies.len() < commands.count {
            replies.push(self.read(&mut out, Tree::decode).await?);
        }
        Ok(replies)
    }

    /// Fails where a reply is here already: it would be taken for the one to the next command.
    fn check_nothing_left(&self) -> Result<(), CallError> {
        if self.connection.received().is_empty() {
            return Ok(());
        }
        Err(CallError::Lost(net::UNASKED.to_owned()))
    }

    /// Send an encoded command and return what `decode` makes of its reply, straight from the read buffer.
    pub async fn ask<T>(
        &mut self,
        command: Vec<u8>,
        decode: impl Fn(&[u8]) -> Result<Decoded<T>, ProtocolError>,
    ) -> Result<T, CallError> {
        self.check_nothing_left()?;
        let mut out = Bytes::default();
        *out.tail() = command;
        self.deadline.restart(Instant::now());
        self.read(&mut out, decode).await
    }

    /// Send a piece of a command; what follows, and its reply, are for [`Self::call`].
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), NotTaken> {
        let mut out = Bytes::default();
        out.tail().extend_from_slice(piece);
        self.deadline.restart(Instant::now());
        while !out.chunk().is_empty() {
            let exchanged = self.exchange(&mut out).await;
            exchanged.map_err(|error| NotTaken::Lost(error.into_text()))?;
            if !self.connection.received().is_empty() {
                return Err(match Tree::decode(self.connection.received()) {
                    Ok(Decoded::Whole(Tree::Error(text), _)) => NotTaken::Refused(text),
                    _ => NotTaken::Lost("a reply came before its command was sent".to_owned()),
                });
            }
        }
        Ok(())
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
                    self.deadline.restart(Instant::now());
                    return Ok(reply);
                }
                // The buffer grows by itself: how much is missing is known of the next element at best.
                Ok(Decoded::Partial(_)) => {}
                Err(error) => return Err(CallError::Refused(error.to_string())),
            }
            self.exchange(out).await?;
        }
    }

    async fn exchange(&mut self, out: &mut Bytes) -> Result<(), CallError> {
        let (left, had) = (out.chunk().len(), self.connection.received().len());
        let wait = self.deadline.left(Instant::now());
        tokio::time::timeout(wait, self.connection.exchange(out, true))
            .await
            .map_err(|_| CallError::Lost(self.deadline.reason()))?
            .map_err(|error| CallError::Lost(net::plain(&error)))?;
        if out.chunk().len() < left {
            // A value that takes long to be written can't be answered before.
            self.deadline.restart(Instant::now());
        }
        self.deadline
            .received(self.connection.received().len() - had, Instant::now());
        Ok(())
    }
}
