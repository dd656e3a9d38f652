//! A list that is written at its ends while it is copied, and kept up to date from then on: by the positions of its
//! entries, which the source's stream tells for each offset.
//!
//! Invariant: what is read is read together with the source's offset, and written only as what the list was there.

use std::time::{Duration, Instant};

use crate::chunked::copy::LIMITS;
use crate::chunked::copy::elements::Whither;
use crate::chunked::copy::one_key::{Attempt, Copy, Stop};
use crate::chunked::parts;
use crate::chunked::parts::{CHUNK_BYTES, Kind, Limits};
use crate::job::follow::{Round, Run, Unread};
use crate::ledger::unsettled::FailureKind;
use crate::net::client::Commands;
use crate::reply::info_field;
use crate::resp::Tree;

/// So many entries more are read on either side, for what is changed until the range is read, and up to so many where
/// that was too few.
const MARGIN: usize = 16;
const MOST_MARGIN: usize = 4096;

/// So often nothing of what was read may be next to what the target has.
const MOST_VAIN: u32 = 20;

/// A list of which so many times its length was copied is written faster than it is read.
const MOST_LENGTHS: u64 = 4;
const LENGTH_OF_FEW: u64 = 100_000;

/// So many chunks are read of one list before others are looked after.
const MOST_CHUNKS: u32 = 64;

/// A list that was read in another history than the stream tells of is read again after this time.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// What tells the expiry says this of a key that is not there.
const GONE: i64 = -2;

/// What was read of a list at one instant.
pub(super) struct ListRead {
    /// The source's history, and its offset.
    id: String,
    offset: u64,
    pub now: u64,
    pub expires_at: u64,
    length: u64,
    /// Entries, and the index of the first.
    at_head: (u64, Vec<Vec<u8>>),
    at_tail: (u64, Vec<Vec<u8>>),
}

/// What to read, how much of it goes at once as far as that is known, and what was written.
struct Pace {
    count: usize,
    margin: usize,
    /// So many entries are no more than a chunk, as far as is known.
    most_margin: usize,
    vain: u32,
    bytes: u64,
    entries: u64,
}

impl Pace {
    fn new(count: usize) -> Self {
        Self {
            count: count.max(1),
            margin: MARGIN,
            most_margin: count.max(1),
            vain: 0,
            bytes: 0,
            entries: 0,
        }
    }
}

/// How far one step has come.
struct Step {
    /// The target has all of it.
    is_equal: bool,
    length: u64,
    expires_at: u64,
}

/// Entries that are written at either end.
pub(super) struct News<'a> {
    pub head: &'a [Vec<u8>],
    pub tail: &'a [Vec<u8>],
}

impl News<'_> {
    /// Leave out those that are farthest from what the target has, until the rest, or the one that is left, is no more
    /// than `most` bytes.
    fn cut(&mut self, most: usize) {
        let mut left = self.bytes().saturating_sub(most);
        while left > 0 && self.count() > 1 {
            let gone = match (self.head, self.tail) {
                ([first, head @ ..], _) => {
                    self.head = head;
                    first
                }
                (_, [tail @ .., last]) => {
                    self.tail = tail;
                    last
                }
                _ => return,
            };
            left = left.saturating_sub(gone.len() + 16);
        }
    }

    fn count(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    fn bytes(&self) -> usize {
        self.head
            .iter()
            .chain(self.tail)
            .map(|entry| entry.len() + 16)
            .sum()
    }
}

