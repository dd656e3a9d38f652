//! One large key, from the source to a temporary key and from there to its name.
//!
//! Invariants: the key appears at the target whole, with its TTL, or not at all: its parts are written under a
//! temporary key of the same slot, which is renamed when the source says that nothing changed since the first
//! part was read (WATCH; of a stream's groups a second look tells, `second_look.rs`), and the lengths agree. Each
//! part is one transaction that checks what is there already, so that an eviction or a failover of the target in
//! between is noticed and the key taken again.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Instant;

use crate::chunked::compare::Sides;
use crate::chunked::copy::source::{Look, Source};
use crate::chunked::copy::stream::Lost;
use crate::chunked::copy::{Big, LIMITS, groups, temporary};
use crate::chunked::parts;
use crate::chunked::parts::{Chunk, Kind, Most, Oversize, Place};
use crate::error::Error;
use crate::job::engine::{Engine, OnConflict};
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::FailureKind;
use crate::net::Address;
use crate::net::client::{Client, Commands};
use crate::rdb::FieldTtl;
use crate::resp::Tree;
use crate::text::shown;
use crate::topology::NodeId;

/// Why an attempt at a key ended.
pub(crate) enum Stop {
    /// The source is not there now.
    Source(String),
    /// The target's slot can't be written now; `full` for want of memory or disk.
    Target { reason: String, full: bool },
    /// The target has ended the connection while the key was written.
    Cut(String),
    /// Its slot is elsewhere: at once again.
    Moved,
    /// The source's key, or what is built at the target, is not what it was: from the start.
    Changed(&'static str),
    /// The key is another node's of the source by now: it is left to that one.
    Elsewhere(String),
    /// The key is given up.
    Failed(FailureKind, String, Address),
    /// The job ends.
    Fatal(Error),
    /// The job drains.
    Drained,
    /// The source has no such key any more, which is at the target and followed there.
    Gone,
    /// Its elements can't be followed: it is copied the ordinary way, at once.
    Ordinary,
    /// Its elements can't be followed for now: it is copied the ordinary way, and the next time it is asked again.
    NotNow(String),
    /// The source's stream does not tell yet of what was read: no fault of the source's.
    Late(&'static str),
    /// What the target has of a key that is followed there is not certain any more.
    Uncertain(String),
}

pub(crate) type Attempt<T> = Result<T, Stop>;

/// How an attempt at a key ended well.
pub(crate) enum Done {
    Settled(Outcome, u64),
    /// It is of a type that can't be read in parts: copied in one piece.
    Whole {
        expires_at: u64,
        payload: Vec<u8>,
    },
}

/// A key's copy so far.
#[derive(Debug, Clone)]
pub(crate) struct Progress {
    pub kind: Kind,
    pub place: Place,
    pub length: u64,
    /// The source's clock, in ms, when its first part was read, and how often it had forked then.
    begun: i64,
    forks: Option<u64>,
}

impl Progress {
    /// That of a value which comes as a file is read.
    pub fn of_file(kind: Kind, place: Place) -> Self {
        Self {
            kind,
            place,
            length: 0,
            begun: 0,
            forks: None,
        }
    }

    /// As text for the journal, with the name of the job whose parts they are.
    fn text(&self, copy_id: &str) -> String {
        let Self {
            kind,
            place,
            length,
            begun,
            forks,
        } = self;
        let forks = forks.map_or_else(|| "-".to_owned(), |forks| forks.to_string());
        format!(
            "{} {} {length} {begun} {forks} {copy_id}",
            kind.name(),
            place.text()
        )
    }

    /// Read [`Self::text`]; `None` for another job's.
    fn parse(text: &str, copy_id: &str) -> Option<Self> {
        let [kind, place, length, begun, forks, job] = text.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        if job != copy_id {
            return None;
        }
        Some(Self {
            kind: Kind::of(kind.as_bytes())?,
            place: Place::parse(place)?,
            length: length.parse().ok()?,
            begun: begun.parse().ok()?,
            forks: forks.parse().ok(),
        })
    }
}

/// One attempt at one key.
pub(crate) struct Copy<'a> {
    pub engine: &'a Rc<Engine>,
    pub big: &'a Big,
    pub source: &'a mut Source,
    pub target: &'a mut Option<(NodeId, Client)>,
    /// The connections over which it is compared with what the target has.
    pub sides: &'a mut Sides,
    /// The last attempt may have renamed the key without our hearing of it.
    pub in_doubt: &'a mut bool,
}

impl Copy<'_> {
    pub async fn run(&mut self) -> Attempt<Done> {
        self.connect_source().await?;
        let temporary = self.temporary();
        let watched = self.source.watching;
        let Some(look) = self.look().await? else {
            self.unlink(&temporary).await?;
            return self.whole_or_gone().await;
        };
        if self.engine.spec.on_conflict != OnConflict::Replace
            && let Some(outcome) = self.meet_existing().await?
        {
            self.unlink(&temporary).await?;
            if outcome == Outcome::Migrated {
                self.wait_for_replicas().await?;
            }
            return Ok(Done::Settled(outcome, 0));
        }
        if self.moves(look.kind)
            && let Some(done) = self.copy_moving(&look, &temporary).await?
        {
            return Ok(done);
        }
        if look.kind == Kind::String {
            let (length, limits) = (look.length, self.engine.spec.target_limits);
            let limit = self.engine.spec.big_key_bytes.unwrap_or(u64::MAX);
            if length > limits.string() as u64 {
                // Compressed, as DUMP gives it, it may fit.
                return if length < limit {
                    self.whole_or_gone().await
                } else {
                    Err(self.too_large("a string", length as usize))
                };
            }
            if length <= limits.argument() as u64 && !self.big.refused {
                return self.copy_string(&look).await;
            }
        }
        let recorded = self.engine.shared.ledger().big_position(&self.big.source);
        // Older versions did not say whose parts they are.
        let is_shared = recorded.as_ref().is_some_and(|text| text.split(' ').count() == 5);
        self.sweep_shared(is_shared).await?;
        let recorded = recorded.and_then(|text| Progress::parse(&text, &self.engine.copy_id));
        let mut progress = match recorded {
            Some(recorded) => match self.resume(recorded, &look, watched, &temporary).await? {
                Some(progress) => progress,
                None => Self::afresh(&look),
            },
            None => Self::afresh(&look),
        };
        let lost = match progress.kind {
            Kind::Stream => self.lost_messages().await?,
            _ => BTreeMap::new(),
        };
        let mut bytes = 0;
        let mut count = parts::first_count(self.big.size, look.length);
        let mut expiring = 0;
        // Until something is written, an earlier attempt's leavings may lie there. A part may be empty: a scan of a
        // sparse hash finds nothing at times.
        let mut is_first = progress.place == progress.kind.start();
        loop {
            self.pause().await?;
            let begun = Instant::now();
            let chunk = self.read(&progress, count).await?;
            expiring += chunk.expiring() as u64;
            let size = chunk.bytes();
            bytes += size as u64;
            count = chunk.next_count(progress.kind, count, LIMITS);
            let (next, is_last, is_empty) = (chunk.next, chunk.is_last, chunk.is_empty());
            self.engine.budget.hold(size);
            let written = self
                .write_pieces(&temporary, &progress, chunk, is_first, &lost)
                .await;
            self.engine.budget.free(size);
            written?;
            is_first &= is_empty;
            progress.place = next;
            if is_last {
                break;
            }
            if !is_first {
                self.engine
                    .shared
                    .ledger()
                    .set_big_position(&self.big.source, Some(progress.text(&self.engine.copy_id)));
            }
            self.rest(begun).await;
        }
        if is_first {
            self.unlink(&temporary).await?;
        }
        let confirmed = if progress.kind == Kind::Stream {
            let copied = self.copy_groups(&temporary, &lost).await?;
            self.confirm_stream(&temporary, &lost, &copied).await?
        } else {
            self.confirm(progress.kind).await?
        };
        let outcome = self
            .finish(&temporary, progress.kind, expiring, confirmed)
            .await?;
        self.wait_for_replicas().await?;
        Ok(Done::Settled(outcome, bytes))
    }

