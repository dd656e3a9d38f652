//! Values beyond the size limit of a verification: compared in parts, by type, one key after the other.
//!
//! Invariant: never more than a few parts are held, whatever the size of the value; and a value is called the
//! same only if every part of it was compared and both sides have equally many.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::call::{CallError, Caller};
use super::judge::{same_expiry, show_expiry};
use super::{Backoff, Engine};
use crate::checkpoint::{Failure, FailureKind, PageId, Pending};
use crate::control::Side;
use crate::error::ErrorKind;
use crate::net::Address;
use crate::payload::Quoted;
use crate::progress::Outcome;
use crate::reply::{Verdict, judge};
use crate::resp::Tree;
use crate::resp::encode::{self, ExpiryCommand};

/// Bytes of a string that are read at once.
const STRING_PART: usize = 256 << 10;

/// Elements that are read at once at first; afterwards as many as make about [`STRING_PART`] bytes.
const FIRST_ELEMENTS: usize = 8;

/// At most so many elements are read at once.
const MOST_ELEMENTS: usize = 4096;

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

/// How two values compare.
#[derive(Debug)]
enum Compared {
    Same,
    Differs(FailureKind, String),
    /// Neither side has the key.
    Gone,
}

/// Why a comparison did not come to its end.
#[derive(Debug)]
enum Broken {
    Source(CallError),
    /// The target's node is lost, or passes the key on, for this reason.
    Target(CallError),
    /// The slot belongs to another node now, or is not served for a while.
    Again(String),
    /// One of the sides answered with an error that stays.
    Failed(FailureKind, String),
}

impl Engine {
    /// A value is too large to be compared as a whole: its key waits to be compared in parts.
    pub fn compare_large(self: &Rc<Self>, page: PageId, slot: u16, key: &[u8], name: &[u8]) {
        let mut large = self.large.borrow_mut();
        self.budget.hold(key.len() + name.len());
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
        if !settle(&engine, &mut sides, &task).await {
            return;
        }
        engine.budget.free(task.key.len() + task.name.len());
    }
}

