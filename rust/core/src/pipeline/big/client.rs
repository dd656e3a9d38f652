//! A connection that asks and waits: for the few conversations that are no pipeline.
//!
//! Invariant: a call's replies are whole and in the order of its commands, or the connection is given up.

use std::time::Duration;

use crate::net::{self, Access, Address, Bytes, Connection, HandshakeError, Outgoing};
use crate::resp::{Decoded, ProtocolError, Reply, decode, encode};

/// A server whose reply stays away so long is connected to anew.
const PATIENCE: Duration = Duration::from_secs(60);

/// A reply, with its elements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Value {
    Simple(Vec<u8>),
    Error(Vec<u8>),
    Integer(i64),
    Bulk(Vec<u8>),
    Nil,
    Array(Vec<Value>),
}

impl Value {
    pub fn integer(&self) -> Option<i64> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Bulk(digits) => std::str::from_utf8(digits).ok()?.parse().ok(),
            _ => None,
        }
    }

    pub fn array(self) -> Option<Vec<Self>> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    pub fn bytes(self) -> Option<Vec<u8>> {
        match self {
            Self::Bulk(bytes) | Self::Simple(bytes) => Some(bytes),
            _ => None,
        }
    }

    /// The bytes of an array of bulk strings.
    pub fn strings(self) -> Option<Vec<Vec<u8>>> {
        self.array()?.into_iter().map(Self::bytes).collect()
    }
}

/// Why a piece of a command was not taken.
pub(super) enum NotTaken {
    /// The connection is lost, for this reason.
    Lost(String),
    /// The server answered with this error, in the middle of the command.
    Refused(Vec<u8>),
}

/// Encoded commands that are sent together.
#[derive(Debug, Default)]
pub(super) struct Commands {
    bytes: Vec<u8>,
    count: usize,
}

impl Commands {
    pub fn one(arguments: &[&[u8]]) -> Self {
        let mut commands = Self::default();
        commands.push(arguments);
        commands
    }

    /// The rest of one command whose beginning was sent before: `piece` as it stands.
    pub fn rest(piece: Vec<u8>) -> Self {
        Self {
            bytes: piece,
            count: 1,
        }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    pub fn push(&mut self, arguments: &[&[u8]]) {
        encode::command(&mut self.bytes, arguments);
        self.count += 1;
    }
}

pub(super) struct Client {
    connection: Connection,
    pub run_id: Option<String>,
}

impl Client {
    pub async fn open(address: &Address, access: &Access, info: bool) -> Result<Self, HandshakeError> {
        let (connection, run_id) = net::open(address, access, info).await?;
        Ok(Self { connection, run_id })
    }

    /// Send a piece of a command; what follows, and its reply, are for [`Self::call`].
    pub async fn push(&mut self, piece: &[u8]) -> Result<(), NotTaken> {
        let mut out = Bytes::default();
        out.tail().extend_from_slice(piece);
        while !out.chunk().is_empty() {
            self.exchange(&mut out).await.map_err(NotTaken::Lost)?;
            if !self.connection.received().is_empty() {
                return Err(match parse(self.connection.received()) {
                    Ok(Decoded::Whole(Value::Error(text), _)) => NotTaken::Refused(text),
                    _ => NotTaken::Lost("a reply came before its command was sent".to_owned()),
                });
            }
        }
        Ok(())
    }

    async fn exchange(&mut self, out: &mut Bytes) -> Result<(), String> {
        tokio::time::timeout(PATIENCE, self.connection.exchange(out, true))
            .await
            .map_err(|_| format!("no reply for {} s", PATIENCE.as_secs()))?
            .map_err(|error| net::plain(&error))
    }

    /// Send commands and return their replies, or why the connection is lost.
    pub async fn call(&mut self, commands: &Commands) -> Result<Vec<Value>, String> {
        let mut out = Bytes::default();
        out.tail().extend_from_slice(&commands.bytes);
        let mut replies = Vec::with_capacity(commands.count);
        while replies.len() < commands.count {
            self.exchange(&mut out).await?;
            while replies.len() < commands.count {
                match parse(self.connection.received()).map_err(|error| error.to_string())? {
                    Decoded::Whole(value, used) => {
                        replies.push(value);
                        self.connection.consume(used);
                    }
                    Decoded::Partial(need) => {
                        self.connection.expect(need);
                        break;
                    }
                }
            }
        }
        Ok(replies)
    }
}

/// Look for one whole reply, arrays with all that they hold.
fn parse(data: &[u8]) -> Result<Decoded<Value>, ProtocolError> {
    let (reply, mut at) = match decode(data)? {
        Decoded::Partial(need) => return Ok(Decoded::Partial(need)),
        Decoded::Whole(reply, used) => (reply, used),
    };
    let value = match reply {
        Reply::Simple(text) => Value::Simple(text.to_vec()),
        Reply::Error(text) => Value::Error(text.to_vec()),
        Reply::Integer(number) => Value::Integer(number),
        Reply::Bulk(Some(bytes)) => Value::Bulk(bytes.to_vec()),
        Reply::Bulk(None) | Reply::Array(None) => Value::Nil,
        Reply::Array(Some(count)) => {
            let mut items = Vec::new();
            for _ in 0..count {
                match parse(&data[at..])? {
                    Decoded::Whole(item, used) => {
                        at += used;
                        items.push(item);
                    }
                    Decoded::Partial(need) => return Ok(Decoded::Partial(at + need)),
                }
            }
            Value::Array(items)
        }
    };
    Ok(Decoded::Whole(value, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_come_with_what_they_hold() {
        let data = b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n$-1\r\n+OK\r\nrest";
        let expected = Value::Array(vec![
            Value::Integer(1),
            Value::Array(vec![Value::Bulk(b"a".to_vec()), Value::Nil]),
            Value::Simple(b"OK".to_vec()),
        ]);
        assert_eq!(parse(data), Ok(Decoded::Whole(expected, data.len() - 4)));
        for end in 0..data.len() - 4 {
            assert!(
                matches!(parse(&data[..end]), Ok(Decoded::Partial(need)) if need > end),
                "{end}"
            );
        }
    }
}
