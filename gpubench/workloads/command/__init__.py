"""Any command as a workload, so that a program with a benchmark of its own can be swept without a line of Python.

    workload: command
    axes: {batch: [1, 8], isl: [1024, 8192]}
    params:
      command: python bench.py --batch {batch} --input-len {isl} --json {artifacts}/out.json
      metrics:
        tok_s_user: {json: results.0.tok_s, file: "{artifacts}/out.json", unit: 1/s}
        ttft: {pattern: 'TTFT: ([0-9.]+) s', unit: s, higher_is_better: false}

Every axis and param is a placeholder, and so is `artifacts`, the cell's own folder; `{{` and `}}` are braces. The step
runs the command once and gives the metrics that it reported; its wall time is the step time.
"""

from __future__ import annotations

from typing import Any

import gpubench
from gpubench.errors import ArgumentError
from gpubench.registry import OwnMeasurement, Step
from gpubench.workloads.command.process import run_command
from gpubench.workloads.command.readings import MetricSource, note_files, parse_sources, read_metric
from gpubench.workloads.command.template import fill, fill_arguments, fill_shell_line

ARTIFACTS = "artifacts"


@gpubench.workload("command", open_axes=True, measures_itself=True)
def command(
    command: str | list[str], metrics: dict[str, Any] | None = None, shell: bool = False, **axes: Any
) -> dict[str, Any]:
    """Any command, with {axis} placeholders; its metrics are read from JSON or by pattern.

    `command` is split into words as a shell would, unless it is a list already, but no shell runs it: a value is
    always one word or a part of one. With `shell: true` /bin/sh runs it, and values are quoted for it.
    """
    if ARTIFACTS in axes:
        raise ArgumentError("artifacts names the cell's own folder in a command; call the axis something else")
    return {"command": command, "sources": parse_sources(metrics or {}), "values": axes, "shell": shell}


@command.backend("shell", baseline=True)
def _(
    command: str | list[str],
    sources: dict[str, MetricSource],
    values: dict[str, Any],
    shell: bool,
    artifacts: str | None = None,
) -> Step:
    known = values if artifacts is None else {**values, ARTIFACTS: artifacts}
    arguments = _fill(command, known, shell)
    files = {name: fill(source.file, known) for name, source in sources.items()}

    def step() -> list[OwnMeasurement]:
        before = note_files(files.values())
        output = run_command(arguments, shell)
        return [read_metric(name, sources[name], file, output, before) for name, file in files.items()]

    return step


def _fill(command: str | list[str], values: dict[str, Any], shell: bool) -> list[str]:
    if not shell:
        return fill_arguments(command, values)
    if not isinstance(command, str):
        raise ArgumentError("command: a list of words can't be given to a shell; write one string, or drop shell: true")
    return ["/bin/sh", "-c", fill_shell_line(command, values)]
