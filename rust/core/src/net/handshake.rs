//! From a transport to a connection that is logged in, in its database, and known by name.
//!
//! Invariant: RESP2 all along; a refusal is told from a connection that is lost, since only the second is
//! worth another try.

use std::io;
use std::time::Duration;

use crate::net::{Access, Address, Bytes, Connection, Identity, Question};
use crate::resp::{Decoded, Tree, encode};
use crate::text::said;

/// How long connecting and logging in may take, where the access does not say.
const PATIENCE: Duration = Duration::from_secs(10);

/// No reply to a login is longer; CLUSTER SLOTS of a thousand nodes, whose slots are in single ranges, is shorter.
const MOST_BYTES: usize = 32 << 20;

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Not reachable now; another try may help.
    #[error("{0}")]
    Lost(String),
    /// The login is refused; another one may help.
    #[error("{0}")]
    Denied(String),
    /// The server rejects the connection; another try won't help.
    #[error("{0}")]
    Refused(String),
}

/// Open a connection: dial, AUTH, SELECT, name ourselves, and ask the server who it is as far as `question` says;
/// all of it in one round trip.
pub async fn open(
    address: &Address,
    access: &Access,
    question: Question,
) -> Result<(Connection, Identity), HandshakeError> {
    let patience = access.patience.unwrap_or(PATIENCE);
    tokio::time::timeout(patience, shake(address, access, question))
        .await
        .unwrap_or_else(|_| {
            Err(HandshakeError::Lost(format!(
                "no answer within {} s",
                patience.as_secs()
            )))
        })
}

/// What one of the replies is to.
#[derive(Clone, Copy)]
enum Asked {
    /// AUTH or SELECT, which must succeed.
    Login(&'static str),
    /// A name in CLIENT LIST, and reads that leave LRU and LFU alone (7.2 on): an ACL or an older server may refuse
    /// these; the copy is the same without.
    Courtesy,
    /// INFO of a section.
    Info,
    /// CLUSTER SLOTS.
    Slots,
}

async fn shake(
    address: &Address,
    access: &Access,
    question: Question,
) -> Result<(Connection, Identity), HandshakeError> {
    let mut connection = Connection::dial(address, access)
        .await
        .map_err(|error| dial_error(&error))?;
    let (mut out, mut asked) = (Bytes::default(), Vec::new());
    let mut ask = |what: Asked, command: &[&[u8]]| {
        encode::command(out.tail(), command);
        asked.push(what);
    };
    if let Some(password) = &access.password {
        let mut arguments: Vec<&[u8]> = vec![b"AUTH"];
        arguments.extend(access.username.as_deref().map(str::as_bytes));
        arguments.push(password.as_bytes());
        ask(Asked::Login("AUTH"), &arguments);
    }
    if access.database > 0 {
        let database = access.database.to_string();
        ask(Asked::Login("SELECT"), &[b"SELECT", database.as_bytes()]);
    }
    ask(Asked::Courtesy, &[b"CLIENT", b"SETNAME", b"slotferry"]);
    if access.untouched {
        ask(Asked::Courtesy, &[b"CLIENT", b"NO-TOUCH", b"on"]);
    }
    if question != Question::Nothing {
        ask(Asked::Info, &[b"INFO", b"server"]);
    }
    if question == Question::Node {
        // Before 7.0 INFO takes one section at a time.
        ask(Asked::Info, &[b"INFO", b"replication"]);
        ask(Asked::Slots, &[b"CLUSTER", b"SLOTS"]);
    }
    let mut identity = Identity::default();
    for what in asked {
        let reply = read(&mut connection, &mut out).await?;
        match (what, reply) {
            (Asked::Courtesy, Tree::Error(error)) if !error.starts_with(b"NOAUTH") => {}
            (Asked::Courtesy, Tree::Error(error)) => {
                return Err(refusal("CLIENT SETNAME", &error));
            }
            (Asked::Login(name), Tree::Error(error)) => return Err(refusal(name, &error)),
            (Asked::Info, Tree::Error(error)) => return Err(refusal("INFO", &error)),
            // A server that is no cluster refuses this one; its identity says so.
            (Asked::Slots, Tree::Error(_)) if !identity.is_cluster_node => {}
            (Asked::Slots, Tree::Error(error)) => return Err(refusal("CLUSTER SLOTS", &error)),
            (Asked::Login(_) | Asked::Courtesy, Tree::Text(_)) => {}
            (Asked::Info, Tree::Text(text)) => identity.take_info(&text),
            (Asked::Slots, Tree::Array(ranges)) => identity.take_slots(&ranges),
            _ => {
                return Err(HandshakeError::Refused(
                    "the server's reply is not what this command gives".to_owned(),
                ));
            }
        }
    }
    if !connection.received().is_empty() {
        return Err(HandshakeError::Lost(crate::net::UNASKED.to_owned()));
    }
    Ok((connection, identity))
}

fn dial_error(error: &io::Error) -> HandshakeError {
    // A certificate that does not verify will not do so the next time.
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match (tls, error.kind()) {
        (Some(tls), _) => HandshakeError::Refused(format!("TLS: {tls}")),
        (None, io::ErrorKind::InvalidInput) => HandshakeError::Refused(error.to_string()),
        _ => HandshakeError::Lost(plain(error)),
    }
}

/// An I/O error in plain words.
pub(crate) fn plain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "connection closed by the server".to_owned(),
        io::ErrorKind::BrokenPipe => "connection broken".to_owned(),
        _ => error.to_string(),
    }
}

/// What an error reply to `name` means; the text of one to AUTH is never shown.
fn refusal(name: &str, error: &[u8]) -> HandshakeError {
    let text = said(error);
    let code = text.split(' ').next().unwrap_or_default();
    match code {
        "LOADING" | "BUSY" | "MASTERDOWN" if name == "AUTH" => {
            HandshakeError::Lost(format!("{name}: {code}"))
        }
        "LOADING" | "BUSY" | "MASTERDOWN" => HandshakeError::Lost(format!("{name}: {text}")),
        _ if name == "AUTH" || code == "NOAUTH" => {
            // The reply may quote the arguments, and these are a password: none of it is shown.
            let known = match code {
                "WRONGPASS" => "WRONGPASS invalid username-password pair or user is disabled",
                "NOAUTH" => "NOAUTH authentication required",
                _ if text.contains("any password configured") => "no password is configured there",
                _ if text.contains("unknown command") => "the server does not know this command",
                _ => "refused",
            };
            HandshakeError::Denied(format!("{name}: {known}"))
        }
        // Such an error quotes the arguments, and these may be a password.
        _ if text.contains("unknown command") => {
            HandshakeError::Refused(format!("{name}: the server does not know this command"))
        }
        _ if text.contains("max number of clients") => HandshakeError::Lost(text),
        _ => HandshakeError::Refused(format!("{name}: {text}")),
    }
}

/// Send what is left to send and read one reply.
async fn read(connection: &mut Connection, out: &mut Bytes) -> Result<Tree, HandshakeError> {
    loop {
        match Tree::decode(connection.received())
            .map_err(|error| HandshakeError::Refused(error.to_string()))?
        {
            Decoded::Whole(reply, used) => {
                connection.consume(used);
                return Ok(reply);
            }
            Decoded::Partial(_) if connection.received().len() > MOST_BYTES => {
                return Err(HandshakeError::Refused(format!(
                    "the server's reply to the login is longer than {} MB",
                    MOST_BYTES >> 20
                )));
            }
            Decoded::Partial(_) => {}
        }
        connection
            .exchange(out, true)
            .await
            .map_err(|error| HandshakeError::Lost(plain(&error)))?;
    }
}
