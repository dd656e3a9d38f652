//! One key on both sides: what it is, when it expires, and all its parts.
//!
//! Invariant: a part is read at the source while the one before it is looked up at the target, so that neither
//! waits for the other; at most three parts are held, within the byte budget.

use std::rc::Rc;

use super::end::End;
use super::{Broken, Compared, Parts};
use crate::checkpoint::FailureKind;
use crate::pipeline::Engine;
use crate::pipeline::client::Commands;
use crate::pipeline::judge::{same_expiry, show_expiry};
use crate::pipeline::parts::{Chunk, Kind, Limits, Place, Unexpected};
use crate::resp::Tree;
use crate::resp::encode::ExpiryCommand;

/// Elements that are read at once at first; afterwards as many as make a part.
const FIRST_ELEMENTS: usize = 8;

/// What is compared in one go.
const LIMITS: Limits = Limits {
    bytes: 256 << 10,
    elements: 4096,
};

/// One key on both sides.
pub(super) struct Pair<'a> {
    pub source: End<'a>,
    pub target: End<'a>,
}

/// A part of the source's value.
struct Part {
    place: Place,
    count: usize,
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

impl Pair<'_> {
    pub async fn compare(&mut self) -> Result<Compared, Broken> {
        let spec = &self.source.engine.spec;
        let tolerance = spec.verify.map_or(0, |verify| verify.ttl_tolerance);
        let looks = tokio::join!(
            self.source.look(spec.source_expiry),
            self.target.look(spec.target_expiry)
        );
        let ((ours, our_expiry), (theirs, their_expiry)) = (looks.0?, looks.1?);
        let name = |kind: &[u8]| String::from_utf8_lossy(kind).into_owned();
        let differs =
            |kind, ours: String, theirs: String| Ok(Compared::Differs(kind, format!("{ours} <> {theirs}")));
        match (ours.as_slice(), theirs.as_slice()) {
            (b"none", b"none") => return Ok(Compared::Gone),
            (b"none", kind) => return differs(FailureKind::Extra, "absent".to_owned(), name(kind)),
            (kind, b"none") => return differs(FailureKind::Missing, name(kind), "absent".to_owned()),
            (ours, theirs) if ours != theirs => {
                return differs(FailureKind::Type, name(ours), name(theirs));
            }
            _ => {}
        }
        let Some(kind) = Kind::of(&ours) else {
            let message = format!(
                "{0} <> {0}: a module's value too large to be compared",
                name(&ours)
            );
            return Ok(Compared::Differs(FailureKind::Payload, message));
        };
        if let Some((ours, theirs)) = self.compare_value(kind).await? {
            return differs(FailureKind::Different, ours, theirs);
        }
        if same_expiry(our_expiry, their_expiry, tolerance) {
            Ok(Compared::Same)
        } else {
            differs(
                FailureKind::Ttl,
                show_expiry(our_expiry),
                show_expiry(their_expiry),
            )
        }
    }

    /// The same command with the key at both sides: `name… key arguments…`.
    pub(super) async fn both(&mut self, name: &[&[u8]], arguments: &[&[u8]]) -> Result<(Tree, Tree), Broken> {
        let (ours, theirs) = tokio::join!(self.source.ask(name, arguments), self.target.ask(name, arguments));
        Ok((ours?, theirs?))
    }

    async fn compare_value(&mut self, kind: Kind) -> Parts {
        let (ours, theirs) = self.both(&[kind.length()], &[]).await?;
        let [ours, theirs] = [ours, theirs].map(|length| length.integer().unwrap_or(-1));
        if ours != theirs {
            return Ok(Some((kind.describe(ours, ""), kind.describe(theirs, ""))));
        }
        let length = u64::try_from(ours).unwrap_or_default();
        let difference = self.compare_parts(kind, length).await?;
        if difference.is_some() || kind != Kind::Stream {
            return Ok(difference);
        }
        let difference = self.stream_facts().await?;
        Ok(difference.map(|(ours, theirs)| {
            let shown = |what| kind.describe(length, &format!(", {what}"));
            (shown(ours), shown(theirs))
        }))
    }

