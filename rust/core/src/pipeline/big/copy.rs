//! One large key, from the source to a temporary key and from there to its name.
//!
//! Invariants: the key appears at the target whole, with its TTL, or not at all: its parts are written under a
//! temporary key of the same slot, which is renamed when the source says that nothing changed since the first
//! part was read (WATCH), and the lengths agree. Each part is one transaction that checks what is there already,
//! so that an eviction or a failover of the target in between is noticed and the key taken again.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::client::{Client, Commands, Value};
use super::groups::{self, Group};
use super::parts::{CHUNK_BYTES, Chunk, Kind, MOST_ELEMENTS, Place};
use super::{Big, temporary};
use crate::checkpoint::FailureKind;
use crate::control::Side;
use crate::error::{Error, ErrorKind};
use crate::net::{Address, HandshakeError};
use crate::payload::FieldTtl;
use crate::pipeline::{Engine, OnConflict, shown};
use crate::progress::Outcome;
use crate::reply::{Verdict, judge};
use crate::resp::encode::{self, ExpiryCommand};
use crate::topology::NodeId;

/// By how many milliseconds the expiries of equal keys may differ.
const TTL_TOLERANCE: u64 = 1000;

/// While other keys flow, a part is followed by a rest so many times as long as it took.
const REST: u32 = 6;

/// How far the last look at a key's age may be off, in seconds: the server's own clock for it ticks slowly.
const IDLE_MARGIN: i64 = 2;

/// So many pending entries of deleted messages are restored in one go at most.
const MOST_LOST: usize = 10_000;

/// Pending entries of deleted messages, by group.
type Lost = BTreeMap<Vec<u8>, Vec<groups::Delivery>>;

/// Why an attempt at a key ended.
pub(super) enum Stop {
    /// The source is not there now.
    Source(String),
    /// The target's slot can't be written now; `full` for want of memory or disk.
    Target { reason: String, full: bool },
    /// Its slot is elsewhere: at once again.
    Moved,
    /// The source's key, or what is built at the target, is not what it was: from the start.
    Changed(&'static str),
    /// The key is given up.
    Failed(FailureKind, String, Address),
    /// The job ends.
    Fatal(Error),
    /// The job drains.
    Drained,
}

type Attempt<T> = Result<T, Stop>;

/// How an attempt at a key ended well.
pub(super) enum Done {
    Settled(Outcome, u64),
    /// It is of a type that can't be read in parts: copied in one piece.
    Whole {
        expires_at: u64,
        payload: Vec<u8>,
    },
}

/// The connection to the source.
#[derive(Default)]
pub(super) struct Source {
    client: Option<Client>,
    /// The source says when hash fields expire; not known before it was asked.
    has_field_ttls: Option<bool>,
    /// The key is being watched, on this connection, since its first part was read.
    watching: bool,
}

impl Source {
    /// Begin with a key: nothing of it is watched yet.
    pub fn begin(&mut self) {
        self.watching = false;
    }
}

/// A key's copy so far.
#[derive(Debug, Clone)]
struct Progress {
    kind: Kind,
    place: Place,
    length: u64,
    /// The source's clock, in ms, when its first part was read.
    begun: i64,
}

impl Progress {
    fn text(&self) -> String {
        let Self {
            kind,
            place,
            length,
            begun,
        } = self;
        format!("{} {} {length} {begun}", kind.name(), place.text())
    }

    fn parse(text: &str) -> Option<Self> {
        let [kind, place, length, begun] = text.split(' ').collect::<Vec<_>>()[..] else {
            return None;
        };
        Some(Self {
            kind: Kind::of(kind.as_bytes())?,
            place: Place::parse(place)?,
            length: length.parse().ok()?,
            begun: begun.parse().ok()?,
        })
    }
}

/// What the source says of the key before it is read.
struct Look {
    kind: Kind,
    length: u64,
    now: i64,
    expires_at: u64,
}

/// One attempt at one key.
pub(super) struct Copy<'a> {
    pub engine: &'a Rc<Engine>,
    pub big: &'a Big,
    pub source: &'a mut Source,
    pub target: &'a mut Option<(NodeId, Client)>,
    /// The last attempt may have renamed the key without our hearing of it.
    pub in_doubt: &'a mut bool,
}

