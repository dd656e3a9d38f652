//! Values beyond the size limit of a verification: compared in parts, by type, one key after the other.
//!
//! Invariant: never more than a few parts are held, whatever the size of the value; and a value is called the
//! same only if every part of it was compared and both sides have equally many.

mod as_it_comes;
mod end;
mod pair;
mod stream;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

pub(crate) use as_it_comes::AsItComes;
use end::Open;
pub(crate) use pair::Manner;
use pair::Pair;

use crate::chunked::parts::{Limits, Unequal};
use crate::error::ErrorKind;
use crate::event::Side;
use crate::job::engine::{Backoff, Engine};
use crate::ledger::books::PageId;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Difference, Failure, FailureKind, Pending, SideBySide};
use crate::net::Address;
use crate::net::client::CallError;

/// What is compared in one go.
const LIMITS: Limits = Limits {
    bytes: 256 << 10,
    elements: 4096,
};

/// A key whose read has ended so many connections, for so long, is given up: the source can't send it.
const MOST_CUTS: u32 = 5;
const CUT_PATIENCE: Duration = Duration::from_secs(10);

/// Keys that wait to be compared in parts.
#[derive(Debug, Default)]
pub(crate) struct LargeKeys {
    waiting: VecDeque<LargeKey>,
    running: bool,
}

#[derive(Debug)]
struct LargeKey {
    page: PageId,
    slot: u16,
    /// Its name at the source, and at the target.
    key: Vec<u8>,
    name: Vec<u8>,
}

impl LargeKey {
    fn failure(
        &self,
        kind: FailureKind,
        message: String,
        sides: Option<SideBySide>,
        node: String,
    ) -> Failure {
        Failure {
            key: self.key.clone(),
            slot: self.slot,
            kind,
            message,
            sides,
            node,
        }
    }
}

/// How two values compare.
#[derive(Debug)]
pub(crate) enum Compared {
    /// So much of the source's value was read for it, in bytes.
    Same {
        bytes: u64,
    },
    Differs(Difference),
    /// There is nothing to compare (any more).
    Gone(Outcome),
}

/// Why a comparison did not come to its end.
#[derive(Debug)]
pub(crate) enum Broken {
    Source(CallError),
    /// The target's node is lost, or passes the key on, for this reason.
    Target(CallError),
    /// The slot belongs to another node now, or is not served for a while.
    Again(String),
    /// The key is another node's of the source by now: it is left to that one.
    Elsewhere(String),
    /// One of the sides answered with an error that stays.
    Failed(FailureKind, String),
    /// The job drains: the key stays open.
    Drained,
}

/// What was compared: the difference, if there is one.
type Parts = Result<Option<Unequal>, Broken>;

impl Engine {
    /// A value is too large to be compared as a whole: its key waits to be compared in parts.
    pub fn compare_large(self: &Rc<Self>, page: PageId, slot: u16, key: &[u8], name: &[u8]) {
        let mut large = self.large.borrow_mut();
        self.budget.hold_names(key.len() + name.len());
        large.waiting.push_back(LargeKey {
            page,
            slot,
            key: key.to_vec(),
            name: name.to_vec(),
        });
        if !std::mem::replace(&mut large.running, true) {
            self.spawn(run(Rc::clone(self)));
        }
    }
}

/// Compare the keys that wait, until none does.
async fn run(engine: Rc<Engine>) {
    let mut sides = Sides::default();
    loop {
        let next = {
            let mut large = engine.large.borrow_mut();
            let next = large.waiting.pop_front();
            large.running = next.is_some();
            next
        };
        let Some(task) = next else {
            return;
        };
        let goes_on = settle(&engine, &mut sides, &task).await;
        engine.budget.free_names(task.key.len() + task.name.len());
        if !goes_on {
            return;
        }
    }
}

