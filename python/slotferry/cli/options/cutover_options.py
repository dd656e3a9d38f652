"""The options of a cut-over, for those who ask for one and for runs that do it by themselves.

Invariant: what is taken out of the parameters here is all that these options added.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from slotferry.cli.options.types import duration

if TYPE_CHECKING:
    from slotferry.model.cutover import CutoverOptions

CUTOVER_OPTIONS = ("stop_writes", "within", "max_lag", "check", "hold", "run")


def cutover_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a cut-over."""
    options = [
        click.option(
            "--stop-writes",
            type=click.Choice(["pause", "refuse", "none"]),
            default="pause",
            show_default=True,
            help="How writes are stopped at the source: clients wait (CLIENT PAUSE), clients get an error "
            "(min-replicas-to-write), or the writers are stopped already.",
        ),
        click.option(
            "--within",
            type=duration,
            metavar="DURATION",
            default="10s",
            show_default=True,
            help="How long the lag is waited for, and then how long writes may be stopped; later it is "
            "abandoned.",
        ),
        click.option(
            "--max-lag",
            type=duration,
            metavar="DURATION",
            default="1s",
            show_default=True,
            help="Stop no writes before the target is less behind than that.",
        ),
        click.option(
            "--check",
            type=click.Choice(["touched", "sample", "full", "none"]),
            default="touched",
            show_default=True,
            help="What is compared while writes are stopped: keys that were written last, some by chance as "
            "well, or all.",
        ),
        click.option(
            "--hold",
            type=duration,
            metavar="DURATION",
            default="60s",
            show_default=True,
            help="How long afterwards writes stay paused, and are named where some come all the same.",
        ),
        click.option(
            "--run",
            metavar="COMMAND",
            default="",
            help="Switches the application, run by the job's process without a shell; unless it exits with 0 "
            "the cut-over is abandoned.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def take_cutover_options(parameters: dict[str, Any]) -> CutoverOptions:
    """Take what `cutover_options` added out of `parameters`. Raises `OptionError`."""
    from slotferry.model.cutover import CutoverOptions

    return CutoverOptions(**{name: parameters.pop(name) for name in CUTOVER_OPTIONS})
