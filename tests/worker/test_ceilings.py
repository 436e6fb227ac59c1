"""Ceilings on their way from a worker to its parent."""

from __future__ import annotations

from gpubench.protocol import WorkerReady, parse_event
from gpubench.records import Ceilings, dump_line
from gpubench.worker.ceilings import measure_ceilings
from gpubench.worker.device import open_device


def test_a_cpu_has_no_ceilings() -> None:
    cpu = open_device()

    assert cpu.is_cuda or measure_ceilings(cpu) is None


def test_a_worker_tells_them_as_it_gets_ready() -> None:
    ready = WorkerReady(1, "cuda:0", Ceilings(4.3e12, 7.9e14))

    assert parse_event(dump_line(ready)) == ready
    assert parse_event(dump_line(WorkerReady(1, "cpu"))).ceilings is None
