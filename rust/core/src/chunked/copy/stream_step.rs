//! One step of bringing a stream up to date that is followed by its elements.
//!
//! Invariant: entries are added in the order of their IDs and as the source has or had them; what is pending is set before
//! the entries go that it is of, as no command makes a message pending that is not there. The ends and the history are
//! those of an instant at which the target has all of the source's entries.

use std::collections::BTreeSet;

use crate::chunked::copy::LIMITS;
use crate::chunked::copy::elements::Whither;
use crate::chunked::copy::groups;
use crate::chunked::copy::groups::Group;
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::stream_told::{AtTarget, Batch, Deliveries, Told, add_placeholders, id};
use crate::chunked::copy::target::{expiry_is_lost, push_expiry};
use crate::chunked::parts::StreamElement;
use crate::chunked::parts::{Chunk, Kind, Most, Oversize, Pending, PendingPage, PendingReads, Place};
use crate::net::client::Commands;
use crate::rdb::StreamId;
use crate::resp::Tree;

const NO_ENTRY: &str = "a message that is pending in it is not there any more";

/// Elements of a step.
pub(super) struct Slice<'a> {
    pub elements: &'a [StreamElement],
    /// They are the last.
    pub is_final: bool,
    /// Groups of which all is looked at.
    pub wholes: &'a BTreeSet<Vec<u8>>,
    /// What is before this entry was trimmed, and all is received that was done with it before.
    pub first_seen: Option<StreamId>,
}

/// Entries in a row, and what is pending of them and of those that were between them.
pub(super) struct Range {
    pub told: Told,
    pub chunk: Chunk,
    /// All up to here is looked at.
    pub upto: StreamId,
    /// There is no more.
    pub is_last: bool,
    pub size: usize,
    /// By group.
    pending: Vec<(Vec<u8>, Vec<Pending>)>,
    /// What is pending of these, and they are gone.
    lost: BTreeSet<StreamId>,
}

impl Range {
    /// Leave out what is pending of entries that are there: that is told of otherwise.
    fn keep_lost(&mut self) {
        for (_, entries) in &mut self.pending {
            entries.retain(|pending| self.lost.contains(&pending.id));
        }
    }

    fn claim(&self, batch: &mut Batch, name: &[u8]) {
        for (group, entries) in &self.pending {
            for pending in entries {
                batch.claim(name, group, &pending.clone().into());
            }
        }
    }
}

