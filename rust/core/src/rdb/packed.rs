//! What the packed encodings have in common. Invariant: whatever the encoding, the same elements come out.

use crate::rdb::element::Element;
use crate::rdb::error::Malformed;
use crate::rdb::intset::Intset;
use crate::rdb::listpack::Listpack;
use crate::rdb::ziplist::Ziplist;
use crate::rdb::zipmap::Zipmap;

/// How the elements of a small collection are packed into one string.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Intset,
    Listpack,
    Ziplist,
    Zipmap,
}

/// The elements of a packed string, in order; not to be asked again after the end or an error.
pub(crate) type Elements<'a> = Box<dyn Iterator<Item = Result<Element<'a>, Malformed>> + 'a>;

impl Packing {
    /// Reads the header of a packed string.
    pub(crate) fn elements(self, bytes: &[u8]) -> Result<Elements<'_>, Malformed> {
        Ok(match self {
            Self::Intset => Box::new(Intset::new(bytes)?),
            Self::Listpack => Box::new(Listpack::new(bytes)?),
            Self::Ziplist => Box::new(Ziplist::new(bytes)?),
            Self::Zipmap => Box::new(Zipmap::new(bytes)?),
        })
    }
}
