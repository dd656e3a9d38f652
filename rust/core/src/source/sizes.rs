//! Keys that are too large for a page: they leave it, and are copied or compared in chunks.
//!
//! Invariant: a page stays open until the keys that left it are settled.

use crate::chunked::copy::Big;
use crate::resp::{Decoded, ProtocolError, Reply, decode, encode};
use crate::source::fetch::{Ask, Ended};
use crate::source::reader::SourceReader;

impl SourceReader {
    /// Ask how large the keys of a page are; the next page is asked for right behind, so that this costs no
    /// round trip of the scan.
    pub(crate) fn ask_sizes(&mut self, number: usize) {
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
    pub(crate) fn read_sizes(
        &mut self,
        number: usize,
        data: &[u8],
    ) -> Result<(usize, Option<Ask>, usize), Ended> {
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
                // The read of its expiry is answered likewise.
                Decoded::Whole(Reply::Error(error), used) if self.is_redirect(error) => {
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

    /// The payload that was just skipped was too large for the budget: its key is compared in parts.
    pub(crate) fn pass_on_large(&mut self, number: usize) {
        self.expiry = None;
        self.measure = None;
        let fetch = &mut self.fetches[number];
        let (key, slot) = fetch.keys.get(fetch.read);
        self.engine
            .compare_large(fetch.page, slot, key, fetch.keys.target(fetch.read));
        fetch.read += 1;
    }
}
