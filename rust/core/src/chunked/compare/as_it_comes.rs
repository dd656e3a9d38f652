//! A value that comes as a file is read, compared part by part with the target's.
//!
//! Invariant: a value is called the same only if each part of it was found at the target, and the target has no more. A
//! part can be compared again: nothing is noted of it before it is passed.

use std::rc::Rc;

use crate::chunked::compare::end::{End, Open};
use crate::chunked::compare::pair::Found;
use crate::chunked::compare::stream::{START, difference, settle_times, with_pending};
use crate::chunked::compare::{Broken, Compared};
use crate::chunked::parts::{At, Chunk, Kind, Pending, Place, Unequal};
use crate::compare::verdict::{Absent, judge_absent, same_expiry, show_expiry};
use crate::event::Side;
use crate::job::engine::Engine;
use crate::ledger::unsettled::{Difference, FailureKind};
use crate::net::Address;
use crate::net::client::CallError;
use crate::rdb::{Group, PartOf, Stream, StreamId};

/// One value of a file, and the target's.
pub(crate) struct AsItComes {
    kind: Kind,
    name: Vec<u8>,
    expires_at: u64,
    tolerance: u64,
    target: Option<(Address, Open)>,
    /// When the target's expires, and how long it is.
    their_expiry: u64,
    their_length: u64,
    place: Place,
    /// Elements and bytes that were passed, and whether fields expire among them, here or there.
    seen: u64,
    bytes: u64,
    expiring: u64,
}

/// What a step has found that ends the comparison.
type Step = Result<Option<Compared>, Broken>;

