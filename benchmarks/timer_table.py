"""A table and a plot of what benchmarks/timers.py found, and whether CUPTI and nsys agree.

    python benchmarks/timer_table.py OUT_DIR [--docs docs/measuring.md]

Prints the table, writes OUT_DIR/timers.html, and with a Chromium OUT_DIR/timers.png. With --docs, puts the table
between the file's two comments that name this program, and the plot beside the file. The exit status is 1 if a cell's
kernel time by CUPTI is neither within 2 % nor within 64 ns of that by nsys.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path

import pandas as pd
import pictures
import plotly.graph_objects as go

from gpubench.report.theme import FONT, LIGHT, SYMBOLS
from gpubench.store import list_runs, read_run

RELATIVE, ABSOLUTE_S = 0.02, 64e-9
"""nsys's durations tick in 32 ns."""
TRUTH = "nsys"
TIMERS = {
    "cupti": "CUPTI",
    "torch_profiler": "torch.profiler",
    "events_idle": "events, idle",
    "events_blocked": "events, blocked",
    "do_bench": "do_bench",
    "events_graph_hot": "events, graph (hot)",
    "do_bench_cudagraph_hot": "do_bench_cudagraph (hot)",
}
"""What each column of timers.csv is called; hot ones find their inputs in the L2 cache, where they fit."""
WIDTH, HEIGHT = 960, 560
MULTIPLES = [0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 1, 1.2, 1.5, 2, 3, 5, 7, 10, 20, 30, 50]
BEGIN, END = "<!-- benchmarks/timer_table.py begins -->\n", "<!-- benchmarks/timer_table.py ends -->\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--docs", type=Path, help="a Markdown file to put the table into")
    arguments = parser.parse_args()
    out: Path = arguments.out
    readings = pd.read_csv(out / "timers.csv").sort_values(TRUTH, kind="stable")
    table = describe_table(readings, out)
    print(table)
    image = draw(plot(readings), out / "timers.html")
    if arguments.docs:
        put(arguments.docs, table, image)
    exceptions = disagreements(readings)
    for line in exceptions:
        print(line, file=sys.stderr)
    sys.exit(1 if exceptions else 0)


def describe_table(readings: pd.DataFrame, out: Path) -> str:
    """The table, and under it what it was measured on."""
    return f"{markdown(readings)}\n{describe(out)}\n"


def markdown(readings: pd.DataFrame) -> str:
    """A line per cell: the kernels' time by nsys, and what each timer reads as a multiple of it."""
    timers = {name: label for name, label in TIMERS.items() if name in readings}
    axes = [name for name in ("backend", "rows", "dim") if name in readings]
    header = [*axes, "kernels, µs (nsys)", *timers.values()]
    lines = [" | ".join(header), " | ".join(["---"] * len(axes) + ["---:"] * (len(timers) + 1))]
    for row in readings.to_dict("records"):
        ratios = [row[name] / row[TRUTH] for name in timers]
        cells = [*(str(row[axis]) for axis in axes), micros(row[TRUTH]), *map(multiple, ratios)]
        lines.append(" | ".join(cells))
    return "\n".join(f"| {line} |" for line in lines) + "\n"


def multiple(ratio: float) -> str:
    return "–" if pd.isna(ratio) else f"{ratio:.3g}" if ratio >= 10 else f"{ratio:.2f}"


def micros(seconds: float) -> str:
    return "–" if pd.isna(seconds) else f"{seconds * 1e6:,.2f}"


def describe(out: Path) -> str:
    """What the run was made on."""
    header = read_run(list_runs(out / TRUTH)[-1]).header
    environment = header.environment
    gpus = ", ".join(sorted({gpu["name"] for gpu in environment.get("gpus", [])}))
    named = {name: environment.get(name) for name in ("driver", "cuda", "torch", "triton")}
    versions = [f"{name} {value}" for name, value in named.items() if value]
    return f"{', '.join([gpus, *versions])}; {environment.get('profiler', '')}; {header.created_at[:10]}."


def plot(readings: pd.DataFrame) -> go.Figure:
    """Each timer's multiple of the kernels' own time, over that time; both axes logarithmic."""
    figure = go.Figure()
    present = [name for name in TIMERS if name in readings]
    for name, colour, symbol in zip(present, LIGHT.colours, SYMBOLS, strict=False):
        found = readings.dropna(subset=[TRUTH, name])
        figure.add_scatter(
            x=found[TRUTH] * 1e6,
            y=found[name] / found[TRUTH],
            name=TIMERS[name],
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 8},
        )
    figure.add_hline(y=1, line={"color": LIGHT.muted, "width": 1})
    figure.update_xaxes(type="log", title="kernel time by nsys, µs", gridcolor=LIGHT.grid, dtick=1)
    figure.update_yaxes(type="log", title="reading / kernel time", gridcolor=LIGHT.grid, tickvals=MULTIPLES)
    figure.update_layout(
        width=WIDTH,
        height=HEIGHT,
        paper_bgcolor=LIGHT.paper,
        plot_bgcolor=LIGHT.paper,
        font={"family": FONT, "color": LIGHT.ink},
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        legend={"x": 0.99, "y": 0.99, "xanchor": "right"},
    )
    return figure


def draw(figure: go.Figure, page: Path) -> Path | None:
    """Write the page, and a picture of it where there is a Chromium to take one."""
    figure.write_html(page, include_plotlyjs=True, config={"displayModeBar": False})
    return pictures.take(page, page.with_suffix(".png"), (WIDTH + 16, HEIGHT + 16))  # a page has a margin of 8


def put(docs: Path, table: str, image: Path | None) -> None:
    """Replace what stands between the two comments."""
    text = docs.read_text()
    if BEGIN not in text or END not in text:
        sys.exit(f"{docs}: there are no lines {BEGIN.strip()} and {END.strip()} to put the table between")
    if image is not None:
        shutil.copy(image, docs.parent / image.name)
    has_picture = (docs.parent / "timers.png").is_file()
    picture = "![What each timer reads, as a multiple of the kernels' own time](timers.png)\n\n" if has_picture else ""
    between = re.compile(re.escape(BEGIN) + ".*" + re.escape(END), re.DOTALL)
    docs.write_text(between.sub(lambda _: f"{BEGIN}{picture}{table}{END}", text))


def disagreements(readings: pd.DataFrame) -> list[str]:
    """The cells whose kernel time by CUPTI is not nsys's, in words."""
    if "cupti" not in readings:
        return ["no cell has a kernel time by CUPTI"]
    both = readings.dropna(subset=[TRUTH, "cupti"])
    lines = [f"{cell}: no kernel time by both" for cell in readings["cell_id"] if cell not in set(both["cell_id"])]
    for row in both.to_dict("records"):
        difference = row["cupti"] - row[TRUTH]
        if abs(difference) > max(RELATIVE * row[TRUTH], ABSOLUTE_S):
            percent = difference / row[TRUTH]
            lines.append(f"{row['cell_id']}: CUPTI is {difference * 1e9:+,.0f} ns ({percent:+.1%}) from nsys")
    return lines


if __name__ == "__main__":
    main()