/// Compare one key, as often as it takes; false where the job can't go on.
async fn settle(engine: &Rc<Engine>, sides: &mut Sides, task: &LargeKey) -> bool {
    let begun = Instant::now();
    let mut backoff = Backoff::new();
    loop {
        let owner = {
            let router = engine.router.borrow();
            let topology = router.topology();
            topology
                .owner(task.slot)
                .map(|node| topology.address(node).clone())
        };
        let compared = match &owner {
            Some(node) => sides.compare(engine, node, task).await,
            None => Err(Broken::Again("not served by any node".to_owned())),
        };
        let node = owner.map_or_else(|| "no node".to_owned(), |node| node.to_string());
        let (reason, kind) = match compared {
            Ok(Compared::Same) => {
                engine.settle(task.page, Outcome::Unchanged, 1, 0);
                return true;
            }
            Ok(Compared::Gone) => {
                engine.settle(task.page, Outcome::Vanished, 1, 0);
                return true;
            }
            Ok(Compared::Differs(kind, message)) | Err(Broken::Failed(kind, message)) => {
                engine.fail(
                    task.page,
                    Failure {
                        key: task.key.clone(),
                        slot: task.slot,
                        kind,
                        message,
                        node,
                    },
                );
                return true;
            }
            Err(Broken::Source(error)) => {
                sides.source = None;
                let (text, kind) = describe(error, ErrorKind::SourceChanged, ErrorKind::SourceRefused);
                let text = format!("source {}: {text}", engine.spec.source);
                if let Some(kind) = kind {
                    engine.stop(kind, text);
                    return false;
                }
                (text, ErrorKind::SourceLost)
            }
            Err(Broken::Target(error)) => {
                sides.target = None;
                let (text, kind) = describe(error, ErrorKind::TargetChanged, ErrorKind::TargetRefused);
                if let Some(kind) = kind {
                    engine.stop(kind, format!("the target's node {node}: {text}"));
                    return false;
                }
                (format!("{text} at {node}"), ErrorKind::TargetLost)
            }
            Err(Broken::Again(reason)) => (reason, ErrorKind::TargetLost),
        };
        let waited = begun.elapsed();
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
struct Sides {
    source: Option<Caller>,
    target: Option<(Address, Caller)>,
}

impl Sides {
    async fn compare(
        &mut self,
        engine: &Rc<Engine>,
        node: &Address,
        task: &LargeKey,
    ) -> Result<Compared, Broken> {
        let spec = &engine.spec;
        if self.source.is_none() {
            let opened = Caller::open(engine, Side::Source, &spec.source, Some(&spec.source_run_id)).await;
            self.source = Some(opened.map_err(Broken::Source)?);
        }
        if self.target.as_ref().is_none_or(|(address, _)| address != node) {
            self.target = None;
            let opened = Caller::open(engine, Side::Target, node, None).await;
            self.target = Some((node.clone(), opened.map_err(Broken::Target)?));
        }
        let (Some(source), Some((_, target))) = (&mut self.source, &mut self.target) else {
            return Err(Broken::Again("not connected".to_owned()));
        };
        Pair {
            engine,
            node,
            source,
            target,
            task,
        }
        .compare()
        .await
    }
}

/// One key on both sides.
struct Pair<'a> {
    engine: &'a Rc<Engine>,
    node: &'a Address,
    source: &'a mut Caller,
    target: &'a mut Caller,
    task: &'a LargeKey,
}

type Parts = Result<Option<(String, String)>, Broken>;

impl Pair<'_> {
    async fn compare(&mut self) -> Result<Compared, Broken> {
        let (ours, theirs) = self.both(&[b"TYPE"], &[]).await?;
        let [ours, theirs] = [ours, theirs].map(|kind| kind.text().unwrap_or_default().to_vec());
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
        let difference = match ours.as_slice() {
            b"string" => self.compare_string().await?,
            b"list" => self.compare_list().await?,
            b"set" => {
                self.compare_members(b"SCARD", b"SSCAN", "set", Looked::Member)
                    .await?
            }
            b"hash" => {
                self.compare_members(b"HLEN", b"HSCAN", "hash", Looked::Field)
                    .await?
            }
            b"zset" => {
                self.compare_members(b"ZCARD", b"ZSCAN", "zset", Looked::Score)
                    .await?
            }
            b"stream" => self.compare_stream().await?,
            other => {
                return Ok(Compared::Differs(
                    FailureKind::Payload,
                    format!(
                        "{0} <> {0}: a module's value too large to be compared",
                        name(other)
                    ),
                ));
            }
        };
        if let Some((ours, theirs)) = difference {
            return differs(FailureKind::Different, ours, theirs);
        }
        let [ours, theirs] = self.expiries().await?;
        let tolerance = self.engine.spec.verify.map_or(0, |verify| verify.ttl_tolerance);
        if same_expiry(ours, theirs, tolerance) {
            Ok(Compared::Same)
        } else {
            differs(FailureKind::Ttl, show_expiry(ours), show_expiry(theirs))
        }
    }

    /// The same command with the key at both sides: `name… key arguments…`.
    async fn both(&mut self, name: &[&[u8]], arguments: &[&[u8]]) -> Result<(Tree, Tree), Broken> {
        let [ours, theirs] = [&self.task.key, &self.task.name].map(|key| command(name, key, arguments));
        let (ours, theirs) = tokio::join!(self.source.ask_one(ours), self.target.ask_one(theirs));
        let ours = ours.map_err(Broken::Source)?;
        let theirs = theirs.map_err(Broken::Target)?;
        Ok((Self::of_source(ours)?, self.of_target(theirs)?))
    }

    async fn ask_source(&mut self, name: &[&[u8]], arguments: &[&[u8]]) -> Result<Tree, Broken> {
        let command = command(name, &self.task.key, arguments);
        let reply = self.source.ask_one(command).await.map_err(Broken::Source)?;
        Self::of_source(reply)
    }

    async fn ask_target(&mut self, name: &[&[u8]], arguments: &[&[u8]]) -> Result<Tree, Broken> {
        let command = command(name, &self.task.name, arguments);
        let reply = self.target.ask_one(command).await.map_err(Broken::Target)?;
        self.of_target(reply)
    }

    fn of_source(reply: Tree) -> Result<Tree, Broken> {
        let Tree::Error(text) = reply else {
            return Ok(reply);
        };
        let shown = String::from_utf8_lossy(&text);
        Err(match judge(&text) {
            Verdict::Wait => Broken::Source(CallError::Lost(shown.into_owned())),
            Verdict::Refused => Broken::Source(CallError::Refused(shown.into_owned())),
            verdict => Broken::Failed(kind_of(&verdict), format!("the source answered {shown}")),
        })
    }

    fn of_target(&self, reply: Tree) -> Result<Tree, Broken> {
        let Tree::Error(text) = reply else {
            return Ok(reply);
        };
        let shown = String::from_utf8_lossy(&text);
        Err(match judge(&text) {
            Verdict::Moved { slot, to } => {
                self.engine
                    .moved(slot, &to.address(self.node, &self.engine.spec.address_map));
                Broken::Again(format!("slot {slot} moved"))
            }
            // The slot is on its way: when it has arrived, all of the key can be read at one place.
            Verdict::Ask(_) => Broken::Again(format!("ASK at {}", self.node)),
            Verdict::Wait | Verdict::Full => Broken::Again(format!("{shown} at {}", self.node)),
            Verdict::Refused => Broken::Target(CallError::Refused(shown.into_owned())),
            verdict => Broken::Failed(kind_of(&verdict), format!("the target answered {shown}")),
        })
    }

    /// Both lengths; a difference where they are not the same.
    async fn lengths(
        &mut self,
        command: &[u8],
        kind: &str,
        counts: &str,
    ) -> Result<(usize, Option<(String, String)>), Broken> {
        let (ours, theirs) = self.both(&[command], &[]).await?;
        let [ours, theirs] = [ours, theirs].map(|length| length.integer().unwrap_or(-1));
        let shown = |length| format!("{kind} of {length} {counts}");
        let difference = (ours != theirs).then(|| (shown(ours), shown(theirs)));
        Ok((usize::try_from(ours).unwrap_or_default(), difference))
    }

    async fn compare_string(&mut self) -> Parts {
        let (length, difference) = self.lengths(b"STRLEN", "string", "bytes").await?;
        if difference.is_some() {
            return Ok(difference);
        }
        for start in (0..length).step_by(STRING_PART) {
            let [first, last] = [start, start + STRING_PART - 1].map(|at| at.to_string());
            let (ours, theirs) = self
                .both(&[b"GETRANGE"], &[first.as_bytes(), last.as_bytes()])
                .await?;
            if ours != theirs {
                let [ours, theirs] = [ours, theirs].map(|part| part.text().unwrap_or_default().to_vec());
                let at = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).count();
                let shown = |part: &[u8]| {
                    format!(
                        "string of {length} bytes, from byte {} {}",
                        start + at,
                        Quoted(&part[at..])
                    )
                };
                return Ok(Some((shown(&ours), shown(&theirs))));
            }
        }
        Ok(None)
    }

    async fn compare_list(&mut self) -> Parts {
        let (length, difference) = self.lengths(b"LLEN", "list", "elements").await?;
        if difference.is_some() {
            return Ok(difference);
        }
        let (mut start, mut count) = (0, FIRST_ELEMENTS);
        while start < length {
            let [first, last] = [start, start + count - 1].map(|at| at.to_string());
            let (ours, theirs) = self
                .both(&[b"LRANGE"], &[first.as_bytes(), last.as_bytes()])
                .await?;
            let [mine, other] = [ours.elements(), theirs.elements()];
            if mine != other {
                let at = mine.iter().zip(other).take_while(|(a, b)| a == b).count();
                let shown = |part: &[Tree]| {
                    let element = part.get(at).and_then(Tree::text).unwrap_or_default();
                    format!(
                        "list of {length} elements, element {} is {}",
                        start + at,
                        Quoted(element)
                    )
                };
                return Ok(Some((shown(mine), shown(other))));
            }
            if mine.is_empty() {
                break;
            }
            start += mine.len();
            count = next_count(mine);
        }
        Ok(None)
    }

    /// A set, hash or sorted set: everything that the source scans is looked up at the target, and both have
    /// equally many.
    async fn compare_members(&mut self, length: &[u8], scan: &[u8], kind: &str, looked: Looked) -> Parts {
        let counts = if looked == Looked::Field {
            "fields"
        } else {
            "members"
        };
        let (total, difference) = self.lengths(length, kind, counts).await?;
        if difference.is_some() {
            return Ok(difference);
        }
        let mut cursor = b"0".to_vec();
        let mut count = FIRST_ELEMENTS;
        loop {
            let size = count.to_string();
            let page = self
                .ask_source(&[scan], &[&cursor, b"COUNT", size.as_bytes()])
                .await?;
            let [next, elements] = page.elements() else {
                return Err(unexpected("the source"));
            };
            let elements = elements.elements();
            for part in elements.chunks(2 * MOST_ELEMENTS) {
                if let Some((ours, theirs)) = self.look_up(part, looked).await? {
                    let shown = |what: String| format!("{kind} of {total} {counts}, {what}");
                    return Ok(Some((shown(ours), shown(theirs))));
                }
            }
            cursor = next.text().unwrap_or(b"0").to_vec();
            if cursor == b"0" {
                return Ok(None);
            }
            if !elements.is_empty() {
                count = next_count(elements);
            }
        }
    }

    /// Look up members (with their values or scores) at the target; a difference if there is one.
    async fn look_up(&mut self, part: &[Tree], looked: Looked) -> Parts {
        let step = if looked == Looked::Member { 1 } else { 2 };
        let names: Vec<&[u8]> = part
            .iter()
            .step_by(step)
            .map(|name| name.text().unwrap_or_default())
            .collect();
        if names.is_empty() {
            return Ok(None);
        }
        let command: &[u8] = match looked {
            Looked::Member => b"SMISMEMBER",
            Looked::Field => b"HMGET",
            Looked::Score => b"ZMSCORE",
        };
        let reply = self.ask_target(&[command], &names).await?;
        let found = reply.elements();
        if found.len() != names.len() {
            return Err(unexpected("the target"));
        }
        for (place, (name, theirs)) in names.iter().zip(found).enumerate() {
            let ours = part.get(place * step + 1);
            let same = match looked {
                Looked::Member => theirs.integer() == Some(1),
                Looked::Field => ours == Some(theirs),
                Looked::Score => score(ours) == score(Some(theirs)),
            };
            if !same {
                return Ok(Some((looked.show(name, ours), looked.show(name, Some(theirs)))));
            }
        }
        if looked == Looked::Field {
            return self.field_expiries(&names).await;
        }
        Ok(None)
    }

    /// When fields expire, where both sides know of that.
    async fn field_expiries(&mut self, names: &[&[u8]]) -> Parts {
        let count = names.len().to_string();
        let mut arguments: Vec<&[u8]> = vec![b"FIELDS", count.as_bytes()];
        arguments.extend(names);
        let (ours, theirs) = match self.both(&[b"HPEXPIRETIME"], &arguments).await {
            Ok(both) => both,
            Err(Broken::Failed(..)) => return Ok(None),
            Err(Broken::Source(CallError::Refused(text)) | Broken::Target(CallError::Refused(text)))
                if text.contains("unknown command") =>
            {
                return Ok(None);
            }
            Err(broken) => return Err(broken),
        };
        let pairs = ours.elements().iter().zip(theirs.elements());
        let other = names.iter().zip(pairs).find(|(_, (ours, theirs))| ours != theirs);
        Ok(other.map(|(name, (ours, theirs))| {
            let shown = |at: &Tree| match at.integer() {
                Some(at) if at > 0 => format!("{} expires at {at} ms", Quoted(name)),
                _ => format!("{} does not expire", Quoted(name)),
            };
            (shown(ours), shown(theirs))
        }))
    }

    async fn compare_stream(&mut self) -> Parts {
        let (length, difference) = self.lengths(b"XLEN", "stream", "entries").await?;
        if difference.is_some() {
            return Ok(difference);
        }
        let shown = |what: String| format!("stream of {length} entries, {what}");
        let (mut start, mut count) = (b"-".to_vec(), FIRST_ELEMENTS);
        loop {
            let size = count.to_string();
            let arguments: [&[u8]; 4] = [&start, b"+", b"COUNT", size.as_bytes()];
            let (ours, theirs) = self.both(&[b"XRANGE"], &arguments).await?;
            let [mine, other] = [ours.elements(), theirs.elements()];
            if mine != other {
                let at = mine.iter().zip(other).take_while(|(a, b)| a == b).count();
                let [ours, theirs] = [mine.get(at), other.get(at)].map(|entry| {
                    shown(entry.map_or_else(
                        || "and no more".to_owned(),
                        |entry| format!("entry {}", show_tree(entry)),
                    ))
                });
                return Ok(Some((ours, theirs)));
            }
            match mine.last().and_then(|entry| entry.elements().first()?.text()) {
                Some(last) if mine.len() == count => start = [b"(", last].concat(),
                _ => break,
            }
            count = next_count(mine);
        }
        let difference = self.stream_facts().await?;
        Ok(difference.map(|(ours, theirs)| (shown(ours), shown(theirs))))
    }

    /// What a stream remembers besides its entries: IDs, groups, what is pending in them.
    async fn stream_facts(&mut self) -> Parts {
        const FACTS: [&[u8]; 3] = [b"last-generated-id", b"max-deleted-entry-id", b"entries-added"];
        const GROUP_FACTS: [&[u8]; 5] = [
            b"name",
            b"last-delivered-id",
            b"pending",
            b"consumers",
            b"entries-read",
        ];
        let (ours, theirs) = self.both(&[b"XINFO", b"STREAM"], &[]).await?;
        if let Some(difference) = other_fact(&ours, &theirs, &FACTS) {
            return Ok(Some(difference));
        }
        let (ours, theirs) = self.both(&[b"XINFO", b"GROUPS"], &[]).await?;
        let [mut ours, mut theirs] = [ours, theirs].map(|groups| groups.elements().to_vec());
        for groups in [&mut ours, &mut theirs] {
            groups.sort_by_key(|group| fact(group, b"name").map(show_tree));
        }
        if ours.len() != theirs.len() {
            return Ok(Some((
                format!("{} groups", ours.len()),
                format!("{} groups", theirs.len()),
            )));
        }
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let name = fact(ours, b"name").and_then(Tree::text).unwrap_or_default();
            let of_group = |(ours, theirs): (String, String)| {
                let shown = |what: String| format!("group {}: {what}", Quoted(name));
                (shown(ours), shown(theirs))
            };
            let difference = match other_fact(ours, theirs, &GROUP_FACTS) {
                Some(difference) => Some(difference),
                None => self.pending_entries(name).await?,
            };
            if difference.is_some() {
                return Ok(difference.map(of_group));
            }
        }
        Ok(None)
    }

    async fn pending_entries(&mut self, group: &[u8]) -> Parts {
        let size = MOST_ELEMENTS.to_string();
        let mut start = b"-".to_vec();
        loop {
            let arguments: [&[u8]; 4] = [group, &start, b"+", size.as_bytes()];
            let (ours, theirs) = self.both(&[b"XPENDING"], &arguments).await?;
            // ID, consumer and how often it was delivered; how long ago is another number at every look.
            let tell = |entry: &Tree| match entry.elements() {
                [id, consumer, _, times] => Some((id.clone(), consumer.clone(), times.clone())),
                _ => None,
            };
            let [mine, other] =
                [&ours, &theirs].map(|reply| reply.elements().iter().map(tell).collect::<Vec<_>>());
            if mine != other {
                let at = mine.iter().zip(&other).take_while(|(a, b)| a == b).count();
                let shown = |reply: &Tree| {
                    let entry = reply.elements().get(at).map(show_tree);
                    format!("pending {}", entry.as_deref().unwrap_or("no more"))
                };
                return Ok(Some((shown(&ours), shown(&theirs))));
            }
            match ours
                .elements()
                .last()
                .and_then(|entry| entry.elements().first()?.text())
            {
                Some(last) if mine.len() == MOST_ELEMENTS => start = [b"(", last].concat(),
                _ => return Ok(None),
            }
        }
    }

    /// When the key expires at either side, in ms since the epoch by that side's own clock; 0: never.
    async fn expiries(&mut self) -> Result<[u64; 2], Broken> {
        let spec = &self.engine.spec;
        let ours = expiry_question(spec.source_expiry, &self.task.key);
        let theirs = expiry_question(spec.target_expiry, &self.task.name);
        let (ours, theirs) = tokio::join!(
            self.source.ask(ours, replies_of(spec.source_expiry)),
            self.target.ask(theirs, replies_of(spec.target_expiry))
        );
        let ours = ours.map_err(Broken::Source)?.into_iter().map(Self::of_source);
        let theirs = theirs.map_err(Broken::Target)?;
        let theirs = theirs.into_iter().map(|reply| self.of_target(reply));
        Ok([
            expires_at(&ours.collect::<Result<Vec<_>, _>>()?),
            expires_at(&theirs.collect::<Result<Vec<_>, _>>()?),
        ])
    }
}

