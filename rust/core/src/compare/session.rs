//! Reads of keys at the target: a key that RESTORE found there, is it the same? And every key of a verification.
//!
//! Invariant: equal means equal in meaning, with an expiry that differs by no more than [`TTL_TOLERANCE`] (of a
//! verification: what it allows); encodings and iteration orders differ between servers and do not count. A
//! comparison writes nothing, whatever commands its batch holds.

use std::rc::Rc;

use crate::compare::shape::{Shape, THERE};
use crate::compare::verdict::{Finding, Held, Rules, TTL_TOLERANCE, judge, same_expiry};
use crate::job::engine::{Depth, Engine, OnConflict};
use crate::ledger::books::PageId;
use crate::ledger::progress::{Outcome, RetryReason};
use crate::ledger::unsettled::{Difference, Failure, FailureKind};
use crate::net::Address;
use crate::rdb::{Kind, PayloadError, same_value_within};
use crate::resp::Restore;
use crate::resp::encode;
use crate::resp::encode::ExpiryCommand;
use crate::resp::{Decoded, ProtocolError, Reply, decode, decode_time};
use crate::target::batch::{Batch, Entry};
use crate::target::closing::{Closing, Closings};
use crate::target::flight::ReadProgress;
use crate::text::shown;

/// So often a key may be deleted between a RESTORE that finds it busy and the look at it.
const MOST_PHANTOMS: u8 = 8;

/// What the target holds for one entry.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// Nothing any more.
    Absent,
    Same,
    OtherTtl,
    Different,
    /// Too large to be compared as a whole.
    Large,
    /// One of the payloads could not be read.
    Unreadable(String),
    /// What a verification found.
    Finding(Finding),
}

/// Reads of keys at one node, in one pipeline.
#[derive(Debug)]
pub(crate) struct Comparison {
    batch: Batch,
    picks: Vec<usize>,
    commands: Vec<u8>,
    closing: Closing,
    expiry: ExpiryCommand,
    /// What each of two values may take to be compared as a whole.
    limit: usize,
    /// The rules of a verification; none where RESTORE found the keys busy.
    rules: Option<Rules>,
    /// The target's clock, where expiries come relative to it.
    clock: Option<u64>,
    /// What the target said instead: without its clock, no key can be judged.
    clock_error: Option<Vec<u8>>,
    replies: usize,
    expires: Option<i64>,
    shape: Shape,
    /// Bytes left of a reply that is too large to be kept.
    skip: usize,
    error: Option<Vec<u8>>,
    /// What is not simply the same, in the order of the picks.
    found: Vec<(usize, Found)>,
    errors: Vec<(usize, Vec<u8>)>,
}

impl Engine {
    /// How keys are compared, in a verification.
    pub fn rules(&self) -> Option<Rules> {
        self.spec.verify.map(|verify| Rules {
            verify,
            large: self.compared_whole(),
        })
    }
}

