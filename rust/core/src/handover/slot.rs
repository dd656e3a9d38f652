//! One slot on its way: listed, watched, read, restored, and given up in a transaction.
//!
//! Invariant: whatever ends a try before its transaction is sent, what it restored is dropped again, or the
//! slot is told as lost.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use super::company::Company;
use super::peer::Peer;
use super::{Fate, HandoverSpec, Outcome};
use crate::payload::append_string;
use crate::resp::Reply;
use crate::resp::encode::{self, ExpiryCommand};

/// Tries before a slot is left to a way that does not mind changes.
const TRIES: usize = 3;

/// A string up to this length is read by GETRANGE, which costs the source less than MEMORY USAGE and DUMP.
const STRING_BYTES: u16 = 16 * 1024;

/// Of a hundred keys so many have to be strings for GETRANGE to be tried.
const MOSTLY: usize = 90;

/// How long the target's replica is waited for.
const REPLICA_MILLIS: &[u8] = b"500";

/// Opens the slot, then drops the keys; an error of either leaves both as they were.
const GIVE_UP: &[u8] = b"redis.call('CLUSTER','SETSLOT',ARGV[1],'MIGRATING',ARGV[2]) \
    local gone = redis.pcall('UNLINK',unpack(KEYS)) \
    if type(gone) == 'table' and gone.err then redis.call('CLUSTER','SETSLOT',ARGV[1],'STABLE') end \
    return gone";

/// A connection to either node, and the slot that they carry.
pub(super) struct Lane {
    spec: Arc<HandoverSpec>,
    source: Option<Peer>,
    target: Option<Peer>,
    keys: Keys,
    /// Places of the keys that were sent to the target, which has not answered yet.
    sent: VecDeque<usize>,
    /// Places of the keys that the target has taken.
    restored: Vec<usize>,
    /// What each key takes at the source, where it was asked.
    sizes: Vec<u64>,
    bytes: u64,
    mostly_strings: bool,
    strings_refused: bool,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

/// The keys of a slot, one after the other.
#[derive(Default)]
struct Keys {
    names: Vec<u8>,
    ends: Vec<usize>,
}

impl Keys {
    fn clear(&mut self) {
        self.names.clear();
        self.ends.clear();
    }

    fn push(&mut self, key: &[u8]) {
        self.names.extend_from_slice(key);
        self.ends.push(self.names.len());
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    fn get(&self, place: usize) -> &[u8] {
        let start = if place == 0 { 0 } else { self.ends[place - 1] };
        &self.names[start..self.ends[place]]
    }
}

/// How a try ended.
enum Tried {
    Done(u64),
    Changed,
    Left(Fate),
}

/// A connection broke.
struct Broken {
    source: bool,
    why: String,
    /// The transaction was sent: whether it took place is not known, so nothing is taken back.
    undecided: bool,
}

/// How the keys of a try are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Strings,
    Dump,
}

impl Lane {
    pub fn new(spec: Arc<HandoverSpec>) -> Self {
        Self {
            spec,
            source: None,
            target: None,
            keys: Keys::default(),
            sent: VecDeque::new(),
            restored: Vec::new(),
            sizes: Vec::new(),
            bytes: 0,
            mostly_strings: false,
            strings_refused: false,
        }
    }

    /// Hand one slot over.
    pub async fn carry(&mut self, slot: u16, company: &Company) -> Outcome {
        for _ in 0..TRIES {
            company.enter();
            let prepared = self.prepare(slot, company).await;
            let tried = match prepared {
                Ok(None) if company.ready(self.keys.len()).await => self.give_up(slot).await,
                Ok(None) => Ok(Tried::Left(Fate::NotBegun)),
                Ok(Some(fate)) => {
                    company.leave();
                    Ok(Tried::Left(fate))
                }
                Err(broken) => {
                    company.lose();
                    company.leave();
                    Err(broken)
                }
            };
            match tried {
                Ok(Tried::Done(keys)) => {
                    return Outcome {
                        slot,
                        fate: Fate::HandedOver,
                        keys,
                        bytes: self.bytes,
                    };
                }
                Ok(Tried::Left(fate)) => return self.left(slot, fate).await,
                Ok(Tried::Changed) => {
                    if let Err(broken) = self.take_back().await {
                        company.lose();
                        return self.lost(slot, broken);
                    }
                }
                Err(broken) => {
                    company.lose();
                    if broken.source && !broken.undecided {
                        // What can't be taken back now is known by the journal.
                        let _ = self.take_back().await;
                    }
                    return self.lost(slot, broken);
                }
            }
        }
        Outcome::without_keys(slot, Fate::Busy)
    }

