//! `Job`: one run of the engine, driven from Python.

use std::sync::Arc;
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use slotferry_core::net::{Address, AddressMap, AddressRule};
use slotferry_core::rdb::{FieldTtl, Show, Target};
use slotferry_core::resp::encode::ExpiryCommand;
use slotferry_core::source::file::{FileSpec, Input};
use slotferry_core::topology::SlotRange;
use slotferry_core::{
    ClusterNode, Depth, Eviction, JobSpec, OnConflict, Sample, Side, SlotSet, Sweep, TargetLimits, Verify,
};

use crate::access::Access;
use crate::checkpoint::Checkpoint;
use crate::error::{forked, raise, usage};
use crate::event::Event;
use crate::filter::ValueFilter;
use crate::follow::FollowSettings;
use crate::keymap::KeyMap;
use crate::snapshot::Snapshot;
use crate::survey::Survey;

/// One run of the engine: a source's partitions and keys into a cluster.
#[pyclass(frozen, module = "slotferry._core")]
pub(crate) struct Job {
    inner: Option<slotferry_core::Job>,
    process: u32,
}

#[derive(FromPyObject)]
enum Source {
    Tcp(String, u16),
    #[pyo3(transparent)]
    Unix(std::path::PathBuf),
}

/// Index, cursor, host, port and `run_id` of a primary.
type PySweep = (u32, u64, String, u16, String);

/// Path, name, stamp, database, whether a wrong checksum is taken, and the target's time: see the stub.
type PyFile = (
    Option<std::path::PathBuf>,
    String,
    Option<(u64, i64)>,
    u64,
    bool,
    u64,
);

/// Whether its SCAN goes from slot to slot, and the ranges of slots whose keys are taken; none: of all.
type PyClusterNode = (bool, Option<Vec<(u16, u16)>>);

type PyRange = (u16, u16, String, u16);

fn ranges(topology: Vec<PyRange>) -> Vec<SlotRange> {
    topology
        .into_iter()
        .map(|(first, last, host, port)| (first, last, Address::tcp(host, port)))
        .collect()
}

fn seconds(name: &str, value: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        usage(format!(
            "{name} must be a number of seconds from 0 on, not {value}"
        ))
    })
}

fn expiry(has_pexpiretime: bool) -> ExpiryCommand {
    if has_pexpiretime {
        ExpiryCommand::Absolute
    } else {
        ExpiryCommand::Relative
    }
}

fn policy(on_conflict: &str) -> PyResult<OnConflict> {
    Ok(match on_conflict {
        "error" => OnConflict::Error,
        "replace" => OnConflict::Replace,
        "skip" => OnConflict::Skip,
        other => {
            return Err(usage(format!(
                "on_conflict is error, replace or skip, not {other}"
            )));
        }
    })
}

impl Job {
    fn inner(&self) -> PyResult<&slotferry_core::Job> {
        self.inner
            .as_ref()
            .filter(|_| std::process::id() == self.process)
            .ok_or_else(forked)
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if std::process::id() != self.process {
            // In a child of fork() the engine's thread is not there to be joined.
            std::mem::forget(self.inner.take());
        }
    }
}

