"""`gpubench sweep FILE`: plan, run, measure, write results and the report, and say where it is."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gpubench.cli.console import count_cells, open_console

if TYPE_CHECKING:
    from rich.console import Console

    from gpubench.machine import Gpu, Machine
    from gpubench.records import Outcome
    from gpubench.run.events import SweepEnded
    from gpubench.run.sweep import SweepRequest

__all__ = ["sweep"]

INTERRUPTED = 130
SOME_FAILED = 3
CPU_OVERLAY = "cpu"
"""The name of the overlay for machines without a GPU."""
SHOWN_FAILURES = 10
SHOWN_CELLS = 20

SweepFile = Annotated[Path, typer.Argument(help="The sweep, as YAML.", show_default=False)]
Results = Annotated[Path, typer.Option("--out", metavar="DIR", help="Where runs are kept.")]


def sweep(
    file: SweepFile,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and how long they may take; run none.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the newest run of this sweep.")] = False,
    retry_failed: Annotated[
        str,
        typer.Option(
            "--retry-failed", metavar="all|OUTCOME,…", help="With these outcomes, cells run again (implies --resume)."
        ),
    ] = "",
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="AXIS=VALUE", help="Only these cells; can be repeated.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change the sweep: measure.trials=1.")
    ] = None,
    out: Results = Path("results"),
    timer: Annotated[str, typer.Option("--timer", metavar="TIMER", help="auto, nsys, cupti, cuda_event or wall.")] = "",
    no_profile: Annotated[bool, typer.Option("--no-profile", help="Leave the profiled pass out.")] = False,
    keep_traces: Annotated[
        bool, typer.Option("--keep-traces", help="Keep whole nsys reports too; with the environment of all it saw.")
    ] = False,
    isolation: Annotated[
        str, typer.Option("--isolation", metavar="worker|cell", help="One process for many cells, or one for each.")
    ] = "",
    gpus: Annotated[
        str, typer.Option("--gpus", metavar="0,1", help="Use these GPUs; 'none' for the CPU.", show_default="all")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Resume although something has changed; recorded.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing; the exit code tells.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print events as JSON lines.")] = False,
) -> None:
    """Run a grid of cells: measure each, record what became of it, write the report."""
    from gpubench.machine import read_machine

    overrides = list(set_ or [])
    overrides += [f"{key}={value}" for key, value in (("measure.timer", timer), ("isolation", isolation)) if value]
    machine = read_machine()
    console = open_console()
    request = _plan(file, machine, choose_gpus(machine, gpus), overrides, only or [])
    retry = parse_outcomes(retry_failed)
    if dry_run:
        from gpubench.cli.dry_run import show_plan

        show_plan(console, request)
        return
    from dataclasses import replace

    request = replace(
        request,
        results=out,
        resume=resume or bool(retry),
        force=force,
        retry=retry,
        profile=not no_profile,
        keep_traces=keep_traces,
    )
    is_told = not quiet and not as_json
    ended = _run(console, request, quiet=quiet, as_json=as_json)
    if is_told:
        _show_counts(console, ended)
    reports = [] if as_json and ended.is_interrupted else _write_report(ended)
    if is_told:
        valued = {"--only": only or [], "--set": overrides, "--gpus": [gpus] if gpus else []}
        if out != Path("results"):
            valued["--out"] = [str(out)]
        flags = [flag for flag, given in (("--no-profile", no_profile), ("--keep-traces", keep_traces)) if given]
        _show_what_next(console, ended, reports, _command(file, valued, flags))
    raise typer.Exit(_exit_code(ended))


def choose_gpus(machine: Machine, asked: str) -> list[Gpu]:
    """The GPUs to use: those asked for by index, else all of the first one's kind that torch can use."""
    from gpubench.errors import UsageError
    from gpubench.machine import has_cuda_torch

    if asked == "none":
        return []
    usable = machine.gpus if has_cuda_torch() else ()
    if not asked:
        return [gpu for gpu in usable if gpu.name == usable[0].name]
    known = {str(gpu.index): gpu for gpu in usable}
    indices = [index.strip() for index in asked.split(",")]
    unknown = [index for index in indices if index not in known]
    if unknown:
        why = machine.gpu_problem or "this torch is a CPU build: it can't use the GPU"
        there = f"there are {', '.join(known)}" if known else why
        raise UsageError(f"--gpus {asked}: no GPU {unknown[0]!r} here: {there}")
    return [known[index] for index in dict.fromkeys(indices)]


def parse_outcomes(text: str) -> frozenset[Outcome]:
    """`all` or a list of failing outcomes."""
    from gpubench.errors import UsageError
    from gpubench.records import Outcome

    failing = {outcome.value: outcome for outcome in Outcome if outcome is not Outcome.OK}
    if text == "all":
        return frozenset(outcome for outcome in failing.values() if outcome.is_failure)
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in failing]
    if unknown:
        raise UsageError(f"--retry-failed {text}: no outcome {unknown[0]!r}; known: all, {', '.join(failing)}")
    return frozenset(failing[name] for name in names)


