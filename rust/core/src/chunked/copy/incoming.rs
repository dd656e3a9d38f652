//! A large value that comes as a file is read: written, or compared, part by part.
//!
//! Invariants: as for any large key, it appears at the target whole, with its TTL, or not at all. A part is held until the
//! target has it, and no other is read meanwhile. What can't be gone on with is left for later: a file is read again for it.

use std::rc::Rc;

use crate::chunked::compare::{AsItComes, Compared};
use crate::chunked::copy::Big;
use crate::chunked::copy::incoming_string::Sent;
use crate::chunked::copy::one_key::{Attempt, Copy, Progress, Stop};
use crate::chunked::copy::stream::Lost;
use crate::chunked::parts::{Chunk, Kind, Place};
use crate::compare::verdict::TTL_TOLERANCE;
use crate::job::engine::{Engine, OnConflict};
use crate::ledger::books::PageId;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Difference, Failure, FailureKind, Pending, SideBySide};
use crate::net::client::Client;
use crate::rdb::Stream;
use crate::resp::Tree;
use crate::text::shown;
use crate::topology::NodeId;

/// What became of a value.
#[derive(Debug)]
pub(crate) enum Ending {
    Settled(Outcome, u64),
    Failed {
        kind: FailureKind,
        message: String,
        sides: Option<SideBySide>,
        node: String,
    },
    /// It is left for later, for this reason.
    Late(String),
    /// The job drains or has failed.
    Left,
}

/// A value on its way, whose page is not open yet.
pub(crate) struct Incoming {
    pub(super) engine: Rc<Engine>,
    pub(super) big: Big,
    kind: Kind,
    pub(super) expires_at: u64,
    pub(super) target: Option<(NodeId, Client)>,
    pub(super) in_doubt: bool,
    pub(super) way: Way,
}

/// What is done with its parts.
pub(super) enum Way {
    Build(Build),
    /// A string that is sent in one command.
    Send(Sent),
    Compare(Box<AsItComes>),
    /// No more parts are taken.
    Over,
}

/// What is built under the temporary name.
pub(super) struct Build {
    pub place: Place,
    /// Elements that were written, and how many of them expire.
    pub length: u64,
    pub expiring: u64,
    pub is_first: bool,
    /// It was built a second time, under this name.
    pub again: Option<Vec<u8>>,
}

impl Build {
    pub fn new(kind: Kind) -> Self {
        Self {
            place: kind.scan_start(),
            length: 0,
            expiring: 0,
            is_first: true,
            again: None,
        }
    }
}

impl Incoming {
    pub fn new(engine: &Rc<Engine>, big: Big, kind: Kind, expires_at: u64) -> Self {
        Self {
            engine: Rc::clone(engine),
            big,
            kind,
            expires_at,
            target: None,
            in_doubt: false,
            way: Way::Build(Build::new(kind)),
        }
    }

    /// Look at what the target has of the key, and decide what is done with its parts.
    pub async fn begin(&mut self) -> Result<(), Ending> {
        let engine = Rc::clone(&self.engine);
        if engine.spec.verify.is_some() {
            return self.begin_comparing().await;
        }
        let name = self.big.target.clone();
        let exists = self
            .persist(async |copy| {
                let replies = copy.tell(&[&[b"EXISTS", &name]]).await?;
                Ok(replies.first().and_then(Tree::integer) == Some(1))
            })
            .await?;
        match engine.spec.on_conflict {
            OnConflict::Replace => Ok(()),
            _ if !exists => Ok(()),
            OnConflict::Skip => Err(Ending::Settled(Outcome::Skipped, 0)),
            OnConflict::Error => self.begin_comparing().await,
        }
    }

    async fn begin_comparing(&mut self) -> Result<(), Ending> {
        let tolerance = self.engine.spec.verify.map(|verify| verify.ttl_tolerance);
        let tolerance = tolerance.unwrap_or(TTL_TOLERANCE);
        let comparison = AsItComes::new(self.kind, self.big.target.clone(), self.expires_at, tolerance);
        self.way = Way::Compare(Box::new(comparison));
        self.compare(async |comparison, engine| comparison.look(engine).await)
            .await
    }

    /// Where the next part begins.
    pub fn place(&self) -> Place {
        match &self.way {
            Way::Build(build) => build.place,
            Way::Send(sent) => Place::Offset(sent.passed),
            Way::Compare(comparison) => comparison.place(),
            Way::Over => self.kind.scan_start(),
        }
    }

    /// Whether the target has the key, and it is compared with what comes.
    pub fn is_compared(&self) -> bool {
        matches!(self.way, Way::Compare(_))
    }

    /// So many bytes it was.
    pub fn set_size(&mut self, bytes: u64) {
        self.big.size = bytes;
    }

