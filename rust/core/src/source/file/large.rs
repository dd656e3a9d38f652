//! A large value of a file: handed on part by part, as it is read.
//!
//! Invariant: no more than a part is held of it, and nothing is read on while the target takes that; its key enters the
//! books when it is over, so that a run which ends within it begins with it again.

use std::rc::Rc;

use tokio::sync::mpsc::Receiver;

use crate::chunked::copy::{Big, Ending, Incoming};
use crate::chunked::parts::{CHUNK_BYTES, Chunk, Kind};
use crate::error::{Error, Result};
use crate::ledger::unsettled::FailureKind;
use crate::rdb;
use crate::rdb::file::{Item, Large, Part, Step};
use crate::rdb::{Footer, Value, decode};
use crate::source::file::pages::Origin;
use crate::source::file::reader::{FileSource, Place};
use crate::source::page::Keys;
use crate::text::shown;

/// Which page it is in before it has one.
const NO_PAGE: u32 = u32::MAX;

/// Bytes of elements in the file that are decoded in one go, at least.
const LEAST_SHARE: usize = 4 << 10;

/// What came of a look at the file.
enum Look {
    Part(Part),
    End(Large),
    Again,
    /// More of the file is needed.
    Empty,
}

impl FileSource {
    /// Whether a value that begins is handed on in parts.
    pub(super) fn has_parts(&mut self, large: &Large, now: u64) -> bool {
        !self.engine.spec.scan_only
            && large.expires_at.is_none_or(|at| at > now)
            && rdb::Kind::of(large.type_byte).and_then(Kind::of_rdb).is_some()
            && self.reader.take_parts(CHUNK_BYTES, self.uncut)
    }

    /// Hand the value on that has just begun. Returns false where the job drains before its end.
    pub(super) async fn hand_on(
        &mut self,
        large: Large,
        place: Place,
        input: &mut Receiver<Result<Vec<u8>>>,
    ) -> std::result::Result<bool, Error> {
        let keys = Rc::new(self.engine.with_naming(|naming| {
            let names = std::iter::once(large.name.as_slice());
            match naming {
                None => Keys::collect(names),
                Some(naming) => Keys::name(names, naming),
            }
        }));
        let Some(kind) = rdb::Kind::of(large.type_byte).and_then(Kind::of_rdb) else {
            return Ok(true);
        };
        let big = |size| Big {
            page: NO_PAGE,
            number: 0,
            slot: keys.get(0).1,
            size,
            source: large.name.clone(),
            target: keys.target(0).to_vec(),
            in_doubt: false,
            refused: false,
        };
        let expires_at = large.expires_at.unwrap_or(0);
        let mut incoming = Incoming::new(&self.engine, big(0), kind, expires_at);
        let mut ending = incoming.begin().await.err();
        let over = loop {
            if matches!(ending, Some(Ending::Left)) {
                incoming.sweep().await;
                return Ok(false);
            }
            match self.look() {
                Ok(Look::Part(part)) if ending.is_none() => {
                    ending = self.take_part(&mut incoming, part, &large).await.err();
                }
                Ok(Look::Again | Look::Part(_)) => {}
                Ok(Look::End(over)) => break over,
                Ok(Look::Empty) => {
                    self.buffer.drain(..self.used);
                    self.used = 0;
                    let error = match self.more(input).await {
                        None => None,
                        Some(Some(Ok(piece))) => {
                            self.buffer.extend_from_slice(&piece);
                            continue;
                        }
                        Some(Some(Err(error))) => Some(error),
                        Some(None) => {
                            let whole = self.reader.finish(self.buffer.len());
                            whole.err().map(|error| self.refuse(&error))
                        }
                    };
                    incoming.sweep().await;
                    return error.map_or(Ok(false), Err);
                }
                Err(error) => {
                    incoming.sweep().await;
                    return Err(error);
                }
            }
        };
        if let Err(error) = self.check_border() {
            incoming.sweep().await;
            return Err(error);
        }
        incoming.set_size(over.bytes);
        let ending = match ending {
            Some(ending) => {
                incoming.sweep().await;
                ending
            }
            None => incoming.end().await,
        };
        if matches!(ending, Ending::Left) {
            return Ok(false);
        }
        self.engine.limiter.take(1, 0);
        self.enter_large(&keys, place, big(over.bytes), ending);
        Ok(true)
    }

