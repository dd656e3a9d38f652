//! Keys of a file become pages of the books, and are passed on.
//!
//! Invariant: a page is entered with all of its keys before the first of them is passed on; an expired key is written
//! nowhere.

use std::rc::Rc;

use crate::chunked::copy::Big;
use crate::compare::shape::THERE;
use crate::job::engine::{Depth, Engine};
use crate::ledger::books::PageId;
use crate::ledger::progress::Outcome;
use crate::ledger::unsettled::{Failure, FailureKind};
use crate::rdb::file::{Key, Large};
use crate::rdb::module_name;
use crate::resp::{Eviction, Restore};
use crate::source::page::Keys;
use crate::text::shown;
use crate::transform::filter::{Question, ValueFilter};

/// A key of a file that is taken.
pub(super) enum Taken<'a> {
    /// With its value.
    Whole(Key<'a>),
    /// One whose value is too large to be kept.
    Large(Large),
}

impl Taken<'_> {
    pub fn name(&self) -> &[u8] {
        match self {
            Self::Whole(key) => &key.name,
            Self::Large(large) => &large.name,
        }
    }

    /// Bytes of its name and value.
    pub fn weight(&self) -> usize {
        match self {
            Self::Whole(key) => key.name.len() + key.value.len(),
            Self::Large(large) => large.name.len(),
        }
    }
}

/// Which keys of a file are taken, besides by their names.
pub(super) struct Choice {
    type_name: Option<String>,
    filter: Option<ValueFilter>,
    questions: Vec<Question>,
}

impl Choice {
    pub fn new(engine: &Engine) -> Self {
        let filter = engine.spec.value_filter.clone();
        Self {
            type_name: engine.spec.type_name.clone(),
            questions: filter.as_ref().map(ValueFilter::questions).unwrap_or_default(),
            filter,
        }
    }

    /// Whether a key is taken by what it is.
    pub fn takes(&self, key: &Key<'_>, now: u64) -> bool {
        if self.type_name.is_none() && self.questions.is_empty() {
            return true;
        }
        self.takes_as(&type_name(key), time_left(key.expires_at, now))
    }

    /// Whether a key of this type is taken, with this PTTL.
    pub fn takes_as(&self, name: &str, left: i64) -> bool {
        let by_filter = |filter: &ValueFilter| {
            self.questions.iter().all(|question| match question {
                Question::Type => filter.takes_type(name.as_bytes()),
                Question::Ttl => filter.takes_ttl(left),
                // Of a file the memory that a key takes is not known: the control plane refuses such a filter.
                Question::Size => true,
            })
        };
        self.type_name.as_ref().is_none_or(|wanted| wanted == name)
            && self.filter.as_ref().is_none_or(by_filter)
    }
}

/// What TYPE says of it.
fn type_name(key: &Key<'_>) -> String {
    let mut beginning = vec![key.type_byte];
    beginning.extend(key.value.iter().take(9));
    module_name(&beginning).unwrap_or_else(|| key.type_name().to_owned())
}

/// What PTTL says of it: -1 without an expiry.
pub(super) fn time_left(expires_at: Option<u64>, now: u64) -> i64 {
    expires_at.map_or(-1, |at| at.saturating_sub(now).min(i64::MAX as u64).cast_signed())
}

/// What a page belongs to.
pub(super) enum Origin {
    /// The file: the place of its partition, where the page ends, and whether the file does.
    File { place: usize, end: u64, is_last: bool },
    /// Keys that were handed over by name.
    Names,
}

/// What the keys of a page have in common.
pub(super) struct Page<'a> {
    pub engine: &'a Rc<Engine>,
    pub rdb_version: u16,
    pub limit: usize,
    /// A live source can be asked for a large value in parts.
    pub is_live: bool,
    /// Room for a payload.
    pub payload: &'a mut Vec<u8>,
}

