//! The target has the key already: is it the same value?
//!
//! Invariant: equal means equal in meaning, with an expiry that differs by no more than [`TTL_TOLERANCE`];
//! encodings and iteration orders differ between servers and do not count.

use std::rc::Rc;

use super::batch::{Batch, Restore};
use super::link::ReadProgress;
use super::{Engine, OnConflict, shown};
use crate::checkpoint::{Failure, FailureKind};
use crate::net::Address;
use crate::payload::same_value;
use crate::progress::Outcome;
use crate::resp::encode::{self, ExpiryCommand};
use crate::resp::{Decoded, ProtocolError, Reply, decode, decode_time};

/// By how many milliseconds the expiries of equal keys may differ.
const TTL_TOLERANCE: u64 = 1000;

/// What the target holds for one entry.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing any more.
    Absent,
    Same,
    OtherTtl,
    Different,
    /// One of the payloads could not be read.
    Unreadable(String),
}

/// Reads of keys that RESTORE found busy, in one pipeline.
#[derive(Debug)]
pub(crate) struct Comparison {
    batch: Batch,
    picks: Vec<usize>,
    commands: Vec<u8>,
    expiry: ExpiryCommand,
    /// The target's clock, where expiries come relative to it.
    clock: Option<u64>,
    /// What the target said instead: without its clock, no key can be judged.
    clock_error: Option<Vec<u8>>,
    replies: usize,
    expires: Option<i64>,
    error: Option<Vec<u8>>,
    found: Vec<(usize, Found)>,
    errors: Vec<(usize, Vec<u8>)>,
}

impl Comparison {
    /// Prepare to read the entries `picks` of `batch`, the way that the batch went (with ASKING or without).
    pub fn new(batch: Batch, picks: Vec<usize>, expiry: ExpiryCommand) -> Self {
        let mut commands = Vec::new();
        if expiry == ExpiryCommand::Relative {
            encode::time(&mut commands);
        }
        for &index in &picks {
            let key = batch.restore(index).key;
            // ASKING covers exactly one command, and these are two.
            if batch.is_asking() {
                encode::asking(&mut commands);
            }
            encode::expiry(&mut commands, expiry, key);
            if batch.is_asking() {
                encode::asking(&mut commands);
            }
            encode::dump(&mut commands, key);
        }
        Self {
            batch,
            picks,
            commands,
            expiry,
            clock: None,
            clock_error: None,
            replies: 0,
            expires: None,
            error: None,
            found: Vec::new(),
            errors: Vec::new(),
        }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.commands
    }

    pub fn batch(&self) -> &Batch {
        &self.batch
    }

    pub fn picks(&self) -> &[usize] {
        &self.picks
    }

