//! A stream that is written while it is copied, and followed from then on.
//!
//! Invariant: a message is looked at, in each group, after it was touched or when the entries about it are copied. Entries
//! never change, so those that are there once are the source's.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::chunked::copy::elements::{FEW, MOST_VAIN, WORTH, Whither};
use crate::chunked::copy::groups;
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::copy::source::Look;
use crate::chunked::copy::stream_step::Slice;
use crate::chunked::copy::stream_told::{AtTarget, Batch, Told, is_same};
use crate::chunked::copy::temporary;
use crate::chunked::parts;
use crate::chunked::parts::CHUNK_BYTES;
use crate::chunked::parts::StreamElement;
use crate::job::follow::{Cuts, Round};
use crate::net::client::Commands;
use crate::rdb::StreamId;
use crate::reply::info_field;
use crate::resp::Tree;

/// Elements that are looked at in one go.
const SLICE: usize = 500;

const START: StreamId = StreamId { ms: 0, seq: 0 };

/// What is done so far of a copy.
struct Building<'a> {
    temporary: &'a [u8],
    /// The groups that there were at the start.
    groups: BTreeSet<Vec<u8>>,
    /// Groups that are looked at when all entries are there.
    later: BTreeSet<Vec<u8>>,
    at: AtTarget,
}