    pub(crate) fn afresh(look: &Look) -> Progress {
        Progress {
            kind: look.kind,
            place: look.kind.start(),
            length: look.length,
            begun: look.now,
            forks: look.forks,
        }
    }

    /// Go on where an earlier attempt stopped, if nothing has changed since it began.
    pub(crate) async fn resume(
        &mut self,
        recorded: Progress,
        look: &Look,
        watched: bool,
        temporary: &[u8],
    ) -> Attempt<Option<Progress>> {
        if recorded.kind != look.kind || recorded.length != look.length {
            return Ok(None);
        }
        if !watched
            && !self
                .is_untouched_since(recorded.begun, recorded.forks, look)
                .await?
        {
            return Ok(None);
        }
        let length = self.tell(&[&[recorded.kind.length(), temporary]]).await?;
        let length = length
            .first()
            .and_then(Tree::integer)
            .and_then(|length| u64::try_from(length).ok());
        // More than there is to copy is no part of it.
        let Some(length) = length.filter(|length| (1..=look.length).contains(length)) else {
            return Ok(None);
        };
        let place = match recorded.place {
            // What is there counts: a part may have been written that was not recorded.
            Place::Offset(_) => Place::Offset(length),
            Place::Cursor(cursor) => Place::Cursor(cursor),
            Place::After(..) => {
                let last = self
                    .tell(&[&[b"XREVRANGE", temporary, b"+", b"-", b"COUNT", b"1"]])
                    .await?;
                let last = last
                    .into_iter()
                    .next()
                    .and_then(Tree::into_elements)
                    .and_then(|mut all| all.pop());
                let id = last
                    .and_then(Tree::into_elements)
                    .and_then(|entry| entry.into_iter().next());
                match id.and_then(Tree::into_text).and_then(|id| parts::parse_id(&id)) {
                    Some((ms, seq)) => Place::After(ms, seq),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(Progress { place, ..recorded }))
    }

    /// Write a chunk, in as many transactions as the target's limits ask for.
    pub(crate) async fn write_pieces(
        &mut self,
        temporary: &[u8],
        progress: &Progress,
        chunk: Chunk,
        mut is_first: bool,
        lost: &Lost,
    ) -> Attempt<()> {
        let limits = self.engine.spec.target_limits;
        let most = Most {
            bytes: limits.in_flight(),
            argument: limits.string(),
        };
        let pieces = chunk
            .pieces(progress.kind, progress.place, most)
            .map_err(|Oversize(bytes)| {
                let what = format!("an element of the {}", progress.kind.name());
                self.too_large(&what, bytes)
            })?;
        for (place, piece) in pieces {
            let at = Progress {
                place,
                ..progress.clone()
            };
            self.write(temporary, &at, &piece, is_first, lost).await?;
            is_first &= piece.is_empty();
        }
        Ok(())
    }

    /// Something of the key that can't be cut is beyond what the target takes.
    pub(crate) fn too_large(&self, what: &str, bytes: usize) -> Stop {
        let key = shown(&self.big.target);
        let setting = self.engine.spec.target_limits.broken_by(bytes);
        let message = format!("the target can't hold {key}: {what} has {bytes} bytes, above {setting}");
        let owner = self.engine.owner(self.big.slot);
        let node = owner.map_or_else(|| self.engine.spec.source.clone(), |(_, address)| address);
        Stop::Failed(FailureKind::TooLarge, message, node)
    }

    pub(crate) async fn write(
        &mut self,
        temporary: &[u8],
        progress: &Progress,
        chunk: &Chunk,
        is_first: bool,
        lost: &Lost,
    ) -> Attempt<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let expiring = chunk.expiring();
        let stripped;
        let chunk = if expiring > 0 && !self.engine.spec.target_rdb.has_field_ttls() {
            if self.engine.spec.field_ttl == FieldTtl::Error {
                let key = shown(&self.big.source);
                let message = format!(
                    "the target can't hold {key}: its fields have TTLs, which the target can't hold \
                     (--field-ttl drop copies it without)"
                );
                let node = self.engine.spec.source.clone();
                self.unlink(temporary).await?;
                return Err(Stop::Failed(FailureKind::Payload, message, node));
            }
            self.engine
                .note_dropped_ttls(self.big.source.clone(), self.big.slot, expiring);
            stripped = Chunk {
                elements: chunk.elements.clone(),
                entries: Vec::new(),
                expiries: Vec::new(),
                next: chunk.next,
                is_last: chunk.is_last,
            };
            &stripped
        } else {
            chunk
        };
        let mut commands = Commands::one(&[b"MULTI"]);
        let before = commands.count();
        if is_first && !lost.is_empty() {
            let payload = groups::skeleton(lost, self.engine.spec.target_rdb.has_stream_history());
            commands.push(&[
                b"RESTORE",
                temporary,
                temporary::LIFETIME_MS,
                &payload,
                b"REPLACE",
            ]);
        } else if is_first {
            commands.push(&[b"UNLINK", temporary]);
        } else {
            commands.push(&[progress.kind.length(), temporary]);
        }
        commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
        progress.kind.write(&mut commands, temporary, chunk);
        commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
        let count = commands.count() - before;
        let replies = self.execute(commands, count).await?;
        if is_first {
            return Ok(());
        }
        let there = replies.first().and_then(Tree::integer);
        let is_whole = match progress.place {
            Place::Offset(at) => there == Some(at.cast_signed()),
            Place::Cursor(_) | Place::After(..) => there.is_some_and(|length| length > 0),
        };
        if is_whole && replies.get(1).and_then(Tree::integer) == Some(1) {
            Ok(())
        } else {
            Err(Stop::Changed("what was written of it to the target is gone"))
        }
    }

    /// All is written, and the source has not changed (`confirmed`): give the temporary key its TTL and its name.
    pub(crate) async fn finish(
        &mut self,
        temporary: &[u8],
        kind: Kind,
        expiring: u64,
        confirmed: (u64, u64, Option<i64>),
    ) -> Attempt<Outcome> {
        let name = self.big.target.clone();
        let (expires_at, now, length) = confirmed;
        if expires_at > 0 && expires_at <= now {
            self.unlink(temporary).await?;
            return Ok(Outcome::Expired);
        }
        let built = self.tell(&[&[kind.length(), temporary]]).await?;
        let built = built.first().and_then(Tree::integer);
        // Fields that have expired meanwhile are counted by some servers and not by others.
        let is_whole = built.zip(length).is_some_and(|(built, length)| {
            built == length || built > 0 && built.abs_diff(length) <= expiring
        });
        if !is_whole {
            return Err(Stop::Changed(
                "what was written of it to the target is not all there",
            ));
        }
        let at = expires_at.to_string();
        let ttl: &[&[u8]] = if expires_at == 0 {
            &[b"PERSIST", temporary]
        } else {
            &[b"PEXPIREAT", temporary, at.as_bytes()]
        };
        let replace = self.engine.spec.on_conflict == OnConflict::Replace;
        *self.in_doubt = true;
        let replies = if replace {
            // Without the UNLINK, RENAME would free a large value at once.
            let commands: [&[&[u8]]; 3] = [ttl, &[b"UNLINK", &name], &[b"RENAME", temporary, &name]];
            self.tell(&commands).await?
        } else {
            let commands: [&[&[u8]]; 2] = [ttl, &[b"RENAMENX", temporary, &name]];
            self.tell(&commands).await?
        };
        *self.in_doubt = false;
        if !replace && replies.last().and_then(Tree::integer) != Some(1) {
            // Somebody wrote it meanwhile: it is met as any key that is there.
            return Err(Stop::Changed("the target's key appeared"));
        }
        Ok(Outcome::Migrated)
    }

    /// Wait while the operator pauses or limits the job; stop when it drains.
    pub(crate) async fn pause(&self) -> Attempt<()> {
        if !self.engine.may_read_part().await {
            return Err(Stop::Drained);
        }
        let follow = self.engine.follow.as_ref();
        if follow.is_some_and(|follow| follow.is_touched_since(self.big.page, &self.big.source)) {
            return Err(Stop::Changed("it is written meanwhile"));
        }
        Ok(())
    }

    /// While other keys flow, leave them most of the servers' time.
    pub(crate) async fn rest(&self, begun: Instant) {
        self.engine.rest(begun).await;
    }
}
