//! The source's side of a large key: watched, looked at, and read in parts.
//!
//! Invariant: nothing is written; WATCH and MULTI only say whether the key has changed since it was looked at.

use crate::chunked::copy::one_key::{Attempt, Copy, Done, Progress, Stop};
use crate::chunked::parts;
use crate::chunked::parts::{Chunk, Kind};
use crate::error::{Error, ErrorKind};
use crate::event::Side;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::FailureKind;
use crate::net::client::{CallError, Client, Commands};
use crate::reply::{is_elsewhere, why_elsewhere};
use crate::resp::Tree;
use crate::resp::encode::ExpiryCommand;
use crate::text::said;
use crate::text::shown;

/// How far the last look at a key's age may be off, in seconds: the server's own clock for it ticks slowly.
const IDLE_MARGIN: i64 = 2;

/// The connection to the source.
#[derive(Default)]
pub(crate) struct Source {
    pub client: Option<Client>,
    /// The source says when hash fields expire; not known before it was asked.
    has_field_ttls: Option<bool>,
    /// The key is being watched, on this connection, since its first part was read.
    pub watching: bool,
    /// How many connections were opened.
    pub opened: u32,
}

impl Source {
    /// Begin with a key: nothing of it is watched yet.
    pub fn begin(&mut self) {
        self.watching = false;
    }
}

/// What the source says of the key before it is read.
pub(crate) struct Look {
    pub kind: Kind,
    pub length: u64,
    pub now: i64,
    pub expires_at: u64,
    /// How often the source has forked so far; not known while a child of it is at work.
    pub forks: Option<u64>,
}

