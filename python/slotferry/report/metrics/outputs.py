"""Where metrics go: a port that is scraped, or a file that a collector picks up.

Invariant: what can't be served or written is refused before anything begins, and ends no run once it goes on.
A reader of the file never sees half of it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from slotferry.errors import OutputError, UsageError
from slotferry.model.notices import Event
from slotferry.output_file import OutputFile
from slotferry.report.metrics.families import Family, Source

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry
    from prometheus_client.core import Metric

WRITE_SECONDS = 10.0


class MetricsOutput:
    """Hears a run's events, and shows what its figures are; a context manager that ends that."""

    def __init__(self, figures: Source, address: tuple[str, int] | None, path: Path | None) -> None:
        """Serve at `address`, write to `path`, or both. Raises `UsageError` where that can't be."""
        self._figures = figures
        # What reads the file has figures of its own process by the same names, and would refuse ours.
        self._registry = _registry(figures.families, with_process=False)
        self._file = None if path is None else OutputFile(path, "metrics", "--metrics-file")
        self._writing = threading.Lock()  # the moves of a reshard tell their events in threads of their own
        self._next = time.monotonic()
        served = None if address is None else _registry(figures.families, with_process=True)
        self._stop = None if address is None or served is None else _serve(served, *address)
        self.lost: OutputError | None = None
        """Why the file is not as the run ended."""

    def handle(self, event: Event) -> None:
        """Take the next event."""
        self._figures.handle(event)
        if self._file is None:
            return
        with self._writing:
            if self._figures.is_under_way and time.monotonic() >= self._next:
                self._next = time.monotonic() + WRITE_SECONDS
                self._write(self._file)

    def close(self) -> None:
        """Write the last figures, where there are any, and give the port back."""
        if self._stop is not None:
            self._stop()
            self._stop = None
        if self._file is not None and self._figures.is_under_way:
            self._write(self._file)

    def text(self) -> str:
        """Return all metrics in the text format."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry).decode()

    def _write(self, file: OutputFile) -> None:
        # What could not be written is written the next time; only the last one counts.
        self.lost = None
        try:
            file.write([self.text()])
        except OutputError as error:
            self.lost = error


class _Collector:
    """What the registry asks."""

    def __init__(self, families: Callable[[], list[Family]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        kinds = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
        for family in self._families():
            names = list(family.samples[0][0]) if family.samples else []
            metric = kinds[family.kind](family.name, family.help, labels=names)
            for labels, value in family.samples:
                metric.add_metric([labels[name] for name in names], value)
            yield metric

    def describe(self) -> list[Metric]:
        """Return nothing: no other collector has metrics of these names."""
        return []


def _registry(families: Callable[[], list[Family]], *, with_process: bool) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector
    except ImportError:
        raise UsageError(
            "metrics need the package prometheus-client, which is not installed",
            hint="install it with: pip install 'slotferry[metrics]'",
        ) from None
    registry = CollectorRegistry()
    collector: Any = _Collector(families)
    registry.register(collector)
    if with_process:
        ProcessCollector(registry=registry)
    return registry


def _serve(registry: CollectorRegistry, host: str, port: int) -> Callable[[], None]:
    """Serve the metrics in a thread; return what ends that. Raises `UsageError`."""
    from prometheus_client import start_http_server

    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        reason = "the port is in use" if error.errno == errno.EADDRINUSE else error.strerror or str(error)
        raise UsageError(
            f"metrics can't be served at {host}:{port}: {reason}",
            hint="name another address of this machine, and a free port, with --metrics",
        ) from None
    process = os.getpid()

    def stop() -> None:
        if os.getpid() == process:
            server.shutdown()
        server.server_close()
        thread.join()

    return stop