impl Page<'_> {
    /// Enter `taken` into the books, and pass each of them on, in the order of their slots.
    pub fn enter(&mut self, taken: &[Taken<'_>], origin: &Origin) {
        let names = taken.iter().map(Taken::name);
        let keys = Rc::new(self.engine.with_naming(|naming| match naming {
            None => Keys::collect(names),
            Some(naming) => Keys::name(names, naming),
        }));
        let Some(page) = self.open(&keys, origin) else {
            return;
        };
        self.engine.keep_names(page, &keys);
        let mut order: Vec<u32> = (0..taken.len() as u32).collect();
        order.sort_unstable_by_key(|&number| keys.get(number as usize).1);
        let now = self.engine.source_now();
        for number in order {
            match &taken[number as usize] {
                Taken::Whole(key) => self.pass_on(page, &keys, number, key, now),
                Taken::Large(large) if large.expires_at.is_some_and(|at| at <= now) => {
                    self.pass_on_expired(page, &keys, number);
                }
                Taken::Large(large) => self.pass_on_large(page, &keys, number, large.bytes),
            }
        }
        self.engine.names_are_read(&keys);
    }

    /// Open the page; none where its keys are only counted, or it has none.
    pub fn open(&self, keys: &Keys, origin: &Origin) -> Option<PageId> {
        let engine = self.engine;
        let &Origin::File { place, end, is_last } = origin else {
            let names = keys.iter().map(|(name, _)| name.to_vec()).collect();
            return (keys.len() > 0).then(|| engine.shared.ledger().open_names(names));
        };
        let count = keys.len() as u64;
        engine.shared.progress.scan(count);
        let open = if engine.spec.scan_only { 0 } else { count as u32 };
        let page = engine.shared.ledger().open_page(place, end, is_last, open, count);
        if engine.spec.scan_only {
            keys.iter().for_each(|(_, slot)| engine.count_only(slot));
        }
        if let Some(survey) = &engine.spec.survey {
            let names = (0..keys.len()).map(|place| {
                let (key, slot) = keys.get(place);
                (key, keys.target(place), slot)
            });
            let spec = &engine.spec;
            survey.add(spec.source_access.database, spec.target_access.database, names);
        }
        (open > 0).then_some(page)
    }

    fn pass_on(&mut self, page: PageId, keys: &Keys, number: u32, key: &Key<'_>, now: u64) {
        let engine = self.engine;
        let (_, slot) = keys.get(number as usize);
        let mut restore = Restore {
            number,
            key: keys.target(number as usize),
            expires_at: key.expires_at.unwrap_or(0),
            payload: b"",
            is_string: false,
            rdb_version: None,
            eviction: measured(engine, key),
        };
        if key.expires_at.is_some_and(|at| at <= now) {
            return self.pass_on_expired(page, keys, number);
        }
        if engine.depth() == Some(Depth::Existence) {
            restore.payload = &THERE;
            return engine.route(page, slot, &restore);
        }
        self.payload.clear();
        key.append_payload(self.payload, self.rdb_version);
        restore.payload = self.payload;
        if restore.key.len() + restore.payload.len() > engine.largest {
            return self.pass_on_large(page, keys, number, key.value.len() as u64);
        }
        engine.route(page, slot, &restore);
    }

    /// A key that has expired is not written.
    fn pass_on_expired(&self, page: PageId, keys: &Keys, number: u32) {
        let engine = self.engine;
        if engine.spec.verify.is_none() {
            return engine.settle(page, Outcome::Expired, 1, 0);
        }
        // The target must not have it either.
        let nothing = Restore {
            number,
            key: keys.target(number as usize),
            expires_at: 0,
            payload: b"",
            is_string: false,
            rdb_version: None,
            eviction: None,
        };
        engine.route(page, keys.get(number as usize).1, &nothing);
    }

    /// A value is not to be written in one piece.
    fn pass_on_large(&self, page: PageId, keys: &Keys, number: u32, size: u64) {
        let (name, slot) = keys.get(number as usize);
        if !self.is_live {
            return self.give_up(page, slot, name, size);
        }
        self.engine.take_big(Big {
            page,
            number,
            slot,
            size,
            source: name.to_vec(),
            target: keys.target(number as usize).to_vec(),
            in_doubt: false,
            refused: false,
        });
    }

    /// A value can't be written in one piece, and it can't be asked for in parts.
    fn give_up(&self, page: PageId, slot: u16, name: &[u8], bytes: u64) {
        let engine = self.engine;
        let most = self.limit.min(engine.largest);
        let what = if self.limit <= engine.largest {
            "raise --memory-limit to four times its size, or load the file into a server and copy from that"
        } else {
            "the target's proto-max-bulk-len and client-query-buffer-limit allow no more"
        };
        let shown = shown(name);
        let message =
            format!("{shown} takes {bytes} bytes in the file, and {most} can be copied from one: {what}");
        engine.fail(
            page,
            Failure {
                key: name.to_vec(),
                slot,
                kind: FailureKind::TooLarge,
                message,
                sides: None,
                node: String::new(),
            },
        );
    }
}

fn measured(engine: &Engine, key: &Key<'_>) -> Option<(Eviction, u64)> {
    let eviction = engine.spec.eviction?;
    let value = match eviction {
        Eviction::IdleTime => key.idle?,
        Eviction::Frequency => key.frequency?.into(),
    };
    Some((eviction, value))
}