/// Compare one key, as often as it takes; false where the job can't go on.
async fn settle(engine: &Rc<Engine>, sides: &mut Sides, task: &LargeKey) -> bool {
    let begun = Instant::now();
    let opened = sides.opened;
    let mut backoff = Backoff::new();
    let manner = Manner {
        tolerance: engine.spec.verify.map_or(0, |verify| verify.ttl_tolerance),
        limits: LIMITS,
        rests: false,
    };
    loop {
        let owner = {
            let router = engine.router.borrow();
            let topology = router.topology();
            topology
                .owner(task.slot)
                .map(|node| topology.address(node).clone())
        };
        let compared = match &owner {
            Some(node) => sides.compare(engine, node, &task.key, &task.name, manner).await,
            None => Err(Broken::Again("not served by any node".to_owned())),
        };
        let node = owner.map_or_else(|| "no node".to_owned(), |node| node.to_string());
        let (reason, kind) = match compared {
            Ok(Compared::Same { bytes }) => {
                engine.settle(task.page, Outcome::Unchanged, 1, bytes);
                return true;
            }
            Ok(Compared::Gone(outcome)) => {
                engine.settle(task.page, outcome, 1, 0);
                return true;
            }
            Ok(Compared::Differs(Difference { kind, sides, message })) => {
                engine.fail(task.page, task.failure(kind, message, Some(sides), node));
                return true;
            }
            Err(Broken::Failed(kind, message)) => {
                engine.fail(task.page, task.failure(kind, message, None, node));
                return true;
            }
            Err(Broken::Elsewhere(reason)) => {
                let (key, slot) = (task.key.clone(), task.slot);
                engine.park(task.page, Pending { key, slot, reason });
                return true;
            }
            Err(Broken::Source(error)) => {
                let (text, kind) = describe(error, ErrorKind::SourceChanged, ErrorKind::SourceRefused);
                let text = format!("source {}: {text}", engine.spec.source);
                if let Some(kind) = kind {
                    engine.stop(kind, text);
                    return false;
                }
                (text, ErrorKind::SourceLost)
            }
            Err(Broken::Target(error)) => {
                let (text, kind) = describe(error, ErrorKind::TargetChanged, ErrorKind::TargetRefused);
                if let Some(kind) = kind {
                    engine.stop(kind, format!("the target's node {node}: {text}"));
                    return false;
                }
                (format!("{text} at {node}"), ErrorKind::TargetLost)
            }
            Err(Broken::Again(reason)) => (reason, ErrorKind::TargetLost),
            Err(Broken::Drained) => {
                engine.cut_short.set(true);
                engine.changed.notify_one();
                return false;
            }
        };
        let waited = begun.elapsed();
        let cuts = sides.opened - opened;
        if kind == ErrorKind::SourceLost
            && cuts >= MOST_CUTS
            && waited >= CUT_PATIENCE.min(engine.spec.retry_for)
        {
            fail_cut_off(engine, task, &reason);
            return true;
        }
        if kind == ErrorKind::SourceLost {
            if waited >= engine.spec.retry_for {
                engine.stop(kind, format!("{reason}, for {} s", waited.as_secs()));
                return false;
            }
        } else if waited >= engine.spec.park_after.min(engine.spec.retry_for) {
            engine.park(
                task.page,
                Pending {
                    key: task.key.clone(),
                    slot: task.slot,
                    reason,
                },
            );
            return true;
        } else {
            engine.want_topology(reason, Some(task.slot));
        }
        tokio::time::sleep(backoff.step().min(Duration::from_secs(1))).await;
    }
}

/// The source can't send a key: it is given up, so that the others go on.
fn fail_cut_off(engine: &Engine, task: &LargeKey, reason: &str) {
    let message = format!("it can't be read: {reason}, again and again, though the source answers otherwise");
    let node = engine.spec.source.to_string();
    engine.fail(task.page, task.failure(FailureKind::Error, message, None, node));
}

/// What a call's error says, and the kind of it if it ends the job.
fn describe(error: CallError, changed: ErrorKind, refused: ErrorKind) -> (String, Option<ErrorKind>) {
    match error {
        CallError::Lost(text) => (text, None),
        CallError::Changed(text) => (text, Some(changed)),
        CallError::Refused(text) => (text, Some(refused)),
    }
}

/// A connection to each side, opened when it is needed and kept for the next key.
#[derive(Default)]
pub(crate) struct Sides {
    source: Option<Open>,
    /// How many connections to the source were opened.
    opened: u32,
    target: Option<(Address, Open)>,
}

impl Sides {
    /// Compare the source's `key` with what `node` has under `name`. Whatever breaks it, the connection that is
    /// broken is opened anew the next time.
    pub async fn compare(
        &mut self,
        engine: &Rc<Engine>,
        node: &Address,
        key: &[u8],
        name: &[u8],
        manner: Manner,
    ) -> Result<Compared, Broken> {
        let spec = &engine.spec;
        if self.source.is_none() {
            let opened = Open::new(engine, Side::Source, &spec.source, Some(&spec.source_run_id)).await;
            self.source = Some(opened.map_err(Broken::Source)?);
            self.opened += 1;
        }
        if self.target.as_ref().is_none_or(|(address, _)| address != node) {
            self.target = None;
            let opened = Open::new(engine, Side::Target, node, None).await;
            self.target = Some((node.clone(), opened.map_err(Broken::Target)?));
        }
        let (Some(source), Some((_, target))) = (&mut self.source, &mut self.target) else {
            return Err(Broken::Again("not connected".to_owned()));
        };
        let mut pair = Pair {
            source: source.end(engine, key, None),
            target: target.end(engine, name, Some(node)),
            manner,
            bytes: 0,
        };
        let compared = pair.compare().await;
        match compared {
            Err(Broken::Source(_)) => self.source = None,
            Err(Broken::Target(_)) => self.target = None,
            _ => {}
        }
        compared
    }
}
