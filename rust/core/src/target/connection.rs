//! One connection to a node of the target after the other: batches out, replies in, in order.
//!
//! Invariant: replies belong to commands in order. A connection that is lost leaves no entry behind: what had
//! no reply is sent again, marked as in doubt.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::error::ErrorKind;
use crate::event::{Event, EventKind, Side};
use crate::job::engine::{Backoff, Engine};
use crate::ledger::progress::RetryReason;
use crate::net;
use crate::net::{Connection, Deadline, HandshakeError};
use crate::target::batch::{Batch, Entry};
use crate::target::cut::accused;
use crate::target::flight::{Flight, read_restores};
use crate::target::flights::Flights;
use crate::target::full::Full;
use crate::target::link::Link;
use crate::throttle::limiter::Answer;
use crate::throttle::reply_timer::ReplyTimer;

/// A connection whose replies stay away so long, or for as long as passing errors are retried, is given up.
const REPLY_PATIENCE: Duration = Duration::from_secs(30);

/// The same for a node that owns no slot any more: it was failed over, its answers will be redirects.
const DEPOSED_PATIENCE: Duration = Duration::from_secs(2);

/// A node whose replies stay away so long is shown as the reason for waiting, and may have been failed over.
const NOTICEABLE: Duration = Duration::from_secs(1);

/// How often a session looks at the time.
const LOOK: Duration = Duration::from_millis(250);

/// Serve one node until the job ends.
pub(crate) async fn run(engine: Rc<Engine>, link: Rc<Link>) {
    let mut backoff = Backoff::new();
    let mut lost = false;
    loop {
        while !link.has_work() {
            link.wake.notified().await;
        }
        let reason = match engine.open_target(&link.address).await {
            Ok((connection, _)) => {
                if std::mem::take(&mut lost) {
                    engine.tell_node(EventKind::NodeBack, &link, "reachable again");
                }
                let mut session = Session::new(&engine, &link, connection);
                let reason = session.serve().await;
                if session.answered {
                    backoff = Backoff::new();
                }
                session.give_back(&reason);
                if engine.has_barrier() && link.unconfirmed.get() {
                    return engine.failed_over(&link, &reason);
                }
                reason
            }
            Err(HandshakeError::Denied(message))
                if engine.want_access(Side::Target, &link.address, &message) =>
            {
                Session::give_back_queue(&engine, &link, &message);
                message
            }
            Err(HandshakeError::Denied(message) | HandshakeError::Refused(message)) => {
                engine.stop(
                    ErrorKind::TargetRefused,
                    format!(
                        "the target's node {} rejects the connection: {message}",
                        link.address
                    ),
                );
                return;
            }
            Err(HandshakeError::Lost(message)) => {
                Session::give_back_queue(&engine, &link, &message);
                message
            }
        };
        engine.forget_compared();
        if !std::mem::replace(&mut lost, true) {
            engine.tell_node(EventKind::NodeLost, &link, &reason);
        }
        tokio::time::sleep(backoff.step()).await;
    }
}

impl Engine {
    fn tell_node(&self, kind: EventKind, link: &Link, message: &str) {
        self.shared.tell(Event {
            kind,
            message: format!("{}: {message}", link.address),
            node: Some(link.address.to_string()),
            slot: None,
        });
    }
}

/// One connection's life.
pub(crate) struct Session<'a> {
    pub engine: &'a Rc<Engine>,
    pub link: &'a Rc<Link>,
    connection: Connection,
    flights: Flights,
    reply_timer: ReplyTimer,
    answered: bool,
    /// It has ended, and not for want of replies.
    was_cut: bool,
}

impl<'a> Session<'a> {
    fn new(engine: &'a Rc<Engine>, link: &'a Rc<Link>, connection: Connection) -> Self {
        Self {
            engine,
            link,
            connection,
            flights: Flights::new(engine.spec.target_limits.in_flight()),
            reply_timer: ReplyTimer::new(engine.pause_above()),
            answered: false,
            was_cut: false,
        }
    }

