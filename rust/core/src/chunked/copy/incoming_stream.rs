//! What a stream of a file holds besides its entries, which come first: groups, what is pending in them, its history.
//!
//! Invariant: as for a live source's stream; no command makes a message pending that is not there any more. Where there
//! are such, the stream is built a second time from the first, behind a skeleton that has them.

use std::collections::{BTreeMap, HashSet};

use crate::chunked::copy::groups::{Delivery, Group, History, PENDING_CHUNK};
use crate::chunked::copy::incoming::{Ending, Incoming};
use crate::chunked::copy::one_key::{Attempt, Copy, Progress, Stop};
use crate::chunked::copy::stream::{Lost, MOST_LOST};
use crate::chunked::copy::{LIMITS, temporary};
use crate::chunked::parts::{Kind, id_text, parse_id};
use crate::ledger::unsettled::FailureKind;
use crate::net::client::Commands;
use crate::rdb::{Group as ReadGroup, Stream, StreamId, seal_stream};
use crate::resp::Tree;
use crate::text::shown;

impl Incoming {
    /// Write what comes behind the entries. Returns the name under which the stream is whole, if it is another one.
    pub(super) async fn write_stream(
        &mut self,
        stream: &Stream,
        is_empty: bool,
    ) -> Result<Option<Vec<u8>>, Ending> {
        let has_history = self.engine.spec.target_rdb.has_stream_history();
        self.persist(async |copy| {
            let first = copy.temporary();
            if is_empty {
                let payload = seal_stream(stream, has_history);
                let lifetime = temporary::LIFETIME_MS;
                copy.tell(&[&[b"RESTORE", &first, lifetime, &payload, b"REPLACE"]])
                    .await?;
                return Ok(None);
            }
            let lost = copy.lost_of(&first, stream).await?;
            let again = if lost.is_empty() {
                None
            } else {
                Some(copy.build_again(&first, &lost).await?)
            };
            let name = again.as_deref().unwrap_or(&first);
            for (group, read) in &stream.groups {
                copy.write_read_group(name, group, read, &lost).await?;
            }
            let history = History {
                last_id: id_text(stream.last_id),
                entries_added: stream.history.map(|history| history.entries_added.cast_signed()),
                max_deleted_id: stream.history.map(|history| id_text(history.max_deleted_id)),
            };
            copy.write_history(name, &history).await?;
            Ok(again)
        })
        .await
    }
}

/// What is pending in a group, in the order of its IDs.
fn deliveries(group: &ReadGroup) -> impl Iterator<Item = Delivery> {
    let owners = group.consumers.iter();
    let owners: BTreeMap<StreamId, &Vec<u8>> = owners
        .flat_map(|(name, consumer)| consumer.pending.iter().map(move |&id| (id, name)))
        .collect();
    group.pending.iter().filter_map(move |(id, delivery)| {
        Some(Delivery {
            id: id_text(*id),
            consumer: (*owners.get(id)?).clone(),
            delivered_at_ms: delivery.delivered_at_ms.cast_signed(),
            count: delivery.count.cast_signed(),
        })
    })
}

/// The same in chunks.
fn chunks(group: &ReadGroup) -> impl Iterator<Item = Vec<Delivery>> {
    let mut all = deliveries(group);
    std::iter::from_fn(move || {
        let chunk: Vec<_> = all.by_ref().take(PENDING_CHUNK).collect();
        (!chunk.is_empty()).then_some(chunk)
    })
}

