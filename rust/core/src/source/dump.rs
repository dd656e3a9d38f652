//! The source's replies: pages of names, expiries and payloads, in the order in which they were asked for.
//!
//! Invariant: a reply is read whole or left where it is; a key's expiry and value are passed on together.

use std::time::Instant;

use crate::compare::shape::{Shape, THERE};
use crate::error::{Error, ErrorKind};
use crate::job::engine::Depth;
use crate::net;
use crate::net::Connection;
use crate::resp::{Decoded, ProtocolError, Reply, decode, decode_scan_on, decode_time};
use crate::source::fetch::{Ask, Ended};
use crate::source::page::Keys;
use crate::source::passing_on::{Payload, concerns_one_key};
use crate::source::plain_strings::Reading;
use crate::source::reader::SourceReader;
use crate::source::scan::ScanState;
use crate::source::walk::Walk;

impl SourceReader {
    pub(crate) fn finish_page(&mut self, number: usize) {
        let fetch = self.fetches.remove(number);
        self.engine.names_are_read(&fetch.keys);
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
                Ask::ValueMatch { filter } => self.read_value_match(filter, data)?,
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
        let cluster = self.engine.spec.source_cluster.as_ref();
        if let Some(only) = cluster.and_then(|node| node.only.as_ref()) {
            keys.retain(|key| only.has(key));
        }
        if let Some(follow) = &self.engine.follow {
            // It is copied anyway, and maybe just now.
            keys.retain(|key| !follow.has(key) && !follow.diverts(&self.engine, key));
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
                    if !concerns_one_key(error) && !self.is_redirect(error) {
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
                let payload = payload.map(Payload::Dumped);
                self.pass_on(number, read, expiry, payload, source_now, measure);
            }
            (Ok(expiry), Reply::Integer(length)) if self.engine.is_quick() => {
                self.pass_on_quickly(number, read, expiry, length, source_now);
            }
            (Ok(expiry), Reply::Integer(_)) if self.engine.depth() == Some(Depth::Existence) => {
                self.pass_on(
                    number,
                    read,
                    expiry,
                    Some(Payload::Dumped(&THERE)),
                    source_now,
                    None,
                );
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
                if (error.starts_with(b"NOPERM") && concerns_one_key(error)) || self.is_redirect(error) =>
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
