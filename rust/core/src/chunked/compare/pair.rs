//! One key on both sides: what it is, when it expires, and all its parts.
//!
//! Invariants: a part is read at one side while the one before it is looked up at the other, so that neither waits
//! for the other; at most three parts are held, within the byte budget. The sides are the same exactly if payloads
//! of both would be: what is compared, and how, is said once (`payload::Value`), here only read in parts.

use std::rc::Rc;
use std::time::Instant;

use crate::chunked::compare::end::End;
use crate::chunked::compare::{Broken, Compared, Parts};
use crate::chunked::parts::{At, Chunk, Kind, Limits, Place, Unequal, Unexpected};
use crate::compare::verdict::{Absent, judge_absent, same_expiry, show_expiry};
use crate::job::engine::Engine;
use crate::ledger::unsettled::{Difference, FailureKind};
use crate::net::client::Commands;
use crate::resp::Tree;
use crate::resp::encode::ExpiryCommand;

/// Elements that are read at once at first; afterwards as many as make a part.
const FIRST_ELEMENTS: usize = 8;

/// How a key is compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    /// By how many milliseconds the expiries of equal keys may differ.
    pub tolerance: u64,
    /// What is compared in one go.
    pub limits: Limits,
    /// While other keys flow, leave them most of the servers' time.
    pub rests: bool,
}

/// One key on both sides.
pub(crate) struct Pair<'a> {
    pub source: End<'a>,
    pub target: End<'a>,
    pub manner: Manner,
    /// Bytes of the source's value that were read so far.
    pub bytes: u64,
}

/// What a side says of the key before it is read.
pub(super) struct Look {
    pub kind: Vec<u8>,
    /// In ms since the epoch (0: never); `None` where there is no key.
    pub expires_at: Option<u64>,
}

/// A part of a value.
struct Part {
    at: At,
    chunk: Chunk,
    /// Held for it of the budget.
    _held: Held,
}

/// Bytes of the budget, freed when dropped.
struct Held(Rc<Engine>, usize);

impl Held {
    fn new(engine: &Rc<Engine>, bytes: usize) -> Self {
        engine.budget.hold(bytes);
        Self(Rc::clone(engine), bytes)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.budget.free(self.1);
    }
}

/// What came of looking up all parts of one side at the other.
pub(super) enum Found {
    /// What the first has, and the second instead.
    Other(Unequal),
    /// All is there; with `expiring`, fields may be counted among it that go by themselves, or have.
    All { expiring: bool },
}

