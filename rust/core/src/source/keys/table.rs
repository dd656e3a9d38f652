//! Where the keys of each command stand: by the source's own COMMAND, and by what is known of those that COMMAND can't
//! say it of.
//!
//! Invariant: a command that the table lacks, or of which it says no more than that its keys move, is not guessed at.

use std::collections::HashMap;

use crate::resp::{Decoded, Tree};
use crate::source::keys::elements;
use crate::source::keys::elements::{Container, Elements};
use crate::source::keys::layout::{Class, Layout};

/// What COMMAND says, by the names in lower case.
#[derive(Debug, Clone, Default)]
pub struct Table(HashMap<Vec<u8>, Found>);

/// Where the keys of a command stand, and where elements of its first key.
type Found = (Layout, Option<(Option<Container>, Elements)>);

/// A reply that is none to COMMAND.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the source's reply to COMMAND is no table of commands")]
pub struct TableError;

impl Table {
    /// Read the reply to COMMAND.
    pub fn from_reply(reply: &Tree) -> Result<Self, TableError> {
        let mut table = HashMap::new();
        for entry in reply.elements() {
            let (name, layout) = command(entry).ok_or(TableError)?;
            let elements = elements::of(&name);
            table.insert(name, (layout, elements));
        }
        if table.is_empty() {
            return Err(TableError);
        }
        Ok(Self(table))
    }

    /// The same of its bytes.
    pub fn decode(data: &[u8]) -> Result<Self, TableError> {
        match Tree::decode(data) {
            Ok(Decoded::Whole(reply, _)) => Self::from_reply(&reply),
            _ => Err(TableError),
        }
    }

    /// Where the keys of a command stand, and elements, by its name in any case.
    pub(crate) fn find(&self, name: &[u8]) -> Found {
        let unknown = (Layout::Class(Class::Unknown), None);
        let mut lower = [0; 64];
        let Some(lower) = lower.get_mut(..name.len()) else {
            return unknown;
        };
        lower.copy_from_slice(name);
        lower.make_ascii_lowercase();
        match known(lower) {
            Some(layout) if lower == b"xgroup" => (layout, elements::of(lower)),
            Some(layout) => (layout, None),
            None => self.0.get(&*lower).copied().unwrap_or(unknown),
        }
    }

    #[cfg(test)]
    pub(crate) fn of_tests() -> Self {
        let range = |first, last, step| Layout::Range { first, last, step };
        let commands = [
            ("set", range(1, 1, 1)),
            ("del", range(1, -1, 1)),
            ("mset", range(1, -1, 2)),
            ("rename", range(1, 2, 1)),
            ("lmove", range(1, 2, 1)),
            ("rpoplpush", range(1, 2, 1)),
            ("lpush", range(1, 1, 1)),
            ("rpush", range(1, 1, 1)),
            ("lpushx", range(1, 1, 1)),
            ("rpushx", range(1, 1, 1)),
            ("lpop", range(1, 1, 1)),
            ("rpop", range(1, 1, 1)),
            ("ltrim", range(1, 1, 1)),
            ("lset", range(1, 1, 1)),
            ("linsert", range(1, 1, 1)),
            ("lrem", range(1, 1, 1)),
            ("blpop", range(1, -2, 1)),
            ("xclaim", range(1, 1, 1)),
            ("xadd", range(1, 1, 1)),
            ("xtrim", range(1, 1, 1)),
            ("xdel", range(1, 1, 1)),
            ("xack", range(1, 1, 1)),
            ("xsetid", range(1, 1, 1)),
            ("xdelex", range(1, 1, 1)),
            ("json.new", range(1, 1, 1)),
            ("sadd", range(1, 1, 1)),
            ("srem", range(1, 1, 1)),
            ("smove", range(1, 2, 1)),
            ("zadd", range(1, 1, 1)),
            ("zincrby", range(1, 1, 1)),
            ("hset", range(1, 1, 1)),
            ("hdel", range(1, 1, 1)),
            ("hincrby", range(1, 1, 1)),
            ("hpexpireat", range(1, 1, 1)),
            ("hpersist", range(1, 1, 1)),
            ("hsetex", range(1, 1, 1)),
            ("pexpireat", range(1, 1, 1)),
            ("persist", range(1, 1, 1)),
            ("module.hidden", Layout::Class(Class::Unknown)),
            ("module.writes", Layout::Class(Class::Unknown)),
            ("module.tells", Layout::Class(Class::NoData)),
        ];
        Self(
            commands
                .map(|(name, layout)| {
                    let name = name.as_bytes();
                    (name.to_vec(), (layout, elements::of(name)))
                })
                .into(),
        )
    }
}

/// An entry: name, arity, flags, first key, last key, step, and from 6.0 on more.
fn command(entry: &Tree) -> Option<(Vec<u8>, Layout)> {
    let [name, _, flags, first, last, step, ..] = entry.elements() else {
        return None;
    };
    let has = |flag: &[u8]| flags.elements().iter().any(|own| own.text() == Some(flag));
    let [first, last, step] = [first.integer()?, last.integer()?, step.integer()?];
    let layout = if has(b"movablekeys") {
        Layout::Class(Class::Unknown)
    } else if first > 0 && step > 0 {
        Layout::Range {
            first: usize::try_from(first).ok()?,
            last,
            step: usize::try_from(step).ok()?,
        }
    } else if has(b"write") {
        Layout::Class(Class::Unknown)
    } else {
        Layout::Class(Class::NoData)
    };
    Some((name.text()?.to_ascii_lowercase(), layout))
}

/// Commands whose keys COMMAND can't tell, those of which it names more keys than are changed, and those that change
/// more than keys. Read in the servers' sources (Redis 6.2 to 8.6, Valkey to 9.1).
fn known(name: &[u8]) -> Option<Layout> {
    let only = |place: u8| Layout::Range {
        first: place.into(),
        last: place.into(),
        step: 1,
    };
    Some(match name {
        b"eval" | b"evalsha" | b"fcall" | b"bzmpop" | b"blmpop" => Layout::Counted { count: 2, step: 1 },
        b"msetex" => Layout::Counted { count: 1, step: 2 },
        b"lmpop" | b"zmpop" => Layout::Counted { count: 1, step: 1 },
        b"zunionstore" | b"zinterstore" | b"zdiffstore" | b"zrangestore" | b"geosearchstore"
        | b"sunionstore" | b"sinterstore" | b"sdiffstore" | b"pfmerge" => only(1),
        b"bitop" | b"xgroup" => only(2),
        b"sort" => Layout::Sort,
        b"georadius" => Layout::Geo { from: 6 },
        b"georadiusbymember" => Layout::Geo { from: 5 },
        b"xreadgroup" => Layout::Streams,
        b"migrate" => Layout::Migrate,
        b"copy" => Layout::Copy,
        b"move" => Layout::Move,
        b"ping" | b"multi" | b"exec" | b"eval_ro" | b"evalsha_ro" | b"fcall_ro" => {
            Layout::Class(Class::NoData)
        }
        b"replconf" => Layout::Class(Class::Replconf),
        b"select" => Layout::Class(Class::Select),
        b"swapdb" => Layout::Class(Class::SwapDb),
        b"flushdb" => Layout::Class(Class::FlushDb),
        b"flushall" => Layout::Class(Class::FlushAll),
        b"function" => Layout::Class(Class::Function),
        b"publish" | b"spublish" => Layout::Class(Class::Publish),
        b"script" => Layout::Class(Class::Script),
        _ => return None,
    })
}