    /// Exchange batches and replies until the connection is lost; returns why.
    async fn serve(&mut self) -> String {
        let patience = REPLY_PATIENCE.min(self.engine.spec.retry_for);
        let mut deadline = Deadline::new(patience);
        let mut tick = tokio::time::interval(LOOK);
        loop {
            self.load();
            if self.reply_timer.is_watching() {
                let next = self.flights.queue.front().filter(|_| self.flights.owe_reply());
                self.reply_timer
                    .owed(self.link.owns_slots.get() && next.is_some_and(Flight::tells_latency));
            }
            let unread = self.connection.received().len();
            tokio::select! {
                exchanged = self.connection.exchange(&mut self.flights, true) => {
                    if let Err(error) = exchanged {
                        self.was_cut = true;
                        return net::plain(&error);
                    }
                    // What was only written says nothing of a node that hangs; but a value that takes long to be
                    // written can't be answered before.
                    let come = self.connection.received().len() - unread;
                    let has_come = come > 0;
                    deadline.received(come, Instant::now());
                    if !self.flights.owe_reply() {
                        deadline.restart(Instant::now());
                    }
                    if has_come && let Some(waited) = self.reply_timer.broken() {
                        self.slow(Answer::Reply, waited);
                    }
                    match self.read_replies() {
                        Ok(true) => deadline.restart(Instant::now()),
                        Ok(false) => {}
                        Err(reason) => return reason,
                    }
                }
                () = self.link.wake.notified() => {}
                _ = tick.tick() => {
                    let now = Instant::now();
                    if self.flights.queue.is_empty() {
                        deadline.restart(now);
                    }
                    if let Some(waited) = self.reply_timer.look() {
                        self.slow(Answer::NoReply, waited);
                    }
                    let overdue = deadline.overdue(now);
                    self.watch(overdue);
                    if deadline.is_over(now) || overdue > DEPOSED_PATIENCE && !self.link.owns_slots.get() {
                        return format!("no reply for {} s", overdue.as_secs());
                    }
                }
            }
        }
    }

    #[cold]
    fn slow(&self, answer: Answer, waited: Duration) {
        let server = Engine::target_server(&self.link.address);
        self.engine.measured(&server, answer, waited);
    }

    /// Show that the node is silent, and ask whether another has taken its place.
    fn watch(&self, silent: Duration) {
        let address = &self.link.address;
        let is_silent = silent > NOTICEABLE;
        if is_silent {
            self.engine
                .want_topology(format!("no reply from {address}"), None);
        }
        self.engine.health.borrow_mut().node(
            self.link.node,
            is_silent.then(|| format!("no reply from {address}")),
            Instant::now(),
        );
    }

    /// Take up what is queued; the open batch only if nothing else is under way (see [`Link::nudge`]).
    fn load(&mut self) {
        if self.link.full.borrow().is_some() {
            return self.load_despite_full();
        }
        self.flights.queue.append(&mut self.link.queue.borrow_mut());
        if self.flights.queue.is_empty() && !self.link.open.borrow().is_empty() {
            let spare = self.engine.spares.borrow_mut().take();
            let open = self.link.open.replace(spare);
            self.flights.queue.push_back(Flight::of(open, self.engine));
        }
        self.link.in_flight.set(self.flights.queue.len());
    }

    /// The node is full: take up the probe and what takes no room, and take back what is not yet on its way.
    #[cold]
    fn load_despite_full(&mut self) {
        let begun = self.flights.begun();
        let unsent = self.flights.queue.split_off(begun.min(self.flights.queue.len()));
        let mut queue = self.link.queue.borrow_mut();
        for flight in unsent.into_iter().rev() {
            queue.push_front(flight);
        }
        let (waiting, others) = queue.drain(..).partition(Flight::takes_room);
        *queue = waiting;
        let probe = self.link.full.borrow_mut().as_mut().and_then(Full::take_probe);
        let others: VecDeque<Flight> = others;
        self.flights.queue.extend(others.into_iter().chain(probe));
        self.link.in_flight.set(self.flights.queue.len());
    }

