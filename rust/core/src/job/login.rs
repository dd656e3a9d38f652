//! The credentials and certificates that hold now, for connections that are opened from now on.
//!
//! Invariant: an open connection keeps what it was opened with. Where a login is refused and can be renewed,
//! the control plane is asked for another one, and it is tried until `retry_for`.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::event::{Event, EventKind, Side};
use crate::job::engine::Engine;
use crate::net;
use crate::net::client::{CallError, Client};
use crate::net::{Access, Address, HandshakeError, Question};

/// Other credentials are asked for at most this often.
const ASK_EVERY: Duration = Duration::from_millis(250);

/// A login that nobody answers takes no longer than `retry_for`, but this at least and [`MOST`] at most.
const LEAST: Duration = Duration::from_secs(1);
const MOST: Duration = Duration::from_secs(10);

/// How one side is opened.
#[derive(Debug)]
pub(crate) struct Login {
    access: RefCell<Access>,
    asked: Cell<Option<Instant>>,
}

impl Login {
    /// `untouched`: see [`Access`]; `retry_for` bounds how long a silent server is waited for.
    pub fn new(mut access: Access, untouched: bool, retry_for: Duration) -> Self {
        access.untouched = untouched;
        access.patience = Some(retry_for.clamp(LEAST, MOST));
        Self {
            access: RefCell::new(access),
            asked: Cell::new(None),
        }
    }

    /// What a connection that is opened now is opened with.
    pub fn current(&self) -> Access {
        self.access.borrow().clone()
    }
}

impl Engine {
    /// How one side is opened now.
    pub fn login(&self, side: Side) -> &Login {
        match side {
            Side::Source => &self.source_login,
            Side::Target => &self.target_login,
        }
    }

    /// Connections of that side are opened with `access` from now on; the database stays the job's.
    pub fn set_access(&self, side: Side, mut access: Access) {
        let mut current = self.login(side).access.borrow_mut();
        access.database = current.database;
        access.untouched = current.untouched;
        access.patience = current.patience;
        *current = access;
    }

    /// Connect to one server and log in, for a conversation; `run_id` says which process it has to be.
    pub async fn converse(
        &self,
        side: Side,
        address: &Address,
        run_id: Option<&str>,
    ) -> Result<Client, CallError> {
        let opened = match side {
            Side::Source => {
                let access = self.login(side).current();
                net::open(address, &access, Question::Process).await
            }
            Side::Target => self.open_target(address).await,
        };
        let (connection, found) = opened.map_err(|error| match error {
            HandshakeError::Lost(message) => CallError::Lost(message),
            HandshakeError::Denied(message) if self.want_access(side, address, &message) => {
                CallError::Lost(message)
            }
            HandshakeError::Denied(message) | HandshakeError::Refused(message) => CallError::Refused(message),
        })?;
        match run_id {
            Some(wanted) if wanted != found.run_id => Err(CallError::Changed(format!(
                "is another process now (run_id {}, the cursor is from {wanted})",
                found.run_id
            ))),
            _ => Ok(Client::new(connection, self.spec.retry_for)),
        }
    }

    /// The server at `address` refused the login: ask for another one. Returns whether there may be one.
    pub fn want_access(&self, side: Side, address: &Address, message: &str) -> bool {
        let login = self.login(side);
        if !login.access.borrow().renewable {
            return false;
        }
        let now = Instant::now();
        if login.asked.get().is_none_or(|asked| now - asked >= ASK_EVERY) {
            login.asked.set(Some(now));
            self.shared.tell(Event {
                kind: match side {
                    Side::Source => EventKind::SourceAccessWanted,
                    Side::Target => EventKind::TargetAccessWanted,
                },
                message: format!("the {} {address} refuses the login: {message}", side.name()),
                node: Some(address.to_string()),
                slot: None,
            });
        }
        true
    }
}
