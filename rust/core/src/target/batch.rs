//! A batch: encoded RESTOREs for one primary, and SETs of plain strings, in one contiguous buffer, and the index to find
//! each again.
//!
//! Invariant: an entry's command can be sent again as it stands, to any node.

use crate::job::engine::Engine;
use crate::ledger::books::PageId;
use crate::rdb::{PlainString, append_string, patch_version, plain_string, string_payload};
use crate::resp::encode::ExpiryCommand;
use crate::resp::{Decoded, Eviction, Reply, Restore, decode, encode};

/// A batch is sent once it has grown to this many bytes.
pub(crate) const BATCH_BYTES: usize = 48 * 1024;

/// What one entry costs in the byte budget besides its command.
const ENTRY_BYTES: usize = size_of::<Entry>();

const ASKING: &[u8] = b"*1\r\n$6\r\nASKING\r\n";

/// A section that no server has: the answer is empty.
const NOTHING: &[u8] = b"*2\r\n$4\r\nINFO\r\n$4\r\nnone\r\n";

/// A longer name is not sent twice.
const LONGEST_ASKED: usize = 256;

/// What the read of an expiry takes besides the name.
const QUESTION_BYTES: usize = 40;

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
}

impl Engine {
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

    /// Append a question whose answer can be taken for no reply to a RESTORE: where it comes, all replies before it were
    /// counted right. It costs a key's look-up for a batch; where the room left takes no name, an INFO of nothing.
    pub fn seal(&mut self, expiry: ExpiryCommand) {
        let Some(last) = self.entries.len().checked_sub(1) else {
            return;
        };
        let key = self.restore(last).key;
        let room = self.commands.capacity() - self.commands.len();
        if key.len() <= LONGEST_ASKED && key.len() + QUESTION_BYTES <= room {
            let mut copy = [0; LONGEST_ASKED];
            copy[..key.len()].copy_from_slice(key);
            let length = key.len();
            encode::expiry(&mut self.commands, expiry, &copy[..length]);
        } else {
            self.commands.reserve_exact(NOTHING.len());
            self.commands.extend_from_slice(NOTHING);
        }
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
        })
    }

    pub fn give(&mut self, mut batch: Batch) {
        // One large value must not keep its room for good.
        if self.0.len() < Self::MOST && batch.commands.capacity() <= 2 * BATCH_BYTES && !batch.asking {
            batch.commands.clear();
            batch.entries.clear();
            self.0.push(batch);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::flight::read_restores;

    fn writing(replace: bool) -> Writing {
        Writing { replace, sets: true }
    }

    #[test]
    fn plain_strings_are_set_and_can_be_restored() {
        let (mut text, mut number) = (Vec::new(), b"\0\xc1\x39\x30".to_vec());
        append_string(&mut text, b"a value");
        let footer = crate::rdb::Footer::new(&number, 11);
        number.extend_from_slice(&footer.to_bytes());
        let restore = |number, payload, expires_at| Restore {
            number,
            key: b"k",
            expires_at,
            payload,
            is_string: false,
            rdb_version: Some(9),
            eviction: None,
        };
        let mut batch = Batch::default();
        let mut weight = 0;
        for replace in [true, false] {
            weight += batch.push(1, 2, &restore(0, &text, 0), writing(replace));
            weight += batch.push(1, 2, &restore(1, &number, 17), writing(replace));
        }
        assert_eq!(weight, batch.total_weight());
        let commands: Vec<String> = (0..4)
            .map(|index| {
                let mut argument = arguments(batch.command(index));
                let words = std::iter::repeat_with(&mut argument).take_while(|word| !word.is_empty());
                words
                    .map(|word| word.escape_ascii().to_string())
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .collect();
        assert_eq!(
            commands,
            [
                "SET k a value",
                "SET k 12345 PXAT 17",
                "SET k a value NX",
                "SET k 12345 NX PXAT 17"
            ]
        );
        assert!((0..4).all(|index| batch.restore(index).payload.is_empty()));
        assert_eq!(batch.restore(3).expires_at, 17);

        let mut restores = Batch::asking();
        for index in 0..4 {
            let more = restores.push_as_restore(&batch, index);
            assert_eq!(batch.weight(index) + more, restores.weight(index));
        }
        assert_eq!(restores.restore(2).payload, text);
        assert_eq!(restores.restore(3).expires_at, 17);
        assert!(crate::rdb::same_value(restores.restore(1).payload, &number, 0).unwrap());
        let has = |index: usize, word: &[u8]| {
            let mut argument = arguments(restores.command(index));
            std::iter::repeat_with(&mut argument)
                .take(7)
                .any(|own| own == word)
        };
        assert!(has(0, b"REPLACE") && has(1, b"REPLACE") && has(1, b"ABSTTL"));
        assert!(!has(2, b"REPLACE") && !has(3, b"REPLACE"));

        // A measure of its use needs RESTORE.
        let mut others = Batch::default();
        let measured = Restore {
            eviction: Some((Eviction::Frequency, 7)),
            ..restore(0, &text, 0)
        };
        others.push(1, 2, &measured, writing(true));
        let writing = Writing {
            replace: true,
            sets: false,
        };
        others.push(1, 2, &restore(1, &text, 0), writing);
        assert!(others.entries().iter().all(|entry| !entry.is_set));
        assert_eq!(Batch::default().push_as_restore(&others, 0), 0);
    }

    #[test]
    fn nil_is_a_busy_key_for_a_set_alone() {
        let mut text = Vec::new();
        append_string(&mut text, b"v");
        let restore = Restore {
            number: 0,
            key: b"k",
            expires_at: 0,
            payload: &text,
            is_string: false,
            rdb_version: None,
            eviction: None,
        };
        for (sets, said) in [(true, "BUSYKEY"), (false, "nil, which is no reply")] {
            let mut batch = Batch::default();
            batch.push(1, 2, &restore, Writing { replace: false, sets });
            batch.seal(ExpiryCommand::Absolute);
            let (mut replies, mut errors) = (0, Vec::new());
            let read = read_restores(b"$-1\r\n:-1\r\n", &batch, &mut replies, &mut errors);
            assert_eq!(read.unwrap(), (10, true, 0));
            assert!(errors[0].1.starts_with(said.as_bytes()), "{errors:?}");
            // Where a reply is missing or one too many, it is no seal's.
            let (mut replies, mut errors) = (0, Vec::new());
            read_restores(b"+OK\r\n$-1\r\n", &batch, &mut replies, &mut errors).unwrap_err();
        }
    }

    #[test]
    fn entries_are_found_again() {
        let mut batch = Batch::default();
        let mut weight = 0;
        for (slot, key) in [b"a".as_slice(), b"\r\n", b""].into_iter().enumerate() {
            let restore = Restore {
                number: slot as u32,
                key,
                expires_at: slot as u64 * 1000,
                payload: b"$4\r\n",
                is_string: false,
                rdb_version: None,
                eviction: (slot == 2).then_some((Eviction::Frequency, 7)),
            };
            weight += batch.push(7, slot as u16, &restore, writing(slot == 1));
        }
        assert_eq!(weight, batch.total_weight());
        batch.seal(ExpiryCommand::Absolute);
        assert_eq!(weight, batch.total_weight());
        assert_eq!(batch.restore(1).key, b"\r\n");
        assert_eq!(batch.restore(1).number, 1);
        assert_eq!(batch.restore(1).eviction, None);
        assert_eq!(batch.restore(2).eviction, Some((Eviction::Frequency, 7)));
        assert_eq!(batch.restore(2).expires_at, 2000);
        assert_eq!(batch.restore(0).payload, b"$4\r\n");

        let mut asking = Batch::asking();
        for index in [2, 0] {
            asking.push_again(batch.entries()[index], batch.command(index));
        }
        assert_eq!(asking.command(1), batch.command(0));
        assert_eq!(asking.weight(0), batch.weight(2));
        assert_eq!(asking.total_weight(), batch.weight(2) + batch.weight(0));
        assert!(asking.bytes().starts_with(ASKING));
    }

    #[test]
    fn a_seal_takes_no_more_room_than_there_is() {
        for (name, payload) in [(1 << 20, 9), (200, 1 << 20), (9, 1 << 20), (9, 9)] {
            let mut batch = Spares::default().take();
            let restore = Restore {
                number: 0,
                key: &vec![b'k'; name],
                expires_at: u64::MAX,
                payload: &vec![0; payload],
                is_string: false,
                rdb_version: None,
                eviction: Some((Eviction::IdleTime, u64::MAX)),
            };
            batch.push(0, 0, &restore, writing(true));
            let (length, capacity) = (batch.commands.len(), batch.commands.capacity());
            batch.seal(ExpiryCommand::Absolute);
            assert!(batch.commands.len() > length);
            assert_eq!(batch.commands.capacity(), capacity);
            assert_eq!(batch.bytes().ends_with(NOTHING), name > 9);
        }
    }
}