    async fn left(&mut self, slot: u16, fate: Fate) -> Outcome {
        match self.take_back().await {
            Ok(()) => Outcome::without_keys(slot, fate),
            Err(broken) => self.lost(slot, broken),
        }
    }

    fn lost(&mut self, slot: u16, broken: Broken) -> Outcome {
        self.source = None;
        self.target = None;
        Outcome::without_keys(
            slot,
            Fate::Lost {
                source: broken.source,
                why: broken.why,
            },
        )
    }

    /// Bring all of the slot to where one transaction is missing. Returns why it is left alone, if it is.
    async fn prepare(&mut self, slot: u16, company: &Company) -> Result<Option<Fate>, Broken> {
        self.sent.clear();
        self.restored.clear();
        self.bytes = 0;
        self.keys.clear();
        self.open().await?;
        let turn = company.reading.acquire().await;
        if let Some(refusal) = self.list(slot).await? {
            return Ok(Some(Fate::Refused(refusal)));
        }
        if self.keys.len() > self.spec.limits.keys {
            return Ok(Some(Fate::Large));
        }
        if self.keys.len() > 0
            && let Some(fate) = self.copy().await?
        {
            return Ok(Some(fate));
        }
        drop(turn);
        self.await_replica(company).await?;
        Ok(None)
    }

    async fn open(&mut self) -> Result<(), Broken> {
        let spec = &self.spec;
        if self.source.is_none() {
            let peer = Peer::open(&spec.source, &spec.access, &spec.client_name).await;
            self.source = Some(peer.map_err(at_source)?);
        }
        if self.target.is_none() {
            let peer = Peer::open(&spec.target, &spec.access, &spec.client_name).await;
            self.target = Some(peer.map_err(at_target)?);
        }
        // Where a try was given up, what it had asked for is still to come.
        opened(&mut self.source, at_source)?
            .drain()
            .await
            .map_err(at_source)
    }

    /// Read the slot's keys, one more than there may be, and WATCH them. Returns the source's refusal.
    async fn list(&mut self, slot: u16) -> Result<Option<String>, Broken> {
        let Self {
            keys, source, spec, ..
        } = self;
        let source = opened(source, at_source)?;
        keys.clear();
        let mut refusal = None;
        source.add(2, |out| {
            // Keys of a try before are watched still.
            encode::command(out, &[b"UNWATCH"]);
            let most = (spec.limits.keys + 1).to_string();
            let slot = slot.to_string();
            encode::command(
                out,
                &[b"CLUSTER", b"GETKEYSINSLOT", slot.as_bytes(), most.as_bytes()],
            );
        });
        source
            .replies(2, |reply| match reply {
                Reply::Array(Some(count)) => count,
                Reply::Bulk(Some(key)) => {
                    keys.push(key);
                    0
                }
                other => {
                    note(&mut refusal, &other);
                    0
                }
            })
            .await
            .map_err(at_source)?;
        if refusal.is_none() && keys.len() > 0 && keys.len() <= spec.limits.keys {
            source.add(1, |out| {
                encode::head(out, keys.len() + 1);
                encode::bulk(out, b"WATCH");
                for place in 0..keys.len() {
                    encode::bulk(out, keys.get(place));
                }
            });
        }
        Ok(refusal)
    }