/// The commands that tell when a key expires: where only the rest is told, the server's time before it.
fn expiry_question(expiry: ExpiryCommand, key: &[u8]) -> Vec<u8> {
    let mut commands = Vec::new();
    if expiry == ExpiryCommand::Relative {
        encode::time(&mut commands);
    }
    encode::expiry(&mut commands, expiry, key);
    commands
}

/// How many replies [`expiry_question`] gets.
fn replies_of(expiry: ExpiryCommand) -> usize {
    1 + usize::from(expiry == ExpiryCommand::Relative)
}

/// What the replies to [`expiry_question`] say, in ms since the epoch; 0: never.
fn expires_at(replies: &[Tree]) -> u64 {
    let told = |reply: &Tree| u64::try_from(reply.integer().unwrap_or(-1)).ok();
    match replies {
        [time, rest] => told(rest).map_or(0, |rest| milliseconds(time) + rest),
        [at] => told(at).unwrap_or(0),
        _ => 0,
    }
}

/// A reply to TIME, in ms since the epoch.
fn milliseconds(time: &Tree) -> u64 {
    let part = |tree: &Tree| std::str::from_utf8(tree.text()?).ok()?.parse::<u64>().ok();
    match time.elements() {
        [seconds, micros] => part(seconds).unwrap_or(0) * 1000 + part(micros).unwrap_or(0) / 1000,
        _ => 0,
    }
}

