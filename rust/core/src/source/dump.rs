//! The source's pipeline: SCAN pages come in, each key's expiry and DUMP are asked for and passed on.
//!
//! Invariant: the next SCAN of a partition follows the reads of its last page in the same pipeline, so that
//! no round trip is spent on the cursor alone; what is asked of the source at once is bounded in bytes, since
//! replies that wait there count as its memory.

use std::rc::Rc;
use std::time::Instant;

use crate::chunked::copy::Big;
use crate::compare::shape::{Shape, THERE};
use crate::error::{Error, ErrorKind};
use crate::job::engine::{Depth, Eviction};
use crate::job::progress::Outcome;
use crate::ledger::books::PageId;
use crate::ledger::unsettled::{Failure, FailureKind};
use crate::net;
use crate::net::Connection;
use crate::reply::said;
use crate::resp::encode;
use crate::resp::encode::ExpiryCommand;
use crate::resp::{Decoded, ProtocolError, Reply, decode, decode_scan_on, decode_time};
use crate::source::plain_strings::Reading;
use crate::source::reader::{Ask, Ended, Fetch, SourceReader};
use crate::source::scan::{Keys, ScanState, Scanner};
use crate::source::walk::Walk;
use crate::target::batch::Restore;
use crate::text::shown;

/// Keys that are asked for in one go; between them stands a look at the budget.
const CHUNK: usize = 128;

/// So many bytes of commands may wait to be sent before more are encoded: names may be long.
const MOST_UNSENT: usize = 256 * 1024;

impl SourceReader {
    /// Ask for as much as window and budget allow: first the keys of pages that are here, then more pages.
    pub(crate) fn ask(&mut self) {
        loop {
            if self.out.unsent() > MOST_UNSENT {
                return;
            }
            if let Some(number) = self.unsized_pages.pop_front() {
                self.ask_sizes(number);
            } else if let Some(&number) = self.ready.front() {
                if !self.ask_keys(number) {
                    return;
                }
            } else if self.follows && self.open_touched() {
                // What is to be asked about them comes next.
            } else if !self.names.is_empty() && !self.engine.draining.get() {
                self.open_names();
            } else {
                break;
            }
        }
        self.page_held = false;
        if !self.engine.draining.get() && self.engine.limiter.allowance(1) > 0 {
            for scanner in 0..self.scanners.len() {
                if self.scanners[scanner].state == ScanState::Idle {
                    self.page_held = !self.may_ask_page();
                    if self.page_held {
                        break;
                    }
                    self.ask_page(scanner);
                }
            }
        }
    }

    /// Ask how large the keys of a page are; the next page is asked for right behind, so that this costs no
    /// round trip of the scan.
    fn ask_sizes(&mut self, number: usize) {
        let fetch = &mut self.fetches[number];
        let out = self.out.tail();
        let mut place = fetch.sized;
        while place < fetch.keys.len() {
            encode::memory_usage(out, fetch.keys.get(place).0);
            place = fetch.small_from(place + 1);
        }
        self.asked.push_back(Ask::Sizes { fetch: number });
        // With pages enough, the next one is asked for behind this one's keys.
        if self.ready.len() <= self.scanners.len()
            && let Some(scanner) = fetch.scanner.take()
        {
            self.go_on(scanner);
        }
    }