    /// Copy the keys that were listed; WATCH is under way. Returns why the slot is left alone, if it is.
    async fn copy(&mut self) -> Result<Option<Fate>, Broken> {
        let mut refusal = None;
        let all: Vec<usize> = (0..self.keys.len()).collect();
        let strings = self.mostly_strings && !self.strings_refused;
        let mut watched = false;
        let rest = if strings {
            let others = self
                .read(&all, Reading::Strings, &mut watched, &mut refusal)
                .await?;
            self.mostly_strings = others.len() * 100 <= all.len() * (100 - MOSTLY);
            others
        } else {
            all
        };
        if self.bytes > self.spec.limits.bytes {
            return Ok(Some(Fate::Large));
        }
        if refusal.is_none() && !rest.is_empty() {
            if let Some(fate) = self.weigh(&rest, &mut watched, &mut refusal).await? {
                return Ok(Some(fate));
            }
            let others = self
                .read(&rest, Reading::Dump, &mut watched, &mut refusal)
                .await?;
            if !strings {
                self.mostly_strings = others.len() * 100 >= rest.len() * MOSTLY;
            }
        }
        Ok(refusal.map(Fate::Refused))
    }

    /// Ask how large keys are. Returns `Large` if one of them, or all together, are.
    async fn weigh(
        &mut self,
        places: &[usize],
        watched: &mut bool,
        refusal: &mut Option<String>,
    ) -> Result<Option<Fate>, Broken> {
        let Self {
            keys,
            source,
            spec,
            sizes,
            ..
        } = self;
        let source = opened(source, at_source)?;
        let (mut total, mut largest) = (0, 0);
        sizes.clear();
        sizes.resize(keys.len(), 0);
        for chunk in places.chunks(spec.limits.chunk_keys) {
            source.add(chunk.len(), |out| {
                for &place in chunk {
                    encode::memory_usage(out, keys.get(place));
                }
            });
            let first = usize::from(!std::mem::replace(watched, true));
            let mut asked = chunk.iter();
            source
                .replies(chunk.len() + first, |reply| {
                    match reply {
                        Reply::Integer(size) => {
                            total += size.unsigned_abs();
                            largest = largest.max(size.unsigned_abs());
                            if let Some(&place) = asked.next() {
                                sizes[place] = size.unsigned_abs();
                            }
                        }
                        Reply::Bulk(None) => {
                            asked.next(); // gone meanwhile
                        }
                        other => note(refusal, &other),
                    }
                    0
                })
                .await
                .map_err(at_source)?;
        }
        let limits = spec.limits;
        Ok((total > limits.bytes || largest > limits.key_bytes).then_some(Fate::Large))
    }

    /// Read keys and restore them on the target. Returns, of strings, the places that are to be read otherwise;
    /// of what DUMP gave, the places of strings.
    async fn read(
        &mut self,
        places: &[usize],
        reading: Reading,
        watched: &mut bool,
        refusal: &mut Option<String>,
    ) -> Result<Vec<usize>, Broken> {
        let mut others = Vec::new();
        let cut = self.cut(places, reading);
        let mut chunks = cut.iter().map(|&(first, end)| &places[first..end]).peekable();
        if let Some(first) = chunks.peek() {
            self.ask(first, reading)?;
        }
        while let Some(chunk) = chunks.next() {
            self.take(chunk, reading, watched, &mut others, refusal).await?;
            if refusal.is_none()
                && let Some(next) = chunks.peek()
            {
                // The source is at work while the target is.
                self.ask(next, reading)?;
                opened(&mut self.source, at_source)?
                    .send()
                    .await
                    .map_err(at_source)?;
            }
            self.settle(refusal).await?;
            if refusal.is_some() {
                break;
            }
        }
        Ok(others)
    }

    /// Where to cut: no more keys than may be asked for at once, and no more bytes where sizes are known.
    fn cut(&self, places: &[usize], reading: Reading) -> Vec<(usize, usize)> {
        let limits = &self.spec.limits;
        let mut cut = Vec::new();
        let (mut first, mut bytes) = (0, 0);
        for (at, &place) in places.iter().enumerate() {
            let size = if reading == Reading::Dump {
                self.sizes[place]
            } else {
                0
            };
            if at > first && (at - first >= limits.chunk_keys || bytes + size > limits.chunk_bytes) {
                cut.push((first, at));
                (first, bytes) = (at, 0);
            }
            bytes += size;
        }
        cut.push((first, places.len()));
        cut
    }