/// `name… key arguments…`
fn command(name: &[&[u8]], key: &[u8], arguments: &[&[u8]]) -> Vec<u8> {
    let mut parts = name.to_vec();
    parts.push(key);
    parts.extend(arguments);
    let mut command = Vec::new();
    encode::command(&mut command, &parts);
    command
}

/// What is looked up of a collection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Looked {
    Member,
    Field,
    Score,
}

impl Looked {
    fn show(self, name: &[u8], found: Option<&Tree>) -> String {
        let name = Quoted(name);
        match (self, found) {
            (_, Some(Tree::Nil | Tree::Integer(0))) => format!("without {name}"),
            (Self::Member, _) => format!("with {name}"),
            (Self::Field, value) => format!("{name} is {}", show(value)),
            (Self::Score, value) => format!("{name} has the score {}", show(value)),
        }
    }
}

fn show(value: Option<&Tree>) -> String {
    value.map(show_tree).unwrap_or_default()
}

/// A reply in short.
fn show_tree(tree: &Tree) -> String {
    match tree {
        Tree::Text(text) => Quoted(text).to_string(),
        Tree::Integer(number) => number.to_string(),
        Tree::Array(elements) => {
            let shown: Vec<String> = elements.iter().take(4).map(show_tree).collect();
            shown.join(" ")
        }
        Tree::Nil | Tree::Error(_) => "nothing".to_owned(),
    }
}