    /// What comes next of the value.
    fn look(&mut self) -> std::result::Result<Look, Error> {
        let data = std::mem::take(&mut self.buffer);
        let step = match self.reader.next(&data[self.used..]) {
            Ok(Step::More(0)) => Ok((0, Look::Empty)),
            Ok(Step::Item(used, Item::Part(part))) => Ok((used, Look::Part(part))),
            Ok(Step::Item(used, Item::LargeEnd(large))) => Ok((used, Look::End(large))),
            // Nothing else comes before its end.
            Ok(Step::More(used) | Step::Item(used, _)) => Ok((used, Look::Again)),
            Err(error) => Err(error),
        };
        self.buffer = data;
        let (used, look) = step.map_err(|error| self.refuse(&error))?;
        self.used += used;
        Ok(look)
    }

    async fn take_part(
        &mut self,
        incoming: &mut Incoming,
        part: Part,
        large: &Large,
    ) -> std::result::Result<(), Ending> {
        let body = match part {
            Part::Text(bytes, length) => return incoming.take_text(bytes, length).await,
            Part::TooLarge(bytes) => {
                let message = format!(
                    "{} has an element of more than {bytes} bytes in the file, which can't be cut: raise \
                     --memory-limit to four times its size, or load the file into a server and copy from that",
                    shown(&large.name)
                );
                return Err(self.failed(FailureKind::TooLarge, message));
            }
            Part::Body(body) | Part::Rest(body) => body,
        };
        // Of the checksum nothing is asked: the file has one of its own.
        let footer = Footer {
            rdb_version: self.reader.version(),
            crc: 0,
        };
        let value = decode(&body, footer, self.uncut * 2).map_err(|error| {
            let message = format!(
                "{}: its value in the file can't be read: {error}",
                shown(&large.name)
            );
            self.failed(FailureKind::Payload, message)
        })?;
        match value {
            // Its groups come behind its entries, and nothing else does.
            Value::Stream(stream) if stream.entries.is_empty() && body.get(1) == Some(&0) => {
                incoming.take_stream(*stream).await
            }
            value => {
                // What has expired is compared as the target has it: it may be there still.
                let now = if incoming.is_compared() {
                    0
                } else {
                    self.engine.source_now()
                };
                let chunk = Chunk::of(value, incoming.place(), now);
                // They may be compressed there.
                let share = body.len() * CHUNK_BYTES / chunk.bytes().max(1);
                self.reader.set_share(share.clamp(LEAST_SHARE, CHUNK_BYTES));
                incoming.take(chunk).await
            }
        }
    }

    fn failed(&self, kind: FailureKind, message: String) -> Ending {
        Ending::Failed {
            kind,
            message,
            sides: None,
            node: self.engine.spec.source.to_string(),
        }
    }

    /// Enter the key into the books, with what became of it.
    fn enter_large(&mut self, keys: &Rc<Keys>, place: Place, big: Big, ending: Ending) {
        let is_live = self.is_live();
        let end = if is_live { 0 } else { self.border };
        let origin = match (place, self.partition) {
            (Place::File, Some((place, _))) => Origin::File {
                place,
                end,
                is_last: false,
            },
            _ => Origin::Names,
        };
        let engine = Rc::clone(&self.engine);
        if let Some(page) = self.page_of().open(keys, &origin) {
            engine.keep_names(page, keys);
            engine.settle_incoming(page, big, ending, is_live);
            engine.names_are_read(keys);
        }
    }
}
