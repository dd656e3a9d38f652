//! Reads an RDB from its beginning to its end, and makes pages of its keys.
//!
//! Invariant: of the keys before the mark only those are taken that were handed over by name; the mark is a border of
//! keys of this file, or nothing is written. What was whole before a file ends early is written and recorded. Of a
//! snapshot, what the stream has touched is left to those who follow it.

use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;

use crate::error::{Error, ErrorKind};
use crate::event::{Event, EventKind};
use crate::job::engine::Engine;
use crate::job::follow::Follow;
use crate::ledger::progress::Outcome;
use crate::rdb::file::{Checksum, FileError, FileReader, Item, Large, Step};
use crate::rdb::{Kind, kind_name};
use crate::source::file::pages::{Choice, Origin, Page, Taken, time_left};
use crate::source::file::{FileSpec, Input, input, snapshot};
use crate::text::shown;

/// Bytes of keys and values in a page, about.
const PAGE_BYTES: usize = 256 << 10;

/// How long is waited before it is looked whether the job is to end.
const LOOK: Duration = Duration::from_millis(100);

/// A file as the source of a job.
pub(crate) struct FileSource {
    pub(super) engine: Rc<Engine>,
    file: FileSpec,
    pub(super) reader: FileReader,
    choice: Choice,
    /// Largest value that is kept in one piece, and the largest thing that can't be cut.
    limit: usize,
    pub(super) uncut: usize,
    /// Bytes of the file that are not done with.
    pub(super) buffer: Vec<u8>,
    pub(super) used: usize,
    /// The place of the partition that is read, and where it goes on; none: names alone.
    pub(super) partition: Option<(usize, u64)>,
    /// Keys that were handed over by name and have not come yet.
    names: HashSet<Vec<u8>>,
    /// The database of what comes next, and where the last item has ended.
    database: u64,
    pub(super) border: u64,
    /// Keys of other databases, and the first of these.
    elsewhere: Option<(u64, u64)>,
    /// Libraries of functions that came.
    libraries: u64,
    payload: Vec<u8>,
}

/// Why the reading stops for now.
enum Pause {
    /// A page is full.
    Full,
    /// More of the file is needed.
    Empty,
    /// The file is over.
    Over,
    /// A large value has begun, whose key goes there.
    Large(Large, Place),
}

impl FileSource {
    pub fn new(engine: Rc<Engine>, file: FileSpec) -> Self {
        let spec = &engine.spec;
        // It is held here, in the payload and in the batch.
        let uncut = spec.memory_limit / 4;
        let large = spec.big_key_bytes.and_then(|large| usize::try_from(large).ok());
        let limit = uncut.min(large.unwrap_or(usize::MAX)).min(engine.largest / 2);
        // Of a source that is followed, keys by name are copied by those who follow it.
        let names = spec.names.iter().filter(|_| !file.is_snapshot());
        engine.source_clock.set(Some((file.now, Instant::now())));
        Self {
            reader: FileReader::new(limit).with_texts(uncut),
            choice: Choice::new(&engine),
            limit,
            uncut,
            buffer: Vec::new(),
            used: 0,
            // Partition 0 begins at the cursor 0: there are no others.
            partition: spec.partitions.first().map(|&(_, cursor)| (0, cursor)),
            names: names.cloned().collect(),
            database: 0,
            border: 0,
            elsewhere: None,
            libraries: 0,
            payload: Vec::new(),
            engine,
            file,
        }
    }

    /// Read the file to its end, or until the job drains or fails.
    pub async fn run(mut self) {
        let mut input = if self.file.is_snapshot() {
            snapshot::open(&self.engine)
        } else {
            input::open(&self.file)
        };
        match self.read(&mut input).await {
            Ok(true) if self.file.is_snapshot() => {
                if let Some(follow) = &self.engine.follow {
                    follow.begin_copying();
                }
            }
            Ok(true) => {
                self.tell_elsewhere();
                self.tell_functions();
            }
            Ok(false) => self.engine.cut_short.set(true),
            // What was whole is of no use: another snapshot is another one.
            Err(error) if self.file.is_snapshot() => self.engine.stop(error.kind, error.message),
            // Once what was whole is settled.
            Err(error) => {
                self.engine.ending.borrow_mut().get_or_insert(error);
            }
        }
        let running = &self.engine.readers_running;
        running.set(running.get() - 1);
        self.engine.changed.notify_one();
    }