impl Comparison {
    /// Prepare to read the entries `picks` of `batch`, the way that the batch went (with ASKING or without).
    pub fn new(batch: Batch, picks: Vec<usize>, engine: &Engine, rules: Option<Rules>) -> Self {
        let expiry = engine.spec.target_expiry;
        let mut commands = Vec::with_capacity(batch.bytes().len().min(picks.len() * 128));
        if expiry == ExpiryCommand::Relative {
            encode::time(&mut commands);
        }
        let depth = rules.map_or(Depth::Value, |rules| rules.verify.depth);
        let asking = batch.is_asking();
        for &index in &picks {
            let wanted = batch.restore(index);
            // ASKING covers exactly one command.
            let mut read = |append: &dyn Fn(&mut Vec<u8>)| {
                if asking {
                    encode::asking(&mut commands);
                }
                append(&mut commands);
            };
            read(&|out| encode::expiry(out, expiry, wanted.key));
            match depth {
                Depth::Existence => {}
                Depth::Length => {
                    read(&|out| encode::type_of(out, wanted.key));
                    read(&|out| Shape::of_stand_in(wanted.payload).ask_length(out, wanted.key));
                }
                Depth::Value => read(&|out| encode::dump(out, wanted.key)),
            }
        }
        let closing = engine.closings.close(&mut commands);
        Self {
            batch,
            picks,
            commands,
            closing,
            expiry,
            limit: engine.decode_limit(),
            rules,
            clock: None,
            clock_error: None,
            replies: 0,
            expires: None,
            shape: Shape::Absent,
            skip: 0,
            error: None,
            found: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// All keys of a batch, for a verification; its own weight is held until [`Self::settle`] or
    /// [`Self::give_up`].
    pub fn of_all(batch: Batch, engine: &Engine, rules: Rules) -> Self {
        let picks = (0..batch.entries().len()).collect();
        let comparison = Self::new(batch, picks, engine, Some(rules));
        engine.budget.hold(comparison.commands.len());
        comparison
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

    /// The batch, when all of it is settled or sent on.
    pub fn into_batch(self) -> Batch {
        self.batch
    }

    /// It will not be read to its end: free what it weighs besides its entries.
    pub fn give_up(&self, engine: &Engine) {
        if self.rules.is_some() {
            engine.budget.free(self.commands.len());
        }
    }

    /// Entries whose reads were answered with an error: they are judged like a RESTORE's.
    pub fn take_errors(&mut self) -> Vec<(usize, Vec<u8>)> {
        std::mem::take(&mut self.errors)
    }

    /// Read the replies that are here; `now` is the source's time, by which keys have expired or not.
    pub fn read(&mut self, data: &[u8], now: u64, closings: &Closings) -> ReadProgress {
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
        let per_read = 1 + usize::from(self.batch.is_asking());
        let reads = self.reads();
        let per_key = reads * per_read;
        while self.replies < self.picks.len() * per_key {
            let index = self.picks[self.replies / per_key];
            let step = self.replies % per_key;
            let is_asking = per_read == 2 && step.is_multiple_of(2);
            let read = step / per_read;
            if self.skip > 0 {
                let skipped = self.skip.min(data.len() - at);
                self.skip -= skipped;
                at += skipped;
                if self.skip > 0 {
                    return Ok((at, false, 0));
                }
                self.found.push((index, Found::Finding(Finding::Large)));
            } else {
                let (reply, used) = match decode(&data[at..])? {
                    Decoded::Partial(need) if self.is_too_large(need) => {
                        self.skip = need - (data.len() - at);
                        return Ok((data.len(), false, 0));
                    }
                    Decoded::Partial(need) => return Ok((at, false, need)),
                    Decoded::Whole(reply, used) => (reply, used),
                };
                match (read, reply) {
                    // One of the reads has got no reply, and nobody knows which.
                    (_, reply) if self.closing.is_answered_by(&reply) => {
                        return Err(ProtocolError::at(&data[at..]));
                    }
                    (_, Reply::Simple(_)) if is_asking => {}
                    (0, Reply::Integer(expires)) => {
                        self.expires = Some(expires);
                        if reads == 1 {
                            self.judge(index, Some(&THERE), now);
                        }
                    }
                    (1, Reply::Bulk(payload)) if reads == 2 => self.judge(index, payload, now),
                    (1, Reply::Simple(name)) if reads == 3 => self.shape = Shape::of(name),
                    (2, Reply::Integer(length)) => self.judge_quickly(index, length, now),
                    // The target's value is of another type than the source's.
                    (2, Reply::Error(text)) if text.starts_with(b"WRONGTYPE") => {
                        self.judge_quickly(index, -1, now);
                    }
                    (_, Reply::Error(text)) => self.error = Some(text.to_vec()),
                    _ => return Err(ProtocolError::at(&data[at..])),
                }
                at += used;
            }
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
        let counts = self.errors.len() < self.picks.len();
        let (used, done, need) = closings.read(self.closing, &data[at..], counts)?;
        Ok((at + used, done, need))
    }

    /// How many commands read a key.
    fn reads(&self) -> usize {
        match self.rules.map_or(Depth::Value, |rules| rules.verify.depth) {
            Depth::Existence => 1,
            Depth::Value => 2,
            Depth::Length => 3,
        }
    }

    fn is_too_large(&self, reply: usize) -> bool {
        self.rules.is_some_and(|rules| reply > rules.large)
    }

    /// The key's expiry in ms since the epoch (0: none); `None` where there is no key.
    fn expires_at(&self) -> Option<u64> {
        let expires = self.expires.filter(|&expires| expires != -2)?;
        Some(match (self.clock, u64::try_from(expires)) {
            (_, Err(_)) => 0,
            (None, Ok(at)) => at,
            (Some(now), Ok(rest)) => now + rest,
        })
    }

    #[inline]
    fn judge(&mut self, index: usize, payload: Option<&[u8]>, now: u64) {
        let wanted = self.batch.restore(index);
        let held = payload
            .zip(self.expires_at())
            .map(|(payload, expires_at)| Held { payload, expires_at });
        let found = match (self.rules, held) {
            (Some(rules), held) => judge(&wanted, held, rules, now).map(Found::Finding),
            (None, None) => Some(Found::Absent),
            (None, Some(held)) => Some(compare(&wanted, held, self.limit, now)),
        };
        if let Some(found) = found {
            self.found.push((index, found));
        }
    }

    fn judge_quickly(&mut self, index: usize, length: i64, now: u64) {
        let stand_in = self.shape.stand_in(length);
        self.judge(index, stand_in.as_ref().map(<[u8; 9]>::as_slice), now);
    }

    /// Settle what a verification found: what is the same by runs, the rest one by one.
    fn settle_verified(&mut self, engine: &Rc<Engine>, node: &Address) {
        engine.budget.free(self.commands.len());
        let found = std::mem::take(&mut self.found);
        let mut differing = found.iter().map(|(index, _)| *index).peekable();
        let mut failing = self.errors.iter().map(|(index, _)| *index).peekable();
        let (mut freed, mut same, mut bytes_all) = (0, 0, 0);
        let mut run: Option<(PageId, u32, u64)> = None;
        let complete = |page: PageId, is_complete: bool| {
            if is_complete {
                engine.forget_names(page);
            }
        };
        let mut ledger = engine.shared.ledger();
        for &index in &self.picks {
            if differing.next_if_eq(&index).is_some() || failing.next_if_eq(&index).is_some() {
                continue;
            }
            let entry = self.batch.entries()[index];
            same += 1;
            bytes_all += entry.payload as u64;
            freed += self.batch.weight(index);
            match &mut run {
                Some((page, keys, bytes)) if *page == entry.page => {
                    *keys += 1;
                    *bytes += entry.payload as u64;
                }
                _ => {
                    if let Some((page, keys, bytes)) = run.replace((entry.page, 1, entry.payload as u64)) {
                        complete(page, ledger.settle(page, Outcome::Unchanged, keys, bytes));
                    }
                }
            }
        }
        if let Some((page, keys, bytes)) = run {
            complete(page, ledger.settle(page, Outcome::Unchanged, keys, bytes));
        }
        if ledger.open_pages() == 0 {
            engine.changed.notify_one();
        }
        drop(ledger);
        engine.shared.progress.settle(Outcome::Unchanged, same, bytes_all);
        engine.budget.free(freed);
        let mut health = engine.health.borrow_mut();
        if same > 0 || !found.is_empty() {
            health.succeeded(std::time::Instant::now());
        }
        if health.troubled() {
            let mut failing = self.errors.iter().map(|(index, _)| *index).peekable();
            for &index in &self.picks {
                if failing.next_if_eq(&index).is_none() {
                    health.recovered(self.batch.entries()[index].slot);
                }
            }
        }
        drop(health);
        for (index, found) in found {
            if let Found::Finding(finding) = found {
                self.settle_finding(engine, node, index, finding);
            }
        }
    }

    fn settle_finding(&self, engine: &Rc<Engine>, node: &Address, index: usize, finding: Finding) {
        let entry = self.batch.entries()[index];
        match finding {
            Finding::Gone(outcome) => engine.settle_entry(&self.batch, index, outcome),
            Finding::Large => {
                engine.budget.free(self.batch.weight(index));
                let key = engine.source_name(&self.batch, index);
                let name = self.batch.restore(index).key;
                engine.compare_large(entry.page, entry.slot, &key, name);
            }
            Finding::Differs(Difference { kind, sides, message }) => {
                engine.budget.free(self.batch.weight(index));
                engine.fail(
                    entry.page,
                    Failure {
                        key: engine.source_name(&self.batch, index),
                        slot: entry.slot,
                        kind,
                        message,
                        sides: Some(sides),
                        node: node.to_string(),
                    },
                );
            }
        }
    }

    /// Settle what was found.
    pub fn settle(&mut self, engine: &Rc<Engine>, node: &Address) {
        if self.rules.is_some() {
            self.settle_verified(engine, node);
            return;
        }
        for (index, found) in std::mem::take(&mut self.found) {
            let entry = self.batch.entries()[index];
            engine
                .health
                .borrow_mut()
                .answered(entry.slot, std::time::Instant::now());
            match found {
                // Gone between RESTORE and now: write it after all.
                Found::Absent if entry.phantoms >= MOST_PHANTOMS => {
                    let what = "the target answers BUSYKEY to RESTORE, and holds nothing";
                    self.conflict(engine, node, index, FailureKind::Error, what);
                }
                Found::Absent => {
                    let mut again = Batch::default();
                    let entry = Entry {
                        phantoms: entry.phantoms + 1,
                        ..entry
                    };
                    again.push_again(entry, self.batch.command(index));
                    engine.delay(
                        again,
                        RetryReason::Unavailable,
                        &format!("deleted meanwhile at {node}"),
                    );
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
                Found::Large => engine.copy_entry_in_chunks(&self.batch, index),
                Found::Finding(finding) => unreachable!("only a verification finds {finding:?}"),
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
                sides: None,
                node: node.to_string(),
            },
        );
    }
}

fn compare(wanted: &Restore<'_>, held: Held<'_>, limit: usize, now: u64) -> Found {
    let is_module = wanted.payload.first().and_then(|&byte| Kind::of(byte)) == Some(Kind::Module);
    match same_value_within(wanted.payload, held.payload, limit, now + TTL_TOLERANCE) {
        Ok(false) => Found::Different,
        // What only its module can read is the same byte by byte, or not at all.
        Err(PayloadError::TooLarge { .. }) if is_module => Found::Different,
        Err(PayloadError::TooLarge { .. }) => Found::Large,
        Err(error) => Found::Unreadable(error.to_string()),
        Ok(true) if same_expiry(wanted.expires_at, held.expires_at, TTL_TOLERANCE) => Found::Same,
        Ok(true) => Found::OtherTtl,
    }
}
