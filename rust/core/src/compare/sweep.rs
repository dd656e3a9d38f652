//! The other direction of a verification: the keys of a primary of the target, looked for at the source.
//!
//! Invariant: what is reported here is a candidate: the key was in the target's SCAN and then not at the source.
//! Whether it is extra is said by a comparison of both sides by name. A key of a slot that another primary owns is
//! noted besides, since a comparison by name never meets it; whether it is misplaced is said by a second look. A
//! cursor is used only on the process that it came from.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::event::{Event, EventKind, Side};
use crate::job::engine::{Backoff, Engine, names_room};
use crate::ledger::books::PageId;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Failure, FailureKind, SideBySide};
use crate::net::Address;
use crate::net::client::{CallError, Client, Commands};
use crate::reply::is_elsewhere;
use crate::resp::{Decoded, ScanPage, ScanProgress, Tree, decode_scan_on, encode};
use crate::source::page::Keys;
use crate::source::walk::Walk;
use crate::text::said;
use crate::throttle::page_size::Pace;

/// So many pages' worth of keys are asked for at once, since a primary has one SCAN alone.
const PAGES: u32 = 4;

/// How long a sweep that is held back waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// One primary of the target, whose keys are looked for at the source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sweep {
    /// Its index among the job's marks.
    pub index: u32,
    /// Where its SCAN goes on.
    pub cursor: u64,
    /// The primary.
    pub node: Address,
    /// The server process that the cursor comes from.
    pub run_id: String,
}

/// Why a sweep stopped for now.
enum Stopped {
    Source(CallError),
    Target(CallError),
}

/// A page of a primary's keys.
struct Page {
    cursor: u64,
    keys: Keys,
}

/// Sweep one primary, the `place`-th of the job's marks, to its end.
pub(crate) async fn sweep(engine: Rc<Engine>, place: usize, mut task: Sweep) {
    let mut backoff = Backoff::new();
    let mut lost: Option<Instant> = None;
    loop {
        let before = task.cursor;
        let stopped = match walk(&engine, place, &mut task).await {
            Ok(()) => break,
            Err(stopped) => stopped,
        };
        if task.cursor != before {
            backoff = Backoff::new();
            lost = None;
        }
        let (name, error, lost_kind, refused) = match stopped {
            Stopped::Source(error) => (
                format!("source {}", engine.spec.source),
                error,
                ErrorKind::SourceLost,
                (ErrorKind::SourceChanged, ErrorKind::SourceRefused),
            ),
            Stopped::Target(error) => (
                format!("the target's node {}", task.node),
                error,
                ErrorKind::TargetLost,
                (ErrorKind::TargetChanged, ErrorKind::TargetRefused),
            ),
        };
        let reason = match error {
            CallError::Changed(what) => return engine.stop(refused.0, format!("{name} {what}")),
            CallError::Refused(what) => return engine.stop(refused.1, format!("{name}: {what}")),
            CallError::Lost(what) => format!("{name}: {what}"),
        };
        let now = Instant::now();
        let since = *lost.get_or_insert_with(|| {
            engine.shared.tell(Event {
                kind: if lost_kind == ErrorKind::SourceLost {
                    EventKind::SourceLost
                } else {
                    EventKind::NodeLost
                },
                message: reason.clone(),
                node: (lost_kind == ErrorKind::TargetLost).then(|| task.node.to_string()),
                slot: None,
            });
            now
        });
        if now - since >= engine.spec.retry_for {
            return engine.stop(lost_kind, format!("{reason}, for {} s", (now - since).as_secs()));
        }
        engine.health.borrow_mut().source(Some(reason), now);
        let wait = backoff.step();
        tokio::time::sleep(wait.min(Duration::from_secs(1))).await;
    }
    engine.readers_running.set(engine.readers_running.get() - 1);
    engine.changed.notify_one();
}

