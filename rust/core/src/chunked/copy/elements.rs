//! A set, sorted set or hash that is written while it is copied: its parts are read in a scan, and each element that the
//! source's stream names meanwhile is read again.
//!
//! Invariant: an element is read after it was touched, and written as it was read: nothing is added to or taken from
//! what is there. A scan returns what is there all the while, so with those all elements are the source's.

use std::time::{Duration, Instant};

use crate::chunked::copy::LIMITS;
use crate::chunked::copy::one_key::{Attempt, Copy, Done, Stop};
use crate::chunked::copy::source::Look;
use crate::chunked::copy::stream::Lost;
use crate::chunked::copy::target::{expiry_is_lost, push_expiry};
use crate::chunked::parts;
use crate::chunked::parts::Kind;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::FailureKind;
use crate::net::client::Commands;
use crate::rdb::FieldTtl;
use crate::resp::Tree;
use crate::text::shown;

/// So many touched elements are worth a go while parts are still to be copied.
pub(super) const WORTH: usize = 200;

/// With fewer left, a key is given its name: the rest follows there.
pub(super) const FEW: usize = 50;

/// So often more than half as many elements may be touched while others are read as those were; then they won't get few.
pub(super) const MOST_VAIN: u32 = 3;

/// What tells the expiry says this of a key that is not there (any more).
const GONE: i64 = -2;

/// A key that has a round under way is looked at this often whether it still has.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What the source said when elements were read.
pub(crate) struct Read {
    pub expires_at: u64,
    now: u64,
    /// How many elements the key has.
    length: u64,
    /// Names and values.
    bytes: usize,
    /// The target had the key.
    there: bool,
    /// The elements are written: they were not too much for one go.
    written: bool,
}

/// What the source has of elements.
struct Found {
    /// Scores or values, nothing for a member of a set; none for what is not there.
    values: Vec<Option<Vec<u8>>>,
    /// Expiries of fields, as many, or none.
    expiries: Vec<i64>,
}

/// What elements are written to.
#[derive(Debug, Clone, std::marker::Copy, PartialEq, Eq)]
pub(crate) enum Whither {
    Temporary,
    /// The key itself.
    Published {
        /// The expiry that it has, where that is known; 0 for none. Where not, of the last write nothing was heard.
        expires_at: Option<u64>,
        /// How many elements were touched since all was known.
        touched: usize,
    },
}

impl Whither {
    /// The same, now that it has this expiry.
    pub fn with_expiry(self, had: u64) -> Self {
        match self {
            Self::Temporary => self,
            Self::Published { touched, .. } => Self::Published {
                expires_at: Some(had),
                touched,
            },
        }
    }
}