    /// Read sizes. Keys that are large go their own way; the page's others are asked for when all are known.
    fn read_sizes(&mut self, number: usize, data: &[u8]) -> Result<(usize, Option<Ask>, usize), Ended> {
        let limit = self.engine.spec.big_key_bytes.unwrap_or(u64::MAX);
        let mut at = 0;
        while self.fetches[number].sized < self.fetches[number].keys.len() {
            let size = match decode(&data[at..])? {
                Decoded::Partial(_) => return Ok((at, Some(Ask::Sizes { fetch: number }), 0)),
                Decoded::Whole(Reply::Integer(size), used) => {
                    at += used;
                    size.max(0).cast_unsigned()
                }
                Decoded::Whole(Reply::Bulk(None), used) => {
                    at += used;
                    0
                }
                // Not allowed or not known there: then its size is not known, and it goes as it always did.
                Decoded::Whole(Reply::Error(error), used) => {
                    at += used;
                    self.engine.sizes_unknown(error);
                    0
                }
                Decoded::Whole(..) => return Err(ProtocolError::at(&data[at..]).into()),
            };
            let fetch = &mut self.fetches[number];
            if size >= limit {
                let place = fetch.sized;
                self.take_in_parts(number, place, size);
            }
            let fetch = &mut self.fetches[number];
            fetch.sized = fetch.small_from(fetch.sized + 1);
        }
        self.progress += 1;
        if !self.skip_large(number) {
            self.ready.push_back(number);
        }
        Ok((at, None, 0))
    }

    /// A key leaves its page and goes the way of large keys.
    fn take_in_parts(&mut self, number: usize, place: usize, size: u64) {
        let fetch = &mut self.fetches[number];
        if let Some(follow) = &self.engine.follow {
            follow.note_large(fetch.keys.get(place).0);
        }
        let at = fetch.big.partition_point(|&big| big < place);
        fetch.big.insert(at, place);
        let (key, slot) = fetch.keys.get(place);
        let name = fetch.keys.target(place);
        if self.engine.spec.verify.is_some() {
            self.engine.compare_large(fetch.page, slot, key, name);
        } else {
            self.engine.take_big(Big {
                page: fetch.page,
                number: place as u32,
                slot,
                size,
                source: key.to_vec(),
                target: name.to_vec(),
                in_doubt: false,
                refused: false,
            });
        }
    }

    /// A key that the source can't send whole is read in parts.
    pub(crate) fn set_aside(&mut self, number: usize, place: usize) {
        let size = self.estimate as u64;
        self.take_in_parts(number, place, size);
        self.progress += 1;
        self.skip_large(number);
    }

    /// Go past large keys; whether the page is done with that.
    fn skip_large(&mut self, number: usize) -> bool {
        let fetch = &mut self.fetches[number];
        fetch.asked = fetch.small_from(fetch.asked);
        fetch.read = fetch.small_from(fetch.read);
        if fetch.read == fetch.keys.len() {
            // Nothing of it is asked for here, which would let its partition go on.
            let scanner = fetch.scanner.take();
            self.finish_page(number);
            if let Some(scanner) = scanner {
                self.go_on(scanner);
            }
            return true;
        }
        false
    }

    pub(crate) fn finish_page(&mut self, number: usize) {
        let fetch = self.fetches.remove(number);
        self.engine.names_are_read(&fetch.keys);
    }

