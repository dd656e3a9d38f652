//! A job: owns the engine's thread, its runtime and its state.
//!
//! Invariant: pull-only. The control plane polls and pushes through [`Job`]; the engine never calls out. When
//! the job has finished, its thread, its runtime and its connections are gone.

mod comparing;

use std::rc::Rc;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::compare::sweep::sweep;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Event, Side};
use crate::job::control::{Command, FollowStatus, Shared, State, lock};
use crate::job::engine::{Depth, Engine, JobSpec, OnConflict};
use crate::job::follow::is_apart;
use crate::ledger::checkpoint::{Checkpoint, Mark};
use crate::ledger::progress::{Counts, RetryReason};
use crate::net::Access;
use crate::source::file::{FileSource, FileSpec};
use crate::source::reader::SourceReader;
use crate::throttle::reply_timer::note_wake;
use crate::topology;
use crate::topology::SlotRange;

/// How long a drain may take before the job ends with what is acknowledged.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// How long the engine may take to answer.
const COMMAND_PATIENCE: Duration = Duration::from_secs(10);

/// A job at one instant.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// What it is doing.
    pub state: State,
    /// Why it waits or is paused; may also name what only some keys wait for.
    pub reason: String,
    /// All keys so far.
    pub counts: Counts,
    /// MOVED redirects followed.
    pub moved: u64,
    /// ASK redirects followed.
    pub ask: u64,
    /// Commands sent again, by why.
    pub retries: [(RetryReason, u64); 3],
    /// Bytes of keys and payloads held.
    pub buffered_bytes: u64,
    /// CPU time of the engine's thread.
    pub engine_cpu: Duration,
    /// Keys by primary, with its address.
    pub keys_by_primary: Vec<(String, u64)>,
    /// How following stands, once the stream has begun.
    pub follow: Option<FollowStatus>,
}

