//! What becomes of a key that was read: routed, settled, or given up.
//!
//! Invariant: a TTL is never lengthened; a key that the source lacks is written nowhere.

use crate::error::{Error, ErrorKind};
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Failure, FailureKind};
use crate::resp::encode::ExpiryCommand;
use crate::resp::{Eviction, Restore};
use crate::source::fetch::{Ended, Fetch};
use crate::source::reader::SourceReader;
use crate::text::said;
use crate::text::shown;

/// What a key was found to hold.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Payload<'a> {
    /// What DUMP gave, or what stands for it.
    Dumped(&'a [u8]),
    /// The bytes of a string.
    String(&'a [u8]),
}

impl SourceReader {
    #[inline]
    fn measured(&self, measure: Option<i64>) -> Option<(Eviction, u64)> {
        self.engine.spec.eviction.zip(u64::try_from(measure?).ok())
    }

    /// A key was read: route it, or settle it if there is nothing to write.
    #[inline]
    pub(crate) fn pass_on(
        &self,
        number: usize,
        read: usize,
        expiry: i64,
        payload: Option<Payload<'_>>,
        source_now: u64,
        measure: Option<i64>,
    ) {
        let fetch = &self.fetches[number];
        let (_, slot) = fetch.keys.get(read);
        let expires_at = match (self.engine.spec.source_expiry, expiry) {
            (_, -1) => 0,
            (ExpiryCommand::Absolute, at) => at.max(0).cast_unsigned(),
            // Counted from the server's time before it answered: never lengthened.
            (ExpiryCommand::Relative, rest) => self.clock + rest.max(0).cast_unsigned(),
        };
        match payload {
            Some(payload) if expiry != -2 && (expires_at == 0 || expires_at > source_now) => {
                let (payload, is_string) = match payload {
                    Payload::Dumped(payload) => (payload, false),
                    Payload::String(value) => (value, true),
                };
                let restore = Restore {
                    number: read as u32,
                    key: fetch.keys.target(read),
                    expires_at,
                    payload,
                    is_string,
                    rdb_version: None,
                    eviction: self.measured(measure),
                };
                self.engine.route(fetch.page, slot, &restore);
            }
            _ if self.follows || self.engine.minds_absent_keys() => self.pass_on_absent(fetch, read),
            // It had an expiry and is gone, or would be by the source's clock.
            _ if expiry >= 0 => self.engine.settle(fetch.page, Outcome::Expired, 1, 0),
            _ => self.engine.settle(fetch.page, Outcome::Vanished, 1, 0),
        }
    }

    /// A quick verification: what stands for the value is routed.
    pub(crate) fn pass_on_quickly(
        &self,
        number: usize,
        read: usize,
        expiry: i64,
        length: i64,
        source_now: u64,
    ) {
        let stand_in = self.fetches[number].shapes[read].stand_in(length);
        let payload = stand_in.as_ref().map(|payload| Payload::Dumped(payload));
        self.pass_on(number, read, expiry, payload, source_now, None);
    }

    /// The source lacks a key: what about the target?
    fn pass_on_absent(&self, fetch: &Fetch, read: usize) {
        let (_, slot) = fetch.keys.get(read);
        let nothing = Restore {
            number: read as u32,
            key: fetch.keys.target(read),
            expires_at: 0,
            payload: b"",
            is_string: false,
            rdb_version: None,
            eviction: None,
        };
        if self.engine.spec.verify.is_some() {
            self.engine.route(fetch.page, slot, &nothing);
        } else if self.follows {
            self.engine.delete_followed(fetch.page, slot, &nothing);
        } else {
            self.engine.route_deletion(fetch.page, slot, &nothing);
        }
    }

    /// A key's read was answered with an error.
    pub(crate) fn unreadable(&self, number: usize, read: usize, error: &[u8]) -> Result<(), Ended> {
        let text = said(error);
        let fetch = &self.fetches[number];
        let (key, slot) = fetch.keys.get(read);
        if self.is_redirect(error) {
            self.leave_to_owner(fetch.page, key, slot, error);
            return Ok(());
        }
        if !concerns_one_key(error) {
            return Err(self.refusal("DUMP", error));
        }
        self.engine.fail(
            fetch.page,
            Failure {
                key: key.to_vec(),
                slot,
                kind: if text.starts_with("NOPERM") {
                    FailureKind::Denied
                } else {
                    FailureKind::Error
                },
                message: format!("the source answered {text} to DUMP {}", shown(key)),
                sides: None,
                node: self.engine.spec.source.to_string(),
            },
        );
        Ok(())
    }

    /// An error that concerns the source as a whole.
    pub(crate) fn refusal(&self, command: &str, error: &[u8]) -> Ended {
        let text = said(error);
        match text.split(' ').next().unwrap_or_default() {
            "LOADING" | "BUSY" | "MASTERDOWN" | "UNBLOCKED" | "CLUSTERDOWN" => Ended::Lost(text),
            _ => Ended::Fatal(Error::new(
                ErrorKind::SourceRefused,
                format!(
                    "the source {} answered {text} to {command}",
                    self.engine.spec.source
                ),
            )),
        }
    }
}

/// Whether an error reply of the source is about one key and not about the source as a whole.
pub(crate) fn concerns_one_key(error: &[u8]) -> bool {
    let text = said(error);
    let denied = text.starts_with("NOPERM") && !text.contains("to run the");
    denied || text.starts_with("ERR")
}
