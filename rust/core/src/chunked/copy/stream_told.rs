//! What both sides say of a stream that is followed by its elements, and what is written to it in one transaction.
//!
//! Invariant: a time of delivery is the source's to the millisecond, wherever its clock lets it be; a message that the
//! target has pending as the source has it is not claimed again.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunked::copy::groups;
use crate::chunked::copy::groups::{Delivery, Group, History};
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::parts::{Chunk, Kind, Pending, PendingPage, Place, parse_id};
use crate::ledger::unsettled::FailureKind;
use crate::net::client::Commands;
use crate::rdb::StreamId;
use crate::resp::Tree;

/// What tells the expiry says this of a key that is not there (any more).
const GONE: i64 = -2;

/// So many pending entries are asked for between two looks at the clock.
const WINDOW: usize = 16;

/// So often they are asked for until the clock stands still meanwhile.
const MOST_READS: usize = 16;

/// By how many ms two readings of one time of delivery may differ.
const TOLERANCE: u64 = 2;

/// What stands in an entry that is there only until it is pending.
const PLACEHOLDER: [&[u8]; 2] = [b"", b""];

/// What the source says of a stream at one instant.
pub(super) struct Told {
    pub now: u64,
    pub expires_at: u64,
    pub length: u64,
    /// The first entry; where there is none, the first that there may be.
    pub first: StreamId,
    pub last: StreamId,
    history: History,
    /// Without their consumers.
    pub groups: Vec<Group>,
    /// Entries behind the place that was asked for.
    pub chunk: Chunk,
}

impl Told {
    /// The entries, which are left out from then on.
    pub fn take_chunk(&mut self) -> Chunk {
        let empty = Chunk::empty(self.chunk.next);
        std::mem::replace(&mut self.chunk, empty)
    }

    pub fn group(&self, name: &[u8]) -> Option<&Group> {
        self.groups.iter().find(|group| group.name == name)
    }

    /// Append the command that deletes an entry that nobody will have seen, and that the source lacks.
    pub fn push_deletion(&self, batch: &mut Batch, name: &[u8], id: StreamId) {
        let nothing_was_deleted = self.history.max_deleted_id.as_deref() == Some(b"0-0");
        if nothing_was_deleted {
            // It was trimmed, which is not remembered; a deletion is.
            batch.push(&[b"XTRIM", name, b"MINID", b"=", &text(after(id))]);
        } else {
            batch.push(&[b"XDEL", name, &text(id)]);
        }
    }

    /// Append the commands that delete entries that the source lacks, but for those that were trimmed: they go so.
    pub fn push_deletions(&self, batch: &mut Batch, name: &[u8], absent: &[StreamId]) {
        for &id in absent.iter().filter(|id| **id >= self.first) {
            batch.push(&[b"XDEL", name, &text(id)]);
        }
    }

    /// Append the commands that take what is before an entry, and set what the stream remembers.
    pub fn push_ends(
        &self,
        batch: &mut Batch,
        name: &[u8],
        first_seen: Option<StreamId>,
        with_history: bool,
    ) {
        if let Some(first) = first_seen {
            batch.push(&[b"XTRIM", name, b"MINID", b"=", &text(first)]);
        }
        groups::write_history(&mut batch.commands, name, &self.history, with_history);
    }
}

/// How far the target has come.
pub(super) struct AtTarget {
    pub last: StreamId,
    pub groups: BTreeSet<Vec<u8>>,
}

/// What is written in one transaction.
pub(super) struct Batch {
    pub commands: Commands,
    /// Replies that tell whether a message could be made pending.
    pub claims: Vec<usize>,
}

impl Batch {
    pub fn new(name: &[u8]) -> Self {
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"EXISTS", name]);
        Self {
            commands,
            claims: Vec::new(),
        }
    }

    pub fn push(&mut self, arguments: &[&[u8]]) {
        self.commands.push(arguments);
    }

    /// The place of the next command's reply.
    pub fn next(&self) -> usize {
        self.commands.count() - 1
    }

    pub fn add(&mut self, name: &[u8], chunk: &Chunk) {
        Kind::Stream.write(&mut self.commands, name, chunk);
    }

    pub fn claim(&mut self, name: &[u8], group: &[u8], delivery: &Delivery) {
        self.claims.push(self.next());
        groups::write_pending(&mut self.commands, name, group, std::slice::from_ref(delivery));
    }

    pub fn acknowledge(&mut self, name: &[u8], group: &[u8], id: StreamId) {
        self.push(&[b"XACK", name, group, &text(id)]);
    }
}

/// What both sides say of messages that were touched.
#[derive(Default)]
pub(super) struct Deliveries {
    /// Those that the source has as pending, and the target not so.
    pub claims: Vec<(Vec<u8>, StreamId, Delivery)>,
    /// Those that are not pending.
    pub acknowledged: Vec<(Vec<u8>, StreamId)>,
}