    /// Bytes of a string, which has `length` in all.
    pub async fn take_text(&mut self, bytes: Vec<u8>, length: u64) -> Result<(), Ending> {
        if let Way::Build(Build { is_first: true, .. }) = &self.way {
            self.check_length(length)?;
            if self.is_sent(length) {
                let sent = self.begin_sending(length).await?;
                self.way = Way::Send(sent);
            }
        }
        if let Way::Send(sent) = &mut self.way {
            if !self.engine.may_read_part().await {
                return Err(Ending::Left);
            }
            let pushed = sent.push(&self.engine, &bytes).await;
            return pushed.map_err(|not_taken| self.not_sent(not_taken));
        }
        let chunk = Chunk::of_text(bytes, self.place());
        self.take(chunk).await
    }

    /// The elements that come next.
    pub async fn take(&mut self, chunk: Chunk) -> Result<(), Ending> {
        if !self.engine.may_read_part().await {
            return Err(Ending::Left);
        }
        let size = chunk.bytes();
        self.engine.budget.hold(size);
        let taken = match self.way {
            Way::Compare(_) => {
                self.compare(async |comparison, engine| comparison.part(engine, &chunk).await)
                    .await
            }
            _ => self.write(&chunk).await,
        };
        self.engine.budget.free(size);
        if let (Ok(()), Way::Compare(comparison)) = (&taken, &mut self.way) {
            comparison.pass(&chunk);
        }
        taken
    }

    /// A stream's groups and history, behind its entries.
    pub async fn take_stream(&mut self, stream: Stream) -> Result<(), Ending> {
        if matches!(self.way, Way::Compare(_)) {
            return self
                .compare(async |comparison, engine| comparison.stream(engine, &stream).await)
                .await;
        }
        let Way::Build(build) = &self.way else {
            return Ok(());
        };
        let again = self.write_stream(&stream, build.is_first).await?;
        if let Way::Build(build) = &mut self.way {
            build.again = again;
            build.is_first = false;
        }
        Ok(())
    }

    async fn write(&mut self, chunk: &Chunk) -> Result<(), Ending> {
        let kind = self.kind;
        let Way::Build(build) = &self.way else {
            return Ok(());
        };
        if chunk.is_empty() {
            return Ok(());
        }
        let (is_first, place) = (build.is_first, build.place);
        let mut tried = false;
        self.persist(async |copy| {
            let temporary = copy.temporary();
            let mut progress = Progress::of_file(kind, place);
            let mut chunk = chunk.clone();
            if tried && !is_first {
                (progress.place, chunk) = copy.unwritten(&temporary, &progress, chunk).await?;
            }
            tried = true;
            copy.write_pieces(&temporary, &progress, chunk, is_first, &Lost::new())
                .await
        })
        .await?;
        if let Way::Build(build) = &mut self.way {
            build.is_first = false;
            build.length += chunk.count(kind) as u64;
            build.expiring += chunk.expiring() as u64;
            build.place = place.behind(kind, chunk);
        }
        Ok(())
    }

    /// The value is over: give it its name, or say how it compares.
    pub async fn end(mut self) -> Ending {
        let way = std::mem::replace(&mut self.way, Way::Over);
        let ended = match way {
            Way::Build(build) => self.name(build).await,
            Way::Send(sent) => self.end_sending(sent).await,
            Way::Over => Err(Ending::Left),
            comparison @ Way::Compare(_) => {
                self.way = comparison;
                let compared = self.compare(async |comparison, engine| comparison.end(engine).await);
                compared.await.map(|()| Outcome::Unchanged)
            }
        };
        ended.map_or_else(|ending| ending, |outcome| Ending::Settled(outcome, self.big.size))
    }

    async fn name(&mut self, build: Build) -> Result<Outcome, Ending> {
        let (kind, expires_at) = (self.kind, self.expires_at);
        if build.is_first {
            // All its fields have expired.
            return Ok(Outcome::Expired);
        }
        let (again, expiring) = (build.again, build.expiring);
        let length = Some(build.length.cast_signed());
        self.persist(async |copy| {
            let temporary = again.clone().unwrap_or_else(|| copy.temporary());
            if !copy.is_named(&temporary).await? {
                let now = copy.engine.source_now();
                let outcome = copy.finish(&temporary, kind, expiring, (expires_at, now, length));
                if outcome.await? == Outcome::Expired {
                    return Ok(Outcome::Expired);
                }
            }
            copy.wait_for_replicas().await?;
            Ok(Outcome::Migrated)
        })
        .await
    }

    /// Take away what was built: no more of it comes.
    pub async fn sweep(&mut self) {
        let Way::Build(build) = &self.way else {
            return;
        };
        if build.is_first {
            return;
        }
        // Where that can't be, its lifetime ends it.
        let _ = self.once(async |copy| copy.sweep_parts().await).await;
    }

