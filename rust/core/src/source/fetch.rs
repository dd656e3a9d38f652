//! What a source reader has under way: pages that are being read, replies that are expected.
//!
//! Invariant: a key of a page is read here once, or is named among those that are not.

use std::rc::Rc;

use crate::compare::shape::Shape;
use crate::error::{Error, ErrorKind};
use crate::ledger::books::PageId;
use crate::resp::ProtocolError;
use crate::source::page::Keys;
use crate::source::plain_strings::Reading;

/// A page whose keys are being read.
#[derive(Debug)]
pub(crate) struct Fetch {
    pub(crate) page: PageId,
    pub(crate) keys: Rc<Keys>,
    /// Keys whose sizes are known or come with their values, and those that are left out here: they are large,
    /// or were read as strings.
    pub(crate) sized: usize,
    pub(crate) big: Vec<usize>,
    /// Keys that were read as strings and are none.
    pub(crate) others: Vec<usize>,
    pub(crate) reading: Reading,
    /// Keys asked for on this connection, and keys read.
    pub(crate) asked: usize,
    pub(crate) read: usize,
    /// The scanner that waits for the page to be asked for, to go on.
    pub(crate) scanner: Option<usize>,
    /// What TYPE said of the keys: a quick verification asks for lengths with it.
    pub(crate) shapes: Vec<Shape>,
}

/// A reply that is expected.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Ask {
    Scan {
        scanner: usize,
    },
    Time,
    Types {
        fetch: usize,
        left: usize,
    },
    /// The sizes of a page's keys.
    Sizes {
        fetch: usize,
    },
    ValueMatch {
        filter: usize,
    },
    Keys {
        fetch: usize,
        left: usize,
        promised: usize,
    },
}

/// Why a connection ended.
pub(crate) enum Ended {
    /// The source is not there; another try may help.
    Lost(String),
    /// The source refuses the login; another one is asked for.
    Denied(String),
    /// The job can't go on.
    Fatal(Error),
}

impl From<ProtocolError> for Ended {
    fn from(error: ProtocolError) -> Self {
        Self::Fatal(Error::new(
            ErrorKind::SourceRefused,
            format!("the source: {error}"),
        ))
    }
}

impl Fetch {
    /// The first key from `number` on that is read here.
    #[inline]
    pub(crate) fn small_from(&self, mut number: usize) -> usize {
        while !self.big.is_empty() && self.big.binary_search(&number).is_ok() {
            number += 1;
        }
        number
    }
}
