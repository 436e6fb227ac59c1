"""The page of a comparison: text and tables alone, in the report's style, without a script."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import gpubench
from gpubench.analysis.compare import RunComparison
from gpubench.analysis.verdicts import Verdict
from gpubench.report.compare_text import show_comparison

__all__ = ["compare_html"]

HERE = Path(__file__).parent
STYLES = (HERE / "page" / "report.css", HERE / "compare_page.css")
MOST_ROWS = 5000
_STYLE = {
    Verdict.SLOWER: "bad",
    Verdict.NEWLY_FAILING: "bad",
    Verdict.FASTER: "good",
    Verdict.NEWLY_OK: "good",
}


def compare_html(comparison: RunComparison) -> str:
    """One self-contained page, light or dark as its reader's machine is; whatever users named or wrote is escaped."""
    environment = Environment(loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined)
    css = "\n".join(path.read_text(encoding="utf-8") for path in STYLES)
    page = environment.get_template("compare_page.html.j2").render(
        before=comparison.before.run_id,
        after=comparison.after.run_id,
        shown=show_comparison(comparison),
        facts=list(_facts(comparison)),
        style=lambda verdict: _STYLE.get(verdict, "quiet"),
        most_rows=MOST_ROWS,
        version=gpubench.__version__,
        css=Markup(css),  # noqa: S704 (our own files)
    )
    return page.encode("utf-8", "backslashreplace").decode()


def _facts(comparison: RunComparison) -> Iterator[tuple[str, str]]:
    if comparison.devices:
        yield "Device", comparison.devices
    yield "Workload", comparison.after.header.workload.name
    yield "Metrics", ", ".join(metric.label for metric in comparison.metrics) or "none"
    yield "Dates", comparison.dates
    yield "What differs", "; ".join(comparison.differences) or "nothing in software or settings"