impl Copy<'_> {
    /// Build a list that is written meanwhile, and give it its name; its expiry, the bytes that were read in chunks, and
    /// how many entries may be read in one go.
    pub(crate) async fn build_list(&mut self, temporary: &[u8], length: u64) -> Attempt<(u64, u64, usize)> {
        // The key will change, and no transaction is to fail for it.
        self.ask(Commands::one(&[b"UNWATCH"])).await?;
        self.source.begin();
        self.unlink(temporary).await?;
        let mut pace = Pace::new(parts::first_count(self.big.size, length));
        loop {
            self.pause_moving().await?;
            let begun = Instant::now();
            let step = self.step(temporary, Whither::Temporary, &mut pace).await?;
            if step.is_equal {
                self.wait_for_replicas().await?;
                return Ok((step.expires_at, pace.bytes, pace.count));
            }
            if pace.entries > MOST_LENGTHS * step.length.max(LENGTH_OF_FEW) {
                return Err(Stop::Changed("its entries are written faster than they are read"));
            }
            self.rest(begun).await;
        }
    }

    /// Bring a list up to date, in as many chunks as it takes, or as may be taken in one go.
    pub(crate) async fn write_list_round(&mut self, round: &mut Round) -> Attempt<u64> {
        let target = round.target.clone();
        let mut pace = Pace::new(round.count);
        for _ in 0..MOST_CHUNKS {
            self.engine.limiter.take(0, CHUNK_BYTES);
            let whither = Whither::Published {
                expires_at: round.expires_at,
                touched: 0,
            };
            let step = self.step(&target, whither, &mut pace).await?;
            (round.expires_at, round.count) = (Some(step.expires_at), pace.count);
            if step.is_equal {
                self.wait_for_replicas().await?;
                return Ok(step.expires_at);
            }
            if self.engine.draining.get() || self.engine.limiter.permitted(CHUNK_BYTES) == 0 {
                break;
            }
        }
        self.wait_for_replicas().await?;
        Err(Stop::Drained)
    }

    /// Read what the target lacks at either end, as much as goes at once, and write it.
    async fn step(&mut self, name: &[u8], whither: Whither, pace: &mut Pace) -> Attempt<Step> {
        let Some(follow) = self.engine.follow.clone() else {
            return Err(Stop::Ordinary);
        };
        let begun = Instant::now();
        loop {
            let guess = follow.begin_list_read(&self.big.source);
            let step = self.step_from(guess, name, whither, pace).await;
            follow.end_list_read(&self.big.source);
            match step {
                // The source has failed over, and the stream follows it soon.
                Err(Stop::Late(_))
                    if whither == Whither::Temporary && begun.elapsed() < self.engine.spec.retry_for =>
                {
                    self.pause_moving().await?;
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                Err(Stop::Late(why)) if whither == Whither::Temporary => return Err(Stop::Changed(why)),
                step => return step,
            }
        }
    }

    async fn step_from(
        &mut self,
        guess: Run,
        name: &[u8],
        whither: Whither,
        pace: &mut Pace,
    ) -> Attempt<Step> {
        let Some(read) = self.read_ends(guess, pace).await? else {
            return Err(match whither {
                Whither::Temporary => Stop::Changed("it went while it was copied"),
                Whither::Published { .. } => Stop::Gone,
            });
        };
        let before = self.run_at(&read, whither).await?;
        let (head, tail) = (&read.at_head, &read.at_tail);
        let head_read = before.positions(head.0, head.1.len());
        let tail_read = before.positions(tail.0, tail.1.len());
        let mut news = News {
            head: part(&head.1, head_read, before.news_at_head(head_read)),
            tail: part(&tail.1, tail_read, before.news_at_tail(tail_read)),
        };
        news.cut(self.engine.spec.target_limits.in_flight().max(LIMITS.bytes));
        self.check_entries(&news)?;
        let (bytes, count) = (news.bytes(), news.count());
        pace.count = parts::next_count(bytes, count, pace.count, LIMITS);
        let mut after = before;
        after.write(news.head.len(), news.tail.len());
        pace.note(&guess, &after, count, bytes)?;
        self.engine.budget.hold(bytes);
        let written = self
            .write_ends(name, &news, (before, after), &read, whither)
            .await;
        self.engine.budget.free(bytes);
        written?;
        Ok(Step {
            is_equal: after.is_equal(),
            length: read.length,
            expires_at: read.expires_at,
        })
    }

    /// Read the ends of the list, together with the source's offset; none if it is gone.
    async fn read_ends(&mut self, guess: Run, pace: &Pace) -> Attempt<Option<ListRead>> {
        let key = self.big.source.clone();
        let (margin, count) = (pace.margin() as u64, pace.count as u64);
        let (from, to) = (
            guess.held.0.abs_diff(guess.head),
            guess.held.1.abs_diff(guess.head),
        );
        let head = (from.saturating_sub(count), from + margin - 1);
        let tail = (to.saturating_sub(margin), to + count + margin - 1);
        let text = |number: u64| number.to_string().into_bytes();
        let mut commands = Commands::one(&[b"MULTI"]);
        commands.push(&[b"INFO", b"replication"]);
        commands.push(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &key]);
        commands.push(&[b"LLEN", &key]);
        for (first, last) in [head, tail] {
            commands.push(&[b"LRANGE", &key, &text(first), &text(last)]);
        }
        commands.push(&[b"EXEC"]);
        let Some(Tree::Array(replies)) = self.ask(commands).await?.pop() else {
            return Err(self.nonsense());
        };
        if let Some(Tree::Error(text)) = replies.iter().find(|reply| matches!(reply, Tree::Error(_))) {
            return Err(self.source_error(text));
        }
        let [info, time, expiry, length, at_head, at_tail] =
            <[Tree; 6]>::try_from(replies).map_err(|_| self.nonsense())?;
        let now = time.milliseconds().ok_or_else(|| self.nonsense())?;
        let expiry = expiry.integer().ok_or_else(|| self.nonsense())?;
        let length = length.integer().unwrap_or_default().max(0).cast_unsigned();
        if expiry == GONE || length == 0 {
            return Ok(None);
        }
        let (id, offset) = self.place_in(&info)?;
        Ok(Some(ListRead {
            id,
            offset,
            now: now.max(0).cast_unsigned(),
            expires_at: self.expires_at(expiry, now),
            length,
            at_head: (head.0, at_head.into_texts().ok_or_else(|| self.nonsense())?),
            at_tail: (tail.0, at_tail.into_texts().ok_or_else(|| self.nonsense())?),
        }))
    }

    /// The history and the offset that a primary tells of itself.
    fn place_in(&self, info: &Tree) -> Attempt<(String, u64)> {
        let info = String::from_utf8_lossy(info.text().unwrap_or_default()).into_owned();
        let source = &self.engine.spec.source;
        if info_field(&info, "role") != Some("master") {
            return Err(Stop::NotNow(format!(
                "the source {source} is a replica now, which does not tell for certain how much of its stream a value holds"
            )));
        }
        let unsuitable = |what: &str| {
            Stop::Failed(
                FailureKind::Denied,
                format!("the source {source} {what}"),
                source.clone(),
            )
        };
        let offset = info_field(&info, "master_repl_offset").and_then(|offset| offset.parse().ok());
        info_field(&info, "master_replid")
            .map(str::to_owned)
            .zip(offset)
            .ok_or_else(|| unsuitable("does not tell its offset (INFO replication)"))
    }

    /// The list at the offset at which it was read, once the stream has come there.
    async fn run_at(&self, read: &ListRead, whither: Whither) -> Attempt<Run> {
        let Some(follow) = &self.engine.follow else {
            return Err(Stop::Ordinary);
        };
        let run = follow.list_read_at(self.engine, &self.big.source, &read.id, read.offset, read.length);
        run.await.map_err(|unread| match (unread, whither) {
            (Unread::Late, _) => {
                Stop::Late("its source's stream is farther behind than errors are retried for")
            }
            (Unread::OtherHistory, _) => Stop::Late("its source has another history than its stream"),
            (Unread::Drained, _) => Stop::Drained,
            (Unread::Left, Whither::Published { .. }) => Stop::Ordinary,
            (Unread::Left, Whither::Temporary) => {
                Stop::Changed("it is another one, or too much of it was written")
            }
            (Unread::Length, _) => Stop::Changed("its length is not what its changes add up to"),
        })
    }

    /// The target takes each of these entries.
    fn check_entries(&self, news: &News<'_>) -> Attempt<()> {
        let most = self.engine.spec.target_limits.argument();
        let largest = news.head.iter().chain(news.tail).map(Vec::len).max();
        match largest.filter(|&largest| largest > most) {
            Some(largest) => {
                Err(self.too_large(&format!("an element of the {}", Kind::List.name()), largest))
            }
            None => Ok(()),
        }
    }
}

