//! `Handover`: slots of a cluster handed from one node to another.

use std::sync::{Mutex, PoisonError};

use pyo3::prelude::*;
use slotferry_core::handover;
use slotferry_core::handover::{Fate, HandoverSpec, Limits};
use slotferry_core::net::Address;

use crate::access::Access;
use crate::error::{forked, raise};

/// Connections between two nodes, over which slots are handed over.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Handover {
    inner: Mutex<Option<handover::Handover>>,
    process: u32,
}

/// Slot, what became of it, keys, bytes, and the reason in words.
type PyOutcome = (u16, &'static str, u64, u64, String);

#[pymethods]
impl Handover {
    #[new]
    #[pyo3(signature = (
        *,
        source,
        target,
        target_id,
        access,
        client_name,
        replicated,
        workers,
        reading_keys,
        together,
        together_keys,
        chunk_keys,
        chunk_bytes,
        max_keys,
        max_bytes,
        max_key_bytes,
    ))]
    #[allow(clippy::too_many_arguments, reason = "keyword-only, as the stub lists them")]
    fn new(
        source: (String, u16),
        target: (String, u16),
        target_id: String,
        access: &Bound<'_, Access>,
        client_name: String,
        replicated: bool,
        workers: usize,
        reading_keys: usize,
        together: usize,
        together_keys: usize,
        chunk_keys: usize,
        chunk_bytes: u64,
        max_keys: usize,
        max_bytes: u64,
        max_key_bytes: u64,
    ) -> PyResult<Self> {
        let spec = HandoverSpec {
            source: Address::tcp(source.0, source.1),
            target: Address::tcp(target.0, target.1),
            target_id,
            access: access.get().0.clone(),
            client_name,
            replicated,
            limits: Limits {
                workers,
                reading_keys,
                together,
                together_keys,
                chunk_keys,
                chunk_bytes,
                keys: max_keys,
                bytes: max_bytes,
                key_bytes: max_key_bytes,
            },
        };
        Ok(Self {
            inner: Mutex::new(Some(
                handover::Handover::new(spec).map_err(|error| raise(&error))?,
            )),
            process: std::process::id(),
        })
    }

    #[pyo3(signature = (slots, /))]
    #[allow(clippy::needless_pass_by_value, reason = "what an argument of Python becomes")]
    fn hand_over(&self, py: Python<'_>, slots: Vec<u16>) -> PyResult<Vec<PyOutcome>> {
        if std::process::id() != self.process {
            return Err(forked());
        }
        let outcomes = py.detach(|| {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner
                .as_mut()
                .map(|inner| inner.hand_over(&slots))
                .unwrap_or_default()
        });
        Ok(outcomes
            .into_iter()
            .map(|outcome| {
                let (fate, why) = match outcome.fate {
                    Fate::HandedOver => ("handed_over", String::new()),
                    Fate::Large => ("large", String::new()),
                    Fate::Busy => ("busy", String::new()),
                    Fate::Refused(why) => ("refused", why),
                    Fate::NotBegun => ("not_begun", String::new()),
                    Fate::Lost { source: true, why } => ("source_lost", why),
                    Fate::Lost { source: false, why } => ("target_lost", why),
                };
                (outcome.slot, fate, outcome.keys, outcome.bytes, why)
            })
            .collect())
    }
}

impl Drop for Handover {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // In a child of fork() the runtime's descriptors are the parent's.
            std::mem::forget(self.inner.get_mut().ok().and_then(Option::take));
        }
    }
}