impl Copy<'_> {
    pub(crate) async fn connect_source(&mut self) -> Attempt<()> {
        if self.source.client.is_some() {
            return Ok(());
        }
        let spec = &self.engine.spec;
        let client = self
            .engine
            .converse(Side::Source, &spec.source, Some(&spec.source_run_id));
        let client = client.await.map_err(|error| match error {
            CallError::Lost(message) => Stop::Source(message),
            CallError::Refused(message) => Stop::Fatal(Error::new(
                ErrorKind::SourceRefused,
                format!("the source {} rejects the connection: {message}", spec.source),
            )),
            CallError::Changed(_) => Stop::Fatal(Error::new(
                ErrorKind::SourceChanged,
                format!("the source {} is another process now", spec.source),
            )),
        })?;
        self.source.watching = false;
        self.source.client = Some(client);
        self.source.opened += 1;
        Ok(())
    }

    pub(crate) async fn ask(&mut self, commands: Commands) -> Attempt<Vec<Tree>> {
        let replies = self.call_source(commands).await?;
        for reply in &replies {
            if let Tree::Error(text) = reply {
                return Err(self.source_error(text));
            }
        }
        Ok(replies)
    }

    /// The source's replies, errors among them.
    pub(super) async fn call_source(&mut self, commands: Commands) -> Attempt<Vec<Tree>> {
        let Some(client) = &mut self.source.client else {
            return Err(Stop::Source("not connected".to_owned()));
        };
        client.call(commands).await.map_err(|error| {
            self.source.client = None;
            Stop::Source(error.into_text())
        })
    }

    pub(crate) fn source_error(&self, text: &[u8]) -> Stop {
        if self.engine.spec.source_cluster.is_some() && is_elsewhere(text) {
            return Stop::Elsewhere(why_elsewhere(text));
        }
        let text = said(text);
        let kind = match text.split(' ').next().unwrap_or_default() {
            "LOADING" | "BUSY" | "MASTERDOWN" | "CLUSTERDOWN" => return Stop::Source(text),
            // The key was replaced by one of another type.
            "WRONGTYPE" => return Stop::Changed("its type changed"),
            "NOGROUP" => return Stop::Changed("its consumer groups changed"),
            "NOPERM" => FailureKind::Denied,
            _ => FailureKind::Error,
        };
        let key = shown(&self.big.source);
        let message = format!("the source answered {text} to a read of {key}, which is copied in parts");
        Stop::Failed(kind, message, self.engine.spec.source.clone())
    }

    pub(crate) fn nonsense(&self) -> Stop {
        let key = shown(&self.big.source);
        Stop::Failed(
            FailureKind::Error,
            format!("a reply about {key} is not what its command gives"),
            self.engine.spec.source.clone(),
        )
    }

    /// Watch the key and look at it. `None` if it is gone, or is nothing that can be read in parts.
    pub(crate) async fn look(&mut self) -> Attempt<Option<Look>> {
        let key = self.big.source.clone();
        let mut commands = Commands::default();
        if !self.source.watching {
            commands.push(&[b"UNWATCH"]);
            commands.push(&[b"WATCH", &key]);
        }
        commands.push(&[b"TYPE", &key]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        let mut replies = self.ask(commands).await?;
        self.source.watching = true;
        let (Some(expiry), Some(time), Some(kind)) = (replies.pop(), replies.pop(), replies.pop()) else {
            return Err(self.nonsense());
        };
        let kind = kind.into_text().ok_or_else(|| self.nonsense())?;
        let Some(kind) = Kind::of(&kind) else {
            return Ok(None);
        };
        let now = time.milliseconds().ok_or_else(|| self.nonsense())?;
        let expires_at = self.expires_at(expiry.integer().unwrap_or(-2), now);
        let mut replies = self.ask(Commands::one(&[kind.length(), &key])).await?;
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
            forks: self.forks().await?,
        }))
    }

    pub(crate) fn expiry_command(&self) -> &'static [u8] {
        match self.engine.spec.source_expiry {
            ExpiryCommand::Absolute => b"PEXPIRETIME",
            ExpiryCommand::Relative => b"PTTL",
        }
    }

    /// When the key expires, in ms since the epoch; 0 for never.
    pub(crate) fn expires_at(&self, reply: i64, now: i64) -> u64 {
        match (self.engine.spec.source_expiry, reply) {
            (_, ..0) => 0,
            (ExpiryCommand::Absolute, at) => at.cast_unsigned(),
            (ExpiryCommand::Relative, rest) => now.saturating_add(rest).max(0).cast_unsigned(),
        }
    }

    /// The key is gone, or has to be copied in one piece.
    pub(crate) async fn whole_or_gone(&mut self) -> Attempt<Done> {
        let key = self.big.source.clone();
        let mut commands = Commands::one(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        commands.push(&[b"DUMP", &key]);
        let mut replies = self.ask(commands).await?;
        let (Some(payload), Some(expiry), Some(time)) = (replies.pop(), replies.pop(), replies.pop()) else {
            return Err(self.nonsense());
        };
        let now = time.milliseconds().ok_or_else(|| self.nonsense())?;
        self.source.watching = false;
        match payload {
            Tree::Text(payload) => Ok(Done::Whole {
                expires_at: self.expires_at(expiry.integer().unwrap_or(-1), now),
                payload,
            }),
            _ => Ok(Done::Settled(Outcome::Vanished, 0)),
        }
    }

    pub(crate) async fn read(&mut self, progress: &Progress, count: usize) -> Attempt<Chunk> {
        let key = self.big.source.clone();
        let commands = progress.kind.read(&key, progress.place, count);
        let reply = self.ask(commands).await?.pop();
        let mut chunk = reply
            .and_then(|reply| progress.kind.chunk(reply, progress.place, count, progress.length))
            .ok_or_else(|| self.nonsense())?;
        if progress.kind == Kind::Hash && !chunk.is_empty() {
            chunk.expiries = self.expiries(&key, &chunk).await?;
            chunk.drop_expired();
        }
        Ok(chunk)
    }

    /// When the fields of a chunk expire; none where the source has no such thing.
    async fn expiries(&mut self, key: &[u8], chunk: &Chunk) -> Attempt<Vec<i64>> {
        if self.source.has_field_ttls == Some(false) {
            return Ok(Vec::new());
        }
        let reply = self.call_source(chunk.ask_expiries(key)).await?.pop();
        self.source.has_field_ttls = Some(!reply.as_ref().is_some_and(parts::is_unknown_command));
        match reply {
            Some(Tree::Error(text)) if self.source.has_field_ttls == Some(true) => {
                Err(self.source_error(&text))
            }
            Some(Tree::Error(_)) => Ok(Vec::new()),
            Some(reply) => parts::expiries(&reply).ok_or_else(|| self.nonsense()),
            None => Err(self.nonsense()),
        }
    }

    /// Whether the source tells when fields expire.
    pub(crate) async fn tells_field_ttls(&mut self, key: &[u8]) -> Attempt<bool> {
        if let Some(known) = self.source.has_field_ttls {
            return Ok(known);
        }
        let question = Commands::one(&[b"HPEXPIRETIME", key, b"FIELDS", b"1", b""]);
        let reply = self.call_source(question).await?.pop();
        let known = !reply.as_ref().is_some_and(parts::is_unknown_command);
        self.source.has_field_ttls = Some(known);
        Ok(known)
    }

    /// How often the source has forked; `None` while a child is at work, or where it does not tell.
    async fn forks(&mut self) -> Attempt<Option<u64>> {
        let mut commands = Commands::one(&[b"INFO", b"stats"]);
        commands.push(&[b"INFO", b"persistence"]);
        let replies = self.call_source(commands).await?;
        let texts: Vec<u8> = replies
            .into_iter()
            .filter_map(Tree::into_text)
            .flatten()
            .collect();
        Ok(forks_in(&String::from_utf8_lossy(&texts)))
    }

    /// Whether nobody has touched the source's key since `begun`, when the source had forked `forks` times. Our own
    /// reads leave no trace from 7.2 on; on older servers, and under an LFU policy, this can't be told, and the key is
    /// taken from its start. So it is after a fork: while a child is at work, no access leaves a trace (`lookupKey`
    /// of the servers).
    pub(crate) async fn is_untouched_since(
        &mut self,
        begun: i64,
        forks: Option<u64>,
        look: &Look,
    ) -> Attempt<bool> {
        if forks.is_none() || forks != look.forks {
            return Ok(false);
        }
        let now = look.now;
        let key = self.big.source.clone();
        let commands = Commands::one(&[b"OBJECT", b"IDLETIME", &key]);
        let idle = self.call_source(commands).await?.pop();
        let idle = idle.and_then(|reply| reply.integer());
        Ok(idle.is_some_and(|idle| idle >= (now - begun) / 1000 + IDLE_MARGIN))
    }

    /// The source's key has not changed since it was looked at: its expiry, the source's time and its length.
    pub(crate) async fn confirm(&mut self, kind: Kind) -> Attempt<(u64, u64, Option<i64>)> {
        let key = self.big.source.clone();
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        commands.push(&[kind.length(), &key]);
        commands.push(&[b"EXEC"]);
        self.source.watching = false;
        let reply = self.ask(commands).await?.pop();
        let Some(Tree::Array(replies)) = reply else {
            return Err(Stop::Changed("the source's key changed"));
        };
        let [time, expiry, length] = <[Tree; 3]>::try_from(replies).map_err(|_| self.nonsense())?;
        let now = time.milliseconds().ok_or_else(|| self.nonsense())?;
        let expires_at = self.expires_at(expiry.integer().unwrap_or(-2), now);
        Ok((expires_at, now.max(0).cast_unsigned(), length.integer()))
    }
}

/// The number of forks in INFO stats and INFO persistence, if no child is at work.
fn forks_in(info: &str) -> Option<u64> {
    let field = |name: &str| {
        info.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .map(str::trim)
    };
    let idle = |name| field(name).is_none_or(|value| value == "0");
    let is_idle = idle("rdb_bgsave_in_progress")
        && idle("aof_rewrite_in_progress")
        && idle("module_fork_in_progress")
        && idle("slot_migration_fork_in_progress");
    is_idle.then(|| field("total_forks")?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forks_are_known_while_no_child_is_at_work() {
        let info = |saving| format!("# Stats\r\ntotal_forks:7\r\nrdb_bgsave_in_progress:{saving}\r\n");
        assert_eq!(forks_in(&info(0)), Some(7));
        assert_eq!(forks_in(&info(1)), None);
        assert_eq!(forks_in("rdb_bgsave_in_progress:0\r\n"), None);
    }
}