    async fn compare_parts(&mut self, kind: Kind, length: u64) -> Parts {
        // Where to read on; what was read; and what is known of whole, with the expiries of its fields.
        let (mut next, mut count) = (Some(kind.scan_start()), FIRST_ELEMENTS);
        let (mut read, mut whole): (Option<Part>, Option<Part>) = (None, None);
        while next.is_some() || read.is_some() || whole.is_some() {
            if next.is_some() && !self.source.engine.may_read_part().await {
                return Err(Broken::Drained);
            }
            let (difference, fetched) = tokio::join!(
                self.target.compare_part(kind, length, whole.take()),
                self.source
                    .read_part(kind, length, read.as_mut(), next.map(|place| (place, count)))
            );
            if let Some(difference) = difference? {
                return Ok(Some(difference));
            }
            let fetched = fetched?;
            next = None;
            if let Some(part) = &fetched {
                next = (!part.chunk.is_last).then_some(part.chunk.next);
                count = part.chunk.next_count(kind, count, LIMITS);
            }
            if kind == Kind::Hash && self.source.has_field_ttls() {
                whole = std::mem::replace(&mut read, fetched);
            } else {
                // A part that was read before this became known is compared first, then this one.
                whole = fetched;
                if let Some(part) = read.take() {
                    let difference = self.target.compare_part(kind, length, Some(part)).await?;
                    if difference.is_some() {
                        return Ok(difference);
                    }
                }
            }
        }
        Ok(None)
    }
}

impl End<'_> {
    /// The type of the key, and when it expires in ms since the epoch (0: never), by this server's clock.
    async fn look(&mut self, expiry: ExpiryCommand) -> Result<(Vec<u8>, u64), Broken> {
        let mut commands = Commands::one(&[b"TYPE", self.key]);
        match expiry {
            ExpiryCommand::Absolute => commands.push(&[b"PEXPIRETIME", self.key]),
            ExpiryCommand::Relative => {
                commands.push(&[b"PTTL", self.key]);
                commands.push(&[b"TIME"]);
            }
        }
        let mut replies = Vec::new();
        for reply in self.call(commands).await? {
            replies.push(self.sound(reply)?);
        }
        let mut replies = replies.into_iter();
        let kind = replies.next().and_then(Tree::into_text).unwrap_or_default();
        let at = replies.next().and_then(|reply| reply.integer()).unwrap_or(-1);
        let now = match replies.next() {
            Some(time) => time.milliseconds().ok_or_else(|| self.unexpected())?,
            None => 0,
        };
        let expires_at = if at < 0 { 0 } else { (now + at).cast_unsigned() };
        Ok((kind, expires_at))
    }

    /// Read the part at a place, if there is one, and when the fields of the part `before` it expire.
    async fn read_part(
        &mut self,
        kind: Kind,
        length: u64,
        before: Option<&mut Part>,
        at: Option<(Place, usize)>,
    ) -> Result<Option<Part>, Broken> {
        let mut commands = Commands::default();
        let before = before.filter(|part| !part.chunk.is_empty());
        if let Some(part) = &before {
            commands.append(&part.chunk.ask_expiries(self.key));
        }
        if let Some((place, count)) = at {
            commands.append(&kind.read(self.key, place, count));
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
        let Some((place, count)) = at else {
            return Ok(None);
        };
        let reply = replies.next().ok_or_else(|| self.unexpected())?;
        let chunk = kind.chunk(self.sound(reply)?, place, count, length);
        let chunk = chunk.ok_or_else(|| self.unexpected())?;
        let held = Held::new(self.engine, chunk.bytes());
        Ok(Some(Part {
            place,
            count,
            chunk,
            _held: held,
        }))
    }

    /// Look a part of the source's value up here.
    async fn compare_part(&mut self, kind: Kind, length: u64, part: Option<Part>) -> Parts {
        let Some(Part {
            place, count, chunk, ..
        }) = &part
        else {
            return Ok(None);
        };
        // The end of a list or a stream is compared too: there may be more on this side.
        if chunk.is_empty() && matches!(place, Place::Cursor(_)) {
            return Ok(None);
        }
        let mut commands = chunk.ask_same(kind, self.key, *place, *count);
        if !chunk.expiries.is_empty() && self.has_field_ttls() {
            commands.append(&chunk.ask_expiries(self.key));
        }
        let mut replies = self.call(commands).await?.into_iter();
        let reply = replies.next().ok_or_else(|| self.unexpected())?;
        let difference = chunk.difference(kind, *place, *count, length, self.sound(reply)?);
        if let Some(difference) = difference.map_err(|Unexpected| self.unexpected())? {
            return Ok(Some(difference));
        }
        let Some(reply) = replies.next() else {
            return Ok(None);
        };
        let theirs = self.expiries(reply)?;
        let difference = chunk.other_expiry(&theirs);
        Ok(difference.map(|(ours, theirs)| {
            let shown = |what| kind.describe(length, &format!(", {what}"));
            (shown(ours), shown(theirs))
        }))
    }
}
