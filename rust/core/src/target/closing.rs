//! What closes a flight: a question whose answer can be taken for no reply to another command.
//!
//! Invariant: where a flight's own answer came in its place, every reply before it was the flight's own, each in its
//! place: no reply was left out and none was one too many.

use std::cell::Cell;

use crate::reply::{Verdict, judge};
use crate::resp::{Decoded, ProtocolError, Reply, decode, encode};
use crate::target::flight::ReadProgress;

/// What the text of an ECHO begins with.
const NAME: &str = "slotferry-flight-";

/// How a flight is closed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Closing {
    /// Not yet.
    #[default]
    Open,
    /// By an ECHO of a text that no other flight of the job has.
    Echo(u64),
    /// By an INFO of a section that no server has, where ECHO is refused: a bulk string, which no write is answered with.
    Nothing,
}

/// How the flights of a job are closed.
#[derive(Debug, Default)]
pub(crate) struct Closings {
    flights: Cell<u64>,
    echo_refused: Cell<bool>,
}

impl Closings {
    /// Append what closes the next flight.
    pub fn close(&self, out: &mut Vec<u8>) -> Closing {
        if self.echo_refused.get() {
            encode::command(out, &[b"INFO", b"none"]);
            return Closing::Nothing;
        }
        let number = self.flights.get() + 1;
        self.flights.set(number);
        encode::command(out, &[b"ECHO", text(number).as_bytes()]);
        Closing::Echo(number)
    }

    /// Read the answer that closes a flight. `counts`: whether one of its other replies says that something was done; if
    /// so, the flight's own answer is wanted. Else a passing state of the node may have kept it away as it did the rest.
    pub fn read(&self, closing: Closing, data: &[u8], counts: bool) -> ReadProgress {
        let (reply, used) = match decode(data)? {
            Decoded::Partial(_) => return Ok((0, false, 0)),
            Decoded::Whole(reply, used) => (reply, used),
        };
        match reply {
            _ if closing.is_answered_by(&reply) => {
                self.echo_refused
                    .set(self.echo_refused.get() || matches!(reply, Reply::Error(_)));
            }
            Reply::Error(text) if !counts && judge(text) == Verdict::Wait => {}
            _ => return Err(ProtocolError::at(data)),
        }
        Ok((used, true, 0))
    }
}

impl Closing {
    /// Whether a reply can be to nothing but what closes the flight.
    pub fn is_answered_by(self, reply: &Reply<'_>) -> bool {
        match (self, reply) {
            (Self::Echo(number), Reply::Bulk(Some(bytes))) => *bytes == text(number).as_bytes(),
            (Self::Echo(_), Reply::Error(error)) => refuses_echo(error),
            (Self::Nothing, Reply::Bulk(Some(bytes))) => bytes.is_empty(),
            _ => false,
        }
    }
}

fn text(number: u64) -> String {
    format!("{NAME}{number:016x}")
}

/// Whether an error says that ECHO may not be used, or is not known.
fn refuses_echo(error: &[u8]) -> bool {
    let error = String::from_utf8_lossy(error);
    if error.starts_with("NOPERM") {
        return error.contains(" run the 'echo' command");
    }
    let unknown = error.strip_prefix("ERR unknown command ");
    unknown.is_some_and(|rest| rest.starts_with(['\'', '`']) && rest[1..].starts_with("ECHO"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_answer_closes_a_flight() {
        let (closings, mut out) = (Closings::default(), Vec::new());
        let closing = closings.close(&mut out);
        let answer = b"$33\r\nslotferry-flight-0000000000000001\r\n";
        assert!(out.ends_with(answer));
        assert_eq!(closings.read(closing, &answer[..20], true), Ok((0, false, 0)));
        assert_eq!(closings.read(closing, answer, true), Ok((answer.len(), true, 0)));
        let next = closings.close(&mut out);
        closings.read(next, answer, true).unwrap_err();
        let others = [
            "+OK",
            ":1",
            "$-1",
            "-BUSYKEY x",
            "-MOVED 1 a:1",
            "-NOPERM run the 'set' command",
        ];
        for other in others {
            closings
                .read(next, format!("{other}\r\n").as_bytes(), false)
                .unwrap_err();
        }
    }

    #[test]
    fn a_passing_state_closes_a_flight_of_which_nothing_counts() {
        let closings = Closings::default();
        let closing = closings.close(&mut Vec::new());
        for passing in [b"-LOADING x\r\n".as_slice(), b"-BUSY x\r\n", b"-MASTERDOWN x\r\n"] {
            assert_eq!(
                closings.read(closing, passing, false),
                Ok((passing.len(), true, 0))
            );
            closings.read(closing, passing, true).unwrap_err();
        }
    }

    #[test]
    fn where_echo_is_refused_nothing_is_asked_for() {
        let refusals = [
            "-NOPERM this user has no permissions to run the 'echo' command or its subcommand\r\n",
            "-NOPERM User mover has no permissions to run the 'echo' command\r\n",
            "-ERR unknown command 'ECHO', with args beginning with: 'slotferry-flight-1' \r\n",
            "-ERR unknown command `ECHO`, with args beginning with: `slotferry-flight-1`, \r\n",
        ];
        for refusal in refusals {
            let (closings, mut out) = (Closings::default(), Vec::new());
            let closing = closings.close(&mut out);
            assert_eq!(
                closings.read(closing, refusal.as_bytes(), true),
                Ok((refusal.len(), true, 0))
            );
            let closing = closings.close(&mut out);
            assert_eq!(closing, Closing::Nothing);
            assert_eq!(closings.read(closing, b"$0\r\n\r\n", true), Ok((6, true, 0)));
            closings.read(closing, b":1\r\n", true).unwrap_err();
            closings.read(closing, refusal.as_bytes(), true).unwrap_err();
        }
        let key = b"ERR unknown command 'RESTORE', with args beginning with: 'ECHO' ";
        assert!(!refuses_echo(key));
    }
}
