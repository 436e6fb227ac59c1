"""What each metric means, in one place: its name, its unit, which way is better, and its formula in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from gpubench.catalogue import MetricInfo, WorkloadInfo

__all__ = [
    "FACTOR",
    "METRICS",
    "SERVED_TIMES",
    "SHARE",
    "Metric",
    "compared_times",
    "define",
    "definitions",
    "format_tail",
    "format_value",
]

SERVED_TIMES = ("ttft", "tpot")
"""What a user of a serving loop waits for. Its iterations are of two kinds, with somebody's prompt in them or without,
and a median over both may lie anywhere between."""
STEP_TIMES = ("step_time", "kernel_sum")
"""What a user of a step waits for, and what the GPU works for it: a backend can win one and lose the other."""


SHARE = "share"
"""The unit of a part of a whole."""
FACTOR = "×"
"""The unit of how many times one figure is another."""


@dataclass(frozen=True)
class Metric:
    """A metric as a reader meets it: on an axis, in a table's head, in the list of definitions."""

    key: str
    label: str
    unit: str
    """As values are shown with: SI without a prefix, or a plain word; a `share` is of 1 and shown in percent."""
    higher_is_better: bool | None
    """None for what only says what ran, such as a count: more of it is no gain, and less is none."""
    formula: str
    is_reported: bool = True
    """False for what is only a term of another metric's formula: it stays out of axes, tables and pages."""
    has_tail: bool = False
    """What each request sees for itself, so that the slow ones count: shown with its p90 and p99."""

    @property
    def title(self) -> str:
        """For an axis: the label with the unit, unless it begins with it (tok/s/user) or every tick has it."""
        is_said = self.unit in ("", SHARE) or self.label.startswith(f"{self.unit}/")
        return self.label if is_said else f"{self.label} ({self.unit})"

    @property
    def better(self) -> str:
        """Which way is, in a word: `higher`, `lower`, or `neither`."""
        return {True: "higher", False: "lower", None: "neither"}[self.higher_is_better]


def _seconds(key: str, label: str, formula: str, *, has_tail: bool = False) -> Metric:
    return Metric(key, label, "s", higher_is_better=False, formula=formula, has_tail=has_tail)


def _rate(key: str, label: str, unit: str, formula: str) -> Metric:
    return Metric(key, label, unit, higher_is_better=True, formula=formula)


METRICS: Mapping[str, Metric] = {
    metric.key: metric
    for metric in [
        _rate(
            "tok_s_user",
            "tok/s/user",
            "tok/s",
            "what one user sees: 1 / step time for a bare decode step, 1 / TPOT for a served request",
        ),
        _rate(
            "tok_s_gpu",
            "tok/s/GPU",
            "tok/s",
            "output tokens per second over all GPUs that the cell stands for, simulated ranks included",
        ),
        _seconds(
            "step_time",
            "step time",
            "one step from start to end, without a profiler; with the host's launching in it, unless measure.launch "
            "leaves it out",
        ),
        _seconds("kernel_sum", "kernel sum", "the durations of a step's kernels, added; overlapping ones count twice"),
        _seconds("busy", "busy", "the time in which at least one of the step's operations ran on the GPU"),
        _seconds("span", "span", "from the start of the step's first operation on the GPU to the end of its last"),
        _seconds("gap", "gap", "span − busy: the time within a step in which the GPU waited"),
        _seconds(
            "launch_overhead",
            "launch overhead",
            "step time − busy: the part of an unprofiled step in which the GPU ran nothing, as it waited for launches",
        ),
        _seconds("ttft", "TTFT", "from sending a request to its first token", has_tail=True),
        _seconds("tpot", "TPOT", "(E2E − TTFT) / (output tokens − 1), per request", has_tail=True),
        _seconds("itl", "ITL", "the gap between two consecutive tokens of a request", has_tail=True),
        _seconds("e2e", "E2E", "from sending a request to its last token", has_tail=True),
        _seconds("loop_overhead", "loop overhead", "of an iteration, what passed neither in the engine nor in waiting"),
        Metric(
            "loop_overhead_share",
            "loop overhead's share",
            SHARE,
            higher_is_better=False,
            formula="loop overhead / step time, iteration by iteration",
        ),
        *(
            Metric(key, label, unit, higher_is_better=None, formula=formula)
            for key, label, unit, formula in [
                ("decoding", "decoding", "sequences", "sequences that got a token by decoding, per iteration"),
                ("prefill_share", "prefill's share", SHARE, "iterations in which a chunk of a prompt was prefilled"),
                ("iterations", "iterations", "iterations", "of the loop, in the window that is measured"),
                ("window", "window", "s", "from the last user's last warm-up answer to the first user's last answer"),
            ]
        ),
        _rate(
            "bytes_per_s",
            "achieved bandwidth",
            "B/s",
            "the bytes a step must move at least / its step time (under a profiler: / busy)",
        ),
        _rate(
            "flop_per_s",
            "achieved FLOP rate",
            "FLOP/s",
            "the floating-point operations a step must do at least / its step time (under a profiler: / busy)",
        ),
        Metric(
            "roofline",
            "roofline",
            SHARE,
            higher_is_better=True,
            formula="the time that the step's bytes take at the GPU's copy bandwidth, or its FLOP at its matmul rate, "
            "whichever is longer, / step time (under a profiler: / busy); both rates were measured in the same run",
        ),
        _seconds("trace_time", "trace time", "what tracing a step took, once for cells that share what was traced"),
        _seconds("start_time", "start time", "warming up and capturing a step, all buckets together"),
        _seconds("release_time", "release time", "resetting all graphs that were captured with a small cache"),
        _seconds("recapture_time", "recapture time", "releasing graphs, warming up and capturing them again"),
        *(
            Metric(f"graphs_{part}", f"graphs' memory, {part}", "B", higher_is_better=False, formula=formula)
            for part, formula in [
                ("estimated", "what the device had less of after the captures with a small cache"),
                ("kept", "what of that it still had less of when they had been released"),
            ]
        ),
        _seconds("capture_time", "capture time", "the captures of one bucket of token counts, without warming up"),
        _seconds("replay_time", "replay time", "by bucket: the shortest of five steps in pieces, by the wall clock"),
        _seconds("eager_time", "eager time", "by bucket: the shortest of five eager steps, by the wall clock"),
        *(
            Metric(f"memory_{part}", f"memory, {part}", "B", higher_is_better=False, formula=f"by bucket: {formula}")
            for part, formula in [
                ("device", "by how much less the driver had free when its graphs had been captured and replayed once"),
                ("reserved", "what torch's allocator took of the driver for it"),
                ("allocated", "what of that belonged to tensors"),
                ("pool", "what of that was reserved for the memory pool of its graphs"),
                ("driver", "device − reserved: what the driver took for the graphs' nodes"),
            ]
        ),
        Metric(
            "tax",
            "profiler's tax",
            FACTOR,
            higher_is_better=False,
            formula="the same step under the profiler, from the opening of its range to the end of its last operation "
            "on the GPU, / step time; kernel times pay none of it",
        ),
        Metric(
            "profiled_step",
            "profiled step",
            "s",
            higher_is_better=False,
            formula="under the profiler, from the opening of the step's range on the host to the end of its last "
            "operation on the GPU: only for the tax, and no timing of a step",
            is_reported=False,
        ),
    ]
}
"""gpubench's own metrics, in the order in which a report lists them."""