    /// Returns whether the file was read to its end.
    async fn read(&mut self, input: &mut Receiver<crate::error::Result<Vec<u8>>>) -> Result<bool, Error> {
        loop {
            let Some(most) = self.room().await else {
                return Ok(false);
            };
            match self.page(most)? {
                Pause::Full => self.engine.nudge(),
                Pause::Large(large, place) => {
                    self.engine.nudge();
                    if !self.hand_on(large, place, input).await? {
                        return Ok(false);
                    }
                }
                Pause::Over => {
                    self.engine.nudge();
                    return self.end(input).await;
                }
                Pause::Empty => {
                    self.engine.nudge();
                    self.buffer.drain(..self.used);
                    self.used = 0;
                    match self.more(input).await {
                        None => return Ok(false),
                        Some(Some(piece)) => self.buffer.extend_from_slice(&piece?),
                        Some(None) => {
                            let left = self.buffer.len();
                            return self
                                .reader
                                .finish(left)
                                .map(|()| true)
                                .map_err(|error| self.refuse(&error));
                        }
                    }
                }
            }
        }
    }

    /// The next piece; `Some(None)` at the end of the input, `None` where the job drains.
    pub(super) async fn more(
        &self,
        input: &mut Receiver<crate::error::Result<Vec<u8>>>,
    ) -> Option<Option<crate::error::Result<Vec<u8>>>> {
        loop {
            if self.engine.draining.get() {
                return None;
            }
            if let Ok(piece) = tokio::time::timeout(LOOK, input.recv()).await {
                return Some(piece);
            }
        }
    }