    /// Ask for the next keys of a page; false if they do not fit now.
    fn ask_keys(&mut self, number: usize) -> bool {
        let quick = self.engine.is_quick();
        let looks = self.engine.depth() == Some(Depth::Existence);
        let last_plain_byte = self.last_plain_byte();
        let window = self.window_now();
        let fetch = &mut self.fetches[number];
        let plain = fetch.reading == Reading::Plain;
        if quick && fetch.shapes.len() < fetch.keys.len() {
            self.ask_types(number);
            return true;
        }
        let left = fetch.keys.len() - fetch.asked;
        let limiter = &self.engine.limiter;
        let allowed = limiter.allowance(self.estimate);
        if allowed == 0 || self.engine.draining.get() && limiter.is_on() {
            return false;
        }
        // Its name goes out twice, and once more with its value.
        let weight = self.estimate + 3 * fetch.keys.mean_length();
        let count = left.min(CHUNK.min(window / weight).max(1)).min(allowed);
        let promised = count * weight;
        let fits = self.on_the_way == 0 || self.on_the_way + promised <= window;
        if !fits || !self.engine.budget.promise(promised) {
            return false;
        }
        self.on_the_way += promised;
        self.engine.limiter.take(count, promised);
        let expiry = self.engine.spec.source_expiry;
        let out = self.out.tail();
        if expiry == ExpiryCommand::Relative || fetch.asked == 0 {
            encode::time(out);
            self.asked.push_back(Ask::Time);
        }
        let eviction = self.engine.spec.eviction;
        let end = fetch.asked + count;
        let mut count = 0;
        while fetch.asked < end {
            let place = fetch.asked;
            let (key, _) = fetch.keys.get(place);
            if let Some(eviction) = eviction {
                // Before DUMP, which touches the key.
                encode::object(out, eviction, key);
            }
            // The expiry first, so that the RESTORE is encoded in one go when the payload comes.
            encode::expiry(out, expiry, key);
            if quick {
                fetch.shapes[place].ask_length(out, key);
            } else if looks {
                // In the place of the value: that there is an answer is all that is wanted.
                encode::expiry(out, expiry, key);
            } else if plain {
                encode::getrange(out, key, last_plain_byte);
            } else {
                encode::dump(out, key);
            }
            fetch.asked = fetch.small_from(place + 1);
            count += 1;
        }
        self.asked.push_back(Ask::Keys {
            fetch: number,
            left: count,
            promised,
        });
        if fetch.asked == fetch.keys.len() {
            self.ready.pop_front();
            if let Some(scanner) = self.fetches[number].scanner.take() {
                self.go_on(scanner);
            }
        }
        true
    }

    /// Ask for the types of a page's keys, so that their lengths can be asked for.
    fn ask_types(&mut self, number: usize) {
        let out = self.out.tail();
        for (key, _) in self.fetches[number].keys.iter() {
            encode::type_of(out, key);
        }
        self.asked.push_back(Ask::Types {
            fetch: number,
            left: self.fetches[number].keys.len(),
        });
        self.ready.pop_front();
    }

    /// The keys of a scanner's page are asked for: ask for its next page, right behind them.
    fn go_on(&mut self, scanner: usize) {
        if self.scanners[scanner].state == ScanState::Busy {
            self.scanners[scanner].state = ScanState::Idle;
            // With names enough, `ask` asks for it when those are read; so it does when nothing is allowed now.
            if !self.engine.draining.get() && self.may_ask_page() && self.engine.limiter.allowance(1) > 0 {
                self.ask_page(scanner);
            }
        }
    }

    /// Whether one more page may come: names and unrecorded failures are not too many, and of the first page there
    /// was a look at how long names are.
    fn may_ask_page(&self) -> bool {
        if self.engine.is_full_of_failures() {
            self.engine.hold_pages();
            return false;
        }
        // Of the first page, how long names are is seen before the next one comes.
        let waits_for_first =
            self.engine.pace.is_blind() && self.asked.iter().any(|ask| matches!(ask, Ask::Scan { .. }));
        !waits_for_first && !self.engine.budget.is_full_of_names()
    }

    fn ask_page(&mut self, scanner: usize) {
        let spec = &self.engine.spec;
        let (cursor, count) = if let Some(head) = self.scanners[scanner].next_head {
            (head, Scanner::head_count())
        } else {
            let count = self.engine.pace.count(self.scanners[scanner].left());
            (self.scanners[scanner].cursor, count)
        };
        self.scanners[scanner].count = count;
        encode::scan(
            self.out.tail(),
            cursor,
            (count >> self.cuts.saturating_mul(2).min(31)).max(1),
            spec.pattern.as_deref(),
            spec.type_name.as_deref().map(str::as_bytes),
        );
        self.scanners[scanner].state = ScanState::Busy;
        self.asked.push_back(Ask::Scan { scanner });
    }

