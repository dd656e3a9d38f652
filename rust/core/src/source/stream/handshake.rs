//! What a replica says before it asks for the stream, sans-IO, and what the answers mean.
//!
//! Invariant: nothing is announced that would change the stream's format (no compression, no second channel), and where
//! the source can leave its data out, it is asked to.

use std::collections::VecDeque;

use crate::resp::{Tree, encode};
use crate::source::keys::Table;
use crate::source::stream::answer::Answer;
use crate::source::stream::ended::Ended;
use crate::text::said;

/// The version that is announced to Valkey, which else sends an RDB version that can't hold all of its types.
const VERSION: &[u8] = b"9.0.0";

/// What one of the replies is to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Commands,
    Ping,
    /// An option that every source knows.
    Replconf,
    /// The version: newer servers alone know the option.
    Version,
    /// To leave the data out: 7.0 on.
    Filter,
    /// To send the data alone, without the commands behind it: 6.2 on.
    Alone,
}

/// Said of a source that sends no data alone.
const NOT_ALONE: &str = "it sends no snapshot alone (REPLCONF rdb-only), which came with Redis 6.2";

/// A request, and what its reply is to.
type Request = (Asked, &'static [&'static [u8]]);

/// What every replica says.
const COMMON: [Request; 4] = [
    (Asked::Ping, &[b"PING"]),
    (Asked::Replconf, &[b"REPLCONF", b"listening-port", b"0"]),
    (
        Asked::Replconf,
        &[b"REPLCONF", b"capa", b"eof", b"capa", b"psync2"],
    ),
    (Asked::Version, &[b"REPLCONF", b"version", VERSION]),
];

/// The requests before PSYNC, whose replies are still to come.
#[derive(Debug)]
pub(crate) struct Handshake {
    asked: VecDeque<Asked>,
    /// What the source says of its commands.
    table: Option<Table>,
    /// Whether the source leaves its data out of the snapshot.
    pub without_data: bool,
}

impl Handshake {
    /// Ask for all that the stream of commands takes, at once.
    pub fn begin(out: &mut Vec<u8>) -> Self {
        let filter: Request = (Asked::Filter, &[b"REPLCONF", b"rdb-filter-only", b""]);
        let commands: Request = (Asked::Commands, &[b"COMMAND"]);
        Self::ask(out, &[&[commands], &COMMON[..], &[filter]].concat())
    }

    /// Ask for all that a snapshot takes, at once.
    pub fn begin_snapshot(out: &mut Vec<u8>) -> Self {
        let alone: Request = (Asked::Alone, &[b"REPLCONF", b"rdb-only", b"1"]);
        Self::ask(out, &[&COMMON[..], &[alone]].concat())
    }

    fn ask(out: &mut Vec<u8>, requests: &[Request]) -> Self {
        for (_, request) in requests {
            encode::command(out, request);
        }
        Self {
            asked: requests.iter().map(|(asked, _)| *asked).collect(),
            table: None,
            without_data: false,
        }
    }

    /// Whether no more replies are to come.
    pub fn is_over(&self) -> bool {
        self.asked.is_empty()
    }

    /// The table of commands, once it has come.
    pub fn take_table(&mut self) -> Option<Table> {
        self.table.take()
    }

