//! Elements of large keys are compared with the source's beside the rounds that write them (`job/follow/ahead.rs`).
//!
//! Invariant: nothing is written; an element counts as equal only if both sides have answered the same of it, in a time in
//! which no round was under way. What is asked for in one go is about a chunk, and what was answered is held in the budget.

use std::rc::Rc;
use std::time::Instant;

use crate::chunked::copy::one_key::{Attempt, Copy};
use crate::chunked::copy::rounds::{LOOK_EVERY, Wires};
use crate::chunked::copy::{Big, LIMITS};
use crate::chunked::parts;
use crate::chunked::parts::{CHUNK_BYTES, Kind, Place};
use crate::job::engine::Engine;
use crate::job::follow::{Ahead, Came, Follow, What};
use crate::net::client::Commands;
use crate::resp::Tree;
use crate::resp::encode::ExpiryCommand;

/// By how many ms the expiries of a key that is called equal may differ where a server tells what is left.
const JITTER: u64 = 5;

impl Engine {
    /// Compare what is to be compared, up to the next look for rounds.
    pub(super) async fn look_ahead(self: &Rc<Self>, follow: &Follow, wires: &mut Wires) {
        let begun = Instant::now();
        while begun.elapsed() < LOOK_EVERY && !self.draining.get() && self.limiter.permitted(CHUNK_BYTES) > 0
        {
            let Some(mut ahead) = follow.next_ahead() else {
                return;
            };
            let came = self.compare_ahead(&mut ahead, wires).await;
            // Whatever kept it from being compared: at the fence it is compared whole.
            follow.compared_ahead(&ahead, came.unwrap_or(Came::Unsuitable));
        }
    }

    async fn compare_ahead(self: &Rc<Self>, ahead: &mut Ahead, wires: &mut Wires) -> Attempt<Came> {
        let big = Big {
            page: 0,
            number: 0,
            slot: ahead.slot,
            size: 0,
            source: ahead.key.to_vec(),
            target: ahead.target.clone(),
            in_doubt: false,
            refused: false,
        };
        let mut in_doubt = false;
        let mut copy = wires.copy(self, &big, &mut in_doubt)?;
        copy.connect_source().await?;
        let count = &mut ahead.count;
        match &ahead.what {
            What::Scan(place) => copy.compare_scanned(ahead.kind, *place, count).await,
            What::Elements(elements) => copy.compare_elements(ahead.kind, elements, None, count).await,
            What::Ends => copy.compare_ends(ahead.kind).await,
        }
    }
}