    /// Begin a page of keys handed over by name.
    fn open_names(&mut self) {
        let most = self.engine.spec.page_keys as usize;
        let (mut count, mut bytes) = (0, 0);
        while count < self.names.len().min(most) && bytes < self.engine.pace.room() {
            bytes += self.names[count].len();
            count += 1;
        }
        let names: Vec<Vec<u8>> = self.names.drain(..count).collect();
        let list = names.iter().map(Vec::as_slice);
        let mut keys = self.engine.with_naming(|naming| match naming {
            None => Keys::collect(list),
            Some(naming) => Keys::name(list, naming),
        });
        keys.sort_by_slot();
        let page = self.engine.shared.ledger().open_names(names);
        self.begin(page, keys, None);
    }

    /// Begin with touched keys, in pages; returns whether there were any.
    fn open_touched(&mut self) -> bool {
        let Some(follow) = self.engine.follow.clone() else {
            return false;
        };
        // A page that is begun counts as under way: in a pause there is to be none.
        let limiter = &self.engine.limiter;
        if self.engine.draining.get() || self.engine.budget.is_full_of_names() || limiter.allowance(1) == 0 {
            return false;
        }
        let pages = follow.take();
        let any = !pages.is_empty();
        for taken in pages {
            let list = taken.iter().map(|taken| &*taken.key);
            let mut keys = self.engine.with_naming(|naming| match naming {
                None => Keys::collect(list),
                Some(naming) => Keys::name(list, naming),
            });
            keys.sort_by_slot();
            let page = self.engine.shared.ledger().open_followed(keys.len() as u32);
            follow.open(page, taken);
            self.begin(page, keys, None);
        }
        any
    }

    fn begin(&mut self, page: PageId, keys: Keys, scanner: Option<usize>) {
        let keys = Rc::new(keys);
        self.engine.keep_names(page, &keys);
        let spec = &self.engine.spec;
        let reading = self.reading();
        let reads = !matches!(self.engine.depth(), Some(Depth::Length | Depth::Existence));
        let probes = spec.big_key_bytes.is_some() && reads && reading != Reading::Plain;
        let fetch = self.fetches.insert(Fetch {
            page,
            sized: if probes { 0 } else { keys.len() },
            big: Vec::new(),
            others: Vec::new(),
            reading,
            keys,
            asked: 0,
            read: 0,
            scanner,
            shapes: Vec::new(),
        });
        if probes {
            self.unsized_pages.push_back(fetch);
        } else {
            self.ready.push_back(fetch);
        }
    }

    /// Read all whole replies that are here.
    pub(crate) fn read_replies(&mut self, connection: &mut Connection) -> Result<(), Ended> {
        // What fails stays in the queue: on the next connection it is asked for again.
        while let Some(&ask) = self.asked.front() {
            let data = connection.received();
            if data.is_empty() {
                break;
            }
            let (used, unfinished, need) = match ask {
                Ask::Scan { scanner } => self.read_page(scanner, data)?,
                Ask::Time => self.read_time(data)?,
                Ask::Types { fetch, left } => self.read_types(fetch, left, data)?,
                Ask::Sizes { fetch } => self.read_sizes(fetch, data)?,
                Ask::ValueMatch { sieve } => self.read_sieve(sieve, data)?,
                Ask::Keys {
                    fetch,
                    left,
                    promised,
                } => self.read_keys(fetch, left, promised, data)?,
            };
            self.asked.pop_front();
            connection.consume(used);
            if let Some(ask) = unfinished {
                self.asked.push_front(ask);
                if need > 0 {
                    connection.expect(need);
                }
                break;
            }
        }
        if self.asked.is_empty() && !connection.received().is_empty() {
            return Err(Ended::Lost(net::UNASKED.to_owned()));
        }
        Ok(())
    }

    /// Fails where a scan comes to no end.
    fn check_walk(&mut self, number: usize, cursor: u64, keys: usize) -> Result<(), Ended> {
        let scanner = &mut self.scanners[number];
        if scanner.ends_with(cursor) {
            return Ok(());
        }
        let now = Instant::now();
        let retry_for = self.engine.spec.retry_for;
        let walk = scanner
            .walk
            .get_or_insert_with(|| Walk::new(scanner.cursor, retry_for));
        if self.engine.limiter.is_on() {
            walk.excuse(now);
        }
        walk.step(cursor, keys, now).map_err(|why| {
            let message = format!("the source {} makes no progress: {why}", self.engine.spec.source);
            Ended::Fatal(Error::new(ErrorKind::SourceRefused, message))
        })
    }

