//! A batch: encoded RESTOREs for one primary, and SETs of plain strings, in one contiguous buffer, and the index to find
//! each again.
//!
//! Invariant: an entry's command can be sent again as it stands, to any node.

use crate::job::engine::{Engine, OnConflict};
use crate::ledger::books::PageId;
use crate::rdb::{PlainString, append_string, patch_version, plain_string, string_payload};
use crate::resp::{Decoded, Eviction, Reply, Restore, decode, encode};
use crate::target::closing::{Closing, Closings};

/// A batch is sent once it has grown to this many bytes.
pub(crate) const BATCH_BYTES: usize = 48 * 1024;

/// What one entry costs in the byte budget besides its command.
const ENTRY_BYTES: usize = size_of::<Entry>();

const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// What closes a batch takes no more.
const CLOSING_BYTES: usize = 64;

/// How fresh keys are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writing {
    /// Over what the target has.
    pub replace: bool,
    /// Plain strings by SET.
    pub sets: bool,
}

/// One key's RESTORE, or SET, within a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    /// Where the command ends in the buffer; it begins where the one before ends.
    pub end: usize,
    /// Length of the payload.
    pub payload: usize,
    pub page: PageId,
    /// Its place among the keys of the page.
    pub number: u32,
    pub slot: u16,
    /// Redirects followed since the last wait.
    pub hops: u8,
    /// It was sent once without a reply: what is there now may be our own write.
    pub in_doubt: bool,
    /// It was translated after the target refused it.
    pub translated: bool,
    /// It is a SET.
    pub is_set: bool,
    /// How often the target has called its key busy and then had none.
    pub phantoms: u8,
    /// How many connections have ended with it, one after another.
    pub cuts: u8,
}

/// Encoded RESTOREs for one primary.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    commands: Vec<u8>,
    entries: Vec<Entry>,
    asking: bool,
    closing: Closing,
}

impl Engine {
    /// How fresh keys are written.
    #[inline]
    pub fn writing(&self) -> Writing {
        Writing {
            replace: self.spec.on_conflict == OnConflict::Replace,
            // A verification keeps what is to be compared.
            sets: self.spec.verify.is_none() && !self.sets_refused.get(),
        }
    }

    /// What the source calls entry `index` of a batch.
    pub fn source_name(&self, batch: &Batch, index: usize) -> Vec<u8> {
        self.named(batch.entries()[index].page, &batch.restore(index))
    }
}

impl Batch {
    /// A batch whose every command is preceded by an ASKING.
    pub fn asking() -> Self {
        Self {
            asking: true,
            ..Self::default()
        }
    }

    /// An empty one that goes the way that `other` went.
    pub fn like(other: &Self) -> Self {
        Self {
            asking: other.asking,
            ..Self::default()
        }
    }

