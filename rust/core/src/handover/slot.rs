//! One slot on its way: copied, and given up in a transaction.
//!
//! Invariant: whatever ends a try before its transaction is sent, what it restored is dropped again, or the
//! slot is told as lost.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use crate::handover::coordinator::Coordinator;
use crate::handover::keys::Keys;
use crate::handover::peer::Peer;
use crate::handover::{Fate, HandoverSpec, Outcome};
use crate::resp::encode::ExpiryCommand;
use crate::resp::{Reply, encode};

/// Tries before a slot is left to a way that does not mind changes.
const TRIES: usize = 3;

/// How long the target's replica is waited for.
const REPLICA_MILLIS: &[u8] = b"500";

/// Opens the slot, then drops the keys; an error of either leaves both as they were.
const GIVE_UP: &[u8] = b"redis.call('CLUSTER','SETSLOT',ARGV[1],'MIGRATING',ARGV[2]) \
    local gone = redis.pcall('UNLINK',unpack(KEYS)) \
    if type(gone) == 'table' and gone.err then redis.call('CLUSTER','SETSLOT',ARGV[1],'STABLE') end \
    return gone";

/// A connection to either node, and the slot that they carry.
pub(crate) struct SourceReader {
    pub spec: Arc<HandoverSpec>,
    pub source: Option<Peer>,
    pub target: Option<Peer>,
    pub keys: Keys,
    /// Whether keys are watched: those of this try, or of one before it.
    pub watching: bool,
    /// Places of the keys that were sent to the target, which has not answered yet.
    pub sent: VecDeque<usize>,
    /// Places of the keys that the target has taken.
    pub restored: Vec<usize>,
    /// What each key takes at the source, where it was asked.
    pub sizes: Vec<u64>,
    pub bytes: u64,
    pub mostly_strings: bool,
    pub strings_refused: bool,
}

impl fmt::Debug for SourceReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceReader").finish_non_exhaustive()
    }
}

/// The keys of a slot, or why the source does not list them.
pub(crate) type Listed = Result<Keys, String>;

/// How a try ended.
enum Tried {
    Done(u64),
    Changed,
    Left(Fate),
}

/// What the reply to a transaction says, which is the last of three.
enum Last {
    Done,
    Changed,
    Refused,
    Unknown,
}

/// A connection broke.
pub(crate) struct Broken {
    source: bool,
    why: String,
    /// The transaction was sent: whether it took place is not known, so nothing is taken back.
    undecided: bool,
}

impl SourceReader {
    pub fn new(spec: Arc<HandoverSpec>) -> Self {
        Self {
            spec,
            source: None,
            target: None,
            keys: Keys::default(),
            watching: false,
            sent: VecDeque::new(),
            restored: Vec::new(),
            sizes: Vec::new(),
            bytes: 0,
            mostly_strings: false,
            strings_refused: false,
        }
    }