_RATES = ("/s", "tok/s")
_ALIKE = {("1/s", "tok/s"), ("tokens/s", "tok/s")}
"""Units that are another's by another name."""


def define(key: str, unit: str = "", declared: MetricInfo | None = None) -> Metric:
    """The definition of a metric: gpubench's own, else the workload's, else what its unit says.

    A metric that nobody declared (a command's own figures) is better high if it is a rate, and else low. One of
    gpubench's own that is reported in a unit of another kind, tokens where seconds are wanted, keeps that unit.
    """
    own = METRICS.get(key)
    if own is not None:
        return own if unit in ("", own.unit) or (unit, own.unit) in _ALIKE else replace(own, unit=unit)
    if declared is not None:
        words = declared.description or "declared by the workload"
        return Metric(key, key, unit or declared.unit, declared.higher_is_better, words)
    return Metric(key, key, unit, unit.endswith(_RATES), "reported by the workload itself")


def definitions(present: Iterable[tuple[str, str]], workloads: Iterable[WorkloadInfo]) -> dict[str, Metric]:
    """The metrics of (key, unit) pairs, gpubench's own first and in their order, the others as they come."""
    declared = {metric.name: metric for workload in workloads for metric in workload.metrics}
    found = {key: define(key, unit, declared.get(key)) for key, unit in present}
    own = {key: found[key] for key in METRICS if key in found}
    return own | found


_PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P"}
_PREFIXED: Mapping[str, range] = {
    "s": range(-4, 1),
    "B": range(6),
    "B/s": range(6),
    "FLOP": range(6),
    "FLOP/s": range(6),
    "1/s": range(6),
    "Hz": range(6),
}
"""The units that take a prefix, and which ones: a thousand seconds are not a kilosecond."""
_GLUED: Mapping[str, tuple[int, str]] = {SHARE: (100, "%"), FACTOR: (1, "×")}
"""The units that are a sign right behind the number, and what the number is multiplied by for it."""


def compared_times(known: Mapping[str, Metric]) -> list[Metric]:
    """Of the metrics that there are, the times by which backends and runs are compared unless others are asked for."""
    served = [known[key] for key in SERVED_TIMES if key in known]
    return served or [known[key] for key in STEP_TIMES if key in known]


def format_value(value: float | None, unit: str) -> str:
    """A value to three significant digits, with an SI prefix where its unit takes one: `18.3 µs`, `812 tok/s`, `93.1%`.

    None and NaN are an en dash.
    """
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if unit in _GLUED:
        scale, sign = _GLUED[unit]
        scaled = value * scale
        return _digits(float(f"{scaled:.3g}") if abs(scaled) < 1000 else scaled) + sign
    rounded = float(f"{value:.3g}")
    exponents = _PREFIXED.get(unit)
    if exponents is None:
        return f"{_digits(rounded if abs(value) < 1000 else value)} {unit}".rstrip()
    exponent = 0 if rounded == 0 else math.floor(math.log10(abs(rounded)) / 3)
    exponent = min(max(exponent, exponents[0]), exponents[-1])
    number = _digits(rounded / 1000.0**exponent)
    shown = unit.removeprefix("1")
    return f"{number} {_PREFIXES[exponent]}{shown}"


def format_tail(values: Sequence[float], unit: str) -> str:
    """Percentiles side by side, their unit once if all share it: `118 / 182 / 210 ms`, `980 µs / 1.20 ms / 2.00 ms`."""
    *texts, last = [format_value(value, unit) for value in values]
    _, space, shown = last.partition(" ")
    if all(text.endswith(space + shown) for text in texts):  # else one without would be read in that of its neighbour
        texts = [text.removesuffix(space + shown) for text in texts]
    return " / ".join([*texts, last])


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value)) + 1e-12))
    return f"{value:.{decimals}f}" if decimals < 7 else f"{value:.3g}"
