"""One self-contained page: plotly, data, styles and scripts inlined, so that a double click opens it anywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import gpubench
from gpubench.analysis import columns as c
from gpubench.analysis.frames import series_metrics
from gpubench.analysis.metrics import Metric
from gpubench.analysis.run import Run
from gpubench.report.comparison import compare
from gpubench.report.content import Content
from gpubench.report.evidence import files, hazards, printed, signatures
from gpubench.report.labels import label_facts
from gpubench.report.latencies import latency_table
from gpubench.report.memory import memory
from gpubench.report.payload import page_data, script_json
from gpubench.report.samples import samples
from gpubench.report.starts import start_table
from gpubench.report.triage import show
from gpubench.report.verdict import verdict
from gpubench.triage import Triage

__all__ = ["render_html"]

PAGE = Path(__file__).with_name("page")
SCRIPTS = (
    "format.js",
    "model.js",
    "frontier.js",
    "plot.js",
    "layout.js",
    "labels.js",
    "slo.js",
    "filters.js",
    "state.js",
    "summary.js",
    "controls.js",
    "roofline.js",
    "breakdown.js",
    "kernels.js",
    "memory.js",
    "heatmap.js",
    "views.js",
    "strip.js",
    "detail.js",
    "table.js",
    "report.js",
)
"""In the order in which they are joined into one script."""
STYLES = ("report.css", "views.css")

MOST_COMPARED = 1000
"""Rows of the comparison on a page; their count says how many there are."""
MOST_SIGNATURES = 200
"""Rows of a run's triage on a page."""

_BYTES = "_bytes"
_TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class _Pair:
    name: str
    value: str


@dataclass(frozen=True)
class _MetricRow:
    metric: Metric
    timers: str


@dataclass(frozen=True)
class _Environment:
    run_id: str
    sweep_file: str
    sweep: str
    pairs: list[_Pair]


def render_html(content: Content) -> str:
    """The page of a report, as text. Whatever users named or wrote is escaped."""
    environment = Environment(
        loader=FileSystemLoader(PAGE), autoescape=True, undefined=StrictUndefined, finalize=_visible
    )
    script, css = (
        "\n".join((PAGE / name).read_text(encoding="utf-8") for name in names) for names in (SCRIPTS, STYLES)
    )
    triages = content.triages()
    page = environment.get_template("report.html.j2").render(
        content=content,
        verdict=verdict(content),
        facts=_facts(content),
        comparison=compare(content),
        latencies=latency_table(content),
        starts=start_table(content),
        most_compared=MOST_COMPARED,
        triages=[show(found) for found in triages],
        most_signatures=MOST_SIGNATURES,
        metrics=_metric_rows(content),
        environments=[_environment(run, content.ceilings()) for run in content.runs],
        version=gpubench.__version__,
        css=Markup(css),  # noqa: S704 (our own files)
        data=Markup(script_json(page_data(content) | _evidence(content, triages))),  # noqa: S704 (escaped for where it stands)
        plotly=Markup(get_plotlyjs()),  # noqa: S704
        script=Markup('"use strict";\n{\n' + script + "}\n"),  # noqa: S704 (our own files)
    )
    return page.encode("utf-8", "backslashreplace").decode()


def _evidence(content: Content, triages: Sequence[Triage]) -> dict[str, Any]:
    """What stands behind the figures; see the modules that make it."""
    return {
        "samples": samples(content),
        "memory": memory(content),
        "hazards": hazards(content),
        "files": files(content),
        "printed": printed(content),
        "signatures": signatures(content, triages),
    }


def _visible(value: object) -> object:
    """Characters that turn the direction of what follows, spelled out, as the page's scripts do it."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _TURNING.sub(lambda mark: f"⟨U+{ord(mark[0]):04X}⟩", value)


def _facts(content: Content) -> list[_Pair]:
    workloads = dict.fromkeys(run.header.workload.name for run in content.runs)
    facts = {
        "Device": content.devices(),
        "Workload": workloads,
        **{name[:1].upper() + name[1:]: texts for name, texts in label_facts(content).items()},
        "Timers": content.timers(),
        "Date": content.dates(),
        "Run" if len(content.runs) == 1 else "Runs": [run.run_id for run in content.runs],
    }
    return [_Pair(name, ", ".join(values)) for name, values in facts.items() if values]


def _metric_rows(content: Content) -> list[_MetricRow]:
    timers = content.frame[content.frame[c.TIMER] != ""].groupby(c.METRIC)[c.TIMER].unique()
    rows: dict[str, _MetricRow] = {}
    metric_of = series_metrics(content.frame)
    for series, metric in content.series.items():
        key = metric_of[series]
        rows.setdefault(key, _MetricRow(metric, ", ".join(timers.get(key, [])) or "–"))
    return list(rows.values())


def _environment(run: Run, ceilings: Mapping[tuple[str, str], str]) -> _Environment:
    header = run.header
    pairs = [_in_gigabytes(_Pair(name, value)) for name, value in _flatten(header.environment)]
    pairs += [_Pair(f"ceilings of {gpu}", words) for (run_id, gpu), words in ceilings.items() if run_id == run.run_id]
    sweep = json.dumps(header.sweep, indent=2, ensure_ascii=False, default=str)
    return _Environment(header.run_id, header.sweep_file, sweep, pairs)


def _in_gigabytes(pair: _Pair) -> _Pair:
    """What counts the bytes of a memory, in a unit that can be read."""
    if not (pair.name.endswith(_BYTES) and pair.value.isdecimal()):
        return pair
    return _Pair(pair.name.removesuffix(_BYTES), f"{int(pair.value) / 1e9:,.1f} GB")


def _flatten(value: Mapping[str, Any] | list[Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings and lists as `name.inner` and text, in their order."""
    items = value.items() if isinstance(value, Mapping) else ((str(number), item) for number, item in enumerate(value))
    for name, item in items:
        if isinstance(item, Mapping) or (
            isinstance(item, list) and any(isinstance(part, dict | list) for part in item)
        ):
            yield from _flatten(item, f"{prefix}{name}.")
        elif isinstance(item, list):
            yield f"{prefix}{name}", ", ".join(map(str, item)) or "–"
        else:
            yield f"{prefix}{name}", "–" if item is None or item == "" else str(item)