    /// A reply has come.
    pub fn take(&mut self, reply: &Tree) -> Result<(), Ended> {
        let Some(asked) = self.asked.pop_front() else {
            return Ok(());
        };
        match (asked, reply) {
            (Asked::Version, Tree::Error(error)) if !error.starts_with(b"NOPERM") => Ok(()),
            (Asked::Filter, Tree::Error(error)) if !error.starts_with(b"NOPERM") => Ok(()),
            (Asked::Alone, Tree::Error(error)) if error.starts_with(b"ERR Unrecognized") => {
                Err(Ended::Refused(NOT_ALONE.to_owned()))
            }
            (_, Tree::Error(error)) => Err(refusal(asked, error)),
            (Asked::Commands, table) => {
                let table = Table::from_reply(table).map_err(|error| Ended::Refused(error.to_string()))?;
                self.table = Some(table);
                Ok(())
            }
            (Asked::Filter, _) => {
                self.without_data = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn refusal(asked: Asked, error: &[u8]) -> Ended {
    let text = said(error);
    let name = match asked {
        Asked::Commands => "COMMAND",
        Asked::Ping => "PING",
        _ => "REPLCONF",
    };
    match text.split(' ').next().unwrap_or_default() {
        "LOADING" | "BUSY" | "MASTERDOWN" => Ended::Lost(format!("{name}: {text}")),
        "NOPERM" | "NOAUTH" => Ended::Denied(format!("{name}: {text}")),
        _ => Ended::Refused(format!("{name}: {text}")),
    }
}

/// Ask for the stream: behind what was received of it, or from anywhere.
pub(crate) fn psync(out: &mut Vec<u8>, position: Option<(&str, u64)>) {
    match position {
        None => encode::command(out, &[b"PSYNC", b"?", b"-1"]),
        Some((id, offset)) => {
            let next = (offset + 1).to_string();
            encode::command(out, &[b"PSYNC", id.as_bytes(), next.as_bytes()]);
        }
    }
}

/// Tell the source what was received.
pub(crate) fn acknowledge(out: &mut Vec<u8>, offset: u64) {
    encode::command(out, &[b"REPLCONF", b"ACK", offset.to_string().as_bytes()]);
}

/// An answer to PSYNC that brings no stream.
pub(crate) fn no_stream(answer: Answer) -> Ended {
    match answer {
        Answer::Later(text) => Ended::Lost(format!("PSYNC: {text}")),
        Answer::Denied(text) => Ended::Denied(format!("PSYNC: {text}")),
        Answer::Refused(text) => Ended::Refused(format!("PSYNC: {text}")),
        Answer::FullResync { .. } | Answer::Continue { .. } => Ended::Lost("PSYNC: a stream".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> Tree {
        Tree::Error(text.as_bytes().to_vec())
    }

    fn begun() -> Handshake {
        let mut out = Vec::new();
        let mut handshake = Handshake::begin(&mut out);
        let table = "*1\r\n*6\r\n$3\r\nset\r\n:-3\r\n*1\r\n+write\r\n:1\r\n:1\r\n:1\r\n";
        let crate::resp::Decoded::Whole(table, _) = Tree::decode(table.as_bytes()).unwrap() else {
            panic!("is whole");
        };
        handshake.take(&table).unwrap();
        handshake
    }

    #[test]
    fn an_old_server_knows_neither_version_nor_filter() {
        let ok = Tree::Text(b"OK".to_vec());
        let mut handshake = begun();
        for reply in [
            &ok,
            &ok,
            &ok,
            &error("ERR Unrecognized REPLCONF option: version"),
            &error("ERR x"),
        ] {
            assert!(!handshake.is_over());
            handshake.take(reply).unwrap();
        }
        assert!(handshake.is_over() && !handshake.without_data && handshake.take_table().is_some());
        let mut handshake = begun();
        for _ in 0..5 {
            handshake.take(&ok).unwrap();
        }
        assert!(handshake.is_over() && handshake.without_data);
    }

    #[test]
    fn a_source_that_sends_no_snapshot_alone_is_told() {
        let mut handshake = Handshake::begin_snapshot(&mut Vec::new());
        for _ in 0..4 {
            handshake.take(&Tree::Text(b"OK".to_vec())).unwrap();
        }
        let refused = handshake.take(&error("ERR Unrecognized REPLCONF option: rdb-only"));
        assert_eq!(refused, Err(Ended::Refused(NOT_ALONE.to_owned())));
        assert!(handshake.is_over());
    }

    #[test]
    fn refusals_are_told_apart() {
        for (text, expected) in [
            ("LOADING Redis is loading the dataset in memory", "lost"),
            (
                "NOPERM User f has no permissions to run the 'replconf' command",
                "denied",
            ),
            ("ERR unknown command 'PING'", "refused"),
        ] {
            let found = match begun().take(&error(text)) {
                Err(Ended::Lost(_)) => "lost",
                Err(Ended::Denied(_)) => "denied",
                Err(Ended::Refused(_)) => "refused",
                other => panic!("{text}: {other:?}"),
            };
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn the_stream_is_asked_for_behind_what_was_received() {
        let mut out = Vec::new();
        psync(&mut out, Some(("abc", 41)));
        assert_eq!(out, b"*3\r\n$5\r\nPSYNC\r\n$3\r\nabc\r\n$2\r\n42\r\n");
    }
}