impl Copy<'_> {
    /// The last entry of what is built.
    pub(super) async fn last_entry(&mut self, temporary: &[u8]) -> Attempt<Option<(u64, u64)>> {
        let last = self
            .tell(&[&[b"XREVRANGE", temporary, b"+", b"-", b"COUNT", b"1"]])
            .await?;
        let last = last.into_iter().next().and_then(Tree::into_elements);
        let entry = last.and_then(|mut all| all.pop()).and_then(Tree::into_elements);
        let id = entry.and_then(|entry| entry.into_iter().next());
        Ok(id.and_then(Tree::into_text).and_then(|id| parse_id(&id)))
    }

    /// Take away what was built, under both names.
    pub(super) async fn sweep_parts(&mut self) -> Attempt<()> {
        let first = self.temporary();
        self.unlink(&first).await?;
        self.unlink(&second(&first)).await
    }

    /// Messages that are pending and not among the entries that were written.
    async fn lost_of(&mut self, temporary: &[u8], stream: &Stream) -> Attempt<Lost> {
        let mut lost = Lost::new();
        let mut count = 0;
        for (name, group) in &stream.groups {
            for chunk in chunks(group) {
                self.pause_file().await?;
                let mut commands = Commands::one(&[b"MULTI"]);
                for delivery in &chunk {
                    commands.push(&[b"XRANGE", temporary, &delivery.id, &delivery.id]);
                }
                commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
                let found = self.execute(commands, chunk.len() + 1).await?;
                if found.last().and_then(Tree::integer) != Some(1) {
                    return Err(Stop::Changed("what was written of it to the target is gone"));
                }
                for (delivery, found) in chunk.into_iter().zip(found) {
                    if found == Tree::Array(Vec::new()) {
                        count += 1;
                        lost.entry(name.clone()).or_default().push(delivery);
                    }
                }
                if count > MOST_LOST {
                    let key = shown(&self.big.source);
                    let message = format!(
                        "{key} has more than {MOST_LOST} pending entries of deleted messages, which are written in \
                         one piece only (a higher --big-key-bytes and --memory-limit do so)"
                    );
                    let node = self.engine.spec.source.clone();
                    return Err(Stop::Failed(FailureKind::Payload, message, node));
                }
            }
        }
        Ok(lost)
    }

    /// Build the stream a second time, behind messages that are pending without being there; the name of it.
    async fn build_again(&mut self, first: &[u8], lost: &Lost) -> Attempt<Vec<u8>> {
        let name = second(first);
        let kind = Kind::Stream;
        let mut place = kind.start();
        let (mut is_first, mut count) = (true, 1);
        loop {
            self.pause_file().await?;
            let read = kind.read(first, place, count);
            let reply = self.execute(read, 1).await?.pop();
            let chunk = reply.and_then(|reply| kind.chunk(reply, place, count, 0));
            let chunk = chunk.ok_or_else(|| self.nonsense())?;
            count = chunk.next_count(kind, count, LIMITS);
            let (next, is_last) = (chunk.next, chunk.is_last);
            let is_empty = chunk.is_empty();
            let size = chunk.bytes();
            self.engine.budget.hold(size);
            let progress = Progress::of_file(kind, place);
            let written = self.write_pieces(&name, &progress, chunk, is_first, lost).await;
            self.engine.budget.free(size);
            written?;
            is_first &= is_empty;
            place = next;
            if is_last {
                break;
            }
        }
        let lengths = self.tell(&[&[b"XLEN", first], &[b"XLEN", &name]]).await?;
        let lengths: Vec<_> = lengths.iter().filter_map(Tree::integer).collect();
        if lengths.first() != lengths.get(1) {
            return Err(Stop::Changed(
                "what was written of it to the target is not all there",
            ));
        }
        self.unlink(first).await?;
        Ok(name)
    }

    async fn write_read_group(
        &mut self,
        name: &[u8],
        group: &[u8],
        read: &ReadGroup,
        lost: &Lost,
    ) -> Attempt<()> {
        let lost = lost.get(group).map_or(&[][..], Vec::as_slice);
        let written = Group {
            name: group.to_vec(),
            last_id: id_text(read.last_id),
            entries_read: read.entries_read,
            consumers: read.consumers.keys().cloned().collect(),
        };
        self.write_group(name, &written, !lost.is_empty()).await?;
        let lost: HashSet<&[u8]> = lost.iter().map(|delivery| delivery.id.as_slice()).collect();
        for mut pending in chunks(read) {
            self.pause_file().await?;
            // They are pending already, and XCLAIM would take them out.
            pending.retain(|delivery| !lost.contains(delivery.id.as_slice()));
            self.write_pending(name, group, &pending).await?;
        }
        Ok(())
    }

    /// Wait while the operator pauses or limits the job; stop when it drains.
    async fn pause_file(&self) -> Attempt<()> {
        if self.engine.may_read_part().await {
            Ok(())
        } else {
            Err(Stop::Drained)
        }
    }
}

/// The name under which a stream is built a second time: in the slot of the first.
fn second(first: &[u8]) -> Vec<u8> {
    [first, b":2"].concat()
}
