//! Why a source is followed no further on one connection. Invariant: what another try may mend is told from what
//! it can't, so that a run neither gives up too early nor tries for ever.

use crate::net::HandshakeError;
use crate::resp::ProtocolError;
use crate::source::stream::error::StreamError;

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It is lost, or the source can't serve now: another try may help.
    Lost(String),
    /// The login is refused: another one may help.
    LoginDenied(String),
    /// The user lacks a permission.
    Denied(String),
    /// The source refuses to be followed; another try won't help.
    Refused(String),
}

impl From<StreamError> for Ended {
    fn from(error: StreamError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<ProtocolError> for Ended {
    fn from(error: ProtocolError) -> Self {
        Self::Lost(error.to_string())
    }
}

impl From<HandshakeError> for Ended {
    fn from(error: HandshakeError) -> Self {
        match error {
            HandshakeError::Lost(text) => Self::Lost(text),
            HandshakeError::Denied(text) => Self::LoginDenied(text),
            HandshakeError::Refused(text) => Self::Refused(text),
        }
    }
}
