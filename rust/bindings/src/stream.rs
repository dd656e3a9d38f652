//! What a replication stream touches, for tests and for tools that look at a recorded one.

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slotferry_core::source::keys::{Effect, KeyReader, Table};

use crate::error::usage;

/// Offset, database, key.
type Touched<'py> = (u64, u32, Bound<'py, PyBytes>);
/// Offset, what it was, its text.
type Other<'py> = (u64, &'static str, Bound<'py, PyBytes>);

/// What the commands of a stream touch; see the stub.
#[pyfunction]
#[pyo3(signature = (commands, stream, database = 0, /))]
pub(crate) fn stream_keys<'py>(
    py: Python<'py>,
    commands: &[u8],
    stream: &[u8],
    database: u32,
) -> PyResult<(Vec<Touched<'py>>, Vec<Other<'py>>, u64, u32)> {
    let table = Table::decode(commands).map_err(|error| usage(error.to_string()))?;
    let mut reader = KeyReader::new(table, 0, database);
    let (mut touched, mut others) = (Vec::new(), Vec::new());
    reader
        .read(stream, |effect, offset, _| {
            let kind = match effect {
                Effect::Key { database, name }
                | Effect::KeyInPart { database, name, .. }
                | Effect::Elements { database, name, .. }
                | Effect::Ends { database, name, .. } => {
                    touched.push((offset, database, PyBytes::new(py, name)));
                    return false;
                }
                Effect::Flushed(_) => "flushed",
                Effect::Swapped(..) => "swapped",
                Effect::Functions => "functions",
                Effect::Published => "published",
                Effect::Script => "script",
                Effect::Unknown(_) => "unknown",
            };
            let text = if let Effect::Unknown(name) = effect {
                name
            } else {
                b""
            };
            others.push((offset, kind, PyBytes::new(py, text)));
            false
        })
        .map_err(|error| usage(error.to_string()))?;
    let (start, database) = reader.start();
    Ok((touched, others, start, database))
}