impl Pair<'_> {
    pub async fn compare(&mut self) -> Result<Compared, Broken> {
        let looks = self.look().await?;
        let compared = self.compare_once(&looks).await?;
        let Compared::Differs(Difference {
            kind: FailureKind::Different | FailureKind::Type,
            ..
        }) = compared
        else {
            return Ok(compared);
        };
        // What went while its parts were read looks as if it had others.
        let again = self.look().await?;
        let went = again.iter().any(|look| look.expires_at.is_none());
        let mut looks = looks;
        for (look, again) in looks.iter_mut().zip(again) {
            if again.expires_at.is_none() {
                *look = again;
            }
        }
        Ok(match self.absent(&looks) {
            Some(absent) if went => absent,
            _ => compared,
        })
    }

    async fn look(&mut self) -> Result<[Look; 2], Broken> {
        let spec = &self.source.engine.spec;
        let looks = tokio::join!(
            self.source.look(spec.source_expiry),
            self.target.look(spec.target_expiry)
        );
        Ok([looks.0?, looks.1?])
    }

    /// Fields and keys that expire by then are gone, or go within what the clocks may differ by.
    fn expired_by(&self) -> u64 {
        self.source.engine.source_now() + self.manner.tolerance
    }

    /// What it means if a side lacks the key.
    fn absent(&self, [ours, theirs]: &[Look; 2]) -> Option<Compared> {
        if ours.expires_at.is_some() && theirs.expires_at.is_some() {
            return None;
        }
        let name = |look: &Look| match look.expires_at {
            Some(_) => String::from_utf8_lossy(&look.kind).into_owned(),
            None => "absent".to_owned(),
        };
        let differs = |kind| Compared::Differs(Difference::new(kind, name(ours), name(theirs)));
        Some(
            match judge_absent(ours.expires_at, theirs.expires_at, self.expired_by()) {
                Absent::Gone(outcome) => Compared::Gone(outcome),
                Absent::Missing => differs(FailureKind::Missing),
                Absent::Extra => differs(FailureKind::Extra),
            },
        )
    }

    async fn compare_once(&mut self, looks: &[Look; 2]) -> Result<Compared, Broken> {
        if let Some(absent) = self.absent(looks) {
            return Ok(absent);
        }
        let [ours, theirs] = looks;
        let name = |look: &Look| String::from_utf8_lossy(&look.kind).into_owned();
        let differs =
            |kind, ours: String, theirs: String| Ok(Compared::Differs(Difference::new(kind, ours, theirs)));
        if ours.kind != theirs.kind {
            return differs(FailureKind::Type, name(ours), name(theirs));
        }
        let Some(kind) = Kind::of(&ours.kind) else {
            let why = "a module's value too large to be compared";
            let (kind, ours, theirs) = (FailureKind::Payload, name(ours), name(theirs));
            return Ok(Compared::Differs(Difference::incomparable(
                kind, ours, theirs, why,
            )));
        };
        if let Some((ours, theirs)) = self.compare_value(kind).await? {
            return differs(FailureKind::Different, ours, theirs);
        }
        let [ours, theirs] = [ours, theirs].map(|look| look.expires_at.unwrap_or_default());
        if same_expiry(ours, theirs, self.manner.tolerance) {
            Ok(Compared::Same { bytes: self.bytes })
        } else {
            differs(FailureKind::Ttl, show_expiry(ours), show_expiry(theirs))
        }
    }

    /// The same command with the key at both sides: `name… key arguments…`.
    pub(crate) async fn both(&mut self, name: &[&[u8]], arguments: &[&[u8]]) -> Result<(Tree, Tree), Broken> {
        let (ours, theirs) = tokio::join!(self.source.ask(name, arguments), self.target.ask(name, arguments));
        Ok((ours?, theirs?))
    }

    async fn compare_value(&mut self, kind: Kind) -> Parts {
        let (ours, theirs) = self.both(&[kind.length()], &[]).await?;
        let [ours, theirs] = [ours, theirs].map(|length| length.integer().unwrap_or(-1));
        // Servers count fields that have expired until they drop them: of a hash, the length proves nothing.
        if ours != theirs && kind != Kind::Hash {
            let shown = |length| format!("{} of {length} {}", kind.name(), kind.counts());
            return Ok(Some((shown(ours), shown(theirs))));
        }
        let [our_length, their_length] =
            [ours, theirs].map(|length| u64::try_from(length).unwrap_or_default());
        let expiring = match self.compare_parts(kind, our_length, false).await? {
            Found::Other(difference) => return Ok(Some(difference)),
            Found::All { expiring } => expiring,
        };
        match kind {
            Kind::Stream => self.compare_stream(our_length).await,
            // There may be others than those that were looked up.
            Kind::Hash if expiring || our_length != their_length => {
                match self.compare_parts(kind, their_length, true).await? {
                    Found::Other((theirs, ours)) => Ok(Some((ours, theirs))),
                    Found::All { .. } => Ok(None),
                }
            }
            // All is there, and there are equally many.
            _ => Ok(None),
        }
    }

    /// Look up all parts of the source's value at the target, or the other way round (`back`).
    async fn compare_parts(&mut self, kind: Kind, length: u64, back: bool) -> Result<Found, Broken> {
        let (reader, other) = if back {
            (&mut self.target, &mut self.source)
        } else {
            (&mut self.source, &mut self.target)
        };
        // Where to read on; what was read; and what is known of whole, with the expiries of its fields.
        let (mut next, mut count) = (Some(kind.scan_start()), FIRST_ELEMENTS);
        let (mut read, mut whole): (Option<Part>, Option<Part>) = (None, None);
        let (mut expiring, mut seen) = (false, 0);
        let tolerance = self.manner.tolerance;
        while next.is_some() || read.is_some() || whole.is_some() {
            if next.is_some() && !reader.engine.may_read_part().await {
                return Err(Broken::Drained);
            }
            let begun = Instant::now();
            let at = next.map(|place| At { place, count, length });
            let (found, fetched) = tokio::join!(
                other.compare_part(kind, whole.take(), tolerance),
                reader.read_part(kind, read.as_mut(), at)
            );
            match found? {
                Found::All { expiring: some } => expiring |= some,
                other @ Found::Other(_) => return Ok(other),
            }
            let fetched = fetched?;
            next = None;
            if let Some(part) = &fetched {
                seen += part.chunk.count(kind) as u64;
                if !back {
                    self.bytes += part.chunk.bytes() as u64;
                }
                next = (!part.chunk.is_last).then_some(part.chunk.next);
                count = part.chunk.next_count(kind, count, self.manner.limits);
            }
            if kind == Kind::Hash && reader.has_field_ttls() {
                whole = std::mem::replace(&mut read, fetched);
            } else {
                // A part that was read before this became known is compared first, then this one.
                whole = fetched;
                if let Some(part) = read.take() {
                    match other.compare_part(kind, Some(part), tolerance).await? {
                        Found::All { expiring: some } => expiring |= some,
                        other @ Found::Other(_) => return Ok(other),
                    }
                }
            }
            if self.manner.rests {
                reader.engine.rest(begun).await;
            }
        }
        // A server counts fields that have expired until it drops them, and does not show them: others may be in
        // their place on the other side.
        Ok(Found::All {
            expiring: expiring || seen != length,
        })
    }
}

