//! One connection of a handover: commands go out as they are written, replies are looked at as they come.
//!
//! Invariant: `outstanding` counts the replies that are still to come; a connection that broke is not used again.
//! One that is hung up by another thread is one that broke: what its node has done by then is not known.

use std::future::Future;
use std::io;
use std::time::{Duration, Instant};

use crate::net;
use crate::net::{Access, Address, Bytes, Connection, Deadline, HandshakeError, Hangup, Outgoing, Question};
use crate::resp::{Decoded, Reply, decode, encode};

/// A node that answers nothing for so long is given up.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Peer {
    connection: Connection,
    hangup: Hangup,
    out: Bytes,
    pub outstanding: usize,
}

impl Peer {
    /// Connect and log in. The error says why that failed.
    pub async fn open(address: &Address, access: &Access, name: &str) -> Result<Self, String> {
        let opening = net::open(address, access, Question::Nothing);
        let (connection, _) =
            unless_hung_up(&access.hangup, opening)
                .await?
                .map_err(|error| match error {
                    HandshakeError::Lost(why)
                    | HandshakeError::Denied(why)
                    | HandshakeError::Refused(why) => why,
                })?;
        let mut peer = Self {
            connection,
            hangup: access.hangup.clone(),
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
                refusal = Some(crate::text::said(text));
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
            answer(&self.hangup, self.connection.exchange(&mut self.out, false)).await?;
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
        let mut deadline = Deadline::new(PATIENCE);
        self.outstanding = self.outstanding.saturating_sub(count);
        while left > 0 {
            match decode(self.connection.received()).map_err(|error| error.to_string())? {
                Decoded::Whole(reply, used) => {
                    left += on(reply);
                    left -= 1;
                    self.connection.consume(used);
                    deadline.restart(Instant::now());
                    continue;
                }
                Decoded::Partial(need) => self.connection.expect(need),
            }
            let had = self.connection.received().len();
            answer(&self.hangup, self.connection.exchange(&mut self.out, true)).await?;
            deadline.received(self.connection.received().len() - had, Instant::now());
            if deadline.is_over(Instant::now()) {
                return Err(deadline.reason());
            }
        }
        if self.outstanding == 0 && !self.connection.received().is_empty() {
            // One reply too many: from here on each would be taken for another one's.
            return Err(net::UNASKED.to_owned());
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

/// Wait for an exchange with the node, as long as one waits for one.
async fn answer<T>(hangup: &Hangup, exchange: impl Future<Output = io::Result<T>>) -> Result<T, String> {
    unless_hung_up(hangup, tokio::time::timeout(PATIENCE, exchange))
        .await?
        .map_err(|_| format!("no reply for {} s", PATIENCE.as_secs()))?
        .map_err(|error| net::plain(&error))
}

async fn unless_hung_up<T>(hangup: &Hangup, work: impl Future<Output = T>) -> Result<T, String> {
    tokio::select! {
        biased; // so that nothing more is sent afterwards
        () = hangup.hung_up() => Err("given up, since the run was to end at once".to_owned()),
        done = work => Ok(done),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn silent_node() -> (TcpListener, Address) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, Address::tcp("127.0.0.1".to_owned(), port))
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(future)
    }

    #[test]
    fn another_thread_ends_the_wait_for_a_silent_node() {
        let (listener, address) = silent_node();
        let access = Access::default();
        let hangup = access.hangup.clone();
        let other = thread::spawn(move || {
            let (mut node, _) = listener.accept().unwrap();
            let asked = node.read(&mut [0; 100]).unwrap();
            hangup.hang_up();
            asked
        });
        let why = block_on(Peer::open(&address, &access, "name")).err().unwrap();
        assert!(why.contains("given up"), "{why}");
        assert!(other.join().unwrap() > 0);
    }

    #[test]
    fn a_reply_too_many_ends_a_connection() {
        let (listener, address) = silent_node();
        let other = thread::spawn(move || {
            let (mut node, _) = listener.accept().unwrap();
            let mut asked = [0; 1000];
            // The engine's own greeting, then our name.
            while node.read(&mut asked).is_ok_and(|count| count > 0) {
                let commands = String::from_utf8_lossy(&asked)
                    .matches("\r\n$6\r\nCLIENT\r\n")
                    .count();
                let last = String::from_utf8_lossy(&asked).contains("the-name");
                let replies = "+OK\r\n".repeat(commands) + if last { ":5\r\n" } else { "" };
                if node.write_all(replies.as_bytes()).is_err() {
                    break;
                }
                asked = [0; 1000];
            }
        });
        let why = block_on(Peer::open(&address, &Access::default(), "the-name")).err();
        assert_eq!(why.as_deref(), Some(net::UNASKED));
        other.join().unwrap();
    }

    #[test]
    fn nothing_is_sent_once_hung_up() {
        let (_listener, address) = silent_node();
        let access = Access::default();
        access.clone().hangup.hang_up();
        let why = block_on(Peer::open(&address, &access, "name")).err().unwrap();
        assert!(why.contains("given up"), "{why}");
    }
}