    fn ask(&mut self, places: &[usize], reading: Reading) -> Result<(), Broken> {
        let Self { keys, source, .. } = self;
        opened(source, at_source)?.add(2 * places.len(), |out| {
            for &place in places {
                let key = keys.get(place);
                // As MIGRATE does it: a TTL that is told and set at once needs no clock in common.
                encode::expiry(out, ExpiryCommand::Relative, key);
                match reading {
                    // One byte more than there may be tells a longer one.
                    Reading::Strings => encode::getrange(out, key, i64::from(STRING_BYTES)),
                    Reading::Dump => encode::dump(out, key),
                }
            }
        });
        Ok(())
    }

    /// Read the replies of a chunk, and pass what they hold on to the target.
    async fn take(
        &mut self,
        places: &[usize],
        reading: Reading,
        watched: &mut bool,
        others: &mut Vec<usize>,
        refusal: &mut Option<String>,
    ) -> Result<(), Broken> {
        let Self {
            keys,
            source,
            target,
            sent,
            bytes,
            strings_refused,
            ..
        } = self;
        let target = opened(target, at_target)?;
        let source = opened(source, at_source)?;
        if !std::mem::replace(watched, true) {
            source
                .replies(1, |reply| {
                    note(refusal, &reply);
                    0
                })
                .await
                .map_err(at_source)?;
        }
        let (mut at, mut expiry) = (0, None);
        let mut payload = Vec::new();
        source
            .replies(2 * places.len(), |reply| {
                let Some(expires) = expiry.take() else {
                    expiry = Some(match reply {
                        Reply::Integer(expiry) => expiry,
                        other => {
                            note(refusal, &other);
                            -2
                        }
                    });
                    return 0;
                };
                let place = places[at];
                at += 1;
                let ttl = u64::try_from(expires).map_or(0, |millis| millis.max(1));
                let mut pass_on = |payload: &[u8]| {
                    *bytes += payload.len() as u64;
                    sent.push_back(place);
                    target.add(1, |out| {
                        encode::restore_asking(out, keys.get(place), ttl, payload);
                    });
                };
                match (reading, reply) {
                    (Reading::Strings, Reply::Bulk(Some(value)))
                        if !value.is_empty() && value.len() <= usize::from(STRING_BYTES) =>
                    {
                        payload.clear();
                        append_string(&mut payload, value);
                        pass_on(&payload);
                    }
                    (Reading::Strings, reply) => {
                        *strings_refused |=
                            matches!(reply, Reply::Error(text) if text.starts_with(b"NOPERM"));
                        others.push(place);
                    }
                    (Reading::Dump, Reply::Bulk(Some(value))) => {
                        // Type 0 is a string.
                        if value.starts_with(&[0]) {
                            others.push(place);
                        }
                        pass_on(value);
                    }
                    (Reading::Dump, Reply::Bulk(None)) => {}
                    (Reading::Dump, other) => note(refusal, &other),
                }
                0
            })
            .await
            .map_err(at_source)?;
        target.send().await.map_err(at_target)
    }

    /// Read the target's replies to all that was sent.
    async fn settle(&mut self, refusal: &mut Option<String>) -> Result<(), Broken> {
        let Self {
            target,
            sent,
            restored,
            ..
        } = self;
        opened(target, at_target)?
            .replies(sent.len(), |reply| {
                let place = sent.pop_front();
                match reply {
                    Reply::Simple(_) => restored.extend(place),
                    other => note(refusal, &other),
                }
                0
            })
            .await
            .map_err(at_target)
    }

    /// Wait until a replica of the target has the copies too: after the transaction there is no other.
    ///
    /// One that does not answer in time is not waited for any more in this call: MIGRATE would not wait at all.
    async fn await_replica(&mut self, company: &Company) -> Result<(), Broken> {
        if !self.spec.replicated || self.restored.is_empty() || company.replica_is_late.get() {
            return Ok(());
        }
        let target = opened(&mut self.target, at_target)?;
        target.add(1, |out| encode::command(out, &[b"WAIT", b"1", REPLICA_MILLIS]));
        target
            .replies(1, |reply| {
                if reply == Reply::Integer(0) {
                    company.replica_is_late.set(true);
                }
                0
            })
            .await
            .map_err(at_target)
    }

