//! RDB files, read as they come: what a DUMP of each key would give, without decoding any value.
//!
//! Invariants: sans-IO and in bounded memory; any bytes give items or an error that says where, never a panic; an
//! opcode or a type that is not known is refused, never guessed at. Format: Redis `rdb.c` and `rdb.h`, and
//! docs/protocol.md.
//!
//! Where it lives: `layout` says of which lengths a value is made, `walk` goes over them, `head` reads one of them;
//! `reader` makes `item`s of a file, and `cut` parts of a large value; `known` says which files, opcodes and types are read.

mod cut;
mod error;
mod head;
mod item;
mod known;
mod layout;
mod passing;
mod reader;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_parts;
mod walk;

pub use error::FileError;
pub use item::{Checksum, Item, Key, Large, Part, Step};
pub use reader::FileReader;