impl End<'_> {
    /// The type of the key, and when it expires by this server's clock.
    pub(super) async fn look(&mut self, expiry: ExpiryCommand) -> Result<Look, Broken> {
        let mut commands = Commands::one(&[b"TYPE", self.key]);
        match expiry {
            ExpiryCommand::Absolute => commands.push(&[b"PEXPIRETIME", self.key]),
            ExpiryCommand::Relative => commands.push(&[b"PTTL", self.key]),
        }
        if self.is_source() || expiry == ExpiryCommand::Relative {
            commands.push(&[b"TIME"]);
        }
        let mut replies = Vec::new();
        for reply in self.call(commands).await? {
            replies.push(self.sound(reply)?);
        }
        let mut replies = replies.into_iter();
        let kind = replies.next().and_then(Tree::into_text).unwrap_or_default();
        let at = replies.next().and_then(|reply| reply.integer());
        let at = at.ok_or_else(|| self.unexpected())?;
        let now = match replies.next() {
            Some(time) => time
                .milliseconds()
                .and_then(|now| u64::try_from(now).ok())
                .ok_or_else(|| self.unexpected())?,
            None => 0,
        };
        if self.is_source() {
            self.engine.source_clock.set(Some((now, Instant::now())));
        }
        let expires_at = match (u64::try_from(at), expiry) {
            (Err(_), _) => 0,
            (Ok(at), ExpiryCommand::Absolute) => at,
            (Ok(rest), ExpiryCommand::Relative) => now + rest,
        };
        let is_there = kind != b"none";
        Ok(Look {
            kind,
            expires_at: is_there.then_some(expires_at),
        })
    }

    /// Read the part at a place, if there is one, and when the fields of the part `before` it expire.
    async fn read_part(
        &mut self,
        kind: Kind,
        before: Option<&mut Part>,
        at: Option<At>,
    ) -> Result<Option<Part>, Broken> {
        let mut commands = Commands::default();
        let before = before.filter(|part| !part.chunk.is_empty());
        if let Some(part) = &before {
            commands.append(&part.chunk.ask_expiries(self.key));
        }
        if let Some(at) = at {
            commands.append(&kind.read(self.key, at.place, at.count));
        }
        if commands.count() == 0 {
            return Ok(None);
        }
        let mut replies = self.call(commands).await?.into_iter();
        if let Some(part) = before {
            let reply = replies.next().ok_or_else(|| self.unexpected())?;
            part.chunk.expiries = self.expiries(reply)?;
            part.chunk.drop_expired();
        }
        let Some(at) = at else {
            return Ok(None);
        };
        let reply = replies.next().ok_or_else(|| self.unexpected())?;
        let chunk = kind.chunk(self.sound(reply)?, at.place, at.count, at.length);
        let chunk = chunk.ok_or_else(|| self.unexpected())?;
        let held = Held::new(self.engine, chunk.bytes());
        Ok(Some(Part {
            at,
            chunk,
            _held: held,
        }))
    }

    /// Look a part of the other side's value up here.
    async fn compare_part(
        &mut self,
        kind: Kind,
        part: Option<Part>,
        tolerance: u64,
    ) -> Result<Found, Broken> {
        match part {
            None => Ok(Found::All { expiring: false }),
            Some(Part { at, chunk, _held }) => self.compare_chunk(kind, at, chunk, tolerance).await,
        }
    }

    /// Look a chunk of the other side's value up here.
    pub(super) async fn compare_chunk(
        &mut self,
        kind: Kind,
        at: At,
        chunk: Chunk,
        tolerance: u64,
    ) -> Result<Found, Broken> {
        // The end of a list or a stream is compared too: there may be more on this side.
        if chunk.is_empty() && matches!(at.place, Place::Cursor(_)) {
            return Ok(Found::All { expiring: false });
        }
        let mut commands = chunk.ask_same(kind, self.key, at.place, at.count);
        let asks_expiries = kind == Kind::Hash && self.has_field_ttls();
        if asks_expiries {
            commands.append(&chunk.ask_expiries(self.key));
        }
        let mut replies = self.call(commands).await?.into_iter();
        let reply = replies.next().ok_or_else(|| self.unexpected())?;
        let reply = self.sound(reply)?;
        let expiries = match replies.next() {
            Some(expiries) => self.expiries(expiries)?,
            None => Vec::new(),
        };
        let expiring = chunk.expiring() > 0 || expiries.iter().any(|&at| at > 0);
        let unexpected = |Unexpected| self.unexpected();
        let Some(theirs) = chunk.other(kind, at, reply, &expiries).map_err(unexpected)? else {
            return Ok(Found::All { expiring });
        };
        let expired_by = self.engine.source_now() + tolerance;
        let difference = chunk.difference(kind, at, theirs, expired_by, self.engine.show());
        Ok(match difference.map_err(unexpected)? {
            Some(difference) => Found::Other(difference),
            // Fields that have expired: one of the sides may count them still.
            None => Found::All { expiring: true },
        })
    }
}