#[pymethods]
impl Job {
    #[new]
    #[pyo3(signature = (
        *,
        source,
        file = None,
        snapshot = None,
        source_access,
        source_run_id,
        source_replication_id = String::new(),
        source_cluster = None,
        source_has_pexpiretime,
        target_access,
        target_has_pexpiretime,
        target_rdb_versions = Vec::new(),
        target_limits = (0, 0),
        field_ttl = "error",
        topology,
        target_nodes = Vec::new(),
        address_map = Vec::new(),
        partition_count,
        partitions,
        keys = Vec::new(),
        on_conflict = "error",
        key_map = None,
        big_key_bytes = None,
        copy_id = None,
        big_positions = Vec::new(),
        value_filter = None,
        survey = None,
        eviction = None,
        r#match = None,
        r#type = None,
        scan_only = false,
        verify = None,
        sweeps = Vec::new(),
        sample = None,
        delete_extra = false,
        follow = None,
        page_keys = 1000,
        source_connections = 2,
        memory_limit = 67_108_864,
        retry_for = 300.0,
        park_after = 20.0,
        max_keys_per_second = None,
        max_bytes_per_second = None,
        pause_above_latency = None,
        wait_replicas = 0,
        wait_timeout = 1.0,
    ))]
    #[allow(
        clippy::too_many_arguments,
        clippy::needless_pass_by_value,
        clippy::fn_params_excessive_bools,
        clippy::too_many_lines,
        reason = "keyword-only, as the stub lists them"
    )]
    fn new(
        source: Source,
        file: Option<PyFile>,
        snapshot: Option<u64>,
        source_access: &Bound<'_, Access>,
        source_run_id: String,
        source_replication_id: String,
        source_cluster: Option<PyClusterNode>,
        source_has_pexpiretime: bool,
        target_access: &Bound<'_, Access>,
        target_has_pexpiretime: bool,
        target_rdb_versions: Vec<u16>,
        target_limits: (u64, u64),
        field_ttl: &str,
        topology: Vec<PyRange>,
        target_nodes: Vec<String>,
        address_map: Vec<AddressRule>,
        partition_count: u32,
        partitions: Vec<(u32, u64)>,
        keys: Vec<Vec<u8>>,
        on_conflict: &str,
        key_map: Option<Bound<'_, KeyMap>>,
        big_key_bytes: Option<u64>,
        copy_id: Option<String>,
        big_positions: Vec<(Vec<u8>, String)>,
        value_filter: Option<Bound<'_, ValueFilter>>,
        survey: Option<Bound<'_, Survey>>,
        eviction: Option<&str>,
        r#match: Option<Vec<u8>>,
        r#type: Option<String>,
        scan_only: bool,
        verify: Option<(f64, &str, bool)>,
        sweeps: Vec<PySweep>,
        sample: Option<f64>,
        delete_extra: bool,
        follow: Option<Bound<'_, FollowSettings>>,
        page_keys: u32,
        source_connections: usize,
        memory_limit: usize,
        retry_for: f64,
        park_after: f64,
        max_keys_per_second: Option<u64>,
        max_bytes_per_second: Option<u64>,
        pause_above_latency: Option<f64>,
        wait_replicas: u32,
        wait_timeout: f64,
    ) -> PyResult<Self> {
        let spec = JobSpec {
            source: match source {
                Source::Tcp(host, port) => Address::tcp(host, port),
                Source::Unix(path) => Address::Unix(path),
            },
            file: file.map(|(path, name, stamp, database, ignores_checksum, now)| FileSpec {
                input: path.map_or(Input::Stdin, Input::Path),
                name: format!("the file {name}"),
                stamp,
                database,
                ignores_checksum,
                now,
            }),
            snapshot,
            source_access: source_access.get().0.clone(),
            source_run_id,
            source_replication_id,
            source_cluster: source_cluster.map(|(scans_by_slot, only)| ClusterNode {
                scans_by_slot,
                only: only.map(|ranges| SlotSet::new(&ranges)),
            }),
            source_expiry: expiry(source_has_pexpiretime),
            target_access: target_access.get().0.clone(),
            target_expiry: expiry(target_has_pexpiretime),
            target_rdb: Target::new(&target_rdb_versions),
            target_limits: TargetLimits::new(target_limits.0, target_limits.1),
            field_ttl: match field_ttl {
                "error" => FieldTtl::Error,
                "drop" => FieldTtl::Drop,
                other => return Err(usage(format!("field_ttl is error or drop, not {other}"))),
            },
            topology: ranges(topology),
            target_nodes,
            address_map: AddressMap::new(address_map),
            partition_count,
            partitions,
            names: keys,
            on_conflict: policy(on_conflict)?,
            key_map: key_map.map(|map| Arc::clone(&map.get().0)),
            big_key_bytes,
            copy_id,
            big_positions,
            value_filter: value_filter.map(|filter| filter.get().0.clone()),
            survey: survey.map(|survey| Arc::clone(&survey.get().0)),
            eviction: match eviction {
                None => None,
                Some("idle_time") => Some(Eviction::IdleTime),
                Some("frequency") => Some(Eviction::Frequency),
                Some(other) => {
                    return Err(usage(format!("eviction is idle_time or frequency, not {other}")));
                }
            },
            pattern: r#match,
            type_name: r#type,
            scan_only,
            verify: verify
                .map(|(tolerance, depth, show_values)| {
                    let depth = match depth {
                        "values" => Depth::Value,
                        "lengths" => Depth::Length,
                        "existence" => Depth::Existence,
                        other => {
                            return Err(usage(format!(
                                "keys are compared by values, lengths or existence, not by {other}"
                            )));
                        }
                    };
                    seconds("the TTL tolerance", tolerance).map(|tolerance| Verify {
                        ttl_tolerance: u64::try_from(tolerance.as_millis()).unwrap_or(u64::MAX),
                        depth,
                        show: if show_values { Show::Values } else { Show::Shapes },
                    })
                })
                .transpose()?,
            sweeps: sweeps
                .into_iter()
                .map(|(index, cursor, host, port, run_id)| Sweep {
                    index,
                    cursor,
                    node: Address::tcp(host, port),
                    run_id,
                })
                .collect(),
            sample: sample
                .map(|share| {
                    Sample::new(share)
                        .ok_or_else(|| usage(format!("sample must be above 0 and below 1, not {share}")))
                })
                .transpose()?,
            delete_extra,
            follow: follow.map(|follow| follow.get().0.clone()),
            page_keys,
            source_connections,
            memory_limit,
            retry_for: seconds("retry_for", retry_for)?,
            park_after: seconds("park_after", park_after)?,
            max_keys_per_second,
            max_bytes_per_second,
            pause_above: pause_above_latency
                .map(|latency| seconds("pause_above_latency", latency))
                .transpose()?,
            wait_replicas,
            wait_timeout: seconds("wait_timeout", wait_timeout)?,
        };
        let job = slotferry_core::Job::new(spec).map_err(|error| raise(&error))?;
        Ok(Self {
            inner: Some(job),
            process: std::process::id(),
        })
    }

    fn start(&self) -> PyResult<()> {
        self.inner()?.start().map_err(|error| raise(&error))
    }

    fn wait(&self, py: Python<'_>, timeout: f64) -> PyResult<bool> {
        let job = self.inner()?;
        let timeout = seconds("timeout", timeout)?;
        Ok(py.detach(|| job.wait(timeout)))
    }

    fn snapshot(&self) -> PyResult<Snapshot> {
        Ok(Snapshot(self.inner()?.snapshot()))
    }

    fn drain_events(&self) -> PyResult<Vec<Event>> {
        Ok(self.inner()?.drain_events().into_iter().map(Event).collect())
    }

    fn checkpoint(&self, py: Python<'_>) -> PyResult<Checkpoint> {
        let job = self.inner()?;
        Checkpoint::new(py, py.detach(|| job.checkpoint()))
    }

    #[pyo3(signature = (topology, nodes, /))]
    fn set_topology(&self, topology: Vec<PyRange>, nodes: Vec<String>) -> PyResult<()> {
        self.inner()?
            .set_topology(ranges(topology), nodes)
            .map_err(|error| raise(&error))
    }

    #[pyo3(signature = (side, access, /))]
    fn set_access(&self, side: &str, access: &Bound<'_, Access>) -> PyResult<()> {
        let side = match side {
            "source" => Side::Source,
            "target" => Side::Target,
            other => return Err(usage(format!("side is source or target, not {other}"))),
        };
        self.inner()?.set_access(side, access.get().0.clone());
        Ok(())
    }

    fn pause(&self) -> PyResult<()> {
        self.inner()?.pause(true);
        Ok(())
    }

    fn resume(&self) -> PyResult<()> {
        self.inner()?.pause(false);
        Ok(())
    }

    #[pyo3(signature = (*, max_keys_per_second, max_bytes_per_second))]
    fn set_rate(&self, max_keys_per_second: Option<u64>, max_bytes_per_second: Option<u64>) -> PyResult<()> {
        self.inner()?.set_rate(max_keys_per_second, max_bytes_per_second);
        Ok(())
    }

    #[pyo3(signature = (offset, timeout, /))]
    fn wait_clean(&self, py: Python<'_>, offset: u64, timeout: f64) -> PyResult<bool> {
        let job = self.inner()?;
        let timeout = seconds("timeout", timeout)?;
        Ok(py.detach(|| job.wait_clean(offset, timeout)))
    }

    #[pyo3(signature = (offset, /))]
    fn finish_following(&self, offset: u64) -> PyResult<()> {
        self.inner()?.finish_following(offset);
        Ok(())
    }

    #[pyo3(signature = (keys, /, *, untold = false))]
    fn touch(&self, keys: Vec<Vec<u8>>, untold: bool) -> PyResult<()> {
        self.inner()?.touch(keys, untold);
        Ok(())
    }

    fn begin_comparison(&self, py: Python<'_>) -> PyResult<(bool, Vec<u16>)> {
        let job = self.inner()?;
        let doubts = py
            .detach(|| job.begin_comparison())
            .map_err(|error| raise(&error))?;
        Ok((doubts.all, doubts.slots))
    }

    fn compare_ahead(&self, py: Python<'_>) -> PyResult<usize> {
        let job = self.inner()?;
        Ok(py.detach(|| job.compare_ahead()))
    }

    #[pyo3(signature = (timeout, /))]
    fn compare_at_fence<'py>(&self, py: Python<'py>, timeout: f64) -> PyResult<Vec<Bound<'py, PyBytes>>> {
        let job = self.inner()?;
        let timeout = seconds("timeout", timeout)?;
        let proven = py.detach(|| job.compare_at_fence(timeout));
        Ok(proven.iter().map(|key| PyBytes::new(py, key)).collect())
    }

    #[pyo3(signature = (differing, /))]
    fn end_comparison(&self, differing: Vec<Vec<u8>>) -> PyResult<()> {
        self.inner()?.end_comparison(differing);
        Ok(())
    }

    #[pyo3(signature = (*, immediately = false))]
    fn cancel(&self, immediately: bool) -> PyResult<()> {
        self.inner()?.cancel(immediately);
        Ok(())
    }

    fn result(&self) -> PyResult<()> {
        match self.inner()?.result() {
            None => Err(usage("the job has not finished yet")),
            Some(result) => result.map_err(|error| raise(&error)),
        }
    }
}