impl Pace {
    /// How many entries more are read on either side; of large ones, not many more than are looked for.
    fn margin(&self) -> usize {
        match self.vain {
            0 => self.margin.min(self.most_margin),
            _ => self.margin,
        }
    }

    /// So much was read of a list that could be written.
    fn note(&mut self, guess: &Run, after: &Run, count: usize, bytes: usize) -> Attempt<()> {
        let limits = Limits {
            elements: MOST_MARGIN,
            ..LIMITS
        };
        self.most_margin = parts::next_count(bytes, count, self.most_margin, limits);
        self.bytes += bytes as u64;
        self.entries += count as u64;
        self.vain = if count > 0 || after.is_equal() {
            0
        } else {
            self.vain + 1
        };
        let most = self.count as u64;
        let rest = (
            guess.head.abs_diff(guess.held.0),
            guess.tail.abs_diff(guess.held.1),
        );
        if !after.is_equal() && (count == 0 || rest.0 <= most && rest.1 <= most) {
            self.margin = (self.margin * 2).min(MOST_MARGIN);
        }
        if self.vain < MOST_VAIN {
            return Ok(());
        }
        Err(Stop::Changed("its entries are written faster than they are read"))
    }
}

/// Those of the entries that were read which stand at these positions.
fn part(entries: &[Vec<u8>], read: (i64, i64), news: (i64, i64)) -> &[Vec<u8>] {
    if news.0 >= news.1 {
        return &[];
    }
    let (from, to) = (news.0.abs_diff(read.0), news.1.abs_diff(read.0));
    entries.get(from as usize..to as usize).unwrap_or_default()
}