    fn read_page(&mut self, number: usize, data: &[u8]) -> Result<(usize, Option<Ask>, usize), Ended> {
        let (page, used) = match decode_scan_on(data, &mut self.page)? {
            Decoded::Partial(need) => return Ok((0, Some(Ask::Scan { scanner: number }), need)),
            Decoded::Whole(Err(error), _) => return Err(self.refusal("SCAN", error)),
            Decoded::Whole(Ok(page), used) => (page, used),
        };
        self.progress += 1;
        if let Some(head) = self.scanners[number].next_head.take() {
            self.scanners[number].take_head(&page, head, &mut self.engine.overlap.borrow_mut());
            return Ok((used, None, 0));
        }
        self.check_walk(number, page.cursor, page.count)?;
        let scanner = &mut self.scanners[number];
        self.engine
            .pace
            .learn(scanner.count, used, scanner.passed(page.cursor));
        let mut keys = self
            .engine
            .with_naming(|naming| scanner.take(&page, &mut self.engine.overlap.borrow_mut(), naming));
        if let Some(sample) = self.engine.spec.sample {
            keys.retain(|key| sample.takes(key));
        }
        if let Some(follow) = &self.engine.follow {
            // It is copied anyway, and maybe just now.
            keys.retain(|key| !follow.has(key));
        }
        if self.questions.is_empty() || keys.len() == 0 {
            self.enter(number, keys, used);
        } else {
            self.match_values(number, keys);
        }
        Ok((used, None, 0))
    }

    /// Enter a scanner's page into the books, `used` bytes long, and begin to read its keys.
    pub(crate) fn enter(&mut self, number: usize, keys: Keys, used: usize) {
        let scanner = &self.scanners[number];
        let (cursor, last) = (scanner.cursor, scanner.state == ScanState::Done);
        let place = scanner.place;
        self.engine.shared.progress.scan(keys.len() as u64);
        let open = if self.engine.spec.scan_only {
            0
        } else {
            keys.len() as u32
        };
        let page = {
            let mut ledger = self.engine.shared.ledger();
            ledger.open_page(place, cursor, last, open, keys.len() as u64)
        };
        if open > 0 {
            self.begin(page, keys, Some(number));
        } else {
            if self.engine.spec.scan_only {
                self.engine.limiter.take(keys.len(), used);
            }
            for (_, slot) in keys.iter() {
                self.engine.count_only(slot);
            }
            if let Some(survey) = &self.engine.spec.survey {
                let spec = &self.engine.spec;
                let names = (0..keys.len()).map(|place| {
                    let (key, slot) = keys.get(place);
                    (key, keys.target(place), slot)
                });
                survey.add(spec.source_access.database, spec.target_access.database, names);
            }
            self.go_on(number);
        }
    }

    fn read_time(&mut self, data: &[u8]) -> Result<(usize, Option<Ask>, usize), Ended> {
        if let Ok(Decoded::Whole(Reply::Error(error), _)) = decode(data) {
            return Err(self.refusal("TIME", error));
        }
        match decode_time(data)? {
            Decoded::Partial(need) => Ok((0, Some(Ask::Time), need)),
            Decoded::Whole(now, used) => {
                self.clock = now;
                self.engine.source_clock.set(Some((now, Instant::now())));
                Ok((used, None, 0))
            }
        }
    }