impl Copy<'_> {
    /// As `build`, for a stream.
    pub(super) async fn build_stream(&mut self, look: &Look, temporary: &[u8]) -> Attempt<(u64, u64, usize)> {
        let mut building = self.begin_stream(temporary).await?;
        let mut count = parts::first_count(self.big.size, look.length);
        let mut bytes = 0;
        loop {
            self.pause_moving().await?;
            let begun = Instant::now();
            let (is_last, size) = self.copy_range(&mut building, &mut count).await?;
            bytes += size as u64;
            self.take_in_messages(&mut building).await?;
            if is_last {
                break;
            }
            self.rest(begun).await;
        }
        let expires_at = self.catch_up_stream(building, &mut count).await?;
        self.wait_for_replicas().await?;
        Ok((expires_at, bytes, count))
    }

    /// Begin with groups and nothing in them.
    async fn begin_stream<'a>(&mut self, temporary: &'a [u8]) -> Attempt<Building<'a>> {
        let told = self.read_told(START, 1).await?;
        let told = told.ok_or(Stop::Changed("it went while it was copied"))?;
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"UNLINK", temporary]);
        for group in &told.groups {
            let (name, last_id) = (&group.name, &group.last_id);
            commands.push(&[b"XGROUP", b"CREATE", temporary, name, last_id, b"MKSTREAM"]);
        }
        // Without a group, it is an entry that makes the key.
        commands.push(&[b"XADD", temporary, b"0-1", b"", b""]);
        commands.push(&[b"XTRIM", temporary, b"MAXLEN", b"=", b"0"]);
        let nothing = groups::History {
            last_id: b"0-0".to_vec(),
            entries_added: Some(0),
            max_deleted_id: Some(b"0-0".to_vec()),
        };
        let with_history = self.engine.spec.target_rdb.has_stream_history();
        groups::write_history(&mut commands, temporary, &nothing, with_history);
        commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
        let count = commands.count() - 1;
        self.execute(commands, count).await?;
        let groups: BTreeSet<_> = told.groups.into_iter().map(|group| group.name).collect();
        let later = groups
            .iter()
            .map(|group| StreamElement::Group(group.clone()).to_bytes());
        Ok(Building {
            temporary,
            later: later.collect(),
            at: AtTarget {
                last: START,
                groups: groups.clone(),
            },
            groups,
        })
    }

    /// Copy the next entries with what is pending of them, and of those that were between them. Returns whether they were
    /// the last, and their size.
    async fn copy_range(&mut self, building: &mut Building<'_>, count: &mut usize) -> Attempt<(bool, usize)> {
        let range = self.read_range(building.at.last, count, &building.groups).await?;
        let mut range = range.ok_or(Stop::Changed("it went while it was copied"))?;
        self.engine.budget.hold(range.size);
        let written = self
            .write_range(
                building.temporary,
                &mut building.at,
                &mut range,
                Whither::Temporary,
            )
            .await;
        self.engine.budget.free(range.size);
        written?;
        Ok((range.is_last, range.size))
    }

    /// Write what was touched meanwhile of what is copied already, if it is much.
    async fn take_in_messages(&mut self, building: &mut Building<'_>) -> Attempt<()> {
        let Some(follow) = self.engine.follow.clone() else {
            return Ok(());
        };
        let elements = follow.take_built(&self.big.source, WORTH);
        let (mut messages, mut deleted) = (Vec::new(), Vec::new());
        for element in &elements {
            match StreamElement::parse(element) {
                Some(StreamElement::Group(_) | StreamElement::WholeGroup(_) | StreamElement::AllGroups) => {
                    building.later.insert(element.clone());
                }
                Some(StreamElement::Deleted(id)) if id <= building.at.last => deleted.push(id),
                Some(StreamElement::Pending { group, id })
                    if id <= building.at.last && building.groups.contains(&group) =>
                {
                    messages.push((group, id));
                }
                // It is read with the entries about it, or with all of its group.
                _ => {}
            }
        }
        let name = building.temporary;
        for messages in messages.chunks(SLICE) {
            self.pause_moving().await?;
            let wanted: Vec<_> = messages
                .iter()
                .map(|(group, id)| (group.as_slice(), *id))
                .collect();
            let deliveries = self.read_deliveries(name, &wanted).await?;
            let mut batch = Batch::new(name);
            for (group, _, delivery) in &deliveries.claims {
                batch.claim(name, group, delivery);
            }
            for (group, id) in &deliveries.acknowledged {
                batch.acknowledge(name, group, *id);
            }
            self.write_batch(name, batch, 0, Whither::Temporary).await?;
        }
        for ids in deleted.chunks(SLICE) {
            self.pause_moving().await?;
            let told = self.read_told(building.at.last, 1).await?;
            let told = told.ok_or(Stop::Changed("it went while it was copied"))?;
            let absent = self.read_absent(ids).await?;
            let mut batch = Batch::new(name);
            told.push_deletions(&mut batch, name, &absent);
            self.write_batch(name, batch, 0, Whither::Temporary).await?;
        }
        follow.built(&self.big.source);
        Ok(())
    }

    /// Write what was touched until little is, and give the key its name.
    async fn catch_up_stream(&mut self, building: Building<'_>, count: &mut usize) -> Attempt<u64> {
        let Some(follow) = self.engine.follow.clone() else {
            return Err(Stop::Drained);
        };
        let mut elements: Vec<_> = building.later.into_iter().collect();
        let (mut before, mut vain) = (usize::MAX, 0);
        loop {
            elements.extend(follow.take_built(&self.big.source, 0));
            elements.sort();
            elements.dedup();
            let touched = elements.len();
            let told = self
                .bring_up(building.temporary, &mut elements, count, None, Whither::Temporary)
                .await?;
            follow.built(&self.big.source);
            elements.clear();
            vain += u32::from(touched > before / 2);
            if touched <= FEW || vain == MOST_VAIN && touched <= SLICE {
                self.give_name(building.temporary, (told.expires_at, told.now))
                    .await?;
                return Ok(told.expires_at);
            }
            if vain == MOST_VAIN {
                return Err(Stop::Changed(
                    "its elements are written faster than they are read",
                ));
            }
            before = touched;
        }
    }

    /// As `write_round`, of a stream.
    pub(super) async fn write_stream_round(&mut self, round: &mut Round) -> Attempt<u64> {
        let whither = Whither::Published {
            expires_at: round.expires_at,
            touched: round.elements.len(),
        };
        let (target, before) = (round.target.clone(), round.elements.len());
        let told = self
            .bring_up(
                &target,
                &mut round.elements,
                &mut round.count,
                round.first_seen,
                whither,
            )
            .await;
        if round.elements.len() < before {
            round.cuts = Cuts::default();
        }
        let told = told?;
        round.again = round.first_seen != Some(told.first);
        let offset = if round.again {
            self.source_offset().await?
        } else {
            0
        };
        round.sees = Some((told.first, offset));
        self.wait_for_replicas().await?;
        Ok(told.expires_at)
    }

    /// How far the source's stream has come.
    async fn source_offset(&mut self) -> Attempt<u64> {
        let replies = self.ask(Commands::one(&[b"INFO", b"replication"])).await?;
        let text =
            String::from_utf8_lossy(replies.first().and_then(Tree::text).unwrap_or_default()).into_owned();
        let offset = info_field(&text, "master_repl_offset").and_then(|offset| offset.parse().ok());
        offset.ok_or_else(|| self.nonsense())
    }

    /// Bring a stream up to date: entries that were added or trimmed, and these elements. Where the job is paused
    /// meanwhile, those that are written are taken out.
    async fn bring_up(
        &mut self,
        name: &[u8],
        elements: &mut Vec<Vec<u8>>,
        count: &mut usize,
        first_seen: Option<StreamId>,
        mut whither: Whither,
    ) -> Attempt<Told> {
        let mut at = self.look_at_target(name).await?;
        self.name_all_groups(elements, &at).await?;
        elements.sort();
        let parsed: Vec<_> = elements
            .iter()
            .filter_map(|element| StreamElement::parse(element))
            .collect();
        let is_whole = |element: &StreamElement| matches!(element, StreamElement::WholeGroup(_));
        let is_deleted = |element: &StreamElement| matches!(element, StreamElement::Deleted(_));
        let first_whole = parsed.iter().position(is_whole);
        let border = parsed.iter().position(is_deleted).unwrap_or(parsed.len());
        let wholes: BTreeSet<Vec<u8>> = parsed[..border]
            .iter()
            .filter_map(|element| match element {
                StreamElement::WholeGroup(group) => Some(group.clone()),
                _ => None,
            })
            .collect();
        let (mut done, mut is_open) = (0, !wholes.is_empty());
        let mut is_begun = false;
        loop {
            match whither {
                Whither::Temporary => self.pause_moving().await?,
                Whither::Published { .. } => {
                    let must_rest =
                        self.engine.draining.get() || self.engine.limiter.permitted(CHUNK_BYTES) == 0;
                    if is_begun && must_rest {
                        let written = first_whole
                            .filter(|_| is_open)
                            .map_or(done, |first| first.min(done));
                        self.wait_for_replicas().await?;
                        elements.drain(..written);
                        return Err(Stop::Drained);
                    }
                    self.engine.limiter.take(0, CHUNK_BYTES);
                }
            }
            is_begun = true;
            let limit = if is_open { border } else { parsed.len() };
            let end = limit.min(done + SLICE);
            let is_final = !is_open && end == parsed.len();
            let slice = Slice {
                elements: &parsed[done..end],
                is_final,
                wholes: &wholes,
                first_seen,
            };
            let (told, is_all) = self.stream_step(name, &mut at, slice, count, whither).await?;
            whither = whither.with_expiry(told.expires_at);
            if !is_all {
                continue;
            }
            done = end;
            if is_final {
                return Ok(told);
            }
            if is_open && done == border {
                for group in wholes.iter().filter(|group| at.groups.contains(*group)) {
                    self.write_whole_group(name, group, at.last, told.expires_at, whither)
                        .await?;
                }
                is_open = false;
            }
        }
    }

    /// If all groups are among these elements, put each there by its name.
    async fn name_all_groups(&mut self, elements: &mut Vec<Vec<u8>>, at: &AtTarget) -> Attempt<()> {
        let all = StreamElement::AllGroups.to_bytes();
        if !elements.contains(&all) {
            return Ok(());
        }
        let told = self.read_told(at.last, 1).await?;
        let ours = told.map_or_else(Vec::new, |told| told.groups);
        let names = ours.into_iter().map(|group| group.name);
        for name in names.chain(at.groups.iter().cloned()) {
            let whole = StreamElement::WholeGroup(name).to_bytes();
            if !elements.contains(&whole) {
                elements.push(whole);
            }
        }
        Ok(())
    }

    /// Make all that is pending in a group, up to an entry, what it is at the source.
    async fn write_whole_group(
        &mut self,
        name: &[u8],
        group: &[u8],
        last: StreamId,
        expires_at: u64,
        whither: Whither,
    ) -> Attempt<()> {
        let mut from = START;
        loop {
            let (ours, theirs) = (
                self.page_of_source(group, from).await?,
                self.page_of_target(name, group, from).await?,
            );
            let mut upto = last;
            for page in [&ours, &theirs] {
                if let Some(newest) = page.entries.last().filter(|_| !page.is_last) {
                    upto = upto.min(newest.id);
                }
            }
            let mut batch = Batch::new(name);
            let ours: Vec<_> = ours.entries.into_iter().filter(|ours| ours.id <= upto).collect();
            for theirs in theirs.entries.iter().filter(|theirs| theirs.id <= upto) {
                if ours.binary_search_by_key(&theirs.id, |ours| ours.id).is_err() {
                    batch.acknowledge(name, group, theirs.id);
                }
            }
            for ours in ours {
                let theirs = theirs.entries.iter().find(|theirs| theirs.id == ours.id);
                if !theirs.is_some_and(|theirs| is_same(&ours, theirs)) {
                    batch.claim(name, group, &ours.into());
                }
            }
            self.write_batch(name, batch, expires_at, whither).await?;
            if upto >= last {
                break;
            }
            from = upto;
        }
        self.delete_consumers(name, group, expires_at, whither).await
    }

    /// Delete the consumers of a group that the source lacks.
    async fn delete_consumers(
        &mut self,
        name: &[u8],
        group: &[u8],
        expires_at: u64,
        whither: Whither,
    ) -> Attempt<()> {
        let theirs = self.tell(&[&[b"XINFO", b"CONSUMERS", name, group]]).await?.pop();
        let theirs = theirs
            .and_then(groups::consumers)
            .ok_or_else(|| self.nonsense())?;
        let Some(ours) = self.read_consumers(&BTreeSet::from([group])).await?.remove(group) else {
            // The group is gone, and will be touched once more.
            return Ok(());
        };
        let mut batch = Batch::new(name);
        for consumer in theirs.iter().filter(|consumer| !ours.contains(consumer)) {
            batch.push(&[b"XGROUP", b"DELCONSUMER", name, group, consumer]);
        }
        self.write_batch(name, batch, expires_at, whither).await.map(drop)
    }
}
