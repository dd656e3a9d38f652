//! What goes to a node in one piece: a batch to restore, keys to compare, a WAIT; and the replies to a batch.
//!
//! Invariant: replies belong to commands in order; no reply of a flight counts before the one that closes it is there.

use crate::compare::session::Comparison;
use crate::job::engine::Engine;
use crate::resp::{Decoded, ProtocolError, Reply, decode};
use crate::target::barrier::Wait;
use crate::target::batch::{BATCH_BYTES, Batch};
use crate::target::closing::Closings;

/// What is on its way to a node, in order.
#[derive(Debug)]
pub(crate) enum Flight {
    Restore {
        /// Sealed: a reply that is the batch's own follows those to its entries.
        batch: Batch,
        /// Replies so far, ASKINGs' and the seal's included.
        replies: usize,
        errors: Vec<(usize, Vec<u8>)>,
        /// Sent to ask whether a full node takes any again.
        probe: bool,
    },
    Compare(Box<Comparison>),
    Wait(Wait),
}

impl Flight {
    /// What a batch becomes: RESTOREs on their way, or in a verification the reads of its keys.
    pub fn of(batch: Batch, engine: &Engine) -> Self {
        if let Some(rules) = engine.rules() {
            return Self::Compare(Box::new(Comparison::of_all(batch, engine, rules)));
        }
        Self::restore(batch, engine, false)
    }

    /// What asks a full node whether it takes keys again.
    pub fn probe(batch: Batch, engine: &Engine) -> Self {
        Self::restore(batch, engine, true)
    }

    fn restore(mut batch: Batch, engine: &Engine, probe: bool) -> Self {
        batch.seal(&engine.closings);
        Self::Restore {
            batch,
            replies: 0,
            errors: Vec::new(),
            probe,
        }
    }

    /// Whether it waits while the node is full.
    pub fn takes_room(&self) -> bool {
        matches!(self, Self::Restore { probe: false, .. })
    }

    /// Whether the time until its next reply tells how quick the server is: not where the value is large, and
    /// never of WAIT.
    pub fn tells_latency(&self) -> bool {
        match self {
            Self::Restore { batch, replies, .. } => {
                let entry = if batch.is_asking() { replies / 2 } else { *replies };
                batch
                    .entries()
                    .get(entry)
                    .is_some_and(|entry| entry.payload <= BATCH_BYTES)
            }
            Self::Compare(_) => true,
            Self::Wait(_) => false,
        }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        match self {
            Self::Restore { batch, .. } => batch.bytes(),
            Self::Compare(comparison) => comparison.bytes(),
            Self::Wait(wait) => wait.bytes(),
        }
    }
}

/// What RESTORE says where SET … NX answers nil.
const BUSY: &[u8] = b"BUSYKEY Target key name already exists.";

/// What is said of a reply that RESTORE does not give.
const MISFIT: &str = " (not a reply of that command)";

/// Bytes used, whether the flight is done, and how many bytes the next reply needs (0: unknown).
pub(crate) type ReadProgress = Result<(usize, bool, usize), ProtocolError>;

/// Read replies to a batch: `+OK` counts on, anything else is kept with its entry's index.
pub(crate) fn read_restores(
    data: &[u8],
    batch: &Batch,
    replies: &mut usize,
    errors: &mut Vec<(usize, Vec<u8>)>,
    closings: &Closings,
) -> ReadProgress {
    const OK: &[u8] = b"+OK\r\n";
    let per_entry = 1 + usize::from(batch.is_asking());
    let expected = batch.entries().len() * per_entry;
    let mut at = 0;
    while *replies < expected {
        let rest = &data[at..];
        if rest.starts_with(OK) {
            at += OK.len();
            *replies += 1;
            continue;
        }
        match decode(rest)? {
            Decoded::Partial(_) => return Ok((at, false, 0)),
            // One of the entries has got no reply, and nobody knows which.
            Decoded::Whole(reply, _) if batch.closing().is_answered_by(&reply) => {
                return Err(ProtocolError::at(rest));
            }
            Decoded::Whole(reply, used) => {
                at += used;
                let (index, is_restore) = (*replies / per_entry, *replies % per_entry == per_entry - 1);
                *replies += 1;
                let text = match reply {
                    Reply::Error(text) => text.to_vec(),
                    // A deletion, whether the key was still there or not.
                    Reply::Integer(_) if is_restore && batch.entries()[index].payload == 0 => continue,
                    // SET … NX, and the key is there.
                    Reply::Bulk(None) if is_restore && batch.entries()[index].is_set => BUSY.to_vec(),
                    other => format!("{}{MISFIT}", other.kind()).into_bytes(),
                };
                // A refused ASKING shows in the reply to the RESTORE that follows it: that one is judged.
                if is_restore {
                    errors.push((index, text));
                }
            }
        }
    }
    let counts = errors.len() < batch.entries().len();
    let (used, done, _) = closings.read(batch.closing(), &data[at..], counts)?;
    *replies += usize::from(done);
    Ok((at + used, done, 0))
}