impl Copy<'_> {
    /// Run a batch. Returns the replies, of which the last is that to the command for the expiry.
    pub(super) async fn write_batch(
        &mut self,
        name: &[u8],
        mut batch: Batch,
        expires_at: u64,
        whither: Whither,
    ) -> Attempt<Vec<Tree>> {
        let keeps = push_expiry(&mut batch.commands, name, whither, expires_at);
        let count = batch.next();
        let replies = self.execute(batch.commands, count).await?;
        if replies.first().and_then(Tree::integer) != Some(1) {
            // What was written just now is not all of it.
            // It is copied whole in any case.
            let _ = self.unlink(name).await;
            return Err(Stop::Changed("the target has lost it"));
        }
        let is_empty = |place: &usize| {
            replies
                .get(*place)
                .is_some_and(|reply| reply.elements().is_empty())
        };
        if batch.claims.iter().any(is_empty) {
            return Err(Stop::Changed(NO_ENTRY));
        }
        if keeps && expiry_is_lost(replies.last(), expires_at) {
            return Err(Stop::Changed("the target has lost its expiry, or part of it"));
        }
        Ok(replies)
    }

    /// A chunk in pieces that the target takes.
    pub(super) fn pieces(&self, chunk: Chunk, last: StreamId) -> Attempt<Vec<Chunk>> {
        let limits = self.engine.spec.target_limits;
        let most = Most {
            bytes: limits.in_flight(),
            argument: limits.string(),
        };
        let pieces = chunk.pieces(Kind::Stream, Place::After(last.ms, last.seq), most);
        let pieces = pieces.map_err(|Oversize(bytes)| self.too_large("an entry of the stream", bytes))?;
        Ok(pieces.into_iter().map(|(_, piece)| piece).collect())
    }

    /// Read entries behind `from`, about `count`, and what is pending of them in these groups; none if the key is gone.
    pub(super) async fn read_range(
        &mut self,
        from: StreamId,
        count: &mut usize,
        groups: &BTreeSet<Vec<u8>>,
    ) -> Attempt<Option<Range>> {
        let Some(mut told) = self.read_told(from, *count).await? else {
            return Ok(None);
        };
        let mut chunk = told.take_chunk();
        *count = chunk.next_count(Kind::Stream, *count, LIMITS);
        let newest = chunk.entries.last().and_then(|(text, _)| id(text));
        let mut upto = match newest {
            Some(newest) if !chunk.is_last => newest,
            _ => told.last,
        };
        let mut pending = Vec::new();
        let may_be_pending = upto > from;
        let is_there = |group: &&Vec<u8>| may_be_pending && told.group(group).is_some();
        for group in groups.iter().filter(is_there) {
            let page = self.page_of_source(group, from).await?;
            if let Some(newest) = page.entries.last().filter(|_| !page.is_last) {
                upto = upto.min(newest.id);
            }
            pending.push((group.clone(), page.entries));
        }
        let is_last = chunk.is_last && upto == told.last;
        chunk
            .entries
            .retain(|(text, _)| id(text).is_some_and(|id| id <= upto));
        let mut lost = BTreeSet::new();
        for (_, entries) in &mut pending {
            entries.retain(|pending| pending.id <= upto);
            lost.extend(entries.iter().map(|pending| pending.id));
        }
        for id in chunk.entries.iter().filter_map(|(text, _)| id(text)) {
            lost.remove(&id);
        }
        Ok(Some(Range {
            size: chunk.bytes(),
            told,
            chunk,
            upto,
            is_last,
            pending,
            lost,
        }))
    }

    /// Write a range, and nothing else.
    pub(super) async fn write_range(
        &mut self,
        name: &[u8],
        at: &mut AtTarget,
        range: &mut Range,
        whither: Whither,
    ) -> Attempt<()> {
        let expires_at = range.told.expires_at;
        let mut chunk = std::mem::replace(&mut range.chunk, Chunk::empty(Kind::Stream.start()));
        add_placeholders(&mut chunk, &range.lost);
        let mut pieces = self.pieces(chunk, at.last)?;
        let final_piece = pieces.pop();
        for piece in pieces {
            let mut batch = Batch::new(name);
            batch.add(name, &piece);
            self.write_batch(name, batch, expires_at, whither).await?;
        }
        let mut batch = Batch::new(name);
        if let Some(piece) = final_piece {
            batch.add(name, &piece);
        }
        range.claim(&mut batch, name);
        for &id in &range.lost {
            range.told.push_deletion(&mut batch, name, id);
        }
        self.write_batch(name, batch, expires_at, whither).await?;
        at.last = range.upto;
        Ok(())
    }

    /// Write what there is behind the target's last entry and, where that is all there is, these elements; with the last of
    /// them the ends and the history. Returns what the source said, and whether that was all.
    pub(super) async fn stream_step(
        &mut self,
        name: &[u8],
        at: &mut AtTarget,
        slice: Slice<'_>,
        count: &mut usize,
        whither: Whither,
    ) -> Attempt<(Told, bool)> {
        let Some(mut range) = self.read_range(at.last, count, &at.groups).await? else {
            return Err(match whither {
                Whither::Temporary => Stop::Changed("it went while it was copied"),
                Whither::Published { .. } => Stop::Gone,
            });
        };
        if range.told.last < at.last {
            return Err(Stop::Changed("the target has entries that the source has not"));
        }
        range.keep_lost();
        let most = self.engine.spec.target_limits.in_flight();
        let is_all = range.is_last && range.size <= most;
        self.engine.budget.hold(range.size);
        let written = if is_all {
            self.write_step(name, at, slice, &mut range, whither).await
        } else {
            self.write_range(name, at, &mut range, whither).await
        };
        self.engine.budget.free(range.size);
        written?;
        Ok((range.told, is_all))
    }

    async fn write_step(
        &mut self,
        name: &[u8],
        at: &mut AtTarget,
        slice: Slice<'_>,
        range: &mut Range,
        whither: Whither,
    ) -> Attempt<()> {
        let with_history = self.engine.spec.target_rdb.has_stream_history();
        let (messages, touched, deleted) = sorted(&slice, &range.told, at)?;
        let deliveries = self.read_deliveries(name, &messages).await?;
        let absent = self.read_absent(&deleted).await?;
        let mut consumers = self.read_consumers(&touched).await?;
        let mut batch = Batch::new(name);
        self.add_range(&mut batch, name, at, range, &deliveries)?;
        let told = &range.told;
        for name_of_group in touched {
            match (told.group(name_of_group), consumers.remove(name_of_group)) {
                (Some(group), Some(consumers)) => {
                    let exists = at.groups.contains(name_of_group);
                    if !exists && !slice.wholes.contains(name_of_group) {
                        return Err(Stop::Changed("the target has lost a consumer group"));
                    }
                    let group = Group {
                        consumers,
                        ..group.clone()
                    };
                    groups::write_group(&mut batch.commands, name, &group, exists, with_history);
                    at.groups.insert(group.name);
                }
                // It is gone, or will be touched once more.
                _ if at.groups.remove(name_of_group) => {
                    batch.push(&[b"XGROUP", b"DESTROY", name, name_of_group]);
                }
                _ => {}
            }
        }
        range.pending.retain(|(group, _)| at.groups.contains(group));
        range.claim(&mut batch, name);
        let claims = deliveries.claims.iter();
        for (group, _, delivery) in claims.filter(|(group, ..)| at.groups.contains(group)) {
            batch.claim(name, group, delivery);
        }
        for (group, id) in &deliveries.acknowledged {
            batch.acknowledge(name, group, *id);
        }
        told.push_deletions(&mut batch, name, &absent);
        for &id in &range.lost {
            told.push_deletion(&mut batch, name, id);
        }
        let length_at = slice.is_final.then(|| {
            told.push_ends(&mut batch, name, slice.first_seen, with_history);
            let length_at = batch.next();
            batch.push(&[Kind::Stream.length(), name]);
            length_at
        });
        let replies = self.write_batch(name, batch, told.expires_at, whither).await?;
        let length = length_at.and_then(|place| replies.get(place)?.integer());
        if length.is_some_and(|length| length.max(0).cast_unsigned() < told.length) {
            return Err(Stop::Changed("the target has only a part of it"));
        }
        at.last = range.upto;
        Ok(())
    }

    /// Append the commands that add the entries of a range, and what has to be there to be pending.
    fn add_range(
        &self,
        batch: &mut Batch,
        name: &[u8],
        at: &AtTarget,
        range: &mut Range,
        deliveries: &Deliveries,
    ) -> Attempt<()> {
        let here: BTreeSet<_> = range
            .chunk
            .entries
            .iter()
            .filter_map(|(text, _)| id(text))
            .collect();
        let claimed = deliveries.claims.iter().map(|(_, id, _)| *id);
        range
            .lost
            .extend(claimed.filter(|id| *id > at.last && !here.contains(id)));
        add_placeholders(&mut range.chunk, &range.lost);
        let chunk = std::mem::replace(&mut range.chunk, Chunk::empty(Kind::Stream.start()));
        // It goes in one piece, if each of its entries may.
        for piece in self.pieces(chunk, at.last)? {
            batch.add(name, &piece);
        }
        Ok(())
    }

    /// What is pending at the source in a group, behind an entry; nothing, if the group is gone.
    pub(super) async fn page_of_source(&mut self, group: &[u8], from: StreamId) -> Attempt<PendingPage> {
        let key = self.big.source.clone();
        let mut reads = PendingReads::new(groups::PENDING_CHUNK);
        loop {
            let mut replies = self
                .call_source(PendingPage::ask(&key, group, Some(from), reads.count))
                .await?;
            if let Some(Tree::Error(text)) = replies.get(1) {
                if !text.starts_with(b"NOGROUP") {
                    return Err(self.source_error(text));
                }
                replies[1] = Tree::Array(Vec::new());
            }
            let page = PendingPage::read(&replies, reads.count).ok_or_else(|| self.nonsense())?;
            if reads.takes(&page) {
                return Ok(page);
            }
        }
    }

    /// The same at the target, of `name`.
    pub(super) async fn page_of_target(
        &mut self,
        name: &[u8],
        group: &[u8],
        from: StreamId,
    ) -> Attempt<PendingPage> {
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.append(&PendingPage::ask(name, group, Some(from), groups::PENDING_CHUNK));
        let replies = self.execute(commands, 3).await?;
        PendingPage::read(&replies, groups::PENDING_CHUNK).ok_or_else(|| self.nonsense())
    }
}

/// Messages, groups and entries of a slice that are to be looked at.
type Sorted<'a> = (Vec<(&'a [u8], StreamId)>, BTreeSet<&'a [u8]>, Vec<StreamId>);

fn sorted<'a>(slice: &Slice<'a>, told: &Told, at: &AtTarget) -> Attempt<Sorted<'a>> {
    let (mut messages, mut touched, mut deleted) = (Vec::new(), BTreeSet::new(), Vec::new());
    for element in slice.elements {
        match element {
            StreamElement::Pending { group, id } if told.group(group).is_some() => {
                if at.groups.contains(group) {
                    messages.push((group.as_slice(), *id));
                } else if !slice.wholes.contains(group) {
                    return Err(Stop::Changed("the target has lost a consumer group"));
                }
            }
            StreamElement::Group(group) | StreamElement::WholeGroup(group) => {
                touched.insert(group.as_slice());
            }
            // What is behind the last entry that is written now comes with a later one.
            StreamElement::Deleted(id) if *id <= told.last => deleted.push(*id),
            StreamElement::Pending { .. } | StreamElement::AllGroups | StreamElement::Deleted(_) => {}
        }
    }
    Ok((messages, touched, deleted))
}