def _plan(
    file: Path, machine: Machine, gpus: Sequence[Gpu], overrides: Sequence[str], only: Sequence[str]
) -> SweepRequest:
    from gpubench.errors import UsageError
    from gpubench.run.probe import load_catalogue
    from gpubench.run.sweep import SweepRequest
    from gpubench.sweep import expand, load_sweep, select

    overlay = None if gpus else CPU_OVERLAY
    loaded = load_sweep(file, overlay=overlay, overrides=overrides)
    catalogue = load_catalogue(loaded.plugins)
    is_overlaid = overlay in loaded.spec.overlay
    if is_overlaid:
        expand(load_sweep(file, overrides=overrides), catalogue)  # a mistake in what the overlay replaces is one too
    try:
        grid = select(expand(loaded, catalogue), only)
    except UsageError as error:
        if is_overlaid and only:
            raise UsageError(f"{error} (there is no GPU, so the file's overlay {overlay!r} applies)") from None
        raise
    return SweepRequest(
        sweep=loaded,
        cells=grid.cells,
        overlay=CPU_OVERLAY if is_overlaid else "",
        warnings=grid.warnings,
        workload=catalogue.workloads[loaded.spec.workload],
        plugin_files=[plugin for plugin in loaded.plugins if plugin.endswith(".py")],
        machine=machine,
        gpus=gpus,
    )


def _run(console: Console, request: SweepRequest, *, quiet: bool, as_json: bool) -> SweepEnded:
    from gpubench.cli.interrupts import stop_on_interrupt
    from gpubench.cli.progress import choose_renderer
    from gpubench.run.events import SweepEnded
    from gpubench.run.sweep import run_sweep

    ended: SweepEnded | None = None
    with (
        stop_on_interrupt() as stop,
        choose_renderer(console, quiet=quiet, as_json=as_json) as renderer,
        closing(run_sweep(request, stop)) as events,  # its workers end with it, also where an event can't be shown
    ):
        for event in events:
            renderer.show(event)
            if isinstance(event, SweepEnded):
                ended = event
    assert ended is not None, "a sweep's last event says that it has ended"
    return ended


def _command(file: Path, valued: Mapping[str, Sequence[str]], flags: Sequence[str]) -> str:
    """What to type to run the same cells of the same sweep: without its overrides it would be another one."""
    options = [word for option, values in valued.items() for value in values for word in (option, value)]
    return shlex.join(["gpubench", "sweep", str(file), *options, *flags])


def _write_report(ended: SweepEnded) -> list[Path]:
    from gpubench.errors import GpubenchError, StoreError

    path = Path(ended.path)
    later = f"what was recorded is safe: gpubench report {shlex.quote(ended.path)}"
    try:
        from gpubench.analysis.run import load_run
        from gpubench.report import write_report  # a second, in which a user may well lose patience

        return write_report([load_run(path)], ["html"], path)
    except KeyboardInterrupt:
        typer.echo(f"gpubench: interrupted before the report was written; {later}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    except GpubenchError as error:
        raise StoreError(f"{error}; {later} --out DIR") from error


def _show_counts(console: Console, ended: SweepEnded) -> None:
    from gpubench.cli.figures import OUTCOME_STYLES, failure_lines
    from gpubench.records import Outcome

    counts = [
        f"[{OUTCOME_STYLES[Outcome(name)] if name != 'not run' else 'yellow'}]{count} {name}[/]"
        for name, count in ended.outcomes.items()
    ]
    if ended.unprofiled:
        counts.append(f"[yellow]{ended.unprofiled} not profiled[/]")
    warned = f" [yellow]({ended.warned} with warnings, in the report)[/]" if ended.warned else ""
    cells = sum(ended.outcomes.values())
    console.print(f"\n{count_cells(cells)}: {', '.join(counts)}{warned}")
    if cells > SHOWN_CELLS:  # else they are still to be seen above
        for line in failure_lines(Path(ended.path), SHOWN_FAILURES):
            console.print(line, soft_wrap=True)


def _show_what_next(console: Console, ended: SweepEnded, reports: Sequence[Path], command: str) -> None:
    from rich.markup import escape

    for report in reports:
        console.print(f"report   [bold]{escape(str(report))}[/]", soft_wrap=True)
    command = escape(command)
    if _has_failures(ended.outcomes):
        console.print(f"triage   gpubench triage {escape(shlex.quote(ended.path))}", soft_wrap=True)
    if ended.asked.get("not run") or ended.unprofiled:  # the same command can run nothing else of the run
        console.print(f"resume   {command} --resume", soft_wrap=True)
    elif _has_failures(ended.asked):
        console.print(
            f"retry    {command} --retry-failed all   [dim](after a change: a new run, without it)[/]", soft_wrap=True
        )


def _exit_code(ended: SweepEnded) -> int:
    if ended.is_interrupted:
        return INTERRUPTED
    return SOME_FAILED if _has_failures(ended.outcomes) else 0


def _has_failures(outcomes: Mapping[str, int]) -> bool:
    from gpubench.records import Outcome

    return any(name != "not run" and Outcome(name).is_failure for name in outcomes)
