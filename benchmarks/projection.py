"""How long a projection takes, beside what `nsys stats` takes for its part of it.

    python benchmarks/projection.py [--kernels 1000000] [--ranges 50000] [--depth 1] [--nsys PATH]

Makes a trace of so many kernels in so many ranges, then starts a fresh process each time, so that start-up and imports
count on both sides. gpubench's includes what nvtx_gpu_proj_trace lacks: busy, gap, kernel sum, and kernels per range.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

THREAD = 1 << 48 | 715 << 24 | 715
KERNEL_NAMES = 40
REPETITIONS = 100
"""Ranges of one name."""
TABLES = {
    "StringIds": "id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL",
    "META_DATA_EXPORT": "name TEXT NOT NULL, value TEXT",
    "NVTX_EVENTS": "start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL, rangeId INTEGER, "
    "category INTEGER, color INTEGER, text TEXT, globalTid INTEGER, endGlobalTid INTEGER, textId INTEGER, "
    "domainId INTEGER",
    "CUPTI_ACTIVITY_KIND_RUNTIME": "start INTEGER NOT NULL, end INTEGER NOT NULL, eventClass INTEGER NOT NULL, "
    "globalTid INTEGER, correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL, "
    "callchainId INTEGER",
    "CUPTI_ACTIVITY_KIND_KERNEL": "start INTEGER NOT NULL, end INTEGER NOT NULL, deviceId INTEGER NOT NULL, "
    "contextId INTEGER NOT NULL, greenContextId INTEGER, streamId INTEGER NOT NULL, correlationId INTEGER, "
    "globalPid INTEGER, demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER, "
    "launchType INTEGER, cacheConfig INTEGER, registersPerThread INTEGER NOT NULL, gridX INTEGER NOT NULL, "
    "gridY INTEGER NOT NULL, gridZ INTEGER NOT NULL, blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, "
    "blockZ INTEGER NOT NULL, staticSharedMemory INTEGER NOT NULL, dynamicSharedMemory INTEGER NOT NULL, "
    "localMemoryPerThread INTEGER NOT NULL, localMemoryTotal INTEGER NOT NULL, gridId INTEGER NOT NULL, "
    "sharedMemoryExecuted INTEGER, graphNodeId INTEGER, sharedMemoryLimitConfig INTEGER",
}
PROJECT = "from pathlib import Path; from gpubench.profilers.projection import project; project(Path({!r}))"


@dataclass(frozen=True)
class Measured:
    wall_s: float
    peak_bytes: int


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="gpubench-projection-") as folder:
        trace = Path(folder, "trace.sqlite")
        make_trace(trace, arguments.kernels, arguments.ranges, arguments.depth)
        size = trace.stat().st_size / 1e6
        print(f"{arguments.kernels:,} kernels in {arguments.ranges:,} ranges, {arguments.depth} deep, {size:,.0f} MB")
        ours = best([sys.executable, "-c", PROJECT.format(str(trace))], arguments.times)
        report("gpubench", ours)
        if arguments.nsys:
            command = [arguments.nsys, "stats", "--report=nvtx_gpu_proj_trace", "--format=csv", "--quiet"]
            theirs = best(
                [*command, f"--output={folder}/theirs", "--force-overwrite=true", str(trace)], arguments.times
            )
            report("nsys stats", theirs)
            print(f"{ours.wall_s / theirs.wall_s:.2f} of its time")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How long a projection takes.")
    parser.add_argument("--kernels", type=int, default=1_000_000)
    parser.add_argument("--ranges", type=int, default=50_000, help="of the innermost level")
    parser.add_argument("--depth", type=int, default=1, help="levels of ranges around each kernel")
    parser.add_argument("--times", type=int, default=3, help="the best of so many runs")
    parser.add_argument("--nsys", default="", help="an nsys to compare with")
    return parser.parse_args()


def report(name: str, measured: Measured) -> None:
    print(f"{name:<10} {measured.wall_s:5.2f} s  {measured.peak_bytes / 1e6:6,.0f} MB at most")


def best(command: list[str], times: int) -> Measured:
    """The quickest of several runs: what the machine does beside it only ever adds."""
    return min((run_once(command) for _ in range(times)), key=lambda measured: measured.wall_s)


def run_once(command: list[str]) -> Measured:
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{command[0]} failed with exit status {process.returncode}")
    return Measured(wall_s, usage.ru_maxrss * 1024)


def make_trace(path: Path, kernels: int, ranges: int, depth: int) -> None:
    """A trace as nsys exports it: launches every 2.5 µs, kernels of 1 to 20 µs on one stream, one name per cell."""
    random = np.random.default_rng(0)
    per_range = kernels // ranges
    count = per_range * ranges
    launch = np.arange(count) * 2500 + np.arange(count) // per_range * 2000 + 1000
    duration = random.integers(31, 625, count) * 32
    start = launch + 3000 + np.maximum.accumulate(np.cumsum(duration + 500) - duration - 500 - launch).clip(0)
    name = random.integers(1, KERNEL_NAMES + 1, count)
    opened = launch[::per_range] - 500
    closed = launch[per_range - 1 :: per_range] + 2400
    cell = np.arange(ranges) // REPETITIONS

    with closing(sqlite3.connect(path)) as database:
        for table, columns in TABLES.items():
            database.execute(f"CREATE TABLE {table} ({columns})")
        strings = [f"kernel_{number}<float, {number}>" for number in range(KERNEL_NAMES)]
        strings += [f"cell=cell_{number:03d}/level{level}" for number in range(cell[-1] + 1) for level in range(depth)]
        insert(database, "StringIds", enumerate([*strings, "cudaLaunchKernel"], start=1))
        insert(database, "META_DATA_EXPORT", [("EXPORT_SCHEMA_VERSION", "3.20.3")])
        insert(database, "NVTX_EVENTS", [(0, None, 75, None, None, None, "gpubench", THREAD, None, None, 1)])
        for level in range(depth):
            text = KERNEL_NAMES + 1 + cell * depth + level
            edge = (depth - level) * 10
            columns = (opened - edge, closed + edge, 59, None, None, None, None, THREAD, None, text, 1)
            insert(database, "NVTX_EVENTS", rows(columns, ranges))
        correlation = np.arange(1, count + 1)
        called = (launch, launch + 2000, 0, THREAD, correlation, len(strings) + 1, 0, None)
        insert(database, "CUPTI_ACTIVITY_KIND_RUNTIME", rows(called, count))
        where = (0, 1, None, 7, correlation, THREAD & ~0xFFFFFF)
        shape = (1, 1, 32, 1, 1, 1, 128, 1, 1, 0, 0, 0, 0, correlation, None, None, 0)
        ran = (start, start + duration, *where, name, name, name, *shape)
        insert(database, "CUPTI_ACTIVITY_KIND_KERNEL", rows(ran, count))
        database.commit()


def rows(columns: tuple[object, ...], count: int) -> Iterable[tuple[object, ...]]:
    """Rows of columns, of which some are one value for all."""
    return zip(*(c.tolist() if isinstance(c, np.ndarray) else [c] * count for c in columns), strict=True)


def insert(database: sqlite3.Connection, table: str, values: Iterable[tuple[object, ...]]) -> None:
    marks = ", ".join("?" * (TABLES[table].count(",") + 1))
    database.executemany(f"INSERT INTO {table} VALUES ({marks})", values)


if __name__ == "__main__":
    main()