/// One run of the engine.
#[derive(Debug)]
pub struct Job {
    shared: Arc<Shared>,
    spec: Mutex<Option<JobSpec>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Job {
    /// Describe a job; nothing is opened before [`Self::start`]. Fails with `Usage`.
    pub fn new(spec: JobSpec) -> Result<Self> {
        check(&spec)?;
        let marks: Vec<Mark> = spec
            .partitions
            .iter()
            .copied()
            .chain(spec.sweeps.iter().map(|sweep| (sweep.index, sweep.cursor)))
            .map(|(index, cursor)| Mark {
                index,
                cursor,
                done: false,
            })
            .collect();
        let recorded = spec.follow.as_ref();
        let recorded = recorded.and_then(|follow| follow.recorded(&spec.big_positions));
        let barrier = spec.wait_replicas > 0 && !spec.scan_only;
        let shared = Arc::new(Shared::new(&marks, recorded, barrier));
        let copied = spec.big_positions.iter();
        for (key, position) in copied.filter(|(_, position)| !is_apart(position)) {
            shared.ledger().set_big_position(key, Some(position.clone()));
        }
        Ok(Self {
            shared,
            spec: Mutex::new(Some(spec)),
            thread: Mutex::new(None),
        })
    }

    /// Start the engine's thread. Fails with `Usage` when it was started before.
    pub fn start(&self) -> Result<()> {
        let spec = lock(&self.spec)
            .take()
            .ok_or_else(|| Error::new(ErrorKind::Usage, "the job was started before"))?;
        let shared = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new()
            .name("slotferry".to_owned())
            .spawn(move || {
                let run = std::panic::AssertUnwindSafe(|| run(spec, &shared));
                let result = std::panic::catch_unwind(run).unwrap_or_else(|_| {
                    Err(Error::new(
                        ErrorKind::Internal,
                        "the engine failed; this is a bug of Slotferry",
                    ))
                });
                shared.finish(result);
            })
            .map_err(|error| Error::new(ErrorKind::Internal, format!("no thread for the engine: {error}")))?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// Wait up to `timeout` for the end or an event; returns whether the job has finished.
    pub fn wait(&self, timeout: Duration) -> bool {
        self.shared.wait(timeout)
    }

    /// The job's figures at this instant.
    pub fn snapshot(&self) -> Snapshot {
        let progress = &self.shared.progress;
        let status = self.shared.status();
        Snapshot {
            state: status.state,
            reason: status.reason.clone(),
            counts: progress.counts(),
            moved: progress.moved.load(Ordering::Relaxed),
            ask: progress.ask.load(Ordering::Relaxed),
            retries: RetryReason::ALL.map(|reason| (reason, progress.retries(reason))),
            buffered_bytes: progress.buffered.load(Ordering::Relaxed),
            engine_cpu: Duration::from_micros(progress.cpu_micros.load(Ordering::Relaxed)),
            keys_by_primary: status.keys_by_primary.clone(),
            follow: status.follow.clone(),
        }
    }

    /// The events since the last call.
    pub fn drain_events(&self) -> Vec<Event> {
        self.shared.status().events.drain(..).collect()
    }

    /// What may be recorded as done now; its lists are handed over once.
    pub fn checkpoint(&self) -> Checkpoint {
        let mut ledger = self.shared.ledger();
        let before = ledger.unrecorded();
        let checkpoint = ledger.checkpoint();
        if ledger.unrecorded() < before {
            // Pages may wait for that.
            self.shared.wake.notify_one();
        }
        checkpoint
    }

    /// Replace the map of slots and the ids of the target's nodes whole. Fails with `Usage` for a range that is none.
    pub fn set_topology(&self, ranges: Vec<SlotRange>, nodes: Vec<String>) -> Result<()> {
        topology::check(&ranges)?;
        self.shared.command(Command::SetTopology(ranges, nodes));
        Ok(())
    }

    /// Open the connections of one side with `access` from now on.
    pub fn set_access(&self, side: Side, access: Access) {
        self.shared.command(Command::SetAccess(side, access));
    }

    /// Stop reading from the source, or go on with it; what is under way is finished.
    pub fn pause(&self, paused: bool) {
        self.shared.command(Command::Pause(paused));
    }

    /// Limit what is read from the source in a second, in keys and in bytes; `None`: without a limit.
    pub fn set_rate(&self, keys: Option<u64>, bytes: Option<u64>) {
        self.shared.command(Command::SetRate { keys, bytes });
    }

    /// Wait up to `timeout` until everything that the source's stream had up to `offset` is at the target; returns whether
    /// it is.
    pub fn wait_clean(&self, offset: u64, timeout: Duration) -> bool {
        self.shared.command(Command::Fence(offset));
        let is_clean = self.shared.wait_clean(offset, timeout);
        if !is_clean {
            // Nobody waits: large keys are let rest again.
            self.shared.command(Command::EndFence(offset));
        }
        is_clean
    }

    /// End the job, well, once everything that the source's stream had up to `offset` is at the target.
    pub fn finish_following(&self, offset: u64) {
        self.shared.command(Command::FinishFollowing(offset));
    }

    /// Copy these keys as if the source's stream had touched them now; with `untold` only what it would not tell, where
    /// that is known.
    pub fn touch(&self, keys: Vec<Vec<u8>>, untold: bool) {
        self.shared.command(Command::Touch { keys, untold });
    }

    /// Ask the job to end: with the pages in hand, or at once.
    pub fn cancel(&self, immediately: bool) {
        self.shared.command(if immediately {
            Command::Stop
        } else {
            Command::Drain
        });
    }

    /// How the job ended, if it has.
    pub fn result(&self) -> Option<Result<()>> {
        self.shared.status().result.clone()
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        self.cancel(true);
        if let Some(thread) = lock(&self.thread).take() {
            // It ends at once, and a panic in it was turned into the job's result.
            let _ = thread.join();
        }
    }
}

fn check(spec: &JobSpec) -> Result<()> {
    let usage = |message: String| Err(Error::new(ErrorKind::Usage, message));
    if !spec.partition_count.is_power_of_two() {
        return usage(format!(
            "{} partitions: the number must be a power of two",
            spec.partition_count
        ));
    }
    if let Some((index, _)) = spec
        .partitions
        .iter()
        .find(|(index, _)| *index >= spec.partition_count)
    {
        return usage(format!(
            "there is no partition {index} of {}",
            spec.partition_count
        ));
    }
    if spec.page_keys == 0 || spec.source_connections == 0 || spec.memory_limit == 0 {
        return usage("page_keys, source_connections and memory_limit must be at least 1".to_owned());
    }
    if spec.file.is_some()
        && (spec.follow.is_some()
            || !spec.sweeps.is_empty()
            || spec.delete_extra
            || spec.pattern.is_some()
            || spec.partition_count != 1
            || spec.verify.is_some_and(|verify| verify.depth == Depth::Length))
    {
        return usage(
            "a file is read in one partition, without follow, match, sweeps, delete_extra, and verifies no lengths"
                .to_owned(),
        );
    }
    if spec.snapshot.is_some()
        && (spec.file.is_some()
            || spec.partitions != [(0, 0)]
            || spec.verify.is_some()
            || spec.scan_only
            || !spec.sweeps.is_empty()
            || spec.delete_extra
            || spec.pattern.is_some()
            || (spec.follow.is_none() && !spec.names.is_empty()))
    {
        return usage(
            "a snapshot is read in one partition, from its start, to be copied, and takes no file, keys by name, match, \
             sweeps or delete_extra"
                .to_owned(),
        );
    }
    if let Some(follow) = &spec.follow {
        // Who is followed is copied again and again: over what is there, and by name alone.
        let by_name = spec.pattern.is_none() && spec.type_name.is_none() && spec.value_filter.is_none();
        let copies =
            !spec.scan_only && spec.verify.is_none() && spec.sweeps.is_empty() && spec.sample.is_none();
        if spec.on_conflict != OnConflict::Replace || !by_name || !copies || spec.delete_extra {
            return usage(
                "following needs on_conflict replace, and takes no match, type, value_filter, sample, sweeps, verify, \
                 scan_only or delete_extra"
                    .to_owned(),
            );
        }
        if follow.memory < LEAST_MEMORY {
            return usage(format!(
                "following needs at least {LEAST_MEMORY} bytes for touched keys"
            ));
        }
    }
    topology::check(&spec.topology)
}

/// Room for some thousand touched keys.
const LEAST_MEMORY: usize = 1 << 20;

/// The engine's thread: one single-threaded runtime, dropped at the end with all that runs in it.
fn run(spec: JobSpec, shared: &Arc<Shared>) -> Result<()> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    if spec.pause_above.is_some() {
        runtime.on_thread_unpark(note_wake);
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, format!("no runtime for the engine: {error}")))?;
    let engine = Engine::new(spec, Arc::clone(shared))?;
    let tasks = tokio::task::LocalSet::new();
    let result = runtime.block_on(tasks.run_until(supervise(&engine)));
    publish(&engine);
    drop(tasks);
    // A name look-up that is under way in the runtime's blocking pool is not waited for.
    runtime.shutdown_background();
    result
}