impl Copy<'_> {
    async fn compare_scanned(&mut self, kind: Kind, place: Place, count: &mut usize) -> Attempt<Came> {
        let commands = kind.read(&self.big.source, place, *count);
        let reply = self.ask(commands).await?.pop().ok_or_else(|| self.nonsense())?;
        let chunk = kind
            .chunk(reply, place, *count, 0)
            .ok_or_else(|| self.nonsense())?;
        let next = (!chunk.is_last).then_some(chunk.next);
        let bytes = chunk.bytes();
        *count = chunk.next_count(kind, *count, LIMITS);
        self.engine.limiter.take(0, bytes);
        self.engine.budget.hold(bytes);
        let step = if kind == Kind::Set { 1 } else { 2 };
        let names: Vec<_> = chunk.elements.into_iter().step_by(step).collect();
        let came = self.compare_elements(kind, &names, next, count).await;
        self.engine.budget.free(bytes);
        came
    }

    /// Compare these elements; those that are not equal. How many go at once next, `count`, follows from how large they are.
    async fn compare_elements(
        &mut self,
        kind: Kind,
        elements: &[Vec<u8>],
        next: Option<Place>,
        count: &mut usize,
    ) -> Attempt<Came> {
        if elements.is_empty() {
            return Ok(Came::Unequal(Vec::new(), next));
        }
        let (source, target) = (self.big.source.clone(), self.big.target.clone());
        let is_hash = kind == Kind::Hash;
        let with_ours = is_hash && self.tells_field_ttls(&source).await?;
        let with_theirs = is_hash && self.engine.spec.target_rdb.has_field_ttls();
        let ours = self.ask(question(kind, &source, elements, with_ours)).await?;
        let bytes = weight(&ours) + elements.iter().map(Vec::len).sum::<usize>();
        *count = parts::next_count(bytes, elements.len(), *count, LIMITS);
        self.engine.limiter.take(0, bytes);
        self.engine.budget.hold(bytes);
        let commands = question(kind, &target, elements, with_theirs);
        let theirs = if with_theirs {
            let mut transaction = Commands::one(&[b"MULTI"]);
            transaction.append(&commands);
            self.execute(transaction, 2).await
        } else {
            self.execute(commands, 1).await
        };
        let held = theirs.as_ref().map_or(0, |theirs| weight(theirs));
        self.engine.budget.hold(held);
        let unequal = theirs.and_then(|theirs| self.unequal(kind, elements, &ours, &theirs));
        self.engine.budget.free(bytes + held);
        Ok(unequal?.map_or(Came::Unsuitable, |unequal| Came::Unequal(unequal, next)))
    }

    /// Which of these elements are not equal by what was answered; none: there are fields that expire.
    fn unequal(
        &self,
        kind: Kind,
        elements: &[Vec<u8>],
        ours: &[Tree],
        theirs: &[Tree],
    ) -> Attempt<Option<Vec<Vec<u8>>>> {
        for reply in [ours.get(1), theirs.get(1)].into_iter().flatten() {
            let expiries = parts::expiries(reply).ok_or_else(|| self.nonsense())?;
            if expiries.iter().any(|&at| at > 0) {
                return Ok(None);
            }
        }
        let (Some(Tree::Array(ours)), Some(Tree::Array(theirs))) = (ours.first(), theirs.first()) else {
            return Err(self.nonsense());
        };
        if ours.len() != elements.len() || theirs.len() != elements.len() {
            return Err(self.nonsense());
        }
        let each = elements.iter().zip(ours.iter().zip(theirs));
        let unequal = each.filter(|(_, (ours, theirs))| !is_same(kind, ours, theirs));
        Ok(Some(unequal.map(|(name, _)| name.clone()).collect()))
    }

    /// Compare the lengths and the expiries.
    async fn compare_ends(&mut self, kind: Kind) -> Attempt<Came> {
        let (source, target) = (self.big.source.clone(), self.big.target.clone());
        let their_expiry: &[u8] = match self.engine.spec.target_expiry {
            ExpiryCommand::Absolute => b"PEXPIRETIME",
            ExpiryCommand::Relative => b"PTTL",
        };
        let mut commands = Commands::one(&[b"TIME"]);
        commands.push(&[self.expiry_command(), &source]);
        commands.push(&[kind.length(), &source]);
        let ours = self.ask(commands).await?;
        let theirs = self
            .tell(&[&[b"TIME"], &[their_expiry, &target], &[kind.length(), &target]])
            .await?;
        let read = |replies: &[Tree]| -> Option<(i64, i64, i64)> {
            let [time, expiry, length] = replies else {
                return None;
            };
            Some((time.milliseconds()?, expiry.integer()?, length.integer()?))
        };
        let (Some(ours), Some(theirs)) = (read(&ours), read(&theirs)) else {
            return Err(self.nonsense());
        };
        let our_expiry = self.expires_at(ours.1, ours.0);
        let their_expiry = match (self.engine.spec.target_expiry, theirs.1) {
            (_, ..0) => 0,
            (ExpiryCommand::Absolute, at) => at.cast_unsigned(),
            (ExpiryCommand::Relative, rest) => (theirs.0 + rest).max(0).cast_unsigned(),
        };
        let is_same_expiry =
            (our_expiry == 0) == (their_expiry == 0) && our_expiry.abs_diff(their_expiry) <= JITTER;
        Ok(Came::Ends(ours.2 > 0 && ours.2 == theirs.2 && is_same_expiry))
    }
}