impl Copy<'_> {
    /// Whether the key is written, so that its elements have to be followed while it is copied.
    pub(crate) fn moves(&self, kind: Kind) -> bool {
        let can = !matches!(kind, Kind::String);
        let follow = self.engine.follow.as_ref();
        can && follow.is_some_and(|follow| follow.owns(self.big.page) || follow.has(&self.big.source))
    }

    /// Copy a key that is written meanwhile, and follow it from then on; none where too many are followed so.
    pub(crate) async fn copy_moving(&mut self, look: &Look, temporary: &[u8]) -> Attempt<Option<Done>> {
        let Some(follow) = self.engine.follow.clone() else {
            return Ok(None);
        };
        if follow.keeps(&self.big.source) {
            return Ok(Some(Done::Settled(Outcome::Migrated, 0)));
        }
        // A round that is under way would write to it as well.
        while follow.is_in_round(&self.big.source) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if !follow.begin_elements(self.big, look.kind) {
            return Ok(None);
        }
        self.engine
            .shared
            .ledger()
            .set_big_position(&self.big.source, None);
        let built = match look.kind {
            Kind::List => self.build_list(temporary, look.length).await,
            _ => self.build(look, temporary).await,
        };
        match built {
            Ok((expires_at, bytes, count)) => {
                follow.publish_elements(self.engine, &self.big.source, expires_at, count);
                Ok(Some(Done::Settled(Outcome::Migrated, bytes)))
            }
            Err(Stop::Failed(FailureKind::Denied, message, _)) => {
                follow.refuse_elements(self.engine, look.kind, &message);
                Err(Stop::Ordinary)
            }
            Err(Stop::NotNow(why)) => {
                follow.refuse_for_now(self.engine, look.kind, &why);
                Err(Stop::Ordinary)
            }
            Err(stop) => {
                follow.leave_building(self.engine, &self.big.source);
                Err(stop)
            }
        }
    }

    /// Its expiry, the bytes that were read in chunks, and how many elements may be read in one go.
    async fn build(&mut self, look: &Look, temporary: &[u8]) -> Attempt<(u64, u64, usize)> {
        // The key will change, and no transaction is to fail for it.
        self.ask(Commands::one(&[b"UNWATCH"])).await?;
        self.source.begin();
        if look.kind == Kind::Stream {
            return self.build_stream(look, temporary).await;
        }
        self.unlink(temporary).await?;
        let mut progress = Self::afresh(look);
        progress.place = look.kind.scan_start();
        let mut count = parts::first_count(self.big.size, look.length);
        let (mut bytes, mut is_first) = (0, true);
        loop {
            self.pause_moving().await?;
            let begun = Instant::now();
            let chunk = self.read(&progress, count).await?;
            let size = chunk.bytes();
            bytes += size as u64;
            count = chunk.next_count(look.kind, count, LIMITS);
            let (next, is_last, is_empty) = (chunk.next, chunk.is_last, chunk.is_empty());
            self.engine.budget.hold(size);
            let written = self
                .write_pieces(temporary, &progress, chunk, is_first, &Lost::new())
                .await;
            self.engine.budget.free(size);
            written?;
            is_first &= is_empty;
            progress.place = next;
            if !is_first {
                self.take_in(look.kind, temporary, WORTH, &mut count).await?;
            }
            if is_last {
                break;
            }
            self.rest(begun).await;
        }
        self.catch_up(look.kind, temporary, &mut count).await?;
        let expires_at = self.publish(look.kind, temporary).await?;
        self.wait_for_replicas().await?;
        Ok((expires_at, bytes, count))
    }

    /// Write touched elements until few are left, or no fewer get touched meanwhile than can be read in one go.
    async fn catch_up(&mut self, kind: Kind, temporary: &[u8], count: &mut usize) -> Attempt<()> {
        let (mut before, mut vain) = (usize::MAX, 0);
        loop {
            let touched = self.take_in(kind, temporary, 1, count).await?;
            if touched <= FEW {
                return Ok(());
            }
            vain += u32::from(touched > before / 2);
            if vain == MOST_VAIN {
                return if touched <= *count {
                    Ok(())
                } else {
                    Err(Stop::Changed(
                        "its elements are written faster than they are read",
                    ))
                };
            }
            before = touched;
        }
    }

    /// Write the elements that were touched so far, if they are so many; how many they were.
    async fn take_in(
        &mut self,
        kind: Kind,
        temporary: &[u8],
        least: usize,
        count: &mut usize,
    ) -> Attempt<usize> {
        let Some(follow) = self.engine.follow.clone() else {
            return Ok(0);
        };
        let elements = follow.take_built(&self.big.source, least);
        let mut rest = &elements[..];
        while !rest.is_empty() {
            self.pause_moving().await?;
            let (_, done) = self
                .apply_some(temporary, kind, rest, count, Whither::Temporary)
                .await?;
            rest = &rest[done..];
        }
        follow.built(&self.big.source);
        Ok(elements.len())
    }

    /// Give what is built its expiry and its name.
    async fn publish(&mut self, kind: Kind, temporary: &[u8]) -> Attempt<u64> {
        let read = self.apply(temporary, kind, &[], Whither::Temporary).await?;
        self.pause_moving().await?;
        if !read.there {
            return Err(Stop::Changed("it went while it was copied"));
        }
        self.give_name(temporary, (read.expires_at, read.now)).await?;
        Ok(read.expires_at)
    }

    /// Give what is built this expiry, as read at this time of the source, and its name.
    pub(super) async fn give_name(&mut self, temporary: &[u8], (expires_at, now): (u64, u64)) -> Attempt<()> {
        if expires_at > 0 && expires_at <= now {
            return Err(Stop::Changed("it went while it was copied"));
        }
        let name = self.big.target.clone();
        let at = expires_at.to_string();
        let ttl: &[&[u8]] = if expires_at == 0 {
            &[b"PERSIST", temporary]
        } else {
            &[b"PEXPIREAT", temporary, at.as_bytes()]
        };
        // Without the UNLINK, RENAME would free a large value at once.
        let commands: [&[&[u8]]; 3] = [ttl, &[b"UNLINK", &name], &[b"RENAME", temporary, &name]];
        self.tell(&commands).await.map(drop)
    }

    /// As [`Self::pause`], for a key that is written meanwhile.
    pub(crate) async fn pause_moving(&self) -> Attempt<()> {
        if !self.engine.may_read_part().await {
            return Err(Stop::Drained);
        }
        let follow = self.engine.follow.as_ref();
        if follow.is_some_and(|follow| follow.is_building(&self.big.source)) {
            Ok(())
        } else {
            Err(Stop::Changed("it is another one, or too much of it was written"))
        }
    }

    /// As [`Self::apply`], for as many of these elements as go at once: about `count`, which follows from how large they
    /// are. How many they were comes back too.
    pub(crate) async fn apply_some(
        &mut self,
        name: &[u8],
        kind: Kind,
        elements: &[Vec<u8>],
        count: &mut usize,
        whither: Whither,
    ) -> Attempt<(Read, usize)> {
        let some = &elements[..elements.len().min(*count)];
        let read = self.apply(name, kind, some, whither).await?;
        *count = parts::next_count(read.bytes, some.len(), *count, LIMITS);
        let done = if read.written { some.len() } else { 0 };
        Ok((read, done))
    }

    /// Read these elements and the key's expiry, and write them to `name` as they are.
    async fn apply(
        &mut self,
        name: &[u8],
        kind: Kind,
        elements: &[Vec<u8>],
        whither: Whither,
    ) -> Attempt<Read> {
        let Some((mut read, found)) = self.read_elements(kind, elements).await? else {
            return Err(match whither {
                Whither::Temporary => Stop::Changed("it went while it was copied"),
                Whither::Published { .. } => Stop::Gone,
            });
        };
        if found.expiries.iter().any(|&at| at > 0) {
            self.check_field_ttls(&found.expiries)?;
        }
        self.check_sizes(kind, elements, &found.values)?;
        let most = self.engine.spec.target_limits.in_flight().max(LIMITS.bytes);
        if elements.len() > 1 && read.bytes > most {
            return Ok(read);
        }
        self.engine.budget.hold(read.bytes);
        let written = self
            .write_elements(name, kind, elements, &found, &read, whither)
            .await;
        self.engine.budget.free(read.bytes);
        read.there = written?;
        read.written = true;
        Ok(read)
    }

    /// Write what was found of elements, and the key's expiry, in one transaction; whether the target had the key.
    async fn write_elements(
        &mut self,
        name: &[u8],
        kind: Kind,
        elements: &[Vec<u8>],
        found: &Found,
        read: &Read,
        whither: Whither,
    ) -> Attempt<bool> {
        let mut commands = Commands::one(&[b"MULTI"]);
        let before = commands.count();
        commands.push(&[kind.length(), name]);
        push_elements(&mut commands, name, kind, elements, &found.values);
        if self.engine.spec.target_rdb.has_field_ttls() {
            for (element, at) in elements.iter().zip(&found.expiries).filter(|(_, at)| **at > 0) {
                let at = at.to_string();
                commands.push(&[b"HPEXPIREAT", name, at.as_bytes(), b"FIELDS", b"1", element]);
            }
        }
        let expires_at = read.expires_at;
        let (had, touched) = match whither {
            Whither::Temporary => (None, 0),
            Whither::Published { expires_at, touched } => (expires_at, touched as u64),
        };
        let keeps_expiry = push_expiry(&mut commands, name, whither, expires_at);
        let count = commands.count() - before;
        let replies = self.execute(commands, count).await?;
        let length = replies.first().and_then(Tree::integer).unwrap_or_default();
        let there = length > 0;
        if whither != Whither::Temporary && !there {
            // What was written just now is not all of it. If it stays, it is replaced all the same.
            let _ = self.unlink(name).await;
            return Err(Stop::Changed("the target has lost it"));
        }
        // The write that nothing was heard of may have met no key there, and left a part of it.
        if had.is_none() && length.max(0).cast_unsigned() <= touched && touched < read.length {
            return Err(Stop::Changed("the target has only a part of it"));
        }
        if keeps_expiry && expiry_is_lost(replies.last(), expires_at) {
            return Err(Stop::Changed("the target has lost its expiry, or part of it"));
        }
        Ok(there)
    }

    /// What the source has of these elements at one instant: their scores or values, and, of fields, their expiries; none
    /// if the key is gone. While writes are stopped, nothing but this tells that it has expired.
    async fn read_elements(&mut self, kind: Kind, elements: &[Vec<u8>]) -> Attempt<Option<(Read, Found)>> {
        let key = self.big.source.clone();
        let with_expiries = kind == Kind::Hash && !elements.is_empty() && self.tells_field_ttls(&key).await?;
        let commands = self.questions(&key, kind, elements, with_expiries);
        let Some(Tree::Array(replies)) = self.ask(commands).await?.pop() else {
            return Err(self.nonsense());
        };
        if let Some(Tree::Error(text)) = replies.iter().find(|reply| matches!(reply, Tree::Error(_))) {
            return Err(self.source_error(text));
        }
        let mut replies = replies.into_iter();
        let mut next = || replies.next().unwrap_or(Tree::Nil);
        let (time, expiry, length) = (next(), next(), next());
        let now = time.milliseconds().ok_or_else(|| self.nonsense())?;
        let expiry = expiry.integer().ok_or_else(|| self.nonsense())?;
        let length = length.integer().unwrap_or_default().max(0).cast_unsigned();
        if expiry == GONE || length == 0 {
            return Ok(None);
        }
        let mut read = Read {
            expires_at: self.expires_at(expiry, now),
            now: now.max(0).cast_unsigned(),
            length,
            bytes: 0,
            there: false,
            written: false,
        };
        if elements.is_empty() {
            let (values, expiries) = (Vec::new(), Vec::new());
            return Ok(Some((read, Found { values, expiries })));
        }
        let found = next().into_elements().ok_or_else(|| self.nonsense())?;
        let mut found: Vec<Option<Vec<u8>>> = found
            .into_iter()
            .map(|found| match found {
                Tree::Integer(1) => Some(Vec::new()),
                found => found.into_text(),
            })
            .collect();
        let mut expiries = Vec::new();
        if with_expiries {
            // A key that is gone has no fields to tell of.
            expiries = parts::expiries(&next()).unwrap_or_default();
            let told = found.iter_mut().zip(&expiries);
            told.filter(|(_, at)| **at == parts::GONE)
                .for_each(|(found, _)| *found = None);
        }
        if found.len() != elements.len() {
            return Err(self.nonsense());
        }
        let all = elements.iter().chain(found.iter().flatten());
        read.bytes = all.map(|text| text.len() + 16).sum();
        let values = found;
        Ok(Some((read, Found { values, expiries })))
    }

    /// What [`Self::read_elements`] asks, in one transaction.
    fn questions(&self, key: &[u8], kind: Kind, elements: &[Vec<u8>], with_expiries: bool) -> Commands {
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), key]);
        commands.push(&[kind.length(), key]);
        let names = elements.iter().map(Vec::as_slice);
        if !elements.is_empty() {
            let command: &[u8] = match kind {
                Kind::Set => b"SMISMEMBER",
                Kind::SortedSet => b"ZMSCORE",
                _ => b"HMGET",
            };
            let mut arguments: Vec<&[u8]> = vec![command, key];
            arguments.extend(names.clone());
            commands.push(&arguments);
        }
        if with_expiries {
            let count = elements.len().to_string();
            let mut arguments: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
            arguments.extend(names);
            commands.push(&arguments);
        }
        commands.push(&[b"EXEC"]);
        commands
    }

    /// The target takes each of these elements.
    fn check_sizes(&self, kind: Kind, elements: &[Vec<u8>], found: &[Option<Vec<u8>>]) -> Attempt<()> {
        let most = self.engine.spec.target_limits.argument();
        let largest = elements.iter().chain(found.iter().flatten()).map(Vec::len).max();
        match largest.filter(|&largest| largest > most) {
            Some(largest) => Err(self.too_large(&format!("an element of the {}", kind.name()), largest)),
            None => Ok(()),
        }
    }

    /// The target holds TTLs of fields, or they are to be left out.
    fn check_field_ttls(&self, expiries: &[i64]) -> Attempt<()> {
        let spec = &self.engine.spec;
        if spec.target_rdb.has_field_ttls() {
            return Ok(());
        }
        let key = self.big.source.clone();
        if spec.field_ttl == FieldTtl::Error {
            let message = format!("the target can't hold {}: its fields have TTLs", shown(&key));
            return Err(Stop::Failed(FailureKind::Payload, message, spec.source.clone()));
        }
        let expiring = expiries.iter().filter(|&&at| at > 0).count();
        self.engine.note_dropped_ttls(key, self.big.slot, expiring);
        Ok(())
    }
}

/// Append the commands that make elements what was found of them.
fn push_elements(
    commands: &mut Commands,
    name: &[u8],
    kind: Kind,
    elements: &[Vec<u8>],
    found: &[Option<Vec<u8>>],
) {
    let (write, delete): (&[u8], &[u8]) = match kind {
        Kind::Set => (b"SADD", b"SREM"),
        Kind::SortedSet => (b"ZADD", b"ZREM"),
        _ => (b"HSET", b"HDEL"),
    };
    let (mut writes, mut deletions) = (vec![write, name], vec![delete, name]);
    for (element, found) in elements.iter().zip(found) {
        match (found, kind) {
            (None, _) => deletions.push(element),
            (Some(_), Kind::Set) => writes.push(element),
            (Some(score), Kind::SortedSet) => writes.extend([score.as_slice(), element]),
            (Some(value), _) => writes.extend([element.as_slice(), value]),
        }
    }
    for command in [writes, deletions] {
        if command.len() > 2 {
            commands.push(&command);
        }
    }
}