/// An ID as commands take it.
pub(super) fn text(id: StreamId) -> Vec<u8> {
    format!("{}-{}", id.ms, id.seq).into_bytes()
}

/// The next ID that an entry may have.
fn after(id: StreamId) -> StreamId {
    match id.seq.checked_add(1) {
        Some(seq) => StreamId { seq, ..id },
        None => StreamId {
            ms: id.ms.saturating_add(1),
            seq: 0,
        },
    }
}

pub(super) fn id(text: &[u8]) -> Option<StreamId> {
    let (ms, seq) = parse_id(text)?;
    Some(StreamId { ms, seq })
}

/// Put entries that are only there to be pending between those of a chunk.
pub(super) fn add_placeholders(chunk: &mut Chunk, lost: &BTreeSet<StreamId>) {
    let fields = || PLACEHOLDER.map(<[u8]>::to_vec).to_vec();
    let placeholders = lost.iter().map(|&id| (text(id), fields()));
    chunk.entries.extend(placeholders);
    chunk.entries.sort_by_key(|(text, _)| id(text));
}

/// Whether the target has a message pending as the source has it.
pub(super) fn is_same(ours: &Pending, theirs: &Pending) -> bool {
    let times = [ours.delivery.delivered_at_ms, theirs.delivery.delivered_at_ms];
    ours.consumer == theirs.consumer
        && ours.delivery.count == theirs.delivery.count
        && times[0].abs_diff(times[1]) <= TOLERANCE
}