    /// Read the types of a page's keys.
    fn read_types(
        &mut self,
        number: usize,
        mut left: usize,
        data: &[u8],
    ) -> Result<(usize, Option<Ask>, usize), Ended> {
        let mut at = 0;
        while left > 0 {
            let shape = match decode(&data[at..])? {
                Decoded::Partial(need) => {
                    let ask = Ask::Types { fetch: number, left };
                    return Ok((at, Some(ask), need));
                }
                Decoded::Whole(Reply::Simple(name), used) => {
                    at += used;
                    Shape::of(name)
                }
                Decoded::Whole(Reply::Error(error), used) => {
                    at += used;
                    if !concerns_one_key(error) {
                        return Err(self.refusal("TYPE", error));
                    }
                    // The read of its expiry will be answered likewise, and tells of it.
                    Shape::Other
                }
                Decoded::Whole(..) => return Err(ProtocolError::at(&data[at..]).into()),
            };
            self.fetches[number].shapes.push(shape);
            left -= 1;
        }
        self.progress += 1;
        self.ready.push_front(number);
        Ok((at, None, 0))
    }

    /// Read expiries and payloads, and route each key.
    fn read_keys(
        &mut self,
        number: usize,
        mut left: usize,
        promised: usize,
        data: &[u8],
    ) -> Result<(usize, Option<Ask>, usize), Ended> {
        let source_now = self.engine.source_now();
        let mut at = 0;
        let mut need = 0;
        let before = left;
        let mut partial = false;
        let mut skipped = 0;
        while left > 0 {
            if self.skip > 0 {
                let skip = self.skip.min(data.len() - at);
                self.skip -= skip;
                skipped += skip;
                at += skip;
                if self.skip > 0 {
                    partial = true;
                    break;
                }
                left -= 1;
                self.pass_on_large(number);
                continue;
            }
            if self.wants_measure() {
                let used = self.read_measure(&data[at..])?;
                if used == 0 {
                    partial = true;
                    break;
                }
                at += used;
            }
            if self.expiry.is_none() {
                match decode(&data[at..])? {
                    Decoded::Partial(_) => {
                        partial = true;
                        break;
                    }
                    Decoded::Whole(Reply::Integer(expiry), used) => {
                        at += used;
                        self.expiry = Some(Ok(expiry));
                    }
                    Decoded::Whole(Reply::Error(error), used) => {
                        at += used;
                        self.expiry = Some(Err(error.to_vec()));
                    }
                    Decoded::Whole(..) => return Err(ProtocolError::at(&data[at..]).into()),
                }
            }
            let (reply, used) = match decode(&data[at..])? {
                Decoded::Partial(total) => {
                    if self.engine.rules().is_some_and(|rules| total > rules.large) {
                        self.skip = total - (data.len() - at);
                        skipped += data.len() - at;
                        at = data.len();
                    } else {
                        need = total;
                    }
                    partial = true;
                    break;
                }
                Decoded::Whole(reply, used) => (reply, used),
            };
            at += used;
            left -= 1;
            let expiry = self.expiry.take().unwrap_or(Ok(-2));
            let measure = self.measure.take();
            self.take(number, expiry, reply, source_now, measure)?
                .ok_or_else(|| ProtocolError::at(&data[at - used..]))?;
            let fetch = &mut self.fetches[number];
            fetch.read = fetch.small_from(fetch.read + 1);
        }
        self.learn(at - skipped, before - left);
        self.progress += (before - left) as u64;
        self.engine.limiter.correct(0, at);
        if partial {
            let ask = Ask::Keys {
                fetch: number,
                left,
                promised,
            };
            return Ok((at, Some(ask), need));
        }
        self.on_the_way = self.on_the_way.saturating_sub(promised);
        self.engine.budget.redeem(promised);
        self.engine.limiter.correct(promised, 0);
        self.close_if_read(number);
        Ok((at, None, 0))
    }