    /// Let go of the slot at the source: all keys that were copied, at once, if none that was listed has changed.
    async fn give_up(&mut self, slot: u16) -> Result<Tried, Broken> {
        let Self {
            keys,
            source,
            spec,
            restored,
            ..
        } = self;
        let source = opened(source, at_source)?;
        let number = slot.to_string();
        let undecided = |why: String| Broken {
            undecided: true,
            ..at_source(why)
        };
        // Keys that were gone before they could be watched are not named: with one that is missing, the script's
        // UNLINK would be refused in a slot that has just been opened.
        if restored.is_empty() {
            let id = spec.target_id.as_bytes();
            source.add(1, |out| {
                encode::command(
                    out,
                    &[b"CLUSTER", b"SETSLOT", number.as_bytes(), b"MIGRATING", id],
                );
            });
            let mut refusal = None;
            let told = source.replies(1, |reply| {
                note(&mut refusal, &reply);
                0
            });
            told.await.map_err(undecided)?;
            return Ok(refusal.map_or(Tried::Done(0), |text| Tried::Left(Fate::Refused(text))));
        }
        source.add(3, |out| {
            encode::command(out, &[b"MULTI"]);
            encode::head(out, restored.len() + 5);
            for argument in [b"EVAL".as_slice(), GIVE_UP, restored.len().to_string().as_bytes()] {
                encode::bulk(out, argument);
            }
            for &place in restored.iter() {
                encode::bulk(out, keys.get(place));
            }
            encode::bulk(out, number.as_bytes());
            encode::bulk(out, spec.target_id.as_bytes());
            encode::command(out, &[b"EXEC"]);
        });
        let (mut refusal, mut changed, mut done) = (None, false, false);
        source
            .replies(3, |reply| match reply {
                Reply::Array(None) | Reply::Bulk(None) => {
                    changed = true;
                    0
                }
                Reply::Array(Some(count)) => count,
                Reply::Integer(_) => {
                    done = true;
                    0
                }
                other => {
                    note(&mut refusal, &other);
                    0
                }
            })
            .await
            .map_err(undecided)?;
        Ok(match refusal {
            _ if done => Tried::Done(restored.len() as u64),
            _ if changed => Tried::Changed,
            Some(text) => Tried::Left(Fate::Refused(text)),
            None => Tried::Left(Fate::Refused("the transaction gave no reply".to_owned())),
        })
    }

    /// Drop from the target what this try has restored there; the source has not let go of the slot.
    async fn take_back(&mut self) -> Result<(), Broken> {
        if self.target.is_none() {
            return Ok(());
        }
        self.settle(&mut None).await?;
        let Self {
            keys,
            target,
            restored,
            ..
        } = self;
        let target = opened(target, at_target)?;
        if restored.is_empty() {
            return Ok(());
        }
        // One by one: with a copy that has expired, an UNLINK of many would be refused in an open slot.
        target.add(2 * restored.len(), |out| {
            for &place in restored.iter() {
                encode::asking(out);
                encode::command(out, &[b"UNLINK", keys.get(place)]);
            }
        });
        let mut refusal = None;
        target
            .replies(2 * restored.len(), |reply| {
                note(&mut refusal, &reply);
                0
            })
            .await
            .map_err(at_target)?;
        restored.clear();
        match refusal {
            None => Ok(()),
            Some(text) => Err(at_target(format!("it does not drop copies: {text}"))),
        }
    }
}

/// Keep the first error.
fn note(refusal: &mut Option<String>, reply: &Reply<'_>) {
    if let Reply::Error(text) = reply
        && refusal.is_none()
    {
        *refusal = Some(String::from_utf8_lossy(text).into_owned());
    }
}

fn at_source(why: String) -> Broken {
    Broken {
        source: true,
        why,
        undecided: false,
    }
}

fn at_target(why: String) -> Broken {
    Broken {
        source: false,
        why,
        undecided: false,
    }
}

fn opened(peer: &mut Option<Peer>, side: impl FnOnce(String) -> Broken) -> Result<&mut Peer, Broken> {
    peer.as_mut()
        .ok_or_else(|| side("the connection is not open".to_owned()))
}