impl Copy<'_> {
    /// What the source says of the stream, with up to `count` entries behind `last`; none if the key is gone.
    pub(super) async fn read_told(&mut self, last: StreamId, count: usize) -> Attempt<Option<Told>> {
        let key = self.big.source.clone();
        let place = Place::After(last.ms, last.seq);
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        commands.push(&[Kind::Stream.length(), &key]);
        commands.append(&groups::read_history(&key));
        commands.append(&groups::read_groups(&key));
        commands.append(&Kind::Stream.read(&key, place, count));
        commands.push(&[b"EXEC"]);
        let Some(Tree::Array(replies)) = self.ask(commands).await?.pop() else {
            return Err(self.nonsense());
        };
        let [time, expiry, length, stream, groups, entries] =
            <[Tree; 6]>::try_from(replies).map_err(|_| self.nonsense())?;
        let now = time.milliseconds().ok_or_else(|| self.nonsense())?;
        let expiry = expiry.integer().ok_or_else(|| self.nonsense())?;
        if expiry == GONE {
            return Ok(None);
        }
        for reply in [&length, &stream, &groups, &entries] {
            if let Tree::Error(text) = reply {
                return Err(self.source_error(text));
            }
        }
        let told = || {
            let first = groups::first_id(&stream).as_deref().and_then(id);
            let history = groups::history(stream)?;
            let last = id(&history.last_id)?;
            let length = length.integer()?.max(0).cast_unsigned();
            Some(Told {
                now: now.max(0).cast_unsigned(),
                expires_at: self.expires_at(expiry, now),
                length,
                first: if length > 0 { first? } else { after(last) },
                last,
                history,
                groups: groups::groups(groups)?,
                chunk: Kind::Stream.chunk(entries, place, count, length)?,
            })
        };
        told().map(Some).ok_or_else(|| self.nonsense())
    }

    /// How far the target has come with the stream `name`.
    pub(super) async fn look_at_target(&mut self, name: &[u8]) -> Attempt<AtTarget> {
        let commands: [&[&[u8]]; 2] = [&[b"XINFO", b"STREAM", name], &[b"XINFO", b"GROUPS", name]];
        let replies = self.tell(&commands).await.map_err(|stop| match stop {
            Stop::Failed(FailureKind::Error, ..) => Stop::Changed("the target has lost it"),
            stop => stop,
        })?;
        let [stream, groups] = <[Tree; 2]>::try_from(replies).map_err(|_| self.nonsense())?;
        let last = groups::history(stream).and_then(|history| id(&history.last_id));
        let groups = groups::groups(groups).ok_or_else(|| self.nonsense())?;
        Ok(AtTarget {
            last: last.ok_or_else(|| self.nonsense())?,
            groups: groups.into_iter().map(|group| group.name).collect(),
        })
    }

    /// What the source has of each of these messages, with exact times of delivery.
    async fn read_pending(&mut self, wanted: &[(&[u8], StreamId)]) -> Attempt<Vec<Option<Pending>>> {
        let key = self.big.source.clone();
        let mut found: Vec<Option<Pending>> = vec![None; wanted.len()];
        let mut open: Vec<usize> = (0..wanted.len()).collect();
        for read in 0..MOST_READS {
            let window = (WINDOW >> read).max(1);
            let mut commands = Commands::default();
            for places in open.chunks(window) {
                commands.push(&[b"TIME"]);
                for &place in places {
                    let (group, id) = wanted[place];
                    push_question(&mut commands, &key, group, id);
                }
                commands.push(&[b"TIME"]);
            }
            let mut replies = self.call_source(commands).await?.into_iter();
            let mut inexact = Vec::new();
            for places in open.chunks(window) {
                let before = replies.next().unwrap_or(Tree::Nil);
                let told: Vec<Tree> = replies.by_ref().take(places.len()).collect();
                let behind = replies.next().unwrap_or(Tree::Nil);
                for (&place, reply) in places.iter().zip(told) {
                    let (pending, is_exact) = self.one_pending(&before, reply, &behind)?;
                    if pending.is_some() && !is_exact {
                        inexact.push(place);
                    }
                    found[place] = pending;
                }
            }
            open = inexact;
            if open.is_empty() {
                break;
            }
        }
        Ok(found)
    }

    /// What a reply says of one message, and whether its time of delivery is exact; none of a group that is gone.
    fn one_pending(&self, before: &Tree, reply: Tree, behind: &Tree) -> Attempt<(Option<Pending>, bool)> {
        match reply {
            Tree::Error(text) if text.starts_with(b"NOGROUP") => Ok((None, true)),
            Tree::Error(text) => Err(self.source_error(&text)),
            reply => {
                let page = PendingPage::read(&[before.clone(), reply, behind.clone()], 1);
                let mut page = page.ok_or_else(|| self.nonsense())?;
                Ok((page.entries.pop(), page.is_exact))
            }
        }
    }

    /// What is to be done about these messages.
    pub(super) async fn read_deliveries(
        &mut self,
        name: &[u8],
        wanted: &[(&[u8], StreamId)],
    ) -> Attempt<Deliveries> {
        let mut deliveries = Deliveries::default();
        if wanted.is_empty() {
            return Ok(deliveries);
        }
        let ours = self.read_pending(wanted).await?;
        let mut pending = Vec::new();
        for (&(group, id), ours) in wanted.iter().zip(ours) {
            match ours {
                Some(ours) => pending.push((group, id, ours)),
                None => deliveries.acknowledged.push((group.to_vec(), id)),
            }
        }
        if pending.is_empty() {
            return Ok(deliveries);
        }
        // To claim a message anew that is not there any more would end it being pending.
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"TIME"]);
        for (group, id, _) in &pending {
            push_question(&mut commands, name, group, *id);
        }
        let mut replies = self.execute(commands, pending.len() + 1).await?.into_iter();
        let time = replies.next().unwrap_or(Tree::Nil);
        for ((group, id, ours), reply) in pending.into_iter().zip(replies) {
            let page = PendingPage::read(&[time.clone(), reply, time.clone()], 1);
            let theirs = page.ok_or_else(|| self.nonsense())?.entries.pop();
            if !theirs.is_some_and(|theirs| is_same(&ours, &theirs)) {
                deliveries.claims.push((group.to_vec(), id, ours.into()));
            }
        }
        Ok(deliveries)
    }

    /// Those of these entries that the source has not.
    pub(super) async fn read_absent(&mut self, ids: &[StreamId]) -> Attempt<Vec<StreamId>> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let key = self.big.source.clone();
        let mut commands = Commands::default();
        for &id in ids {
            commands.push(&[b"XRANGE", &key, &text(id), &text(id)]);
        }
        let replies = self.ask(commands).await?;
        let absent = ids.iter().zip(replies);
        Ok(absent
            .filter(|(_, reply)| reply.elements().is_empty())
            .map(|(&id, _)| id)
            .collect())
    }

    /// The consumers of these groups; groups that are gone are left out.
    pub(super) async fn read_consumers(
        &mut self,
        names: &BTreeSet<&[u8]>,
    ) -> Attempt<BTreeMap<Vec<u8>, Vec<Vec<u8>>>> {
        let key = self.big.source.clone();
        let mut commands = Commands::default();
        for name in names {
            commands.append(&groups::read_consumers(&key, name));
        }
        let mut found = BTreeMap::new();
        if names.is_empty() {
            return Ok(found);
        }
        for (name, reply) in names.iter().zip(self.call_source(commands).await?) {
            match reply {
                Tree::Error(text) if text.starts_with(b"NOGROUP") => {}
                Tree::Error(text) => return Err(self.source_error(&text)),
                reply => {
                    let consumers = groups::consumers(reply).ok_or_else(|| self.nonsense())?;
                    found.insert(name.to_vec(), consumers);
                }
            }
        }
        Ok(found)
    }
}

fn push_question(commands: &mut Commands, key: &[u8], group: &[u8], id: StreamId) {
    let id = text(id);
    commands.push(&[b"XPENDING", key, group, &id, &id, b"1"]);
}