    /// What was read of a key, its expiry first; `None` for replies that these commands do not give.
    #[inline]
    fn take(
        &mut self,
        number: usize,
        expiry: Result<i64, Vec<u8>>,
        reply: Reply<'_>,
        source_now: u64,
        measure: Option<i64>,
    ) -> Result<Option<()>, Ended> {
        let fetch = &self.fetches[number];
        let (read, plain) = (fetch.read, fetch.reading == Reading::Plain);
        match (expiry, reply) {
            (Ok(expiry), Reply::Bulk(Some(value))) if plain && !value.is_empty() => {
                self.pass_on_plain(number, read, expiry, value, source_now);
            }
            (Ok(_), reply) if plain => self.leave_to_dump(number, read, &reply),
            (Ok(expiry), Reply::Bulk(payload)) => {
                self.fetches[number].count_string(payload);
                self.pass_on(number, read, expiry, payload, source_now, measure);
            }
            (Ok(expiry), Reply::Integer(length)) if self.engine.is_quick() => {
                self.pass_on_quickly(number, read, expiry, length, source_now);
            }
            (Ok(expiry), Reply::Integer(_)) if self.engine.depth() == Some(Depth::Existence) => {
                self.pass_on(number, read, expiry, Some(&THERE), source_now, None);
            }
            // Of another type than it was a moment ago.
            (Ok(expiry), Reply::Error(error))
                if self.engine.is_quick() && error.starts_with(b"WRONGTYPE") =>
            {
                self.pass_on_quickly(number, read, expiry, -1, source_now);
            }
            (Err(error), _) => self.unreadable(number, read, &error)?,
            (_, Reply::Error(error)) => self.unreadable(number, read, error)?,
            _ => return Ok(None),
        }
        Ok(Some(()))
    }

    fn close_if_read(&mut self, number: usize) {
        let fetch = &self.fetches[number];
        if fetch.read == fetch.keys.len() {
            self.close(number);
        }
    }

    /// Whether the next reply says how cold or hot a key is.
    #[inline]
    fn wants_measure(&self) -> bool {
        self.engine.spec.eviction.is_some() && self.measure.is_none() && self.expiry.is_none()
    }

    /// Read it; returns the bytes used, 0 if the reply is not all there.
    fn read_measure(&mut self, data: &[u8]) -> Result<usize, Ended> {
        let (measure, used) = match decode(data)? {
            Decoded::Partial(_) => return Ok(0),
            Decoded::Whole(Reply::Integer(measure), used) => (measure, used),
            Decoded::Whole(Reply::Bulk(None), used) => (-1, used),
            // The right is missing for this key: the read of its expiry tells of it.
            Decoded::Whole(Reply::Error(error), used)
                if error.starts_with(b"NOPERM") && concerns_one_key(error) =>
            {
                (-1, used)
            }
            // Such as that the policy was changed meanwhile.
            Decoded::Whole(Reply::Error(error), _) => return Err(self.refusal("OBJECT", error)),
            Decoded::Whole(..) => return Err(ProtocolError::at(data).into()),
        };
        self.measure = Some(measure);
        Ok(used)
    }

    #[inline]
    fn measured(&self, measure: Option<i64>) -> Option<(Eviction, u64)> {
        self.engine.spec.eviction.zip(u64::try_from(measure?).ok())
    }

    /// A key was read: route it, or settle it if there is nothing to write.
    #[inline]
    pub(crate) fn pass_on(
        &self,
        number: usize,
        read: usize,
        expiry: i64,
        payload: Option<&[u8]>,
        source_now: u64,
        measure: Option<i64>,
    ) {
        let fetch = &self.fetches[number];
        let (_, slot) = fetch.keys.get(read);
        let expires_at = match (self.engine.spec.source_expiry, expiry) {
            (_, -1) => 0,
            (ExpiryCommand::Absolute, at) => at.max(0).cast_unsigned(),
            // Counted from the server's time before it answered: never lengthened.
            (ExpiryCommand::Relative, rest) => self.clock + rest.max(0).cast_unsigned(),
        };
        match payload {
            Some(payload) if expiry != -2 && (expires_at == 0 || expires_at > source_now) => {
                let restore = Restore {
                    number: read as u32,
                    key: fetch.keys.target(read),
                    expires_at,
                    payload,
                    rdb_version: None,
                    eviction: self.measured(measure),
                };
                self.engine.route(fetch.page, slot, &restore);
            }
            _ if self.follows || self.engine.minds_absent_keys() => self.pass_on_absent(fetch, read),
            // It had an expiry and is gone, or would be by the source's clock.
            _ if expiry >= 0 => self.engine.settle(fetch.page, Outcome::Expired, 1, 0),
            _ => self.engine.settle(fetch.page, Outcome::Vanished, 1, 0),
        }
    }