    pub fn is_asking(&self) -> bool {
        self.asking
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.commands.len() >= BATCH_BYTES
    }

    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// What goes over the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.commands
    }

    /// Append a key fresh from the source; return its weight in the byte budget.
    #[inline]
    pub fn push(&mut self, page: PageId, slot: u16, restore: &Restore<'_>, writing: Writing) -> usize {
        debug_assert!(!self.asking);
        let start = self.commands.len();
        debug_assert!(writing.sets || !restore.is_string);
        let is_set = writing.sets && restore.eviction.is_none() && self.push_set(restore, writing.replace);
        if !is_set {
            self.push_restore(restore, writing.replace);
        }
        let end = self.commands.len();
        self.entries.push(Entry {
            end,
            payload: if restore.is_string {
                string_payload(restore.payload.len())
            } else {
                restore.payload.len()
            },
            page,
            number: restore.number,
            slot,
            hops: 0,
            in_doubt: false,
            translated: false,
            is_set,
            phantoms: 0,
            cuts: 0,
        });
        end - start + ENTRY_BYTES
    }

    /// Append the SET of a plain string; false for all other values.
    #[inline]
    fn push_set(&mut self, restore: &Restore<'_>, replace: bool) -> bool {
        let (key, expires_at) = (restore.key, restore.expires_at);
        let plain = if restore.is_string {
            Some(PlainString::Bytes(restore.payload))
        } else {
            plain_string(restore.payload)
        };
        match plain {
            Some(PlainString::Bytes(value)) => {
                encode::set(&mut self.commands, key, expires_at, value, replace);
            }
            Some(PlainString::Integer(value)) => {
                let mut digits = itoa::Buffer::new();
                let value = digits.format(value).as_bytes();
                encode::set(&mut self.commands, key, expires_at, value, replace);
            }
            None => return false,
        }
        true
    }

    #[inline]
    fn push_restore(&mut self, restore: &Restore<'_>, replace: bool) {
        let start = self.commands.len();
        let payload_end = encode::restore(
            &mut self.commands,
            restore.key,
            restore.expires_at,
            restore.payload,
            replace,
        );
        if let Some(version) = restore.rdb_version {
            let payload = payload_end - restore.payload.len()..payload_end;
            patch_version(&mut self.commands[payload], version);
        }
        if let Some(measure) = restore.eviction {
            encode::eviction(&mut self.commands, start, measure);
        }
    }

    /// Append the deletion of a key; return its weight in the byte budget.
    pub fn push_deletion(&mut self, page: PageId, slot: u16, nothing: &Restore<'_>) -> usize {
        let start = self.commands.len();
        encode::command(&mut self.commands, &[b"UNLINK", nothing.key]);
        let end = self.commands.len();
        self.entries.push(Entry {
            end,
            payload: 0,
            page,
            number: nothing.number,
            slot,
            hops: 0,
            in_doubt: false,
            translated: false,
            is_set: false,
            phantoms: 0,
            cuts: 0,
        });
        end - start + ENTRY_BYTES
    }

    /// Append what closes it: where the answer to that comes, all replies before it were counted right.
    pub fn seal(&mut self, closings: &Closings) {
        debug_assert!(self.closing == Closing::Open && !self.entries.is_empty());
        if self.commands.capacity() - self.commands.len() < CLOSING_BYTES {
            self.commands.reserve_exact(CLOSING_BYTES);
        }
        self.closing = closings.close(&mut self.commands);
    }

    pub fn closing(&self) -> Closing {
        self.closing
    }

    /// Append an entry of another batch, with its command.
    pub fn push_again(&mut self, entry: Entry, command: &[u8]) {
        if self.asking {
            self.commands.extend_from_slice(ASKING);
        }
        self.commands.extend_from_slice(command);
        self.entries.push(Entry {
            end: self.commands.len(),
            ..entry
        });
    }

    /// Entry `index` of another batch, as a RESTORE: only that says why a value is not taken, and has a payload to be
    /// compared with. Returns what it weighs more than before.
    pub fn push_as_restore(&mut self, other: &Self, index: usize) -> usize {
        let entry = other.entries[index];
        if !entry.is_set {
            self.push_again(entry, other.command(index));
            return 0;
        }
        let (restore, replace) = other.set(index);
        let (mut payload, mut command) = (Vec::new(), Vec::new());
        append_string(&mut payload, restore.payload);
        encode::restore(&mut command, restore.key, restore.expires_at, &payload, replace);
        let entry = Entry {
            is_set: false,
            ..entry
        };
        self.push_again(entry, &command);
        command.len().saturating_sub(other.command(index).len())
    }

    /// The command of entry `index`, without an ASKING.
    pub fn command(&self, index: usize) -> &[u8] {
        let mut start = index.checked_sub(1).map_or(0, |before| self.entries[before].end);
        if self.asking {
            start += ASKING.len();
        }
        &self.commands[start..self.entries[index].end]
    }

    /// The arguments of a SET, its value in place of a payload, and whether it replaces.
    fn set(&self, index: usize) -> (Restore<'_>, bool) {
        let mut argument = arguments(self.command(index));
        let _name = argument();
        let (key, payload) = (argument(), argument());
        let (mut replace, mut expires_at) = (true, 0);
        loop {
            match argument() {
                b"" => break,
                b"NX" => replace = false,
                _ => expires_at = parsed(argument()),
            }
        }
        let restore = Restore {
            number: self.entries[index].number,
            key,
            expires_at,
            payload,
            is_string: false,
            rdb_version: None,
            eviction: None,
        };
        (restore, replace)
    }

    /// The arguments of entry `index`; those that a deletion lacks are empty, and so is the payload of a SET
    /// ([`Self::push_as_restore`] makes one).
    pub fn restore(&self, index: usize) -> Restore<'_> {
        if self.entries[index].is_set {
            let payload = b"";
            return Restore {
                payload,
                ..self.set(index).0
            };
        }
        let mut argument = arguments(self.command(index));
        let _name = argument();
        let key = argument();
        let expires_at = argument();
        let payload = argument();
        let mut eviction = None;
        loop {
            let kind = match argument() {
                b"" => break,
                b"IDLETIME" => Eviction::IdleTime,
                b"FREQ" => Eviction::Frequency,
                _ => continue,
            };
            eviction = Some((kind, parsed(argument())));
        }
        Restore {
            number: self.entries[index].number,
            key,
            expires_at: parsed(expires_at),
            payload,
            is_string: false,
            rdb_version: None,
            eviction,
        }
    }

    /// What entry `index` weighs in the byte budget.
    pub fn weight(&self, index: usize) -> usize {
        self.command(index).len() + ENTRY_BYTES
    }

    /// What the whole batch weighs, sealed or not.
    pub fn total_weight(&self) -> usize {
        let commands = self.entries.last().map_or(0, |last| last.end);
        let prefixes = if self.asking {
            self.entries.len() * ASKING.len()
        } else {
            0
        };
        commands - prefixes + self.entries.len() * ENTRY_BYTES
    }
}

/// The arguments of our own command, its name first; behind the last come empty ones.
fn arguments<'a>(mut rest: &'a [u8]) -> impl FnMut() -> &'a [u8] {
    move || loop {
        if rest.is_empty() {
            return b"".as_slice();
        }
        match decode(rest) {
            Ok(Decoded::Whole(reply, used)) => {
                rest = &rest[used..];
                if let Reply::Bulk(Some(bytes)) = reply {
                    return bytes;
                }
            }
            other => unreachable!("our own command does not decode: {other:?}"),
        }
    }
}

/// The number in our own command; 0 where a deletion lacks it.
fn parsed(digits: &[u8]) -> u64 {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_default()
}

/// Buffers of batches that are done, for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Spares(Vec<Batch>);

impl Spares {
    const MOST: usize = 32;

    pub fn take(&mut self) -> Batch {
        self.0.pop().unwrap_or_else(|| Batch {
            commands: Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 4),
            entries: Vec::with_capacity(512),
            asking: false,
            closing: Closing::Open,
        })
    }

    pub fn give(&mut self, mut batch: Batch) {
        // One large value must not keep its room for good.
        if self.0.len() < Self::MOST && batch.commands.capacity() <= 2 * BATCH_BYTES && !batch.asking {
            batch.commands.clear();
            batch.entries.clear();
            batch.closing = Closing::Open;
            self.0.push(batch);
        }
    }
}

#[cfg(test)]
mod tests;
