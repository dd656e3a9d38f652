//! What a source reader asks for, and when: sizes, keys, the next page.
//!
//! Invariant: the next SCAN of a partition follows the reads of its last page in the same pipeline, so that
//! no round trip is spent on the cursor alone; what is asked of the source at once is bounded in bytes, since
//! replies that wait there count as its memory.

use std::rc::Rc;

use crate::job::engine::Depth;
use crate::ledger::books::PageId;
use crate::resp::encode;
use crate::resp::encode::ExpiryCommand;
use crate::source::fetch::{Ask, Fetch};
use crate::source::page::Keys;
use crate::source::plain_strings::Reading;
use crate::source::reader::SourceReader;
use crate::source::scan::{ScanState, Scanner};

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
        if !self.engine.draining.get() && self.engine.limiter.permitted(1) > 0 {
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
        let allowed = limiter.permitted(self.estimate);
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
    pub(crate) fn go_on(&mut self, scanner: usize) {
        if self.scanners[scanner].state == ScanState::Busy {
            self.scanners[scanner].state = ScanState::Idle;
            // With names enough, `ask` asks for it when those are read; so it does when nothing is allowed now.
            if !self.engine.draining.get() && self.may_ask_page() && self.engine.limiter.permitted(1) > 0 {
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
        if self.engine.draining.get() || self.engine.budget.is_full_of_names() || limiter.permitted(1) == 0 {
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

    pub(crate) fn begin(&mut self, page: PageId, keys: Keys, scanner: Option<usize>) {
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
}