    pub(super) fn compared(&self, compared: Compared, node: String) -> Ending {
        let Difference { kind, sides, message } = match compared {
            Compared::Same { bytes } => return Ending::Settled(Outcome::Unchanged, bytes),
            Compared::Gone(outcome) => return Ending::Settled(outcome, 0),
            Compared::Differs(difference) => difference,
        };
        if self.engine.spec.verify.is_some() {
            return Ending::Failed {
                kind,
                message,
                sides: Some(sides),
                node,
            };
        }
        let (kind, what) = match kind {
            FailureKind::Missing | FailureKind::Extra => {
                return Ending::Late("it went while it was compared".to_owned());
            }
            FailureKind::Ttl => (FailureKind::TtlConflict, "the same value with another TTL"),
            _ => (FailureKind::Conflict, "another value"),
        };
        let message = format!("the target holds {what} under {}", shown(&self.big.target));
        failed(kind, message, node)
    }
}

pub(super) fn failed(kind: FailureKind, message: String, node: String) -> Ending {
    Ending::Failed {
        kind,
        message,
        sides: None,
        node,
    }
}

impl Engine {
    /// Enter into the books what became of a value: `page` is open for it. Where it is left for later, a source that is
    /// there (`is_live`) is asked for it.
    pub(crate) fn settle_incoming(self: &Rc<Self>, page: PageId, big: Big, ending: Ending, is_live: bool) {
        let big = Big { page, ..big };
        match ending {
            Ending::Settled(outcome, bytes) => self.settle_big(&big, outcome, bytes),
            Ending::Failed {
                kind,
                message,
                sides,
                node,
            } => self.fail(
                page,
                Failure {
                    key: big.source,
                    slot: big.slot,
                    kind,
                    message,
                    sides,
                    node,
                },
            ),
            Ending::Late(_) if is_live => self.take_big(Big {
                in_doubt: true,
                ..big
            }),
            Ending::Late(reason) => self.park(
                page,
                Pending {
                    key: big.source,
                    slot: big.slot,
                    reason,
                },
            ),
            Ending::Left => {}
        }
    }

    pub(super) fn refused_ending(&self, big: &Big, reason: &str, times: u32) -> Ending {
        let node = self.owner(big.slot).map(|(_, address)| address.to_string());
        failed(
            FailureKind::TooLarge,
            refused_message(big, reason, times),
            node.unwrap_or_default(),
        )
    }
}

/// That the target ends the connection whenever a key is written.
pub(super) fn refused_message(big: &Big, reason: &str, times: u32) -> String {
    let key = shown(&big.target);
    format!(
        "{key}, of about {} bytes, can't be written: {reason}, {times} times in a row, though the target answers \
         otherwise (see client-query-buffer-limit and proto-max-bulk-len there, and what is between)",
        big.size
    )
}

impl Copy<'_> {
    /// What of a chunk is not written yet, and where it begins: an earlier try may have come farther than was heard of.
    async fn unwritten(
        &mut self,
        temporary: &[u8],
        progress: &Progress,
        mut chunk: Chunk,
    ) -> Attempt<(Place, Chunk)> {
        const GONE: Stop = Stop::Changed("what was written of it to the target is gone");
        match progress.place {
            Place::Offset(at) => {
                let length = self.tell(&[&[progress.kind.length(), temporary]]).await?;
                let length = length.first().and_then(Tree::integer).unwrap_or_default();
                let there = u64::try_from(length)
                    .ok()
                    .and_then(|length| length.checked_sub(at));
                let count = chunk.count(progress.kind) as u64;
                let there = there.filter(|&there| there <= count).ok_or(GONE)?;
                if progress.kind == Kind::String {
                    for bytes in &mut chunk.elements {
                        bytes.drain(..there as usize);
                    }
                    chunk.elements.retain(|bytes| !bytes.is_empty());
                } else {
                    chunk.elements.drain(..there as usize);
                }
                Ok((Place::Offset(at + there), chunk))
            }
            Place::After(..) => {
                let last = self.last_entry(temporary).await?.ok_or(GONE)?;
                chunk
                    .entries
                    .retain(|(id, _)| crate::chunked::parts::parse_id(id).is_some_and(|id| id > last));
                Ok((progress.place, chunk))
            }
            // To write them again changes nothing.
            Place::Cursor(_) => Ok((progress.place, chunk)),
        }
    }

    /// Whether an earlier try has given the key its name without our hearing of it.
    async fn is_named(&mut self, temporary: &[u8]) -> Attempt<bool> {
        if !*self.in_doubt {
            return Ok(false);
        }
        let name = self.big.target.clone();
        let replies = self.tell(&[&[b"EXISTS", temporary], &[b"EXISTS", &name]]).await?;
        let there: Vec<_> = replies.iter().filter_map(Tree::integer).collect();
        Ok(there == [0, 1])
    }
}
