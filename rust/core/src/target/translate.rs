//! Keys whose payloads the target can't load as they are.
//!
//! Invariant: a translated key goes on as one RESTORE like any other; what can't be translated is a recorded
//! failure that says why, and nothing of it is written.

use std::rc::Rc;

use crate::job::engine::{Engine, OnConflict};
use crate::ledger::books::PageId;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Failure, FailureKind};
use crate::rdb::{PayloadError, Target, TranslateError, Translated};
use crate::resp::Restore;
use crate::resp::encode;
use crate::target::batch::{Batch, Entry};
use crate::target::connection::Session;
use crate::text::said;
use crate::text::shown;

/// What every server from Redis 6.2 on takes.
const OLDEST: &[u16] = &[9];

impl Engine {
    /// Put a key into its primary's open batch in another layout.
    #[cold]
    pub(crate) fn route_translated(self: &Rc<Self>, page: PageId, slot: u16, restore: &Restore<'_>) {
        match self.translated(&self.spec.target_rdb, restore) {
            Ok(translated) => {
                let payload = &translated.payload;
                self.route_as_is(page, slot, &Restore { payload, ..*restore });
                self.note_dropped(self.named(page, restore), slot, &translated);
            }
            Err(TranslateError::Gone) => self.settle(page, Outcome::Expired, 1, 0),
            // Its parts are written by commands, which any server takes.
            Err(TranslateError::Payload(PayloadError::TooLarge { .. })) => {
                self.copy_in_chunks(page, slot, restore);
            }
            Err(error) => self.fail(
                page,
                Failure {
                    key: self.named(page, restore),
                    slot,
                    kind: FailureKind::Payload,
                    message: format!("the target can't hold {}: {error}", shown(restore.key)),
                    sides: None,
                    node: self.spec.source.to_string(),
                },
            ),
        }
    }

    /// The payload that a verification compares where fields lost their TTLs on purpose.
    #[cold]
    pub(crate) fn without_field_ttls(&self, restore: &Restore<'_>) -> Option<Vec<u8>> {
        let translated = self.translated(&self.spec.target_rdb, restore).ok()?;
        (translated.dropped_ttls > 0).then_some(translated.payload)
    }

    fn note_dropped(&self, key: Vec<u8>, slot: u16, translated: &Translated) {
        if translated.dropped_ttls > 0 {
            self.note_dropped_ttls(key, slot, translated.dropped_ttls);
        }
    }

    /// Write down that fields of a key lost their TTLs: `fields` or, of a large key, at least so many.
    pub(crate) fn note_dropped_ttls(&self, key: Vec<u8>, slot: u16, fields: usize) {
        self.shared.ledger().note(Failure {
            slot,
            kind: FailureKind::FieldTtlDropped,
            message: format!("at least {fields} fields of {} lost their TTL", shown(&key)),
            key,
            sides: None,
            node: self.spec.source.to_string(),
        });
    }

    fn translated(&self, target: &Target, restore: &Restore<'_>) -> Result<Translated, TranslateError> {
        target.translate(
            restore.payload,
            self.spec.field_ttl,
            self.source_now(),
            self.decode_limit(),
        )
    }
}

impl Session<'_> {
    /// The target refused the payload of entry `index`, though it was thought to take it, as a node of another
    /// version may: write it once more in the plainest layout. `error` is what it said.
    pub(crate) fn translate(&self, batch: &Batch, index: usize, entry: Entry, error: &[u8]) {
        if entry.translated {
            return self.give_up(batch, index, FailureKind::Payload, error);
        }
        let restore = batch.restore(index);
        let translated = match self.engine.translated(&Target::new(OLDEST), &restore) {
            Ok(translated) => translated,
            Err(TranslateError::Gone) => return self.engine.settle_entry(batch, index, Outcome::Expired),
            Err(TranslateError::Payload(PayloadError::TooLarge { .. })) => {
                return self.engine.copy_entry_in_chunks(batch, index);
            }
            Err(reason) => {
                let text = said(error);
                let message = format!("{text}; {reason}");
                return self.give_up(batch, index, FailureKind::Payload, message.as_bytes());
            }
        };
        if restore.key.len() + translated.payload.len() > self.engine.largest {
            return self.engine.copy_entry_in_chunks(batch, index);
        }
        let mut command = Vec::new();
        encode::restore(
            &mut command,
            restore.key,
            restore.expires_at,
            &translated.payload,
            self.engine.spec.on_conflict == OnConflict::Replace,
        );
        if let Some(measure) = restore.eviction {
            encode::eviction(&mut command, 0, measure);
        }
        // It weighs something else now.
        self.engine.budget.free(batch.weight(index));
        let entry = Entry {
            translated: true,
            payload: translated.payload.len(),
            ..entry
        };
        let mut again = Batch::like(batch);
        again.push_again(entry, &command);
        self.engine.budget.hold(again.weight(0));
        let name = self.engine.named(entry.page, &restore);
        self.engine.note_dropped(name, entry.slot, &translated);
        self.engine.send_batch(self.link.node, again);
    }
}
