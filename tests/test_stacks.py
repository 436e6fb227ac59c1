"""Whose a frame is, and what faulthandler wrote, as real processes left it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.records import Frame
from gpubench.stacks import first_in_app, is_in_app, name_place, parse_stack

CRASHES = Path(__file__).parent / "data" / "crashes"
KERNELS = "/home/user/kernels/faults.py"


@pytest.mark.parametrize(
    ("specimen", "frames"),
    [
        ("wild_eager", [(KERNELS, 35, "<module>")]),
        ("wild_graph", [(KERNELS, 39, "<module>")]),
        (
            "misaligned",
            [
                ("/venv/lib/python3.12/site-packages/torch/cuda/__init__.py", 1162, "synchronize"),
                (KERNELS, 40, "<module>"),
            ],
        ),
        ("index_assert", [(KERNELS, 42, "<module>")]),
        ("segv", [("/usr/lib/python3.12/ctypes/__init__.py", 525, "string_at"), (KERNELS, 56, "<module>")]),
        ("oom", []),
        ("compile", []),
    ],
)
def test_a_real_death_is_read_innermost_first(specimen: str, frames: list[tuple[str, int, str]]) -> None:
    text = (CRASHES / f"{specimen}.stderr").read_text()
    assert parse_stack(text) == [Frame(*frame) for frame in frames]


@pytest.mark.parametrize(
    ("file", "is_own"),
    [
        ("/home/user/kernels/mine.py", True),
        ("/venv/lib/python3.12/site-packages/torch/cuda/__init__.py", False),
        ("/venv/lib/python3.12/site-packages/triton/runtime/jit.py", False),
        ("/usr/lib/python3/dist-packages/torch/cuda/graphs.py", False),
        ("/venv/lib/python3.12/site-packages/flashinfer/decode.py", True),
        ("/venv/lib/python3.12/site-packages", False),
        ("/usr/lib/python3.12/ctypes/__init__.py", False),
        ("/opt/python/lib/python3.13t/threading.py", False),
        ("<frozen runpy>", False),
        ("<string>", False),
        ("/home/user/gpubench/gpubench/worker/cell.py", False),
        ("/home/user/gpubench/gpubench/workloads/rmsnorm.py", True),
        ("/home/user/worker/mine.py", True),
        ("", True),
    ],
)
def test_a_frame_is_the_cells_own_or_a_librarys_on_any_machine(file: str, is_own: bool) -> None:
    assert is_in_app(file) is is_own


def test_the_place_is_the_innermost_line_of_the_cells_own() -> None:
    library = Frame("/venv/lib/python3.12/site-packages/torch/_tensor.py", 7, "item")
    inner, outer = Frame("/a/mine.py", 12, "step"), Frame("/a/outer.py", 3, "run")
    assert first_in_app([library, inner, outer]) == inner
    assert name_place([library, inner, outer]) == " (mine.py:12)"
    assert name_place([library]) == ""


PROGRAM = """
import faulthandler, os, signal, sys, threading, time, ctypes
faulthandler.enable()
faulthandler.register(signal.SIGUSR1, all_threads=True)
started = threading.Event()
def waits():
    started.set()
    time.sleep(100)
threading.Thread(target=waits, daemon=True).start()
started.wait()
def dies():
    {death}
dies()
"""


@pytest.mark.parametrize(
    ("death", "innermost"),
    [
        ("ctypes.string_at(8)", "string_at"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "dies"),
        ("os.abort()", "dies"),
        ("os.kill(os.getpid(), signal.SIGUSR1)", "dies"),
    ],
)
def test_of_several_threads_the_one_that_it_happened_in_is_read(tmp_path: Path, death: str, innermost: str) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(death=death))
    died = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    frames = parse_stack("some words before\n" + died.stderr)
    assert frames[0].function == innermost, died.stderr
    assert [frame.function for frame in frames[-2:]] == ["dies", "<module>"]
    assert frames[-2].file == str(program)


def test_where_cuda_aborts_the_process_the_thread_that_waits_for_tasks_is_not_taken() -> None:
    text = """Fatal Python error: Aborted

Thread 0x00007f0000000001 [gpubench-inbox] (most recent call first):
  File "/venv/lib/python3.12/site-packages/gpubench/worker/__main__.py", line 160 in _wait_for_tasks
  File "/usr/lib/python3.12/threading.py", line 1012 in run

Thread 0x00007f0000000002 (most recent call first):
  File "/home/user/mine.py", line 5 in step
  File "/venv/lib/python3.12/site-packages/gpubench/worker/subject.py", line 105 in run
"""
    assert parse_stack(text)[0] == Frame("/home/user/mine.py", 5, "step")


def test_a_death_after_a_dump_for_another_reason_is_what_counts() -> None:
    earlier = 'Current thread 0x0000000000000001 (most recent call first):\n  File "early.py", line 1 in before\n'
    fatal = "Fatal Python error: Segmentation fault\n\n" + earlier.replace("early", "late")
    assert parse_stack(earlier + fatal)[0].file == "late.py"


@given(
    st.text()
    | st.lists(
        st.sampled_from(
            [
                "Current thread 0x1 (most recent call first):",
                '  File "a", line 1 in b',
                "Fatal Python error: x",
                "",
                '  File "a", line 99999999999 in b',
                "  ...",
            ]
        )
    ).map("\n".join)
)
def test_any_text_is_read_without_a_complaint(text: str) -> None:
    assert all(frame.line >= 0 for frame in parse_stack(text))
