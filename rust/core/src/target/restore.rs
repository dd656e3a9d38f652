//! What the replies to a batch mean: acknowledged entries are settled, every error is judged by the table in
//! `reply.rs` and its entry sent on, delayed, compared, translated or given up.
//!
//! Invariant: an error concerns its own entry only; the others of the batch go on.

use std::time::Instant;

use crate::compare::session::Comparison;
use crate::error::ErrorKind;
use crate::job::engine::OnConflict;
use crate::ledger::books::PageId;
use crate::ledger::progress::{Outcome, RetryReason};
use crate::ledger::unsettled::{Failure, FailureKind};
use crate::reply::{Verdict, judge};
use crate::target::batch::{Batch, Entry};
use crate::target::connection::Session;
use crate::target::flight::Flight;
use crate::text::said;
use crate::text::shown;

/// After so many redirects in a row an entry waits for a fresh topology: two nodes disagree.
const MOST_HOPS: u8 = 5;

impl Session<'_> {
    /// Every reply to a flight is here.
    pub(crate) fn finish(&self, flight: Flight) {
        match flight {
            Flight::Restore {
                batch, errors, probe, ..
            } => {
                self.acknowledge(&batch, batch.entries().len(), &errors);
                let busy = self.handle_errors(&batch, &errors);
                if probe {
                    let refused = errors.iter().any(|(_, error)| judge(error) == Verdict::Full);
                    let taken = batch.entries().len() - errors.len();
                    self.engine.probed(self.link, taken, refused);
                }
                if busy.is_empty() {
                    self.engine.spares.borrow_mut().give(batch);
                } else {
                    self.compare(batch, busy);
                }
            }
            Flight::Compare(mut comparison) => {
                comparison.settle(self.engine, &self.link.address);
                if self.engine.spec.verify.is_none() {
                    self.link.unconfirmed.set(true);
                }
                let errors = comparison.take_errors();
                let busy = self.handle_errors(comparison.batch(), &errors);
                for (index, error) in errors.iter().filter(|(index, _)| busy.contains(index)) {
                    // No server answers a read so, and a key without an outcome would hold the run open for ever.
                    self.give_up(comparison.batch(), *index, FailureKind::Error, error);
                }
                if self.engine.spec.verify.is_some() {
                    let keys = comparison.picks().len() - errors.len();
                    self.link.keys.set(self.link.keys.get() + keys as u64);
                    self.engine.spares.borrow_mut().give((*comparison).into_batch());
                }
            }
            Flight::Wait(wait) => wait.settle(self.engine, self.link),
        }
    }

    /// Look at what the target holds for the entries `busy` of a batch whose others are settled.
    #[cold]
    fn compare(&self, batch: Batch, mut busy: Vec<usize>) {
        let mut compared = batch;
        if busy.iter().any(|&index| compared.entries()[index].is_set) {
            let set = compared;
            compared = Batch::like(&set);
            for &index in &busy {
                self.engine.budget.hold(compared.push_as_restore(&set, index));
            }
            busy = (0..busy.len()).collect();
            self.engine.spares.borrow_mut().give(set);
        }
        let comparison = Comparison::new(compared, busy, self.engine, None);
        self.link.enqueue(Flight::Compare(Box::new(comparison)));
    }

    /// Settle the first `replied` entries of a batch, apart from those with an error.
    pub(crate) fn acknowledge(&self, batch: &Batch, replied: usize, errors: &[(usize, Vec<u8>)]) {
        let acknowledged = (replied - errors.len()) as u64;
        if acknowledged == 0 {
            return;
        }
        let mut bytes_all = 0;
        let mut freed = if replied == batch.entries().len() {
            batch.total_weight()
        } else {
            (0..replied).map(|index| batch.weight(index)).sum()
        };
        let mut followed = (0, 0);
        {
            let complete = |page: PageId, is_complete: bool| {
                if is_complete {
                    self.engine.forget_names(page);
                }
            };
            let mut count_followed = |page: PageId, keys: u32, bytes: u64| {
                if let Some(follow) = &self.engine.follow
                    && follow.owns(page)
                {
                    follow.count(Outcome::Migrated, u64::from(keys), bytes);
                    followed.0 += u64::from(keys);
                    followed.1 += bytes;
                }
            };
            let mut failed = errors.iter().map(|(index, _)| *index).peekable();
            let mut ledger = self.engine.shared.ledger();
            let mut run: Option<(PageId, u32, u64)> = None;
            for (index, entry) in batch.entries()[..replied].iter().enumerate() {
                if failed.next_if_eq(&index).is_some() {
                    freed -= batch.weight(index);
                    continue;
                }
                match &mut run {
                    Some((page, keys, bytes)) if *page == entry.page => {
                        *keys += 1;
                        *bytes += entry.payload as u64;
                    }
                    _ => {
                        if let Some((page, keys, bytes)) = run.replace((entry.page, 1, entry.payload as u64))
                        {
                            bytes_all += bytes;
                            count_followed(page, keys, bytes);
                            complete(page, ledger.settle(page, Outcome::Migrated, keys, bytes));
                        }
                    }
                }
            }
            if let Some((page, keys, bytes)) = run {
                bytes_all += bytes;
                count_followed(page, keys, bytes);
                complete(page, ledger.settle(page, Outcome::Migrated, keys, bytes));
            }
            if ledger.open_pages() == 0 {
                self.engine.changed.notify_one();
            }
        }
        self.engine.budget.free(freed);
        self.engine.shared.progress.settle(
            Outcome::Migrated,
            acknowledged - followed.0,
            bytes_all - followed.1,
        );
        self.link.keys.set(self.link.keys.get() + acknowledged);
        self.link.unconfirmed.set(true);
        let mut health = self.engine.health.borrow_mut();
        health.succeeded(Instant::now());
        if health.troubled() {
            let failed: Vec<usize> = errors.iter().map(|(index, _)| *index).collect();
            for (index, entry) in batch.entries()[..replied].iter().enumerate() {
                if failed.binary_search(&index).is_err() {
                    health.recovered(entry.slot);
                }
            }
        }
    }

    /// Do what each error means for its entry; returns the entries that the target has already and that are
    /// to be compared.
    pub(crate) fn handle_errors(&self, batch: &Batch, errors: &[(usize, Vec<u8>)]) -> Vec<usize> {
        let (mut busy, is_asking) = (Vec::new(), batch.is_asking());
        let mut waiting: Vec<(bool, String, Batch)> = Vec::new();
        let mut restores = Batch::like(batch);
        for (index, error) in errors {
            let index = *index;
            let entry = Entry {
                hops: batch.entries()[index].hops + 1,
                ..batch.entries()[index]
            };
            let mut wait = |entry: Entry, full: bool| {
                let reason = self.reason(error);
                let at = waiting
                    .iter()
                    .position(|(is_full, text, _)| *is_full == full && *text == reason)
                    .unwrap_or_else(|| {
                        waiting.push((full, reason, Batch::default()));
                        waiting.len() - 1
                    });
                waiting[at].2.push_again(entry, batch.command(index));
            };
            match judge(error) {
                // Only RESTORE's reply says what is wrong with a key.
                verdict @ (Verdict::Payload | Verdict::Denied | Verdict::Refused | Verdict::Failed)
                    if entry.is_set =>
                {
                    if verdict == Verdict::Refused {
                        self.engine.sets_refused.set(true);
                    }
                    self.engine.budget.hold(restores.push_as_restore(batch, index));
                }
                Verdict::Moved { .. } | Verdict::Ask(_) if entry.hops > MOST_HOPS => wait(entry, false),
                // It says nothing of where this key belongs.
                Verdict::Moved { slot, .. } if slot != entry.slot => wait(entry, false),
                Verdict::Moved { slot, to } => {
                    self.engine.shared.progress.add_moved();
                    if let Some(node) = self.engine.moved(
                        slot,
                        &to.address(&self.link.address, &self.engine.spec.address_map),
                    ) {
                        self.engine.send_on(node, entry, batch.command(index));
                    }
                }
                Verdict::Ask(to) => {
                    self.engine.shared.progress.add_ask();
                    if let Some(node) = self
                        .engine
                        .asked(&to.address(&self.link.address, &self.engine.spec.address_map))
                    {
                        let mut asking = Batch::asking();
                        asking.push_again(entry, batch.command(index));
                        self.engine.send_batch(node, asking);
                    }
                }
                Verdict::Wait => wait(entry, false),
                Verdict::Full => wait(entry, true),
                Verdict::Busy if self.engine.spec.on_conflict == OnConflict::Skip && !entry.in_doubt => {
                    self.engine
                        .health
                        .borrow_mut()
                        .answered(entry.slot, Instant::now());
                    self.engine.settle_entry(batch, index, Outcome::Skipped);
                }
                Verdict::Busy => busy.push(index),
                Verdict::Payload => self.translate(batch, index, entry, error),
                Verdict::Denied => self.give_up(batch, index, FailureKind::Denied, error),
                Verdict::Failed => self.give_up(batch, index, FailureKind::Error, error),
                Verdict::Refused => {
                    self.engine.stop(
                        ErrorKind::TargetRefused,
                        format!(
                            "the target's node {} refuses to {} keys: {}",
                            self.link.address,
                            self.engine.action(),
                            said(error)
                        ),
                    );
                }
            }
        }
        if !restores.is_empty() {
            self.engine.send_batch(self.link.node, restores);
        }
        for (full, reason, batch) in waiting {
            // Who asks to be let in is asked for by another node: it goes that way again.
            if full && !is_asking && self.engine.spec.verify.is_none() {
                self.engine.hold_full(self.link, batch, &reason);
            } else {
                let why = if full {
                    RetryReason::Full
                } else {
                    RetryReason::Unavailable
                };
                self.engine.delay(batch, why, &reason);
            }
        }
        busy
    }

    /// What a node said, for a person: the code alone tells enough of the passing states.
    fn reason(&self, error: &[u8]) -> String {
        let text = said(error);
        let code = text.split(' ').next().unwrap_or_default();
        format!("{code} at {}", self.link.address)
    }

    pub(crate) fn give_up(&self, batch: &Batch, index: usize, kind: FailureKind, error: &[u8]) {
        let key = batch.restore(index).key;
        let entry = batch.entries()[index];
        self.engine.budget.free(batch.weight(index));
        self.engine.fail(
            entry.page,
            Failure {
                key: self.engine.source_name(batch, index),
                slot: entry.slot,
                kind,
                message: format!(
                    "the target answered {} to {} {}",
                    said(error),
                    self.engine.action().to_uppercase(),
                    shown(key)
                ),
                sides: None,
                node: self.link.address.to_string(),
            },
        );
    }
}
