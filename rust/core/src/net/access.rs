//! Credentials, database and TLS settings of one side.
//!
//! Invariant: `Debug` shows whether there is a secret, never which.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;

use crate::error::Result;
use crate::net::{Hangup, tls};

/// How to open a connection to one side.
#[derive(Clone, Default)]
pub struct Access {
    /// ACL user; the default user if there is none.
    pub username: Option<String>,
    /// Password, if the server wants one.
    pub password: Option<String>,
    /// Database to select.
    pub database: u32,
    /// Whether there may be another login when this one is refused.
    pub renewable: bool,
    /// Whether reads are to leave LRU and LFU alone (`CLIENT NO-TOUCH`).
    ///
    /// Not for a node of a cluster that is sent commands with several keys: Redis 8.0 dies of one whose slot is open,
    /// since it looks the keys up before there is an executing client, and asks that one for its command
    /// (`lookupKey`, called by `getNodeByQuery`).
    pub untouched: bool,
    /// How long connecting and logging in may take; ten seconds where nothing is said.
    pub patience: Option<Duration>,
    /// Hangs up what was opened with this, where whoever opened it heeds that (a handover does).
    pub hangup: Hangup,
    /// TLS, if the connection is encrypted.
    pub(crate) tls: Option<Tls>,
}

/// A built TLS configuration and the name to check, where it is not the host's.
#[derive(Clone)]
pub(crate) struct Tls {
    pub config: Arc<ClientConfig>,
    pub server_name: Option<String>,
}

/// TLS as the user gives it; texts are PEM.
#[derive(Clone, Default)]
pub struct TlsSettings {
    /// Certificates to trust instead of the system's roots.
    pub ca: Option<Vec<u8>>,
    /// The client's certificate chain.
    pub cert: Option<Vec<u8>>,
    /// The client's key.
    pub key: Option<Vec<u8>>,
    /// The name that the server's certificate must carry, where it is not the host's.
    pub server_name: Option<String>,
    /// Check nothing of the server's certificate.
    pub insecure: bool,
}

impl Access {
    /// Credentials for an unencrypted connection; see [`Self::with_tls`].
    pub fn new(username: Option<String>, password: Option<String>, database: u32) -> Self {
        Self {
            username,
            password,
            database,
            renewable: false,
            untouched: false,
            patience: None,
            hangup: Hangup::default(),
            tls: None,
        }
    }

    /// Say whether there may be another login when this one is refused.
    #[must_use]
    pub fn renewable(mut self, renewable: bool) -> Self {
        self.renewable = renewable;
        self
    }

    /// Encrypt connections. Fails with `Usage` on a PEM that can't be read.
    pub fn with_tls(mut self, settings: TlsSettings) -> Result<Self> {
        self.tls = Some(Tls {
            config: tls::client_config(&settings)?,
            server_name: settings.server_name,
        });
        Ok(self)
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access")
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("database", &self.database)
            .field("renewable", &self.renewable)
            .field("untouched", &self.untouched)
            .field("tls", &self.tls.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_hides_the_password() {
        let access = Access::new(Some("bob".to_owned()), Some("hunter2".to_owned()), 0);
        let shown = format!("{access:?}");
        assert!(shown.contains("bob") && !shown.contains("hunter2"));
    }
}