/// A score as a number: versions print the same one differently.
fn score(tree: Option<&Tree>) -> Option<f64> {
    std::str::from_utf8(tree?.text()?).ok()?.parse().ok()
}

/// The value of a name in a reply that lists names and values in turn.
fn fact<'a>(reply: &'a Tree, name: &[u8]) -> Option<&'a Tree> {
    let at = reply
        .elements()
        .iter()
        .step_by(2)
        .position(|known| known.text() == Some(name))?;
    reply.elements().get(2 * at + 1)
}

/// The first of the facts that both sides tell and that is not the same.
fn other_fact(ours: &Tree, theirs: &Tree, names: &[&[u8]]) -> Option<(String, String)> {
    names.iter().find_map(|name| {
        let (ours, theirs) = (fact(ours, name)?, fact(theirs, name)?);
        let shown = |value| format!("{} {}", String::from_utf8_lossy(name), show_tree(value));
        (ours != theirs).then(|| (shown(ours), shown(theirs)))
    })
}

/// How many elements to read next, so that they make about [`STRING_PART`] bytes.
fn next_count(part: &[Tree]) -> usize {
    let bytes: usize = part.iter().map(weight).sum();
    let average = (bytes / part.len().max(1)).max(1);
    (STRING_PART / average).clamp(1, MOST_ELEMENTS)
}

fn weight(tree: &Tree) -> usize {
    match tree {
        Tree::Text(text) => text.len() + 16,
        Tree::Array(elements) => elements.iter().map(weight).sum::<usize>() + 16,
        _ => 16,
    }
}

fn unexpected(side: &str) -> Broken {
    Broken::Failed(
        FailureKind::Error,
        format!("{side} gave a reply that its command never gives"),
    )
}

fn kind_of(verdict: &Verdict) -> FailureKind {
    if *verdict == Verdict::Denied {
        FailureKind::Denied
    } else {
        FailureKind::Error
    }
}
