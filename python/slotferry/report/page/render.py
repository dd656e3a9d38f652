"""A page as HTML: one file that loads nothing.

Invariant: every value is escaped by the template library, and the page's own policy (CSP) lets no script and
no style run but the two that are part of it, so a key can't be more than text.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

from slotferry.errors import UsageError
from slotferry.report.page.charts import HEIGHT, WIDTH
from slotferry.report.page.content import Page
from slotferry.report.page.size import fitted

if TYPE_CHECKING:
    from jinja2 import Template


def need_library() -> None:
    """Raise `UsageError` where the template library is not installed."""
    try:
        import jinja2
    except ImportError:
        raise UsageError(
            "a report page needs the package jinja2, which is not installed",
            hint="install it with: pip install 'slotferry[html]'",
        ) from None
    del jinja2


def html(page: Page) -> str:
    """Return the page. Raises `UsageError` where the template library is not installed."""
    from markupsafe import Markup

    style, script = _part("page.css"), _part("page.js")
    return _template().render(
        page=fitted(page),
        width=WIDTH,
        height=HEIGHT,
        style=Markup(style),  # noqa: S704 - a file of ours
        script=Markup(script),  # noqa: S704 - a file of ours
        style_hash=_digest(style),
        script_hash=_digest(script),
    )


@cache
def _template() -> Template:
    need_library()
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    return environment.from_string(_part("page.html.j2"))


@cache
def _part(name: str) -> str:
    return files("slotferry.report.page").joinpath("templates").joinpath(name).read_text("utf-8").strip()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
