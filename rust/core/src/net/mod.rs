//! Connections: where to, with which credentials, over which transport.
//!
//! Invariant: no secret is printed, not even by `Debug`.

mod access;
mod address_map;
pub(crate) mod client;
mod connection;
mod deadline;
mod handshake;
mod hangup;
mod identity;
mod tls;

use std::fmt;
use std::path::PathBuf;

pub use access::{Access, TlsSettings};
pub use address_map::{AddressMap, AddressRule};
pub use connection::{Bytes, Connection, Outgoing};
pub use deadline::Deadline;
pub(crate) use handshake::plain;
pub use handshake::{HandshakeError, open};
pub use hangup::Hangup;
pub use identity::{Identity, Question};

/// Said of a reply that comes though none is owed: each one after it would be taken for another one's.
pub(crate) const UNASKED: &str = "it sent a reply that nothing had asked for";

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host (name or IP, IPv6 without brackets) and a port.
    Tcp {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl Address {
    /// A TCP address.
    pub fn tcp(host: String, port: u16) -> Self {
        Self::Tcp { host, port }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}
