//! What the target takes of one command, and where keys go that are beyond it.
//!
//! Invariant: no command is sent for which the target, as far as it tells its limits, would end the connection: that
//! would take all the others with it. Settings: `proto-max-bulk-len` for an argument, `client-query-buffer-limit`
//! for what waits at the server of one connection, the commands of an open transaction included.

use std::rc::Rc;

use crate::chunked::copy::Big;
use crate::job::engine::Engine;
use crate::ledger::books::PageId;
use crate::ledger::unsettled::{Failure, FailureKind};
use crate::resp::Restore;
use crate::target::batch::Batch;
use crate::text::shown;

/// What stands beside a value in its command and transaction, and what waits before it: a batch at the most.
const MARGIN: usize = 64 << 10;

/// The limits of the target's nodes; the smallest one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TargetLimits {
    bulk: usize,
    query_buffer: usize,
}

impl Default for TargetLimits {
    /// Those of a server that was not configured otherwise.
    fn default() -> Self {
        Self {
            bulk: 512 << 20,
            query_buffer: 1 << 30,
        }
    }
}

impl TargetLimits {
    /// `proto-max-bulk-len` and `client-query-buffer-limit` in bytes; 0: not known, so that the default counts.
    pub fn new(bulk: u64, query_buffer: u64) -> Self {
        let known = |told: u64, default: usize| match usize::try_from(told) {
            Ok(0) => default,
            Ok(told) => told,
            Err(_) => usize::MAX,
        };
        let default = Self::default();
        Self {
            bulk: known(bulk, default.bulk),
            query_buffer: known(query_buffer, default.query_buffer),
        }
    }

    /// Bytes that a string may have: it can't be built of pieces either.
    pub(crate) fn string(self) -> usize {
        self.bulk
    }

    /// Bytes that the commands of one transaction may have, and all that is under way to a node.
    pub(crate) fn in_flight(self) -> usize {
        self.query_buffer.saturating_sub(MARGIN).max(1)
    }

    /// Bytes that one argument may have.
    pub(crate) fn argument(self) -> usize {
        self.bulk.min(self.in_flight())
    }

    /// The setting that an argument of so many bytes is above, for a message.
    pub(crate) fn broken_by(self, argument: usize) -> String {
        let (name, limit) = if argument > self.bulk {
            ("proto-max-bulk-len", self.bulk)
        } else {
            ("client-query-buffer-limit", self.query_buffer)
        };
        format!(
            "the target's {name} of {limit} bytes (raise it at every primary, then run the same command again)"
        )
    }
}

impl Engine {
    /// A payload that the target does not take in one command: its key is copied in chunks.
    #[cold]
    pub(crate) fn copy_in_chunks(self: &Rc<Self>, page: PageId, slot: u16, restore: &Restore<'_>) {
        let limits = self.spec.target_limits;
        let source = self.named(page, restore);
        // It is named twice in the transaction that gives a key its name.
        if restore.key.len() > limits.string().min(limits.in_flight() / 2) {
            let (name, bytes) = (shown(restore.key), restore.key.len());
            let setting = limits.broken_by(bytes);
            let message =
                format!("the target can't hold {name}: the name's {bytes} bytes are above {setting}");
            return self.fail_too_large(page, slot, source, message);
        }
        self.take_big(Big {
            page,
            number: restore.number,
            slot,
            size: restore.payload.len() as u64,
            source,
            target: restore.key.to_vec(),
            in_doubt: false,
            refused: false,
        });
    }

    /// The same for entry `index` of a batch, which the target has not taken.
    #[cold]
    pub(crate) fn copy_entry_in_chunks(self: &Rc<Self>, batch: &Batch, index: usize) {
        let entry = batch.entries()[index];
        self.budget.free(batch.weight(index));
        self.take_big(Big {
            in_doubt: entry.in_doubt,
            ..self.big_of(batch, index)
        });
    }

    /// Entry `index` of a batch as a key that is copied in chunks.
    pub(crate) fn big_of(&self, batch: &Batch, index: usize) -> Big {
        let (entry, restore) = (batch.entries()[index], batch.restore(index));
        Big {
            page: entry.page,
            number: restore.number,
            slot: entry.slot,
            size: entry.payload as u64,
            source: self.source_name(batch, index),
            target: restore.key.to_vec(),
            in_doubt: false,
            refused: false,
        }
    }

    pub(crate) fn fail_too_large(&self, page: PageId, slot: u16, key: Vec<u8>, message: String) {
        let node = self.owner(slot).map(|(_, address)| address.to_string());
        self.fail(
            page,
            Failure {
                key,
                slot,
                kind: FailureKind::TooLarge,
                message,
                sides: None,
                node: node.unwrap_or_default(),
            },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_told_is_the_default() {
        assert_eq!(TargetLimits::new(0, 0), TargetLimits::default());
        let told = TargetLimits::new(1 << 20, 4 << 20);
        assert_eq!((told.string(), told.argument()), (1 << 20, 1 << 20));
        assert_eq!(
            TargetLimits::new(u64::MAX, 1 << 20).argument(),
            (1 << 20) - MARGIN
        );
        assert_eq!(TargetLimits::new(1, 1).in_flight(), 1);
    }

    #[test]
    fn the_setting_that_is_broken_is_named() {
        let limits = TargetLimits::new(1 << 20, 2 << 20);
        assert!(
            limits
                .broken_by((1 << 20) + 1)
                .contains("proto-max-bulk-len of 1048576")
        );
        assert!(
            limits
                .broken_by(1 << 20)
                .contains("client-query-buffer-limit of 2097152")
        );
    }
}