/// How many bytes these replies take, about.
fn weight(replies: &[Tree]) -> usize {
    let one =
        |reply: &Tree| reply.text().map_or(0, <[u8]>::len) + weight(reply.elements()) + size_of::<Tree>();
    replies.iter().map(one).sum()
}

/// Whether both sides have answered the same of an element. Redis 7.0 and earlier write scores with 17 digits, later
/// servers with as few as are needed.
fn is_same(kind: Kind, ours: &Tree, theirs: &Tree) -> bool {
    if ours == theirs || kind != Kind::SortedSet {
        return ours == theirs;
    }
    let score = |reply: &Tree| parts::parse_score(reply.text()?).map(f64::to_bits);
    matches!((score(ours), score(theirs)), (Some(ours), Some(theirs)) if ours == theirs)
}

/// What asks for elements, and, of fields, when they expire.
fn question(kind: Kind, key: &[u8], elements: &[Vec<u8>], with_expiries: bool) -> Commands {
    let command: &[u8] = match kind {
        Kind::Set => b"SMISMEMBER",
        Kind::SortedSet => b"ZMSCORE",
        _ => b"HMGET",
    };
    let names = elements.iter().map(Vec::as_slice);
    let mut arguments = vec![command, key];
    arguments.extend(names.clone());
    let mut commands = Commands::one(&arguments);
    if with_expiries {
        let count = elements.len().to_string();
        let mut arguments: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
        arguments.extend(names);
        commands.push(&arguments);
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::follow::tests::{KEY, big, following};
    use crate::net::Address;

    #[test]
    fn a_node_that_can_not_be_reached_ends_what_was_compared() {
        let (engine, follow) = following(100);
        // Nobody listens at a port that was just let go.
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        engine.moved(0, &Address::tcp("127.0.0.1".to_owned(), port));
        let big = big(0);
        assert!(follow.begin_elements(&big, Kind::Hash));
        follow.publish_elements(&engine, KEY, 0, 1);
        assert_eq!(follow.compare_ahead(), 1);
        let ahead = follow.next_ahead().unwrap();
        follow.compared_ahead(&ahead, Came::Unequal(Vec::new(), None));
        assert_eq!(follow.compare_ahead(), 0);

        let (mut wires, mut in_doubt) = (Wires::default(), false);
        let mut copy = wires.copy(&engine, &big, &mut in_doubt).ok().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let told = runtime.unwrap().block_on(copy.tell(&[&[b"HLEN", KEY]]));
        assert!(told.is_err());
        assert_eq!(follow.compare_ahead(), 1);
    }

    #[test]
    fn few_large_elements_are_asked_for_at_once() {
        let value = |bytes| Tree::Text(vec![b'x'; bytes]);
        let next = |bytes, count| {
            let reply = [Tree::Array((0..count).map(|_| value(bytes)).collect())];
            parts::next_count(weight(&reply), count, count, LIMITS)
        };
        assert_eq!(next(1 << 20, 4), 1);
        assert_eq!(next(10_000, 4), 13);
        assert_eq!(next(1, 4), LIMITS.elements);
    }

    #[test]
    fn as_many_are_asked_for_next_as_the_last_were_large() {
        let (engine, follow) = following(100);
        assert!(follow.begin_elements(&big(0), Kind::Hash));
        follow.publish_elements(&engine, KEY, 0, 64);
        follow.compare_ahead();
        let mut ahead = follow.next_ahead().unwrap();
        assert_eq!(ahead.count, 64);
        ahead.count = 1;
        let there = vec![b"1".to_vec(), b"2".to_vec(), b"3".to_vec()];
        follow.compared_ahead(&ahead, Came::Unequal(there, None));
        let ahead = follow.next_ahead().unwrap();
        assert!(matches!(&ahead.what, What::Elements(elements) if elements.len() == 1));
    }
}