/// Start the readers, then look after the job until it ends.
async fn supervise(engine: &Rc<Engine>) -> Result<()> {
    let readers = engine
        .spec
        .source_connections
        .min(engine.spec.partitions.len().max(1));
    if engine.spec.file.is_none() {
        engine.probe(
            engine.source_server(),
            engine.spec.source.clone(),
            Side::Source,
            || true,
        );
    }
    let sweeps = engine.spec.sweeps.iter().cloned().enumerate();
    let mut lanes_to_start = Some(readers);
    engine
        .readers_running
        .set(readers + sweeps.len() + usize::from(engine.follow.is_some()));
    engine.follow_source();
    engine.hold_barriers();
    for (number, task) in sweeps {
        let place = engine.spec.partitions.len() + number;
        engine.spawn(sweep(Rc::clone(engine), place, task));
    }
    let mut tick = tokio::time::interval(Duration::from_millis(100));
    let mut drain_until: Option<Instant> = None;
    loop {
        tokio::select! {
            () = engine.changed.notified() => {}
            () = engine.shared.wake.notified() => {}
            _ = tick.tick() => publish(engine),
        }
        // Attach first, then copy: what is written meanwhile is in the stream.
        if engine.follow.as_ref().is_none_or(|follow| follow.has_begun())
            && let Some(readers) = lanes_to_start.take()
        {
            start_readers(engine, readers);
            if engine.follow.is_some() {
                engine.spawn(SourceReader::following(Rc::clone(engine), readers).run());
            }
        }
        engine.resume_pages();
        let commands = engine.shared.take_commands();
        for command in commands {
            match command {
                Command::SetTopology(ranges, nodes) => {
                    engine.set_topology(&ranges, nodes);
                    engine.forget_compared();
                }
                Command::SetAccess(side, access) => engine.set_access(side, access),
                Command::Pause(paused) => engine.limiter.pause(paused, Instant::now()),
                Command::SetRate { keys, bytes } => engine.limiter.set_rate(keys, bytes, Instant::now()),
                Command::Stop => return Err(interrupted()),
                Command::Drain if lanes_to_start.is_some() => return Err(interrupted()),
                Command::Fence(_)
                | Command::EndFence(_)
                | Command::FinishFollowing(_)
                | Command::Touch { .. }
                | Command::BeginComparison(_)
                | Command::EndComparison(_)
                | Command::CompareAhead(_)
                | Command::CompareAtFence(_) => follow_command(engine, command),
                Command::Drain => {
                    engine.draining.set(true);
                    drain_until.get_or_insert_with(|| Instant::now() + DRAIN_PATIENCE);
                }
            }
        }
        if let Some(error) = engine.fatal.borrow_mut().take() {
            return Err(error);
        }
        // Of what a pause or a rate held back, a drain reads no more: it ends with what was under way.
        let cut = engine.cut_short.get();
        let idle = engine.is_idle();
        let drained = cut && engine.readers_running.get() == 0 && engine.budget.is_empty_of_values();
        if idle || drained {
            if engine.shared.ledger().is_confirmed() {
                if let Some(error) = engine.ending.borrow_mut().take() {
                    return Err(error);
                }
                return if cut { Err(interrupted()) } else { Ok(()) };
            }
            engine.barrier_wanted.notify_one();
        }
        if drain_until.is_some_and(|until| Instant::now() >= until) {
            return Err(interrupted());
        }
    }
}

