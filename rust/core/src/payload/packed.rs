//! What the packed encodings have in common. Invariant: whatever the encoding, the same elements come out.

use super::element::Element;
use super::error::Malformed;
use super::intset::Intset;
use super::listpack::Listpack;
use super::ziplist::Ziplist;
use super::zipmap::Zipmap;

/// How the elements of a small collection are packed into one string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Intset,
    Listpack,
    Ziplist,
    Zipmap,
}

/// The elements of a packed string, in order; not to be asked again after the end or an error.
pub(super) type Elements<'a> = Box<dyn Iterator<Item = Result<Element<'a>, Malformed>> + 'a>;

impl Packing {
    /// Reads the header of a packed string.
    pub(super) fn elements(self, bytes: &[u8]) -> Result<Elements<'_>, Malformed> {
        Ok(match self {
            Self::Intset => Box::new(Intset::new(bytes)?),
            Self::Listpack => Box::new(Listpack::new(bytes)?),
            Self::Ziplist => Box::new(Ziplist::new(bytes)?),
            Self::Zipmap => Box::new(Zipmap::new(bytes)?),
        })
    }
}

/// The number of entries in the header of a listpack or ziplist; 65,535 and more are not told apart.
#[derive(Debug, Clone, Copy)]
pub(super) struct Announced(u16);

impl Announced {
    pub(super) fn new(count: u16) -> Self {
        Self(count)
    }

    pub(super) fn allows(self, count: usize) -> bool {
        self.0 == u16::MAX || usize::from(self.0) == count
    }
}