impl Copy<'_> {
    pub async fn run(&mut self) -> Attempt<Done> {
        self.connect_source().await?;
        let temporary = temporary::name(&self.big.target, self.big.slot);
        let watched = self.source.watching;
        let Some(look) = self.look().await? else {
            self.unlink(&temporary).await?;
            return self.whole_or_gone().await;
        };
        if self.engine.spec.on_conflict != OnConflict::Replace
            && let Some(outcome) = self.meet_existing(&look).await?
        {
            self.unlink(&temporary).await?;
            return Ok(Done::Settled(outcome, 0));
        }
        if look.kind == Kind::String {
            return self.copy_string(&look).await;
        }
        let recorded = self.engine.shared.ledger().big_position(&self.big.source);
        let recorded = recorded.and_then(|text| Progress::parse(&text));
        let mut progress = match recorded {
            Some(recorded) => match self.resume(recorded, &look, watched, &temporary).await? {
                Some(progress) => progress,
                None => Self::afresh(&look),
            },
            None => Self::afresh(&look),
        };
        let lost = match progress.kind {
            Kind::Stream => self.lost_messages().await?,
            _ => BTreeMap::new(),
        };
        let mut bytes = 0;
        let mut count = 64;
        let mut has_ttls = false;
        loop {
            self.pause().await?;
            let begun = Instant::now();
            let is_first = progress.place == progress.kind.start();
            let chunk = self.read(&progress, count).await?;
            has_ttls |= chunk.expiries.iter().any(|&at| at > 0);
            let size = chunk.bytes();
            bytes += size as u64;
            self.engine.budget.hold(size);
            let written = self.write(&temporary, &progress, &chunk, is_first, &lost).await;
            self.engine.budget.free(size);
            written?;
            if let Some(average) = size.checked_div(chunk.count(progress.kind)) {
                count = (CHUNK_BYTES / average.max(1)).clamp(1, MOST_ELEMENTS);
            }
            progress.place = chunk.next;
            let is_last = chunk.is_last;
            drop(chunk);
            if is_last {
                break;
            }
            self.engine
                .shared
                .ledger()
                .set_big_position(&self.big.source, Some(progress.text()));
            self.rest(begun).await;
        }
        if progress.kind == Kind::Stream {
            self.copy_groups(&temporary, &lost).await?;
        }
        let outcome = self.finish(&temporary, progress.kind, has_ttls).await?;
        self.wait_for_replicas().await?;
        Ok(Done::Settled(outcome, bytes))
    }

    fn afresh(look: &Look) -> Progress {
        Progress {
            kind: look.kind,
            place: look.kind.start(),
            length: look.length,
            begun: look.now,
        }
    }

    // The source

    async fn connect_source(&mut self) -> Attempt<()> {
        if self.source.client.is_some() {
            return Ok(());
        }
        let spec = &self.engine.spec;
        let client = Client::open(&spec.source, &self.engine.entrance(Side::Source).current(), true)
            .await
            .map_err(|error| match error {
                HandshakeError::Lost(message) => Stop::Source(message),
                HandshakeError::Denied(message)
                    if self.engine.want_access(Side::Source, &spec.source, &message) =>
                {
                    Stop::Source(message)
                }
                HandshakeError::Denied(message) | HandshakeError::Refused(message) => {
                    Stop::Fatal(Error::new(
                        ErrorKind::SourceRefused,
                        format!("the source {} turns us away: {message}", spec.source),
                    ))
                }
            })?;
        if client.run_id.as_deref() != Some(&spec.source_run_id) {
            return Err(Stop::Fatal(Error::new(
                ErrorKind::SourceChanged,
                format!("the source {} is another process now", spec.source),
            )));
        }
        self.source.watching = false;
        self.source.client = Some(client);
        Ok(())
    }

    async fn ask(&mut self, commands: &Commands) -> Attempt<Vec<Value>> {
        let Some(client) = &mut self.source.client else {
            return Err(Stop::Source("not connected".to_owned()));
        };
        let replies = client.call(commands).await;
        let replies = replies.map_err(|reason| {
            self.source.client = None;
            Stop::Source(reason)
        })?;
        for reply in &replies {
            if let Value::Error(text) = reply {
                return Err(self.source_error(text));
            }
        }
        Ok(replies)
    }

    fn source_error(&self, text: &[u8]) -> Stop {
        let text = String::from_utf8_lossy(text).into_owned();
        let kind = match text.split(' ').next().unwrap_or_default() {
            "LOADING" | "BUSY" | "MASTERDOWN" => return Stop::Source(text),
            // The key was replaced by one of another type.
            "WRONGTYPE" => return Stop::Changed("its type changed"),
            "NOPERM" => FailureKind::Denied,
            _ => FailureKind::Error,
        };
        let key = shown(&self.big.source);
        let message = format!("the source answered {text} to a read of {key}, which is copied in parts");
        Stop::Failed(kind, message, self.engine.spec.source.clone())
    }

    fn nonsense(&self) -> Stop {
        let key = shown(&self.big.source);
        Stop::Failed(
            FailureKind::Error,
            format!("a reply about {key} is not what its command gives"),
            self.engine.spec.source.clone(),
        )
    }

    /// Watch the key and look at it. `None` if it is gone, or is nothing that can be read in parts.
    async fn look(&mut self) -> Attempt<Option<Look>> {
        let key = self.big.source.clone();
        let mut commands = Commands::default();
        if !self.source.watching {
            commands.push(&[b"UNWATCH"]);
            commands.push(&[b"WATCH", &key]);
        }
        commands.push(&[b"TYPE", &key]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        let mut replies = self.ask(&commands).await?;
        self.source.watching = true;
        let (Some(expiry), Some(time), Some(kind)) = (replies.pop(), replies.pop(), replies.pop()) else {
            return Err(self.nonsense());
        };
        let kind = kind.bytes().ok_or_else(|| self.nonsense())?;
        let Some(kind) = Kind::of(&kind) else {
            return Ok(None);
        };
        let now = groups::milliseconds(&time).ok_or_else(|| self.nonsense())?;
        let expires_at = self.expires_at(expiry.integer().unwrap_or(-2), now);
        let mut replies = self.ask(&Commands::one(&[kind.length(), &key])).await?;
        let length = replies
            .pop()
            .and_then(|length| length.integer())
            .unwrap_or_default();
        if length <= 0 {
            return Ok(None);
        }
        Ok(Some(Look {
            kind,
            length: length.cast_unsigned(),
            now,
            expires_at,
        }))
    }

    fn expiry_command(&self) -> &'static [u8] {
        match self.engine.spec.source_expiry {
            ExpiryCommand::Absolute => b"PEXPIRETIME",
            ExpiryCommand::Relative => b"PTTL",
        }
    }

    /// When the key expires, in ms since the epoch; 0 for never.
    fn expires_at(&self, reply: i64, now: i64) -> u64 {
        match (self.engine.spec.source_expiry, reply) {
            (_, ..0) => 0,
            (ExpiryCommand::Absolute, at) => at.cast_unsigned(),
            (ExpiryCommand::Relative, rest) => (now + rest).max(0).cast_unsigned(),
        }
    }

    /// The key is gone, or has to be copied in one piece.
    async fn whole_or_gone(&mut self) -> Attempt<Done> {
        let key = self.big.source.clone();
        let mut commands = Commands::one(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        commands.push(&[b"DUMP", &key]);
        let mut replies = self.ask(&commands).await?;
        let (Some(payload), Some(expiry), Some(time)) = (replies.pop(), replies.pop(), replies.pop()) else {
            return Err(self.nonsense());
        };
        let now = groups::milliseconds(&time).ok_or_else(|| self.nonsense())?;
        self.source.watching = false;
        match payload {
            Value::Bulk(payload) => Ok(Done::Whole {
                expires_at: self.expires_at(expiry.integer().unwrap_or(-1), now),
                payload,
            }),
            _ => Ok(Done::Settled(Outcome::Vanished, 0)),
        }
    }

    async fn read(&mut self, progress: &Progress, count: usize) -> Attempt<Chunk> {
        let key = self.big.source.clone();
        let commands = progress.kind.read(&key, progress.place, count);
        let reply = self.ask(&commands).await?.pop();
        let mut chunk = reply
            .and_then(|reply| progress.kind.chunk(reply, progress.place, count, progress.length))
            .ok_or_else(|| self.nonsense())?;
        if progress.kind == Kind::Hash && !chunk.is_empty() {
            chunk.expiries = self.expiries(&key, &chunk).await?;
        }
        Ok(chunk)
    }

    /// When the fields of a chunk expire; none where the source has no such thing.
    async fn expiries(&mut self, key: &[u8], chunk: &Chunk) -> Attempt<Vec<i64>> {
        if self.source.has_field_ttls == Some(false) {
            return Ok(Vec::new());
        }
        let count = (chunk.elements.len() / 2).to_string();
        let mut arguments: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
        arguments.extend(chunk.elements.iter().step_by(2).map(Vec::as_slice));
        let replies = match &mut self.source.client {
            Some(client) => client.call(&Commands::one(&arguments)).await,
            None => Err("not connected".to_owned()),
        };
        match replies.map(|mut replies| replies.pop()) {
            Ok(Some(Value::Array(items))) => {
                self.source.has_field_ttls = Some(true);
                Ok(items.iter().map(|item| item.integer().unwrap_or(-1)).collect())
            }
            Ok(Some(Value::Error(text))) if text.starts_with(b"ERR unknown command") => {
                self.source.has_field_ttls = Some(false);
                Ok(Vec::new())
            }
            Ok(Some(Value::Error(text))) => Err(self.source_error(&text)),
            Ok(_) => Err(self.nonsense()),
            Err(reason) => {
                self.source.client = None;
                Err(Stop::Source(reason))
            }
        }
    }

    // The target

    /// Run commands at the slot's owner, in one transaction if there are several; what they answered.
    async fn tell(&mut self, commands: &[&[&[u8]]]) -> Attempt<Vec<Value>> {
        let mut encoded = Commands::default();
        if commands.len() > 1 {
            encoded.push(&[b"MULTI"]);
        }
        for command in commands {
            encoded.push(command);
        }
        self.execute(encoded, commands.len()).await
    }

    /// The same for `count` commands that are encoded already, behind a MULTI if there are several.
    async fn execute(&mut self, mut commands: Commands, count: usize) -> Attempt<Vec<Value>> {
        if count > 1 {
            commands.push(&[b"EXEC"]);
        }
        let (address, client) = self.connect_target().await?;
        let replies = client.call(&commands).await;
        let replies = replies.map_err(|reason| {
            *self.target = None;
            Stop::Target {
                reason: format!("{reason} at {address}"),
                full: false,
            }
        })?;
        let replies = match replies.iter().find(|reply| matches!(reply, Value::Error(_))) {
            Some(Value::Error(text)) => return Err(self.target_error(text, &address)),
            _ if count > 1 => {
                let results = replies.into_iter().next_back().and_then(Value::array);
                results.ok_or_else(|| self.nonsense())?
            }
            _ => replies,
        };
        match replies.iter().find(|reply| matches!(reply, Value::Error(_))) {
            Some(Value::Error(text)) => Err(self.target_error(text, &address)),
            _ => Ok(replies),
        }
    }

    /// The connection to the slot's owner, and where that is.
    async fn connect_target(&mut self) -> Attempt<(Address, &mut Client)> {
        let Some((owner, address)) = self.engine.owner(self.big.slot) else {
            return Err(Stop::Target {
                reason: "not served by any node".to_owned(),
                full: false,
            });
        };
        if self.target.as_ref().is_none_or(|(node, _)| *node != owner) {
            let client = Client::open(&address, &self.engine.entrance(Side::Target).current(), false).await;
            let client = client.map_err(|error| match error {
                HandshakeError::Lost(message) => Stop::Target {
                    reason: format!("{message} at {address}"),
                    full: false,
                },
                HandshakeError::Denied(message)
                    if self.engine.want_access(Side::Target, &address, &message) =>
                {
                    Stop::Target {
                        reason: format!("{message} at {address}"),
                        full: false,
                    }
                }
                HandshakeError::Denied(message) | HandshakeError::Refused(message) => {
                    Stop::Fatal(Error::new(
                        ErrorKind::TargetRefused,
                        format!("the target's node {address} turns us away: {message}"),
                    ))
                }
            })?;
            *self.target = Some((owner, client));
        }
        match self.target {
            Some((_, client)) => Ok((address, client)),
            None => Err(Stop::Moved),
        }
    }

    fn target_error(&mut self, text: &[u8], address: &Address) -> Stop {
        let shown_text = String::from_utf8_lossy(text).into_owned();
        let code = shown_text.split(' ').next().unwrap_or_default().to_owned();
        let wait = |full| Stop::Target {
            reason: format!("{code} at {address}"),
            full,
        };
        let key = shown(&self.big.target);
        let failed = |kind| {
            let message =
                format!("the target answered {shown_text} to a write of {key}, which is copied in parts");
            Stop::Failed(kind, message, address.clone())
        };
        match judge(text) {
            Verdict::Moved { slot, to } => {
                self.engine.shared.progress.add_moved();
                let to = to.address(address, &self.engine.spec.address_map);
                self.engine.moved(slot, &to);
                Stop::Moved
            }
            // While the slot moves, a transaction would meet the temporary key here and its name there.
            Verdict::Ask(_) | Verdict::Wait => wait(false),
            Verdict::Full => wait(true),
            Verdict::Denied | Verdict::Refused => failed(FailureKind::Denied),
            Verdict::Busy | Verdict::Payload | Verdict::Failed => failed(FailureKind::Error),
        }
    }

    /// Take away what is built so far.
    pub async fn sweep(&mut self) -> Attempt<()> {
        self.engine
            .shared
            .ledger()
            .set_big_position(&self.big.source, None);
        self.unlink(&temporary::name(&self.big.target, self.big.slot))
            .await
    }

    async fn unlink(&mut self, key: &[u8]) -> Attempt<()> {
        self.tell(&[&[b"UNLINK", key]]).await.map(drop)
    }

    /// Go on where an earlier attempt stopped, if nothing has changed since it began.
    async fn resume(
        &mut self,
        recorded: Progress,
        look: &Look,
        watched: bool,
        temporary: &[u8],
    ) -> Attempt<Option<Progress>> {
        if recorded.kind != look.kind || recorded.length != look.length {
            return Ok(None);
        }
        if !watched && !self.is_untouched_since(recorded.begun, look.now).await? {
            return Ok(None);
        }
        let length = self.tell(&[&[recorded.kind.length(), temporary]]).await?;
        let length = length
            .first()
            .and_then(Value::integer)
            .unwrap_or_default()
            .cast_unsigned();
        if length == 0 {
            return Ok(None);
        }
        let place = match recorded.place {
            // What is there counts: a part may have been written that was not recorded.
            Place::Offset(_) => Place::Offset(length),
            Place::Cursor(cursor) => Place::Cursor(cursor),
            Place::After(..) => {
                let last = self
                    .tell(&[&[b"XREVRANGE", temporary, b"+", b"-", b"COUNT", b"1"]])
                    .await?;
                let last = last
                    .into_iter()
                    .next()
                    .and_then(Value::array)
                    .and_then(|mut all| all.pop());
                let id = last
                    .and_then(Value::array)
                    .and_then(|entry| entry.into_iter().next());
                match id
                    .and_then(Value::bytes)
                    .and_then(|id| super::parts::parse_id(&id))
                {
                    Some((ms, seq)) => Place::After(ms, seq),
                    None => return Ok(None),
                }
            }
        };
        Ok(Some(Progress { place, ..recorded }))
    }

    /// Whether nobody has touched the source's key since `begun`. Our own reads leave no trace from 7.2 on; on
    /// older servers, and under an LFU policy, this can't be told, and the key is taken from its start.
    async fn is_untouched_since(&mut self, begun: i64, now: i64) -> Attempt<bool> {
        let key = self.big.source.clone();
        let commands = Commands::one(&[b"OBJECT", b"IDLETIME", &key]);
        let reply = match &mut self.source.client {
            Some(client) => client.call(&commands).await,
            None => Err("not connected".to_owned()),
        };
        match reply {
            Ok(mut replies) => {
                let idle = replies.pop().and_then(|reply| reply.integer());
                Ok(idle.is_some_and(|idle| idle >= (now - begun) / 1000 + IDLE_MARGIN))
            }
            Err(reason) => {
                self.source.client = None;
                Err(Stop::Source(reason))
            }
        }
    }

    /// A string goes over in one SET, whose value is passed on as it is read: the server takes it in as it comes
    /// and keeps it without copying it, where APPEND would move what is there again and again. The last part is
    /// held back until the source says that nothing has changed; without it, the command never runs.
    async fn copy_string(&mut self, look: &Look) -> Attempt<Done> {
        let name = self.big.target.clone();
        let replace = self.engine.spec.on_conflict == OnConflict::Replace;
        let at = look.expires_at.to_string();
        let mut options: Vec<&[u8]> = Vec::new();
        if !replace {
            options.push(b"NX");
        }
        if look.expires_at > 0 {
            options.extend([b"PXAT".as_slice(), at.as_bytes()]);
        }
        let mut head = format!("*{}\r\n$3\r\nSET\r\n", 3 + options.len()).into_bytes();
        encode::bulk(&mut head, &name);
        head.extend_from_slice(format!("${}\r\n", look.length).as_bytes());
        let (address, _) = self.connect_target().await?;
        // Out of reach of the next attempt: half a command is on it.
        let Some((node, mut client)) = self.target.take() else {
            return Err(Stop::Moved);
        };
        let lost = |reason: String| Stop::Target {
            reason: format!("{reason} at {address}"),
            full: false,
        };
        client.push(&head).await.map_err(lost)?;
        let mut progress = Self::afresh(look);
        let mut tail = loop {
            self.pause().await?;
            let begun = Instant::now();
            let chunk = self.read(&progress, 1).await?;
            progress.place = chunk.next;
            let piece = chunk.elements.into_iter().next().unwrap_or_default();
            if chunk.is_last {
                break piece;
            }
            self.engine.budget.hold(piece.len());
            let pushed = client.push(&piece).await;
            self.engine.budget.free(piece.len());
            pushed.map_err(lost)?;
            self.rest(begun).await;
        };
        let (expires_at, now, length) = self.confirm(Kind::String).await?;
        if expires_at > 0 && expires_at <= now {
            return Ok(Done::Settled(Outcome::Expired, 0));
        }
        if progress.place != Place::Offset(look.length) || length != Some(look.length.cast_signed()) {
            return Err(Stop::Changed("the source's key changed"));
        }
        tail.extend_from_slice(b"\r\n");
        for option in options {
            encode::bulk(&mut tail, option);
        }
        *self.in_doubt = true;
        let reply = client.call(&Commands::rest(tail)).await.map_err(lost)?.pop();
        *self.in_doubt = false;
        *self.target = Some((node, client));
        match reply {
            Some(Value::Simple(_)) => {
                self.wait_for_replicas().await?;
                Ok(Done::Settled(Outcome::Migrated, look.length))
            }
            Some(Value::Error(text)) => Err(self.target_error(&text, &address)),
            // Somebody wrote it meanwhile: it is met as any key that is there.
            _ => Err(Stop::Changed("the target's key appeared")),
        }
    }

    async fn write(
        &mut self,
        temporary: &[u8],
        progress: &Progress,
        chunk: &Chunk,
        is_first: bool,
        lost: &Lost,
    ) -> Attempt<()> {
        if chunk.is_empty() {
            return Ok(());
        }
        let expiring = chunk.expiries.iter().filter(|&&at| at > 0).count();
        let stripped;
        let chunk = if expiring > 0 && !self.engine.spec.target_rdb.has_field_ttls() {
            if self.engine.spec.field_ttl == FieldTtl::Error {
                let key = shown(&self.big.source);
                let message = format!(
                    "the target can't hold {key}: its fields have TTLs, which the target can't hold \
                     (--field-ttl drop copies it without)"
                );
                let node = self.engine.spec.source.clone();
                self.unlink(temporary).await?;
                return Err(Stop::Failed(FailureKind::Payload, message, node));
            }
            self.engine
                .note_dropped_ttls(self.big.source.clone(), self.big.slot, expiring);
            stripped = Chunk {
                elements: chunk.elements.clone(),
                entries: Vec::new(),
                expiries: Vec::new(),
                next: chunk.next,
                is_last: chunk.is_last,
            };
            &stripped
        } else {
            chunk
        };
        let mut commands = Commands::one(&[b"MULTI"]);
        let before = commands.count();
        if is_first && !lost.is_empty() {
            let payload = groups::skeleton(lost, self.engine.spec.target_rdb.has_stream_history());
            commands.push(&[
                b"RESTORE",
                temporary,
                temporary::LIFETIME_MS,
                &payload,
                b"REPLACE",
            ]);
        } else if is_first {
            commands.push(&[b"UNLINK", temporary]);
        } else {
            commands.push(&[progress.kind.length(), temporary]);
        }
        commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
        progress.kind.write(&mut commands, temporary, chunk);
        commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
        let count = commands.count() - before;
        let replies = self.execute(commands, count).await?;
        if is_first {
            return Ok(());
        }
        let there = replies.first().and_then(Value::integer);
        let is_whole = match progress.place {
            Place::Offset(at) => there == Some(at.cast_signed()),
            Place::Cursor(_) | Place::After(..) => there.is_some_and(|length| length > 0),
        };
        if is_whole && replies.get(1).and_then(Value::integer) == Some(1) {
            Ok(())
        } else {
            Err(Stop::Changed("what was written of it to the target is gone"))
        }
    }

    /// Messages that are pending and not in the stream any more, by group.
    async fn lost_messages(&mut self) -> Attempt<Lost> {
        let key = self.big.source.clone();
        let mut lost = Lost::new();
        let mut count = 0;
        let reply = self.ask(&groups::read_groups(&key)).await?.pop();
        for group in reply.and_then(groups::groups).ok_or_else(|| self.nonsense())? {
            let mut after: Option<Vec<u8>> = None;
            loop {
                self.pause().await?;
                let begun = Instant::now();
                let replies = self
                    .ask(&groups::read_pending(&key, &group.name, after.as_deref()))
                    .await?;
                let pending = groups::pending(replies).ok_or_else(|| self.nonsense())?;
                let Some(newest) = pending.last() else {
                    break;
                };
                after = Some(newest.id.clone());
                let mut commands = Commands::default();
                for delivery in &pending {
                    commands.push(&[b"XRANGE", &key, &delivery.id, &delivery.id]);
                }
                let found = self.ask(&commands).await?;
                for (delivery, found) in pending.into_iter().zip(found) {
                    if found == Value::Array(Vec::new()) {
                        count += 1;
                        lost.entry(group.name.clone()).or_default().push(delivery);
                    }
                }
                if count > MOST_LOST {
                    let key = shown(&self.big.source);
                    let message = format!(
                        "{key} has more than {MOST_LOST} pending entries of deleted messages, which are written                          in one piece only (a higher --big-key-bytes does so)"
                    );
                    let node = self.engine.spec.source.clone();
                    return Err(Stop::Failed(FailureKind::Payload, message, node));
                }
                self.rest(begun).await;
            }
        }
        Ok(lost)
    }

    async fn copy_groups(&mut self, temporary: &[u8], lost: &Lost) -> Attempt<()> {
        let key = self.big.source.clone();
        let with_history = self.engine.spec.target_rdb.has_stream_history();
        let reply = self.ask(&groups::read_history(&key)).await?.pop();
        let history = reply.and_then(groups::history).ok_or_else(|| self.nonsense())?;
        let groups = self.read_groups(&key).await?;
        for group in &groups {
            let lost = lost.get(&group.name).map_or(&[][..], Vec::as_slice);
            let exists = !lost.is_empty();
            let lost: HashSet<&[u8]> = lost.iter().map(|delivery| delivery.id.as_slice()).collect();
            let mut commands = Commands::one(&[b"MULTI"]);
            if !exists {
                // An earlier attempt may have made it.
                commands.push(&[b"XGROUP", b"DESTROY", temporary, &group.name]);
            }
            groups::write_group(&mut commands, temporary, group, exists, with_history);
            commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
            let count = commands.count() - 1;
            self.execute(commands, count).await?;
            let mut after: Option<Vec<u8>> = None;
            loop {
                self.pause().await?;
                let replies = self
                    .ask(&groups::read_pending(&key, &group.name, after.as_deref()))
                    .await?;
                let mut pending = groups::pending(replies).ok_or_else(|| self.nonsense())?;
                let Some(newest) = pending.last() else {
                    break;
                };
                after = Some(newest.id.clone());
                // They are pending already, and XCLAIM would take them out.
                pending.retain(|delivery| !lost.contains(delivery.id.as_slice()));
                let mut commands = Commands::one(&[b"MULTI"]);
                groups::write_pending(&mut commands, temporary, &group.name, &pending);
                commands.push(&[b"PEXPIRE", temporary, temporary::LIFETIME_MS]);
                if pending.is_empty() {
                    continue;
                }
                let claimed = self.execute(commands, pending.len() + 1).await?;
                if claimed.contains(&Value::Array(Vec::new())) {
                    return Err(Stop::Changed("messages that are pending in it were deleted"));
                }
            }
        }
        let mut commands = Commands::default();
        groups::write_history(&mut commands, temporary, &history, with_history);
        self.execute(commands, 1).await.map(drop)
    }

    async fn read_groups(&mut self, key: &[u8]) -> Attempt<Vec<Group>> {
        let reply = self.ask(&groups::read_groups(key)).await?.pop();
        let mut groups = reply.and_then(groups::groups).ok_or_else(|| self.nonsense())?;
        for group in &mut groups {
            let reply = self.ask(&groups::read_consumers(key, &group.name)).await?.pop();
            group.consumers = reply.and_then(groups::consumers).ok_or_else(|| self.nonsense())?;
        }
        Ok(groups)
    }

    /// The source's key has not changed since it was looked at: its expiry, the source's time and its length.
    async fn confirm(&mut self, kind: Kind) -> Attempt<(u64, u64, Option<i64>)> {
        let key = self.big.source.clone();
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        commands.push(&[kind.length(), &key]);
        commands.push(&[b"EXEC"]);
        self.source.watching = false;
        let reply = self.ask(&commands).await?.pop();
        let Some(Value::Array(replies)) = reply else {
            return Err(Stop::Changed("the source's key changed"));
        };
        let [time, expiry, length] = <[Value; 3]>::try_from(replies).map_err(|_| self.nonsense())?;
        let now = groups::milliseconds(&time).ok_or_else(|| self.nonsense())?;
        let expires_at = self.expires_at(expiry.integer().unwrap_or(-2), now);
        Ok((expires_at, now.max(0).cast_unsigned(), length.integer()))
    }

    /// All is written: give the temporary key its TTL and its name, if the source has not changed.
    async fn finish(&mut self, temporary: &[u8], kind: Kind, has_ttls: bool) -> Attempt<Outcome> {
        let name = self.big.target.clone();
        let (expires_at, now, length) = self.confirm(kind).await?;
        if expires_at > 0 && expires_at <= now {
            self.unlink(temporary).await?;
            return Ok(Outcome::Expired);
        }
        let built = self.tell(&[&[kind.length(), temporary]]).await?;
        let built = built.first().and_then(Value::integer);
        // Fields that have expired meanwhile are counted by some servers and not by others.
        if built != length && !(has_ttls && built.is_some_and(|built| built > 0)) {
            return Err(Stop::Changed(
                "what was written of it to the target is not all there",
            ));
        }
        let at = expires_at.to_string();
        let ttl: &[&[u8]] = if expires_at == 0 {
            &[b"PERSIST", temporary]
        } else {
            &[b"PEXPIREAT", temporary, at.as_bytes()]
        };
        let replace = self.engine.spec.on_conflict == OnConflict::Replace;
        *self.in_doubt = true;
        let replies = if replace {
            // Without the UNLINK, RENAME would free a large value at once.
            let commands: [&[&[u8]]; 3] = [ttl, &[b"UNLINK", &name], &[b"RENAME", temporary, &name]];
            self.tell(&commands).await?
        } else {
            let commands: [&[&[u8]]; 2] = [ttl, &[b"RENAMENX", temporary, &name]];
            self.tell(&commands).await?
        };
        *self.in_doubt = false;
        if !replace && replies.last().and_then(Value::integer) != Some(1) {
            // Somebody wrote it meanwhile: it is met as any key that is there.
            return Err(Stop::Changed("the target's key appeared"));
        }
        Ok(Outcome::Migrated)
    }

    /// Hold the key back until so many replicas of its primary have it as the job asks for.
    async fn wait_for_replicas(&mut self) -> Attempt<()> {
        let wanted = self.engine.spec.wait_replicas;
        if wanted == 0 {
            return Ok(());
        }
        *self.in_doubt = true;
        let begun = Instant::now();
        let (count, patience) = (
            wanted.to_string(),
            self.engine.spec.wait_timeout.as_millis().to_string(),
        );
        loop {
            let reply = self
                .tell(&[&[b"WAIT", count.as_bytes(), patience.as_bytes()]])
                .await?;
            let confirmed = reply.first().and_then(Value::integer).unwrap_or_default();
            if confirmed >= i64::from(wanted) {
                *self.in_doubt = false;
                return Ok(());
            }
            if begun.elapsed() >= self.engine.spec.retry_for {
                return Err(Stop::Target {
                    reason: format!("{confirmed} of {wanted} replicas confirm its keys"),
                    full: false,
                });
            }
        }
    }

    // What the target has already

    /// What becomes of a key that the target has; `None` if it has not.
    async fn meet_existing(&mut self, look: &Look) -> Attempt<Option<Outcome>> {
        let name = self.big.target.clone();
        let exists = self.tell(&[&[b"EXISTS", &name]]).await?;
        if exists.first().and_then(Value::integer) != Some(1) {
            return Ok(None);
        }
        if self.engine.spec.on_conflict == OnConflict::Skip && !*self.in_doubt {
            return Ok(Some(Outcome::Skipped));
        }
        let conflict = |kind, what: &str| {
            let owner = self.engine.owner(self.big.slot);
            let node = owner.map_or_else(|| self.engine.spec.source.clone(), |(_, address)| address);
            Stop::Failed(
                kind,
                format!("the target holds {what} under {}", shown(&name)),
                node,
            )
        };
        let another = conflict(FailureKind::Conflict, "another value");
        let other_ttl = conflict(FailureKind::TtlConflict, "the same value with another TTL");
        let skips = self.engine.spec.on_conflict == OnConflict::Skip;
        if !self.is_same(look, &name).await? {
            return if skips {
                Ok(Some(Outcome::Skipped))
            } else {
                Err(another)
            };
        }
        let expires_at = self.target_expiry(&name).await?;
        let both_or_neither = (look.expires_at == 0) == (expires_at == 0);
        if !both_or_neither || look.expires_at.abs_diff(expires_at) > TTL_TOLERANCE {
            return if skips {
                Ok(Some(Outcome::Skipped))
            } else {
                Err(other_ttl)
            };
        }
        let was_ours = std::mem::take(self.in_doubt);
        Ok(Some(if was_ours {
            Outcome::Migrated
        } else {
            Outcome::Unchanged
        }))
    }

    async fn target_expiry(&mut self, name: &[u8]) -> Attempt<u64> {
        let replies = match self.engine.spec.target_expiry {
            ExpiryCommand::Absolute => self.tell(&[&[b"PEXPIRETIME", name]]).await?,
            ExpiryCommand::Relative => self.tell(&[&[b"PTTL", name], &[b"TIME"]]).await?,
        };
        let reply = replies.first().and_then(Value::integer).unwrap_or(-2);
        let now = replies.get(1).and_then(groups::milliseconds).unwrap_or_default();
        Ok(if reply < 0 {
            0
        } else {
            (now + reply).cast_unsigned()
        })
    }

    /// Whether the target's key holds the same value, compared a chunk at a time.
    async fn is_same(&mut self, look: &Look, name: &[u8]) -> Attempt<bool> {
        let kind = look.kind;
        let replies = self.tell(&[&[b"TYPE", name]]).await?;
        if replies.into_iter().next().and_then(Value::bytes).as_deref() != Some(kind.name().as_bytes()) {
            return Ok(false);
        }
        let length = self.tell(&[&[kind.length(), name]]).await?;
        if length.first().and_then(Value::integer) != Some(look.length.cast_signed()) {
            return Ok(false);
        }
        let mut progress = Self::afresh(look);
        let mut count = 64;
        loop {
            self.pause().await?;
            let begun = Instant::now();
            let chunk = self.read(&progress, count).await?;
            if !chunk.is_empty() && !self.has_same(kind, name, &progress, &chunk, count).await? {
                return Ok(false);
            }
            if let Some(average) = chunk.bytes().checked_div(chunk.count(kind)) {
                count = (CHUNK_BYTES / average.max(1)).clamp(1, MOST_ELEMENTS);
            }
            if chunk.is_last {
                break;
            }
            progress.place = chunk.next;
            self.rest(begun).await;
        }
        if kind == Kind::Stream {
            let key = self.big.source.clone();
            let ours = self.read_groups(&key).await?;
            let reply = self.tell(&[&[b"XINFO", b"GROUPS", name]]).await?.pop();
            let mut theirs = reply.and_then(groups::groups).ok_or_else(|| self.nonsense())?;
            for group in &mut theirs {
                let reply = self
                    .tell(&[&[b"XINFO", b"CONSUMERS", name, &group.name]])
                    .await?
                    .pop();
                group.consumers = reply.and_then(groups::consumers).ok_or_else(|| self.nonsense())?;
            }
            let plain = |group: &Group| (group.name.clone(), group.last_id.clone(), group.consumers.clone());
            return Ok(ours.iter().map(plain).eq(theirs.iter().map(plain)));
        }
        Ok(true)
    }

    async fn has_same(
        &mut self,
        kind: Kind,
        name: &[u8],
        progress: &Progress,
        chunk: &Chunk,
        count: usize,
    ) -> Attempt<bool> {
        let keyed = match kind {
            Kind::Hash => Some((b"HMGET".as_slice(), 2)),
            Kind::Set => Some((b"SMISMEMBER".as_slice(), 1)),
            _ => None,
        };
        let Some((command, step)) = keyed else {
            let commands = kind.read(name, progress.place, count);
            let reply = self.execute(commands, 1).await?.pop();
            let theirs = reply.and_then(|reply| kind.chunk(reply, progress.place, count, progress.length));
            let theirs = theirs.ok_or_else(|| self.nonsense())?;
            return Ok(
                same_elements(kind, &theirs.elements, &chunk.elements) && theirs.entries == chunk.entries
            );
        };
        let mut arguments: Vec<&[u8]> = vec![command, name];
        arguments.extend(chunk.elements.iter().step_by(step).map(Vec::as_slice));
        let reply = self.tell(&[&arguments]).await?.pop();
        let found = reply.and_then(Value::array).ok_or_else(|| self.nonsense())?;
        let same = match kind {
            Kind::Hash => found
                .iter()
                .zip(chunk.elements.chunks_exact(2))
                .all(|(found, pair)| matches!(found, Value::Bulk(value) if *value == pair[1])),
            _ => found.iter().all(|found| found.integer() == Some(1)),
        };
        if !same || !self.engine.spec.target_rdb.has_field_ttls() || chunk.expiries.is_empty() {
            return Ok(same);
        }
        let fields = (chunk.elements.len() / 2).to_string();
        let mut arguments: Vec<&[u8]> = vec![b"HPEXPIRETIME", name, b"FIELDS", fields.as_bytes()];
        arguments.extend(chunk.elements.iter().step_by(2).map(Vec::as_slice));
        let reply = self.tell(&[&arguments]).await?.pop();
        let theirs = reply.and_then(Value::array).ok_or_else(|| self.nonsense())?;
        Ok(theirs
            .iter()
            .map(Value::integer)
            .eq(chunk.expiries.iter().map(|&at| Some(at))))
    }

    // Giving way

    /// Wait while the operator pauses or limits the job; stop when it drains.
    async fn pause(&self) -> Attempt<()> {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        while !self.engine.draining.get() && self.engine.restraint.allowance(CHUNK_BYTES) == 0 {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        if self.engine.draining.get() {
            return Err(Stop::Drained);
        }
        self.engine.restraint.take(0, CHUNK_BYTES);
        Ok(())
    }

    /// While other keys flow, leave them most of the servers' time.
    async fn rest(&self, begun: Instant) {
        if self.engine.lanes_running.get() > 0 {
            tokio::time::sleep(begun.elapsed() * REST).await;
        } else {
            tokio::task::yield_now().await;
        }
    }
}

/// Whether elements that were read alike are the same; scores are the same as numbers, however they are written.
fn same_elements(kind: Kind, ours: &[Vec<u8>], theirs: &[Vec<u8>]) -> bool {
    if kind != Kind::SortedSet {
        return ours == theirs;
    }
    let score = |text: &[u8]| {
        std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse::<f64>().ok())
    };
    ours.len() == theirs.len()
        && ours
            .chunks_exact(2)
            .zip(theirs.chunks_exact(2))
            .all(|(one, other)| {
                one[0] == other[0] && score(&one[1]).map(f64::to_bits) == score(&other[1]).map(f64::to_bits)
            })
}
