//! What is not kept of a file: passed over, or given out in parts.
//!
//! Invariant: the next item begins where this one ends, whatever is taken of it.

use crate::rdb::file::cut::{Cut, Passing};
use crate::rdb::file::error::FileError;
use crate::rdb::file::item::{Item, Large, Step};
use crate::rdb::file::layout;
use crate::rdb::file::reader::FileReader;

impl FileReader {
    /// Give the value that has just begun out in parts of about `part` bytes; what of it can't be cut may have `limit`
    /// bytes. Returns false where it can only be passed over: a module's.
    pub fn take_parts(&mut self, part: usize, limit: usize) -> bool {
        let Some(Passing::Value(large)) = &self.passing else {
            return false;
        };
        let form = layout::form_of(large.type_byte, self.is_valkey());
        let Some(form) = form.filter(|_| large.bytes == 0) else {
            return false;
        };
        self.passing = Some(Passing::Parts(Cut::new(large.clone(), form, part, limit)));
        true
    }

    /// Elements of a part that comes next should have so many bytes in the file.
    pub fn set_share(&mut self, bytes: usize) {
        if let Some(Passing::Parts(cut)) = &mut self.passing {
            cut.share = bytes;
        }
    }

    pub(super) fn begin_passing(
        &mut self,
        data: &[u8],
        pieces: &'static [layout::Piece],
        item: Item<'static>,
    ) -> Step<'static> {
        self.walk.begin(pieces);
        self.use_up(&data[..1]);
        self.passing = Some(Passing::Item(item));
        Step::More(1)
    }

    /// Pass over what is not kept.
    pub(super) fn pass(&mut self, data: &[u8]) -> Result<Step<'static>, FileError> {
        if let Some(Passing::Parts(cut)) = &mut self.passing {
            let (used, part) = cut
                .next(data, &mut self.walk)
                .map_err(|what| FileError::Malformed {
                    what,
                    offset: self.offset,
                })?;
            let large = (cut.is_over() && part.is_none()).then(|| cut.large.clone());
            self.use_up(&data[..used]);
            return Ok(match (part, large) {
                (Some(part), _) => Step::Item(used, Item::Part(part)),
                (None, Some(large)) => self.end_large(used, large),
                (None, None) => Step::More(used),
            });
        }
        let (passed, is_over) = self.walk.walk(data).map_err(|what| self.malformed(what, 0))?;
        self.use_up(&data[..passed]);
        if let Some(Passing::Value(large)) = &mut self.passing {
            large.bytes += passed as u64;
        }
        if !is_over {
            return Ok(Step::More(passed));
        }
        Ok(match self.passing.take() {
            None | Some(Passing::Parts(_)) => Step::More(passed),
            Some(Passing::Item(item)) => Step::Item(passed, item),
            Some(Passing::Value(large)) => self.end_large(passed, large),
        })
    }

    fn end_large(&mut self, used: usize, large: Large) -> Step<'static> {
        self.passing = None;
        self.keys += 1;
        self.last_key.clone_from(&large.name);
        Step::Item(used, Item::LargeEnd(large))
    }
}
