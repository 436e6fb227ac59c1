"""The ladder on a GPU: a wild store is named by memcheck, a stale top-k by the audit of its graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gpubench.run.rungs import find_tools

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
NO_SANITIZER = pytest.mark.skipif(not find_tools().sanitizer, reason="no compute-sanitizer here")
NO_AUDIT = pytest.mark.skipif(not find_tools().has_audit, reason="no cuda-bindings here")


def gpubench(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As a user runs it, with the GPU."""
    command = [sys.executable, "-P", "-m", "gpubench", *arguments]
    return subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=500, check=False)


def escalated(folder: Path, sweep: str, *only: str) -> dict[str, Any]:
    """The one signature of a part of a sweep, after its ladder."""
    chosen = [argument for condition in only for argument in ("--only", condition)]
    # an audit in the sweep itself would already name the culprit
    swept = gpubench(
        folder,
        "sweep",
        str(ROOT / "sweeps" / sweep),
        "-q",
        "--no-profile",
        "--set",
        "check.graph_pointers=off",
        *chosen,
    )
    assert swept.returncode == 3, swept.stderr
    done = gpubench(folder, "triage", "--escalate", "--format", "json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["signatures"]
    return row


def answers(row: dict[str, Any]) -> dict[str, str]:
    return {verdict["rung"]: verdict["verdict"] for verdict in row["verdicts"]}


@NO_SANITIZER
def test_memcheck_names_the_line_of_an_illegal_access(tmp_path: Path) -> None:
    row = escalated(tmp_path, "faults.yaml", "kind=illegal_address", "batch=8")
    found = answers(row)
    assert (found["alone"], found["blocking"], found["graphs off"]) == ("fails the same",) * 3
    assert found["memcheck"] == "invalid access"
    assert (row["culprit"]["kernel"], row["culprit"]["file"]) == ("wild_store", "faulty.py")
    assert row["diagnosis"]["basis"] == "memcheck"
    assert row["diagnosis"]["text"].startswith("invalid access: wild_store (faulty.py:")


@NO_AUDIT
def test_the_storys_stale_scratch_is_named_by_the_audit_with_the_rule(tmp_path: Path) -> None:
    row = escalated(tmp_path, "triage_story.yaml", "concurrency=>=4", "parallel=TEP")
    found = answers(row)
    assert (found["alone"], found["graphs off"], found["audit"]) == ("fails the same", "passes", "stale pointer")
    assert row["culprit"]["kernel"] == "_radix_kernel"
    assert row["diagnosis"]["basis"] == "audit"
    assert "gvr = false" in row["diagnosis"]["rule"]


@NO_AUDIT
def test_wrong_answers_through_a_stale_scratch_are_told_from_a_kernels_own(tmp_path: Path) -> None:
    row = escalated(tmp_path, "faults.yaml", "kind=stale_scratch", "batch=8")
    found = answers(row)
    assert (row["class"], found["graphs off"], found["audit"]) == ("mismatch", "passes", "stale pointer")
    assert row["culprit"]["kernel"] in ("fill_scratch", "read_scratch")
