//! From a transport to a connection that is logged in, in its database, and known by name.
//!
//! Invariant: RESP2 all along; a refusal is told from a connection that is lost, since only the second is
//! worth another try.

use std::io;
use std::time::Duration;

use super::{Access, Address, Bytes, Connection};
use crate::resp::{Decoded, Reply, decode, encode};

/// How long connecting and logging in may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// Not reachable now; another try may help.
    #[error("{0}")]
    Lost(String),
    /// The login is refused; another one may help.
    #[error("{0}")]
    Denied(String),
    /// The server turns us away; another try won't help.
    #[error("{0}")]
    Refused(String),
}

/// Open a connection: dial, AUTH, SELECT, name ourselves; with `info`, also return the `run_id` of
/// `INFO server`.
pub async fn open(
    address: &Address,
    access: &Access,
    info: bool,
) -> Result<(Connection, Option<String>), HandshakeError> {
    tokio::time::timeout(PATIENCE, shake(address, access, info))
        .await
        .unwrap_or_else(|_| {
            Err(HandshakeError::Lost(format!(
                "no answer within {} s",
                PATIENCE.as_secs()
            )))
        })
}

async fn shake(
    address: &Address,
    access: &Access,
    info: bool,
) -> Result<(Connection, Option<String>), HandshakeError> {
    let mut connection = Connection::dial(address, access)
        .await
        .map_err(|error| dial_error(&error))?;
    if let Some(password) = &access.password {
        let mut arguments: Vec<&[u8]> = vec![b"AUTH"];
        arguments.extend(access.username.as_deref().map(str::as_bytes));
        arguments.push(password.as_bytes());
        demand(&mut connection, "AUTH", &arguments).await?;
    }
    if access.database > 0 {
        let database = access.database.to_string();
        demand(&mut connection, "SELECT", &[b"SELECT", database.as_bytes()]).await?;
    }
    // Courtesies: a name in CLIENT LIST, and reads that leave LRU and LFU alone (7.2 on). An ACL or an older
    // server may refuse them; the copy is the same without.
    if let Err(error) = call(&mut connection, &[b"CLIENT", b"SETNAME", b"slotferry"]).await?
        && error.starts_with(b"NOAUTH")
    {
        return Err(HandshakeError::Denied(
            String::from_utf8_lossy(&error).into_owned(),
        ));
    }
    if access.untouched {
        let _ = call(&mut connection, &[b"CLIENT", b"NO-TOUCH", b"on"]).await?;
    }
    let run_id = if info {
        let text = demand(&mut connection, "INFO", &[b"INFO", b"server"]).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines()
            .find_map(|line| line.strip_prefix("run_id:"))
            .map(|run_id| run_id.trim().to_owned())
    } else {
        None
    };
    Ok((connection, run_id))
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

/// Send a command that must succeed; its name stands in the error, its arguments do not.
async fn demand(
    connection: &mut Connection,
    name: &str,
    arguments: &[&[u8]],
) -> Result<Vec<u8>, HandshakeError> {
    call(connection, arguments).await?.map_err(|error| {
        let text = String::from_utf8_lossy(&error).into_owned();
        let code = text.split(' ').next().unwrap_or_default();
        match code {
            "LOADING" | "BUSY" | "MASTERDOWN" => HandshakeError::Lost(format!("{name}: {text}")),
            _ if name == "AUTH" || code == "NOAUTH" => {
                // What is not known here may quote the arguments, and these are a password.
                let known =
                    matches!(code, "WRONGPASS" | "NOAUTH") || text.contains("any password configured");
                HandshakeError::Denied(format!("{name}: {}", if known { &text } else { "refused" }))
            }
            // Such an error quotes the arguments, and these may be a password.
            _ if text.contains("unknown command") => {
                HandshakeError::Refused(format!("{name}: the server does not know this command"))
            }
            _ if text.contains("max number of clients") => HandshakeError::Lost(text),
            _ => HandshakeError::Refused(format!("{name}: {text}")),
        }
    })
}

/// Send one command and read its reply: a status or bulk, or the error's text.
async fn call(
    connection: &mut Connection,
    arguments: &[&[u8]],
) -> Result<Result<Vec<u8>, Vec<u8>>, HandshakeError> {
    let mut out = Bytes::default();
    encode::command(out.tail(), arguments);
    loop {
        connection
            .exchange(&mut out, true)
            .await
            .map_err(|error| HandshakeError::Lost(plain(&error)))?;
        let (reply, used) = match decode(connection.received())
            .map_err(|error| HandshakeError::Refused(error.to_string()))?
        {
            Decoded::Partial(_) => continue,
            Decoded::Whole(Reply::Simple(text) | Reply::Bulk(Some(text)), used) => (Ok(text.to_vec()), used),
            Decoded::Whole(Reply::Error(text), used) => (Err(text.to_vec()), used),
            Decoded::Whole(..) => {
                return Err(HandshakeError::Refused(
                    "the server's reply is not what this command gives".to_owned(),
                ));
            }
        };
        connection.consume(used);
        return Ok(reply);
    }
}