    /// Read all whole replies that are here; whether there were any. Fails if the peer speaks no RESP.
    fn read_replies(&mut self) -> Result<bool, String> {
        let mut progress = false;
        while let Some(flight) = self.flights.queue.front_mut() {
            let data = self.connection.received();
            if data.is_empty() {
                break;
            }
            let (used, done, need) = match flight {
                Flight::Restore {
                    batch,
                    replies,
                    errors,
                    ..
                } => read_restores(data, batch, replies, errors, &self.engine.closings),
                Flight::Compare(comparison) => {
                    comparison.read(data, self.engine.source_now(), &self.engine.closings)
                }
                Flight::Wait(wait) => wait.read(data, &self.engine.closings),
            }
            .map_err(|error| error.to_string())?;
            self.answered |= used > 0;
            progress |= used > 0;
            self.connection.consume(used);
            if !done {
                if need > 0 {
                    self.connection.expect(need);
                }
                break;
            }
            let Some(flight) = self.flights.finish() else {
                return Err("a reply came before its command was sent".to_owned());
            };
            self.finish(flight);
        }
        if self.flights.queue.is_empty() && !self.connection.received().is_empty() {
            return Err(net::UNASKED.to_owned());
        }
        Ok(progress)
    }

    /// The connection is lost: let all wait and go again. Of a batch whose seal has not come, no reply counts: one may
    /// have been left out, and those after it be other keys'.
    fn give_back(&mut self, reason: &str) {
        self.watch(Duration::ZERO);
        let begun = self.flights.begun();
        let first = self.flights.queue.front().filter(|_| begun > 0 && self.was_cut);
        let mut accused = first.and_then(accused);
        for (number, flight) in std::mem::take(&mut self.flights.queue).into_iter().enumerate() {
            match flight {
                Flight::Restore { batch, .. } => {
                    self.wait_again(
                        &batch,
                        0..batch.entries().len(),
                        number < begun,
                        accused.take(),
                        reason,
                    );
                }
                Flight::Compare(comparison) => {
                    comparison.give_up(self.engine);
                    // Nothing of it is settled yet: RESTORE finds the keys busy once more.
                    self.wait_again(
                        comparison.batch(),
                        comparison.picks().iter().copied(),
                        false,
                        None,
                        reason,
                    );
                }
                Flight::Wait(_) => {}
            }
        }
        self.link.in_flight.set(0);
        Self::give_back_queue(self.engine, self.link, reason);
    }

    /// Let entries wait and go again; one of them may be `accused` of having ended the connection.
    fn wait_again(
        &self,
        batch: &Batch,
        entries: impl Iterator<Item = usize>,
        sent: bool,
        accused: Option<(usize, Entry)>,
        reason: &str,
    ) {
        let mut again = Batch::default();
        for index in entries {
            let entry = match accused {
                Some((found, entry)) if found == index => entry,
                _ => batch.entries()[index],
            };
            let entry = Entry {
                in_doubt: entry.in_doubt || sent,
                ..entry
            };
            again.push_again(entry, batch.command(index));
        }
        self.engine.delay(
            again,
            RetryReason::ConnectionLost,
            &format!("{reason} at {}", self.link.address),
        );
    }

    /// Nothing can be sent to this node now: what is queued for it waits for whoever owns the slots then.
    fn give_back_queue(engine: &Rc<Engine>, link: &Rc<Link>, reason: &str) {
        let reason = format!("{reason} at {}", link.address);
        let open = link.open.take();
        let queue = link.queue.take();
        for flight in queue {
            match flight {
                Flight::Restore { batch, .. } if batch.is_asking() => {
                    let mut again = Batch::default();
                    for (index, entry) in batch.entries().iter().enumerate() {
                        again.push_again(*entry, batch.command(index));
                    }
                    engine.delay(again, RetryReason::ConnectionLost, &reason);
                }
                Flight::Restore { batch, .. } => engine.delay(batch, RetryReason::ConnectionLost, &reason),
                Flight::Compare(comparison) => {
                    comparison.give_up(engine);
                    let mut again = Batch::default();
                    for &index in comparison.picks() {
                        let batch = comparison.batch();
                        again.push_again(batch.entries()[index], batch.command(index));
                    }
                    engine.delay(again, RetryReason::ConnectionLost, &reason);
                }
                Flight::Wait(_) => {}
            }
        }
        engine.delay(open, RetryReason::ConnectionLost, &reason);
        engine.probe_lost(link);
    }
}
