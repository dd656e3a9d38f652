//! A node that ends the connection whenever one key is written: which key that is.
//!
//! Invariant: no key is accused that did not come first, without a reply, on several connections in a row, each of
//! which had been opened well; and none that is too small to be above any limit that a server may have.

use std::rc::Rc;

use crate::chunked::copy::Big;
use crate::job::engine::Engine;
use crate::target::batch::{Batch, Entry};
use crate::target::flight::Flight;

/// So many connections in a row that end with a key show that it is its fault.
const MOST_CUTS: u8 = 4;

/// No server can be configured to take less: 1 MB is the least for both of its settings. Others may stand in between.
const SMALLEST: usize = 256 << 10;

/// What a server says before it ends a connection for what it was sent.
const PROTOCOL_ERROR: &[u8] = b"ERR Protocol error";

/// The entry of the first flight that waited for its reply when its connection ended, as it is to be sent again: with
/// how often that was so.
pub(crate) fn accused(flight: &Flight) -> Option<(usize, Entry)> {
    let Flight::Restore {
        batch,
        replies,
        errors,
        ..
    } = flight
    else {
        return None;
    };
    let per_entry = 1 + usize::from(batch.is_asking());
    let told = errors.iter().find(|(_, text)| text.starts_with(PROTOCOL_ERROR));
    let index = told.map_or(*replies / per_entry, |(index, _)| *index);
    let entry = *batch.entries().get(index)?;
    if batch.command(index).len() < SMALLEST {
        return None;
    }
    let cuts = if told.is_some() { MOST_CUTS } else { entry.cuts + 1 };
    Some((index, Entry { cuts, ..entry }))
}

impl Engine {
    /// A key that a connection has ended with goes by itself the next time; after enough of that, it is written in
    /// chunks, which either passes or tells what is wrong with it. False for all other keys.
    pub(crate) fn send_apart(self: &Rc<Self>, batch: &Batch, index: usize, entry: Entry) -> bool {
        if entry.cuts == 0 {
            return false;
        }
        if entry.cuts >= MOST_CUTS {
            let big = Big {
                in_doubt: true,
                refused: true,
                ..self.big_of(batch, index)
            };
            self.budget.free(batch.weight(index));
            self.health.borrow_mut().recovered(entry.slot);
            self.take_big(big);
            return true;
        }
        let owner = self.router.borrow().topology().owner(entry.slot);
        let Some(owner) = owner else {
            return false;
        };
        let mut alone = Batch::default();
        alone.push_again(entry, batch.command(index));
        self.send_batch(owner, alone);
        true
    }
}