fn start_readers(engine: &Rc<Engine>, readers: usize) {
    let spec = &engine.spec;
    let snapshot = spec.snapshot.map(|now| {
        let name = spec.source.to_string();
        FileSpec::snapshot(&name, spec.source_access.database, now)
    });
    if let Some(file) = spec.file.clone().or(snapshot) {
        engine.spawn(FileSource::new(Rc::clone(engine), file).run());
        return;
    }
    for number in 0..readers {
        engine.spawn(SourceReader::new(Rc::clone(engine), number, readers).run());
    }
}

/// A command for the part that follows; without one it is of no effect, and its answer stays away.
fn follow_command(engine: &Rc<Engine>, command: Command) {
    let Some(follow) = &engine.follow else {
        return;
    };
    match command {
        Command::Fence(offset) => follow.set_fence(offset),
        Command::EndFence(offset) => follow.end_fence(offset),
        Command::FinishFollowing(offset) => follow.finish_at(offset),
        Command::Touch { keys, untold } => follow.touch_now(engine, &keys, untold),
        Command::EndComparison(differing) => follow.end_comparison(engine, &differing),
        Command::CompareAtFence(answer) => follow.compare_at_fence(answer),
        Command::CompareAhead(answer) => {
            let _ = answer.try_send(follow.compare_ahead());
        }
        Command::BeginComparison(answer) => {
            // Who asked may have given up.
            let _ = answer.try_send(follow.begin_comparison());
        }
        _ => {}
    }
}

fn interrupted() -> Error {
    Error::new(ErrorKind::Interrupted, "the job was cancelled")
}

/// Show the engine's state to the control plane.
fn publish(engine: &Engine) {
    let shared = &engine.shared;
    shared
        .progress
        .buffered
        .store(engine.budget.held() as u64, Ordering::Relaxed);
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let micros = cpu.tv_sec.cast_unsigned() * 1_000_000 + cpu.tv_nsec.cast_unsigned() / 1000;
    shared.progress.cpu_micros.store(micros, Ordering::Relaxed);
    let now = Instant::now();
    let trouble = engine.health.borrow().reason(now);
    let pause = engine.limiter.pause_reason(now);
    let keys_by_primary = engine.router.borrow().keys_by_primary();
    let follows = engine.follow.as_ref().is_some_and(|follow| follow.has_begun());
    let begun = shared.progress.counts().scanned > 0 || !engine.spec.names.is_empty() || follows;
    let mut status = shared.status();
    status.keys_by_primary = keys_by_primary;
    let stalled;
    (stalled, status.reason) = trouble.unwrap_or_default();
    status.state = if engine.draining.get() {
        State::Draining
    } else if let Some(reason) = pause {
        status.reason = reason;
        State::Paused
    } else if stalled {
        State::Waiting
    } else if begun {
        State::Running
    } else {
        State::Connecting
    };
}