    /// Hand a slot over whose keys were listed. The coordinator was entered for it.
    pub async fn carry(&mut self, slot: u16, keys: Keys, coordinator: &Coordinator) -> Outcome {
        let mut listed = Some(keys);
        for _ in 0..TRIES {
            if listed.is_none() {
                coordinator.enter();
            }
            let prepared = self.prepare(slot, listed.take(), coordinator).await;
            let tried = match prepared {
                Ok(None) if coordinator.ready(self.keys.len()).await => self.give_up(slot).await,
                Ok(None) => Ok(Tried::Left(Fate::NotBegun)),
                Ok(Some(fate)) => {
                    coordinator.leave();
                    Ok(Tried::Left(fate))
                }
                Err(broken) => {
                    coordinator.lose();
                    coordinator.leave();
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
                        coordinator.lose();
                        return self.lost(slot, broken);
                    }
                }
                Err(broken) => {
                    coordinator.lose();
                    if broken.source && !broken.undecided {
                        // What can't be taken back now is known by the journal.
                        let _ = self.drop_copies().await;
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

    /// Tell a slot as lost, and forget both connections.
    pub fn lost(&mut self, slot: u16, broken: Broken) -> Outcome {
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
    async fn prepare(
        &mut self,
        slot: u16,
        listed: Option<Keys>,
        coordinator: &Coordinator,
    ) -> Result<Option<Fate>, Broken> {
        self.sent.clear();
        self.restored.clear();
        self.bytes = 0;
        self.keys.clear();
        self.open().await?;
        self.keys = match listed {
            Some(keys) => keys,
            None => match self.list(&[slot]).await?.pop() {
                Some(Ok(keys)) => keys,
                Some(Err(refusal)) => return Ok(Some(Fate::Refused(refusal))),
                None => Keys::default(),
            },
        };
        if self.keys.len() > self.spec.limits.keys {
            return Ok(Some(Fate::Large));
        }
        let turn = coordinator.turn_to_read(self.keys.len()).await;
        if self.keys.len() > 0
            && let Some(fate) = self.copy(coordinator).await?
        {
            return Ok(Some(fate));
        }
        drop(turn);
        // The source is at work for the next one while the target takes the last of this one.
        let mut refusal = None;
        self.settle(&mut refusal).await?;
        if let Some(text) = refusal {
            return Ok(Some(Fate::Refused(text)));
        }
        self.await_replica(coordinator).await?;
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

    /// Read the keys of slots, of each one more than there may be; or the source's refusal.
    pub async fn list(&mut self, slots: &[u16]) -> Result<Vec<Listed>, Broken> {
        self.open().await?;
        let most = (self.spec.limits.keys + 1).to_string();
        let source = opened(&mut self.source, at_source)?;
        source.add(slots.len(), |out| {
            for slot in slots {
                let slot = slot.to_string();
                encode::command(
                    out,
                    &[b"CLUSTER", b"GETKEYSINSLOT", slot.as_bytes(), most.as_bytes()],
                );
            }
        });
        let mut listed: Vec<Listed> = Vec::with_capacity(slots.len());
        source
            .replies(slots.len(), |reply| match reply {
                Reply::Array(Some(count)) => {
                    listed.push(Ok(Keys::default()));
                    count
                }
                Reply::Bulk(Some(key)) => {
                    if let Some(Ok(keys)) = listed.last_mut() {
                        keys.push(key);
                    }
                    0
                }
                other => {
                    let mut refusal = None;
                    note(&mut refusal, &other);
                    listed.push(Err(refusal.unwrap_or_else(|| "no list of keys came".to_owned())));
                    0
                }
            })
            .await
            .map_err(at_source)?;
        let told = slots.iter().zip(&listed);
        let astray = told.filter_map(|(&slot, list)| list.as_ref().ok()?.astray(slot));
        if listed.len() != slots.len() || astray.count() > 0 {
            return Err(at_source(
                "it does not list the keys of the slots that were asked for".to_owned(),
            ));
        }
        Ok(listed)
    }

    /// Wait until a replica of the target has the copies too: after the transaction there is no other.
    ///
    /// One that does not answer in time is not waited for any more in this call: MIGRATE would not wait at all.
    async fn await_replica(&mut self, coordinator: &Coordinator) -> Result<(), Broken> {
        if !self.spec.replicated || self.restored.is_empty() || coordinator.replica_is_late.get() {
            return Ok(());
        }
        let target = opened(&mut self.target, at_target)?;
        target.add(1, |out| encode::command(out, &[b"WAIT", b"1", REPLICA_MILLIS]));
        target
            .replies(1, |reply| {
                if reply == Reply::Integer(0) {
                    coordinator.replica_is_late.set(true);
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
        let (mut refusal, mut place, mut last) = (None, 0, Last::Unknown);
        source
            .replies(3, |reply| {
                place += 1;
                note(&mut refusal, &reply);
                match (place, reply) {
                    (1, Reply::Simple(b"OK")) | (2, Reply::Simple(b"QUEUED")) | (1 | 2, Reply::Error(_)) => 0,
                    (3, Reply::Array(Some(1))) => 1,
                    (3, Reply::Array(None) | Reply::Bulk(None)) => {
                        last = Last::Changed;
                        0
                    }
                    (4, Reply::Integer(_)) => {
                        last = Last::Done;
                        0
                    }
                    (3 | 4, Reply::Error(_)) => {
                        last = Last::Refused; // EXECABORT, or the script has left all as it was
                        0
                    }
                    (_, other) => {
                        last = Last::Unknown;
                        place = 4; // whatever follows is no reply to these
                        if let Reply::Array(Some(count)) = other {
                            count
                        } else {
                            0
                        }
                    }
                }
            })
            .await
            .map_err(undecided)?;
        self.watching = false;
        match (last, refusal) {
            (Last::Done, None) => Ok(Tried::Done(self.restored.len() as u64)),
            (Last::Changed, None) => Ok(Tried::Changed),
            (Last::Refused, Some(text)) => Ok(Tried::Left(Fate::Refused(text))),
            // It may have taken place all the same.
            _ => Err(undecided(
                "it answers a transaction with other replies".to_owned(),
            )),
        }
    }

    /// Drop from the target what this try has restored there, of keys that the source serves still.
    ///
    /// It has not let go of the slot for us; but where another tool has opened it meanwhile, a key may have been moved
    /// onto its copy, which is the only one then.
    async fn take_back(&mut self) -> Result<(), Broken> {
        if self.target.is_none() {
            return Ok(());
        }
        self.settle(&mut None).await?;
        let Self {
            keys,
            source,
            restored,
            ..
        } = self;
        if restored.is_empty() {
            return Ok(());
        }
        let source = opened(source, at_source)?;
        source.drain().await.map_err(at_source)?;
        source.add(restored.len(), |out| {
            for &place in restored.iter() {
                encode::expiry(out, ExpiryCommand::Relative, keys.get(place));
            }
        });
        let mut served = Vec::with_capacity(restored.len());
        let asked = source.replies(restored.len(), |reply| {
            served.push(matches!(reply, Reply::Integer(_)));
            0
        });
        asked.await.map_err(at_source)?;
        let before = restored.len();
        let mut served = served.into_iter();
        restored.retain(|_| served.next().unwrap_or(false));
        let kept = before - restored.len();
        self.drop_copies().await?;
        if kept > 0 {
            return Err(at_source(format!(
                "another tool has opened the slot, and moved {kept} keys"
            )));
        }
        Ok(())
    }

    /// Drop from the target what this try has restored there.
    async fn drop_copies(&mut self) -> Result<(), Broken> {
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
pub(crate) fn note(refusal: &mut Option<String>, reply: &Reply<'_>) {
    if let Reply::Error(text) = reply
        && refusal.is_none()
    {
        *refusal = Some(crate::text::said(text));
    }
}

pub(crate) fn at_source(why: String) -> Broken {
    Broken {
        source: true,
        why,
        undecided: false,
    }
}

pub(crate) fn at_target(why: String) -> Broken {
    Broken {
        source: false,
        why,
        undecided: false,
    }
}

pub(crate) fn opened(
    peer: &mut Option<Peer>,
    side: impl FnOnce(String) -> Broken,
) -> Result<&mut Peer, Broken> {
    peer.as_mut()
        .ok_or_else(|| side("the connection is not open".to_owned()))
}
