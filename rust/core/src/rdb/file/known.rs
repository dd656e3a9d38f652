//! Which files, opcodes and types are read, and what the others are called.
//!
//! Invariant: what is not read is refused by its name where it has one, and never guessed at.

use crate::rdb::file::error::FileError;
use crate::rdb::type_byte::{FIRST_VALKEY_VERSION, newer_type};

/// `REDIS0011` or `VALKEY080`.
pub(super) const HEADER: usize = 9;

/// Under `VALKEY`; under `REDIS` it is metadata of a key.
pub(super) const SLOT_IMPORT: u8 = 243;
const FUNCTION_PRE_RELEASE: u8 = 246;

/// The version that a file's first bytes tell.
pub(super) fn version_of(magic: &[u8; HEADER]) -> Result<u16, FileError> {
    let digits = |text: &[u8]| {
        let text = std::str::from_utf8(text).ok()?;
        let plain = text.bytes().all(|byte| byte.is_ascii_digit());
        plain.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (known, version) = if let Some(rest) = magic.strip_prefix(b"REDIS") {
        (6..=15, digits(rest))
    } else if let Some(rest) = magic.strip_prefix(b"VALKEY") {
        (FIRST_VALKEY_VERSION..=81, digits(rest))
    } else {
        return Err(FileError::NotRdb(looks_like(magic)));
    };
    match version {
        Some(version) if known.contains(&version) => Ok(version),
        _ => Err(FileError::Version(magic.escape_ascii().to_string())),
    }
}

/// What a file is that is no RDB, as far as its beginning says.
fn looks_like(magic: &[u8; HEADER]) -> &'static str {
    match magic {
        [b'*', b'1'..=b'9', ..] | [b'#', b'T', b'S', ..] => {
            "an append-only file (AOF), whose commands are not read"
        }
        [b'f', b'i', b'l', b'e', b' ', ..] => "the manifest of an append-only file",
        [0x1f, 0x8b, ..] => "compressed with gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "compressed with zstd",
        [b'P', b'K', 3, 4, ..] => "a zip archive",
        _ => "something that begins neither with REDIS nor with VALKEY",
    }
}

/// What an opcode or a type is that is not read.
pub(super) fn unknown(byte: u8, version: u16) -> String {
    let known = match byte {
        FUNCTION_PRE_RELEASE => Some("a library of functions as pre-releases of Redis 7.0 wrote it"),
        SLOT_IMPORT if version < FIRST_VALKEY_VERSION => {
            Some("metadata that modules keep of a key (Redis 8.6 and later)")
        }
        242 => Some("an opcode of Redis 8.10 or Valkey 9.2"),
        6 => Some("a value of a module as pre-releases of Redis 4.0 wrote it"),
        byte => newer_type(byte, version),
    };
    match known {
        Some(known) => format!("{known}, which is not read"),
        None => format!("an opcode or a type {byte} that is not known to this version of Slotferry"),
    }
}
