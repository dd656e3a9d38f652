"""The public API: a verification that a cluster holds what a standalone server holds.

Invariant: as of `Migration`: one object, one run, from any thread. Nothing is written unless the options say
so.

    report = Verification("redis://old:6379", "redis+cluster://new1:7000").run()
    for difference in report.examples:
        print(difference.key, difference.kind, difference.source, difference.target)
"""

from __future__ import annotations

from slotferry.api.migration import Migration
from slotferry.jobs.control.cancel import CancelRequest
from slotferry.model.differences import Difference
from slotferry.model.report import Report, VerifyReport
from slotferry.net.endpoints import Endpoint
from slotferry.verify.options import VerifyOptions, check_verified_file
from slotferry.verify.session import VerifySession

__all__ = ["Difference", "Verification", "VerifyOptions", "VerifyReport"]


class Verification(Migration):
    """One comparison of a standalone server with a cluster, key by key, in both directions.

    URLs, events, cancelling and the use as a context manager are those of `Migration`; a verification that
    was interrupted is resumed by the same again. The report says whether both sides are the same (`ok`), how
    many keys differ and how (`differences`), and shows the first few (`examples`); a file for all of them is
    named by `VerifyOptions.differences`.
    """

    options: VerifyOptions

    def __init__(
        self, source: str | Endpoint, target: str | Endpoint, options: VerifyOptions | None = None
    ) -> None:
        super().__init__(source, target, options or VerifyOptions())
        if self._source.is_file:
            check_verified_file(self._source, self.options)

    def _make_session(self, source: Endpoint, target: Endpoint, cancel: CancelRequest) -> VerifySession:
        return VerifySession(source, target, self.options, self._tell, cancel)

    def _complete(self, report: Report) -> Report:
        return report

    def run(self, progress: bool = False) -> VerifyReport:
        """Run in this thread until the end and return the report; `progress` shows it on stderr.

        Differences are no error: look at `VerifyReport.ok`. Raises as `Migration.run` does.
        """
        return _as_verified(super().run(progress))

    async def run_async(self) -> VerifyReport:
        """Run to the end as `run` does; the loop goes on meanwhile. Cancelled as `Migration.run_async` is."""
        return _as_verified(await super().run_async())

    def result(self, timeout: float | None = None) -> VerifyReport:
        """Wait for the end of a run that was begun; return or raise as `run` does.

        Raises `TimeoutError` where it still runs after `timeout` seconds, `UsageError` where none was begun.
        """
        return _as_verified(super().result(timeout))


def _as_verified(report: object) -> VerifyReport:
    assert isinstance(report, VerifyReport)  # noqa: S101 - a VerifySession makes no other
    return report