    /// Wait until more may be read: how many keys; `None` where the job drains.
    async fn room(&self) -> Option<usize> {
        let engine = &self.engine;
        loop {
            if engine.draining.get() {
                return None;
            }
            let full = engine.is_full_of_failures();
            if full {
                engine.hold_pages();
            }
            let allowed = engine
                .limiter
                .permitted(PAGE_BYTES / engine.spec.page_keys as usize);
            if !full && allowed > 0 && engine.budget.has_room() && !engine.budget.is_full_of_names() {
                return Some(allowed.min(engine.spec.page_keys as usize));
            }
            tokio::select! {
                () = engine.budget.wait_freed() => {}
                () = engine.limiter.wait(), if engine.limiter.is_on() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Take up to `most` keys of what is here, and pass them on.
    fn page(&mut self, most: usize) -> Result<Pause, Error> {
        let data = std::mem::take(&mut self.buffer);
        let (mut taken, mut named) = (Vec::new(), Vec::new());
        let now = self.engine.source_now();
        let mut bytes = 0;
        let pause = loop {
            if taken.len() + named.len() >= most || bytes >= PAGE_BYTES {
                break Ok(Pause::Full);
            }
            let item = match self.reader.next(&data[self.used..]) {
                Ok(Step::More(0)) => break Ok(Pause::Empty),
                Ok(Step::More(used)) => {
                    self.used += used;
                    continue;
                }
                Ok(Step::Item(used, item)) => {
                    self.used += used;
                    item
                }
                Err(error) => break Err(self.refuse(&error)),
            };
            if let Item::Large(large) = item {
                match self.begin_large(large, now) {
                    Some(begun) => break Ok(begun),
                    None => continue,
                }
            }
            if let Err(error) = self.check_border() {
                break Err(error);
            }
            let key = match item {
                Item::Key(key) => Taken::Whole(key),
                Item::LargeEnd(large) => Taken::Large(large),
                Item::Database(number) => {
                    self.database = number;
                    continue;
                }
                Item::Library(_) => {
                    self.libraries += 1;
                    continue;
                }
                Item::End(checksum) => break self.check(checksum).map(|()| Pause::Over),
                _ => continue,
            };
            match self.place(&key, now) {
                Place::File => {
                    bytes += key.weight();
                    taken.push(key);
                }
                Place::Names => {
                    bytes += key.weight();
                    named.push(key);
                }
                Place::Nowhere => {}
            }
        };
        self.engine.limiter.take(taken.len() + named.len(), bytes);
        let entered = self.enter(&taken, &named, false);
        drop((taken, named));
        self.buffer = data;
        entered.and(pause)
    }

    /// A large value has begun: whether it is handed on in parts. If not, it is passed over, and told at its end.
    fn begin_large(&mut self, large: Large, now: u64) -> Option<Pause> {
        let key = Taken::Large(large);
        let place = self.place_of_large(&key, now);
        match (key, place) {
            (Taken::Large(large), Place::File | Place::Names) if self.has_parts(&large, now) => {
                self.names.remove(&large.name);
                Some(Pause::Large(large, place))
            }
            _ => None,
        }
    }

    /// Enter what was taken into the books.
    fn enter(&mut self, taken: &[Taken<'_>], named: &[Taken<'_>], is_over: bool) -> Result<(), Error> {
        // Not the reader's offset, which may stand within a value that is passed over. Of a snapshot no byte is found again.
        let end = if self.file.is_snapshot() { 0 } else { self.border };
        let partition = self.partition;
        let mut page = self.page_of();
        page.enter(named, &Origin::Names);
        let Some((place, mark)) = partition else {
            return Ok(());
        };
        if is_over && end < mark {
            let message = format!(
                "{} ends before byte {mark}, where the earlier run has stopped: it is another file",
                self.file.name
            );
            return Err(Error::new(ErrorKind::SourceRefused, message));
        }
        if !taken.is_empty() || is_over {
            let is_last = is_over;
            page.enter(taken, &Origin::File { place, end, is_last });
        }
        Ok(())
    }

    /// Where a key goes that was just read.
    fn place(&mut self, key: &Taken<'_>, now: u64) -> Place {
        if self.database != self.file.database {
            let (first, count) = self.elsewhere.unwrap_or((self.database, 0));
            self.elsewhere = Some((first, count + 1));
            return Place::Nowhere;
        }
        if !self.names.is_empty() && self.names.remove(key.name()) {
            return Place::Names;
        }
        match self.partition {
            Some((_, mark)) if self.reader.offset() > mark && self.takes(key, now) => Place::File,
            _ => Place::Nowhere,
        }
    }

    /// Where a key goes whose large value begins.
    fn place_of_large(&self, key: &Taken<'_>, now: u64) -> Place {
        if self.database != self.file.database {
            return Place::Nowhere;
        }
        if self.names.contains(key.name()) {
            return Place::Names;
        }
        match self.partition {
            // By its first byte: only that is known to be a border yet.
            Some((_, mark)) if self.border >= mark && self.takes(key, now) => Place::File,
            _ => Place::Nowhere,
        }
    }

    /// What the keys of a page have in common.
    pub(super) fn page_of(&mut self) -> Page<'_> {
        Page {
            engine: &self.engine,
            rdb_version: self.reader.version(),
            limit: self.limit,
            is_live: self.file.is_snapshot(),
            payload: &mut self.payload,
        }
    }

    /// Whether a live source makes the RDB now.
    pub(super) fn is_live(&self) -> bool {
        self.file.is_snapshot()
    }

    /// Whether a key passes the filters.
    fn takes(&self, key: &Taken<'_>, now: u64) -> bool {
        let engine = &self.engine;
        if engine.spec.sample.is_some_and(|sample| !sample.takes(key.name())) {
            return false;
        }
        // It is copied anyway, as it is now.
        let is_followed = |follow: &Rc<Follow>| follow.has(key.name()) || follow.diverts(engine, key.name());
        if engine.follow.as_ref().is_some_and(is_followed) {
            return false;
        }
        let by_name = engine.with_naming(|naming| match naming {
            None => true,
            Some((map, scratch)) => map.place(key.name(), scratch).is_some(),
        });
        by_name
            && match key {
                Taken::Whole(key) => self.choice.takes(key, now),
                // What a module calls its type is not known any more: it is rather told as failed than left out.
                Taken::Large(large) if Kind::of(large.type_byte) == Some(Kind::Module) => true,
                Taken::Large(large) => {
                    let left = time_left(large.expires_at, now);
                    self.choice.takes_as(kind_name(large.type_byte), left)
                }
            }
    }

    /// The mark has to be a border of items, or the file is another one.
    pub(super) fn check_border(&mut self) -> Result<(), Error> {
        let before = std::mem::replace(&mut self.border, self.reader.offset());
        match self.partition {
            Some((_, mark)) if before < mark && mark < self.border => {
                let message = format!(
                    "{} has no key that ends at byte {mark}, where the earlier run has stopped: it is another file",
                    self.file.name
                );
                Err(Error::new(ErrorKind::SourceRefused, message))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, checksum: Checksum) -> Result<(), Error> {
        let Checksum::Wrong { stored, computed } = checksum else {
            return Ok(());
        };
        let what = format!(
            "{} is damaged: its checksum is {stored:016x}, and its bytes give {computed:016x}",
            self.file.name
        );
        if self.file.ignores_checksum {
            self.engine.shared.tell(Event::new(EventKind::FileDamaged, what));
            return Ok(());
        }
        let message =
            format!("{what}; what was copied may be wrong, and --ignore-checksum takes it as it is");
        Err(Error::new(ErrorKind::SourceRefused, message))
    }

    /// The file is over: nothing may follow, and names that did not come are not in it.
    async fn end(&mut self, input: &mut Receiver<crate::error::Result<Vec<u8>>>) -> Result<bool, Error> {
        let mut rest = self.buffer.len() - self.used;
        // To the end of the input, where it is seen whether the file has changed meanwhile.
        loop {
            match self.more(input).await {
                None => return Ok(false),
                Some(None) => break,
                Some(Some(piece)) => rest += piece?.len(),
            }
        }
        for name in std::mem::take(&mut self.names) {
            self.pass_on_absent(name);
        }
        self.engine.nudge();
        if rest == 0 {
            // Only now is the file known to be whole: a run that ends before has to look at its end again.
            self.enter(&[], &[], true)?;
            return Ok(true);
        }
        let message = format!(
            "{} goes on behind its RDB, at byte {}: an append-only file whose commands are not read",
            self.file.name,
            self.reader.offset()
        );
        Err(Error::new(ErrorKind::SourceRefused, message))
    }

    /// A key was handed over by name, and the file lacks it.
    fn pass_on_absent(&self, name: Vec<u8>) {
        let page = self.engine.shared.ledger().open_names(vec![name]);
        self.engine.settle(page, Outcome::Vanished, 1, 0);
    }

    pub(super) fn refuse(&self, error: &FileError) -> Error {
        let (keys, last) = self.reader.last_key();
        let after = if keys == 0 {
            String::new()
        } else {
            format!(", after {keys} whole keys, the last of them {}", shown(last))
        };
        let message = format!("{} can't be read: {error}{after}", self.file.name);
        Error::new(ErrorKind::SourceRefused, message)
    }

    /// What a file has is known beforehand, and loaded before its keys; what comes from the standard input is not.
    fn tell_functions(&self) {
        if self.libraries > 0 && self.file.input == Input::Stdin {
            let message = format!(
                "{} has {} libraries of functions, which are not copied from there: load them by hand",
                self.file.name, self.libraries
            );
            self.engine
                .shared
                .tell(Event::new(EventKind::FileFunctions, message));
        }
    }

    fn tell_elsewhere(&self) {
        if let Some((database, keys)) = self.elsewhere {
            let message = format!(
                "{} has {keys} keys in other databases, such as {database}, which are not copied: --db names one",
                self.file.name
            );
            self.engine
                .shared
                .tell(Event::new(EventKind::FileDatabases, message));
        }
    }
}

/// Which page a key is in.
#[derive(Clone, Copy)]
pub(super) enum Place {
    File,
    Names,
    Nowhere,
}