    /// Entries whose reads were answered with an error: they are judged like a RESTORE's.
    pub fn take_errors(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.errors)
    }

    /// Read the replies that are here.
    pub fn read(&mut self, data: &[u8]) -> ReadProgress {
        let mut at = 0;
        if self.expiry == ExpiryCommand::Relative && self.clock.is_none() {
            if let Decoded::Whole(Reply::Error(text), used) = decode(data)? {
                at += used;
                self.clock = Some(0);
                self.clock_error = Some(text.to_vec());
            } else {
                match decode_time(data)? {
                    Decoded::Partial(need) => return Ok((0, false, need)),
                    Decoded::Whole(now, used) => {
                        at += used;
                        self.clock = Some(now);
                    }
                }
            }
        }
        let per_key = if self.batch.is_asking() { 4 } else { 2 };
        while self.replies < self.picks.len() * per_key {
            let (reply, used) = match decode(&data[at..])? {
                Decoded::Partial(need) => return Ok((at, false, need)),
                Decoded::Whole(reply, used) => (reply, used),
            };
            let index = self.picks[self.replies / per_key];
            let step = self.replies % per_key;
            let is_asking = per_key == 4 && step.is_multiple_of(2);
            match reply {
                Reply::Simple(_) if is_asking => {}
                Reply::Integer(expires) => self.expires = Some(expires),
                Reply::Bulk(payload) => self.judge(index, payload),
                Reply::Error(text) => self.error = Some(text.to_vec()),
                _ => {
                    return Err(ProtocolError::at(&data[at..]));
                }
            }
            at += used;
            self.replies += 1;
            if step == per_key - 1 {
                self.expires = None;
                let error = self.error.take().or_else(|| self.clock_error.clone());
                if let Some(error) = error {
                    self.found.pop_if(|(found, _)| *found == index);
                    self.errors.push((index, error));
                }
            }
        }
        Ok((at, true, 0))
    }

    fn judge(&mut self, index: usize, payload: Option<&[u8]>) {
        let wanted = self.batch.restore(index);
        let found = match (payload, self.expires) {
            (None, _) | (_, None | Some(-2)) => Found::Absent,
            (Some(payload), Some(expires)) => {
                let expires_at = match (self.clock, u64::try_from(expires)) {
                    (_, Err(_)) => 0,
                    (None, Ok(at)) => at,
                    (Some(now), Ok(rest)) => now + rest,
                };
                compare(&wanted, payload, expires_at)
            }
        };
        self.found.push((index, found));
    }

    /// Settle what was found.
    pub fn settle(&mut self, engine: &Rc<Engine>, node: &Address) {
        for (index, found) in std::mem::take(&mut self.found) {
            let entry = self.batch.entries()[index];
            engine
                .health
                .borrow_mut()
                .answered(entry.slot, std::time::Instant::now());
            match found {
                // Gone between RESTORE and now: write it after all.
                Found::Absent => {
                    let mut again = Batch::default();
                    again.push_again(entry, self.batch.command(index));
                    engine.delay(again, false, &format!("deleted meanwhile at {node}"));
                }
                Found::Same => {
                    let outcome = if entry.in_doubt {
                        Outcome::Migrated
                    } else {
                        Outcome::Unchanged
                    };
                    engine.settle_entry(&self.batch, index, outcome);
                }
                _ if engine.spec.on_conflict == OnConflict::Skip => {
                    engine.settle_entry(&self.batch, index, Outcome::Skipped);
                }
                Found::OtherTtl => self.conflict(
                    engine,
                    node,
                    index,
                    FailureKind::TtlConflict,
                    "the target holds the same value with another TTL",
                ),
                Found::Different => self.conflict(
                    engine,
                    node,
                    index,
                    FailureKind::Conflict,
                    "the target holds another value",
                ),
                Found::Unreadable(error) => self.conflict(
                    engine,
                    node,
                    index,
                    FailureKind::Conflict,
                    &format!("the target holds a value that can't be compared ({error})"),
                ),
            }
        }
    }

    fn conflict(&self, engine: &Rc<Engine>, node: &Address, index: usize, kind: FailureKind, what: &str) {
        let entry = self.batch.entries()[index];
        let key = self.batch.restore(index).key;
        engine.budget.free(self.batch.weight(index));
        engine.fail(
            entry.page,
            Failure {
                key: engine.source_name(&self.batch, index),
                slot: entry.slot,
                kind,
                message: format!("{what} under {}", shown(key)),
                node: node.to_string(),
            },
        );
    }
}

fn compare(wanted: &Restore<'_>, payload: &[u8], expires_at: u64) -> Found {
    match same_value(wanted.payload, payload) {
        Ok(false) => Found::Different,
        Err(error) => Found::Unreadable(error.to_string()),
        Ok(true) => {
            let both_or_neither = (wanted.expires_at == 0) == (expires_at == 0);
            if both_or_neither && wanted.expires_at.abs_diff(expires_at) <= TTL_TOLERANCE {
                Found::Same
            } else {
                Found::OtherTtl
            }
        }
    }
}