    /// A quick verification: what stands for the value is routed.
    fn pass_on_quickly(&self, number: usize, read: usize, expiry: i64, length: i64, source_now: u64) {
        let stand_in = self.fetches[number].shapes[read].stand_in(length);
        let payload = stand_in.as_ref().map(<[u8; 9]>::as_slice);
        self.pass_on(number, read, expiry, payload, source_now, None);
    }

    /// The payload that was just skipped was too large for the budget: its key is compared in parts.
    fn pass_on_large(&mut self, number: usize) {
        self.expiry = None;
        self.measure = None;
        let fetch = &mut self.fetches[number];
        let (key, slot) = fetch.keys.get(fetch.read);
        self.engine
            .compare_large(fetch.page, slot, key, fetch.keys.target(fetch.read));
        fetch.read += 1;
    }

    /// The source lacks a key: what about the target?
    fn pass_on_absent(&self, fetch: &Fetch, read: usize) {
        let (_, slot) = fetch.keys.get(read);
        let nothing = Restore {
            number: read as u32,
            key: fetch.keys.target(read),
            expires_at: 0,
            payload: b"",
            rdb_version: None,
            eviction: None,
        };
        if self.engine.spec.verify.is_some() {
            self.engine.route(fetch.page, slot, &nothing);
        } else if self.follows {
            self.engine.delete_followed(fetch.page, slot, &nothing);
        } else {
            self.engine.route_deletion(fetch.page, slot, &nothing);
        }
    }

    /// A key's read was answered with an error.
    fn unreadable(&self, number: usize, read: usize, error: &[u8]) -> Result<(), Ended> {
        let text = said(error);
        if !concerns_one_key(error) {
            return Err(self.refusal("DUMP", error));
        }
        let fetch = &self.fetches[number];
        let (key, slot) = fetch.keys.get(read);
        self.engine.fail(
            fetch.page,
            Failure {
                key: key.to_vec(),
                slot,
                kind: if text.starts_with("NOPERM") {
                    FailureKind::Denied
                } else {
                    FailureKind::Error
                },
                message: format!("the source answered {text} to DUMP {}", shown(key)),
                sides: None,
                node: self.engine.spec.source.to_string(),
            },
        );
        Ok(())
    }

    /// An error that concerns the source as a whole.
    pub(crate) fn refusal(&self, command: &str, error: &[u8]) -> Ended {
        let text = said(error);
        match text.split(' ').next().unwrap_or_default() {
            "LOADING" | "BUSY" | "MASTERDOWN" | "UNBLOCKED" => Ended::Lost(text),
            _ => Ended::Fatal(Error::new(
                ErrorKind::SourceRefused,
                format!(
                    "the source {} answered {text} to {command}",
                    self.engine.spec.source
                ),
            )),
        }
    }

    /// Take the size of keys that came into the estimate: upwards at once, downwards slowly.
    fn learn(&mut self, bytes: usize, keys: usize) {
        if let Some(average) = bytes.checked_div(keys) {
            let smoothed = if std::mem::take(&mut self.is_guess) {
                average
            } else {
                (self.estimate * 3 + average) / 4
            };
            self.estimate = average.max(smoothed).max(64);
        }
    }
}

/// Whether an error reply of the source is about one key and not about the source as a whole.
pub(crate) fn concerns_one_key(error: &[u8]) -> bool {
    let text = said(error);
    let denied = text.starts_with("NOPERM") && !text.contains("to run the");
    denied || text.starts_with("ERR")
}