impl AsItComes {
    pub fn new(kind: Kind, name: Vec<u8>, expires_at: u64, tolerance: u64) -> Self {
        Self {
            kind,
            name,
            expires_at,
            tolerance,
            target: None,
            their_expiry: 0,
            their_length: 0,
            place: kind.scan_start(),
            seen: 0,
            bytes: 0,
            expiring: 0,
        }
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// Be connected to the target's node at `address`.
    pub async fn connect(&mut self, engine: &Rc<Engine>, address: Address) -> Result<(), CallError> {
        if self.target.as_ref().is_none_or(|(known, _)| *known != address) {
            self.target = None;
            let open = Open::new(engine, Side::Target, &address, None).await?;
            self.target = Some((address, open));
        }
        Ok(())
    }

    pub fn disconnect(&mut self) {
        self.target = None;
    }

    fn end_of<'a>(
        target: &'a mut Option<(Address, Open)>,
        engine: &'a Rc<Engine>,
        name: &'a [u8],
    ) -> Result<End<'a>, Broken> {
        match target {
            Some((address, open)) => Ok(open.end(engine, name, Some(address))),
            None => Err(Broken::Again("not connected".to_owned())),
        }
    }

    /// Look whether the target has the key, and what it is.
    pub async fn look(&mut self, engine: &Rc<Engine>) -> Step {
        let mut end = Self::end_of(&mut self.target, engine, &self.name)?;
        let look = end.look(engine.spec.target_expiry).await?;
        let Some(theirs) = look.expires_at else {
            let expired_by = engine.source_now() + self.tolerance;
            return Ok(Some(
                match judge_absent(Some(self.expires_at), None, expired_by) {
                    Absent::Gone(outcome) => Compared::Gone(outcome),
                    Absent::Missing | Absent::Extra => {
                        differs(FailureKind::Missing, self.kind.name(), "absent")
                    }
                },
            ));
        };
        if look.kind != self.kind.name().as_bytes() {
            let theirs = String::from_utf8_lossy(&look.kind).into_owned();
            return Ok(Some(differs(FailureKind::Type, self.kind.name(), theirs)));
        }
        let length = end.ask(&[self.kind.length()], &[]).await?.integer();
        self.their_expiry = theirs;
        self.their_length = length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0);
        Ok(None)
    }

    /// Compare the elements that come next.
    pub async fn part(&mut self, engine: &Rc<Engine>, chunk: &Chunk) -> Step {
        if chunk.is_empty() {
            return Ok(None);
        }
        let at = At {
            place: self.place,
            count: chunk.count(self.kind),
            length: self.their_length,
        };
        let mut end = Self::end_of(&mut self.target, engine, &self.name)?;
        let found = end
            .compare_chunk(self.kind, at, chunk.clone(), self.tolerance)
            .await?;
        Ok(match found {
            Found::Other(unequal) => Some(unequal_values(unequal)),
            Found::All { .. } => None,
        })
    }

    /// Take note that a part was compared.
    pub fn pass(&mut self, chunk: &Chunk) {
        self.seen += chunk.count(self.kind) as u64;
        self.bytes += chunk.bytes() as u64;
        self.expiring += chunk.expiring() as u64;
        self.place = self.place.behind(self.kind, chunk);
    }

    /// Compare what a stream holds besides its entries.
    pub async fn stream(&mut self, engine: &Rc<Engine>, stream: &Stream) -> Step {
        let part = Some(PartOf {
            length: self.their_length,
            start: 0,
        });
        let mut end = Self::end_of(&mut self.target, engine, &self.name)?;
        let theirs = end.stream_facts().await?;
        if let Some(unequal) = difference(without_pending(stream), theirs, part) {
            return Ok(Some(unequal_values(unequal)));
        }
        for (name, group) in &stream.groups {
            let mut ours = pending_of(group);
            let mut after = None;
            loop {
                if !engine.may_read_part().await {
                    return Err(Broken::Drained);
                }
                let page = end.pending_page(name, after).await?;
                let count = if page.is_last {
                    ours.len()
                } else {
                    ours.len().min(page.entries.len())
                };
                let rest = ours.split_off(count);
                let (mut here, mut there) = (std::mem::replace(&mut ours, rest), page.entries);
                after = there.last().map(|pending| pending.id);
                for (ours, theirs) in here.iter_mut().zip(&mut there) {
                    settle_times(ours, theirs);
                }
                let of = |entries| Stream {
                    groups: [(name.clone(), with_pending(group, entries))].into(),
                    ..nothing()
                };
                if let Some(unequal) = difference(of(here), of(there), part) {
                    return Ok(Some(unequal_values(unequal)));
                }
                if page.is_last {
                    break;
                }
            }
        }
        Ok(None)
    }

    /// All parts were compared.
    pub async fn end(&mut self, engine: &Rc<Engine>) -> Step {
        // Fields that have expired may be counted there, and go by themselves.
        let most = self.seen + if self.kind == Kind::Hash { self.expiring } else { 0 };
        let mut end = Self::end_of(&mut self.target, engine, &self.name)?;
        let length = end.ask(&[self.kind.length()], &[]).await?.integer();
        let theirs = length.and_then(|length| u64::try_from(length).ok()).unwrap_or(0);
        let least = self.seen - if self.kind == Kind::Hash { self.expiring } else { 0 };
        if theirs > most || theirs < least {
            let shown = |length| format!("{} of {length} {}", self.kind.name(), self.kind.counts());
            return Ok(Some(unequal_values((shown(self.seen), shown(theirs)))));
        }
        Ok(Some(
            if same_expiry(self.expires_at, self.their_expiry, self.tolerance) {
                Compared::Same { bytes: self.bytes }
            } else {
                differs(
                    FailureKind::Ttl,
                    show_expiry(self.expires_at),
                    show_expiry(self.their_expiry),
                )
            },
        ))
    }
}

fn differs(kind: FailureKind, ours: impl Into<String>, theirs: impl Into<String>) -> Compared {
    Compared::Differs(Difference::new(kind, ours, theirs))
}

fn unequal_values((ours, theirs): Unequal) -> Compared {
    differs(FailureKind::Different, ours, theirs)
}

/// A stream that holds nothing.
fn nothing() -> Stream {
    Stream {
        entries: Vec::new(),
        last_id: START,
        history: None,
        groups: [].into(),
        idempotence: None,
    }
}

/// What XINFO tells of a stream.
fn without_pending(stream: &Stream) -> Stream {
    let groups = stream.groups.iter().map(|(name, group)| {
        let mut bare = group.clone();
        bare.pending.clear();
        for consumer in bare.consumers.values_mut() {
            consumer.pending.clear();
        }
        (name.clone(), bare)
    });
    Stream {
        last_id: stream.last_id,
        history: stream.history,
        groups: groups.collect(),
        ..nothing()
    }
}

/// What is pending in a group, in order.
fn pending_of(group: &Group) -> Vec<Pending> {
    let mut owners: std::collections::BTreeMap<StreamId, &Vec<u8>> = [].into();
    for (name, consumer) in &group.consumers {
        owners.extend(consumer.pending.iter().map(|&id| (id, name)));
    }
    let pending = group.pending.iter().filter_map(|(&id, &delivery)| {
        Some(Pending {
            id,
            consumer: (*owners.get(&id)?).clone(),
            delivery,
            is_at_least: false,
        })
    });
    pending.collect()
}