/// One pair of connections' life; `Ok` at the end or when the job drains.
async fn walk(engine: &Rc<Engine>, place: usize, task: &mut Sweep) -> Result<(), Stopped> {
    let spec = &engine.spec;
    let mut target = engine
        .converse(Side::Target, &task.node, Some(&task.run_id))
        .await
        .map_err(Stopped::Target)?;
    let mut source = engine
        .converse(Side::Source, &spec.source, Some(&spec.source_run_id))
        .await
        .map_err(Stopped::Source)?;
    engine.health.borrow_mut().source(None, Instant::now());
    let known = Pace::new(
        spec.page_keys.saturating_mul(PAGES),
        names_room(spec, spec.sweeps.len()),
    );
    let mut page = read_page(engine, &mut target, task.cursor, &known)
        .await
        .map_err(Stopped::Target)?;
    let in_cluster = spec.source_cluster.is_some();
    let mut steps = Walk::new(task.cursor, spec.retry_for);
    loop {
        let look = async {
            look_up(&mut source, &page.keys, in_cluster)
                .await
                .map_err(Stopped::Source)
        };
        let is_last = page.cursor == 0;
        let next = async {
            // A pause, or a rate that is used up, holds this direction back as well.
            // So do failures that are to be recorded first.
            while !engine.draining.get() {
                if engine.is_full_of_failures() {
                    engine.hold_pages();
                } else if engine.limiter.permitted(1) > 0 {
                    break;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            if is_last || engine.draining.get() {
                return Ok(None);
            }
            let next = read_page(engine, &mut target, page.cursor, &known).await;
            next.map(Some).map_err(Stopped::Target)
        };
        // The next page is read while this one is looked up.
        let (absent, next) = tokio::join!(look, next);
        record(engine, place, task, &page, absent?);
        let Some(next) = next? else {
            if !is_last {
                engine.cut_short.set(true);
            }
            return Ok(());
        };
        let now = Instant::now();
        if engine.limiter.is_on() {
            steps.excuse(now);
        }
        if next.cursor != 0 {
            let step = steps.step(next.cursor, next.keys.len(), now);
            step.map_err(|why| Stopped::Target(CallError::Refused(format!("makes no progress: {why}"))))?;
        }
        page = next;
    }
}

async fn read_page(
    engine: &Engine,
    target: &mut Client,
    cursor: u64,
    known: &Pace,
) -> Result<Page, CallError> {
    let spec = &engine.spec;
    let count = known.count(None);
    let progress = Cell::new(ScanProgress::default());
    let mut command = Vec::new();
    encode::scan(
        &mut command,
        cursor,
        count,
        spec.pattern.as_deref(),
        spec.type_name.as_deref().map(str::as_bytes),
    );
    let decode = |data: &[u8]| {
        let mut looked = progress.get();
        let decoded = decode_scan_on(data, &mut looked)?;
        progress.set(looked);
        Ok(match decoded {
            Decoded::Partial(need) => Decoded::Partial(need),
            Decoded::Whole(Err(text), used) => Decoded::Whole(Err(refusal("SCAN", text)), used),
            Decoded::Whole(Ok(page), used) => {
                known.learn(count, used, 0.0);
                Decoded::Whole(Ok(take(engine, &page)), used)
            }
        })
    };
    target.ask(command, decode).await?
}

/// The keys of a page that belong to what is verified.
fn take(engine: &Engine, page: &ScanPage<'_>) -> Page {
    let sample = engine.spec.sample;
    let taken = page
        .keys()
        .filter(|key| sample.is_none_or(|sample| sample.takes(key)));
    // A filter of names narrows this direction too, and rules are gone back.
    let mut keys = engine.with_naming(|naming| match naming {
        None => Keys::collect(taken),
        Some(naming) if naming.0.renames() => Keys::found(taken, naming),
        Some(naming) => Keys::select(taken, naming),
    });
    let cluster = engine.spec.source_cluster.as_ref();
    if let Some(only) = cluster.and_then(|node| node.only.as_ref()) {
        keys.retain(|key| only.has(key));
    }
    Page {
        cursor: page.cursor,
        keys,
    }
}

/// The places of those keys that the source lacks, or that it does not let us ask for (with what it says).
async fn look_up(
    source: &mut Client,
    keys: &Keys,
    in_cluster: bool,
) -> Result<Vec<(usize, Option<Vec<u8>>)>, CallError> {
    // A cluster counts no keys of several slots.
    if keys.len() == 0 || (!in_cluster && has_all(source, keys).await?) {
        return Ok(Vec::new());
    }
    let mut each = Vec::new();
    for (key, _) in keys.iter() {
        encode::exists(&mut each, std::iter::once(key));
    }
    let replies = source.call(Commands::encoded(each, keys.len())).await?;
    let mut absent = Vec::new();
    for (place, reply) in replies.into_iter().enumerate() {
        match reply {
            Tree::Integer(0) => absent.push((place, None)),
            Tree::Integer(_) => {}
            Tree::Error(text) if text.starts_with(b"NOPERM") && !is_refusal(&text) => {
                absent.push((place, Some(text)));
            }
            // Whoever owns its slot by now is asked when it is compared by name.
            Tree::Error(text) if in_cluster && is_elsewhere(&text) => absent.push((place, None)),
            Tree::Error(text) => return Err(refusal("EXISTS", &text)),
            _ => return Err(CallError::Refused("its reply to EXISTS is none".to_owned())),
        }
    }
    Ok(if keys.are_renamed() {
        by_name(keys, absent)
    } else {
        absent
    })
}

/// Whether a count says that the source has all of them: that costs it the least.
async fn has_all(source: &mut Client, keys: &Keys) -> Result<bool, CallError> {
    let mut all = Vec::new();
    encode::exists(&mut all, (0..keys.len()).map(|place| keys.get(place).0));
    match source.ask(all, Tree::decode).await? {
        Tree::Integer(count) => Ok(usize::try_from(count) == Ok(keys.len())),
        Tree::Error(text) if text.starts_with(b"NOPERM") => Ok(false),
        Tree::Error(text) => Err(refusal("EXISTS", &text)),
        _ => Err(CallError::Refused("its reply to EXISTS is none".to_owned())),
    }
}

/// Of several keys that would get one name of the target all have to be absent: then one of them stands for it.
fn by_name(keys: &Keys, absent: Vec<(usize, Option<Vec<u8>>)>) -> Vec<(usize, Option<Vec<u8>>)> {
    let mut absent = absent.into_iter().peekable();
    let (mut kept, mut start) = (Vec::new(), 0);
    while start < keys.len() {
        let name = keys.target(start);
        let end = (start..keys.len()).find(|&place| keys.target(place) != name);
        let end = end.unwrap_or(keys.len());
        let mut group: Vec<_> = std::iter::from_fn(|| absent.next_if(|(place, _)| *place < end)).collect();
        if group.len() == end - start {
            // One that may not be asked for says that nothing is known.
            let told = group.iter().position(|(_, error)| error.is_some());
            kept.push(group.swap_remove(told.unwrap_or(0)));
        }
        start = end;
    }
    kept
}

/// Whether a NOPERM is about the command and not about the key.
fn is_refusal(text: &[u8]) -> bool {
    String::from_utf8_lossy(text).contains("to run the")
}

fn refusal(command: &str, text: &[u8]) -> CallError {
    let text = said(text);
    match text.split(' ').next().unwrap_or_default() {
        "LOADING" | "BUSY" | "MASTERDOWN" | "UNBLOCKED" | "CLUSTERDOWN" => CallError::Lost(text),
        _ => CallError::Refused(format!("answered {text} to {command}")),
    }
}

/// Enter a page into the books: what the source has too is settled, the rest are candidates.
fn record(
    engine: &Engine,
    place: usize,
    task: &mut Sweep,
    page: &Page,
    absent: Vec<(usize, Option<Vec<u8>>)>,
) {
    let keys = page.keys.len();
    engine.shared.progress.scan(keys as u64);
    let number: PageId =
        engine
            .shared
            .ledger()
            .open_page(place, page.cursor, page.cursor == 0, keys as u32, keys as u64);
    task.cursor = page.cursor;
    note_misplaced(engine, task, page, &absent);
    let present = keys - absent.len();
    for (place, error) in absent {
        let (key, slot) = page.keys.get(place);
        let failure = match error {
            None => Failure {
                key: key.to_vec(),
                slot,
                kind: FailureKind::Extra,
                message: String::new(),
                sides: Some(SideBySide {
                    source: "absent".to_owned(),
                    target: "there".to_owned(),
                }),
                node: task.node.to_string(),
            },
            Some(text) => Failure {
                key: key.to_vec(),
                slot,
                kind: FailureKind::Denied,
                message: format!("the source answered {} to EXISTS", said(&text)),
                sides: None,
                node: engine.spec.source.to_string(),
            },
        };
        engine.fail(number, failure);
    }
    if present > 0 {
        engine.settle(number, Outcome::Unchanged, present as u32, 0);
    }
    engine.health.borrow_mut().succeeded(Instant::now());
}

/// Write down which keys lie on another node than their slot's owner, as the map has it now.
fn note_misplaced(engine: &Engine, task: &Sweep, page: &Page, absent: &[(usize, Option<Vec<u8>>)]) {
    let router = engine.router.borrow();
    let topology = router.topology();
    let here = topology.find(&task.node);
    for (place, (_, slot)) in page.keys.iter().enumerate() {
        let key = page.keys.target(place);
        if place > 0 && page.keys.are_renamed() && page.keys.target(place - 1) == key {
            continue;
        }
        let owner = topology.owner(slot);
        let Some(other) = owner.filter(|_| owner != here) else {
            continue;
        };
        let source = match absent.binary_search_by_key(&place, |(absent, _)| *absent) {
            Ok(found) if absent[found].1.is_none() => "absent",
            _ => "there",
        };
        engine.shared.ledger().note(Failure {
            key: key.to_vec(),
            slot,
            kind: FailureKind::Misplaced,
            message: String::new(),
            sides: Some(SideBySide {
                source: source.to_owned(),
                target: format!("on {}, slot {slot} is of {}", task.node, topology.address(other)),
            }),
            node: task.node.to_string(),
        });
    }
}
