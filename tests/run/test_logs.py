"""A cell may print what it likes: both ends of it are kept, and the disk is not filled."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubench.run.logs import KEPT_BYTES, LIMIT_BYTES, read_tail, relieve, settle

WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
for number in range(int(sys.argv[2])):
    os.write(file, b"%09d" % number + b"." * 990 + b"\\n")
"""
LINE_BYTES = 1000


def used_bytes(path: Path) -> int:
    return path.stat().st_blocks * 512


def can_make_holes(folder: Path) -> bool:
    path = folder / "probe"
    path.write_bytes(b"x" * 4 * KEPT_BYTES)
    relieve(path, limit_bytes=0)
    return used_bytes(path) < 4 * KEPT_BYTES


def test_a_log_that_is_written_to_all_the_while_keeps_its_first_and_its_last_line(tmp_path: Path) -> None:
    log, lines = tmp_path / "stdout.txt", 60_000
    with subprocess.Popen([sys.executable, "-c", WRITER, str(log), str(lines)]) as writer:
        while writer.poll() is None:
            relieve(log)
    relieve(log)
    assert log.stat().st_size == lines * LINE_BYTES, "whoever appends to it notices nothing"
    if can_make_holes(tmp_path):
        assert used_bytes(log) <= LIMIT_BYTES
    settle(tmp_path, log.name)
    head, _, rest = log.read_bytes().partition(b"\n[gpubench: ")
    cut, _, tail = rest.partition(b" bytes cut here]\n")
    assert (len(head), len(tail)) == (KEPT_BYTES, KEPT_BYTES)
    assert int(cut) == lines * LINE_BYTES - 2 * KEPT_BYTES
    whole = KEPT_BYTES // LINE_BYTES
    assert [int(line[:9]) for line in head.split(b"\n")[:whole]] == list(range(whole))
    assert [int(line[:9]) for line in tail.split(b"\n")[-whole - 1 : -1]] == list(range(lines - whole, lines))


@given(st.integers(0, 3 * KEPT_BYTES), st.integers(2 * KEPT_BYTES, 3 * KEPT_BYTES))
def test_what_is_within_its_limit_stays_as_it_is_and_what_is_not_is_cut_to_its_ends(
    tmp_path_factory: pytest.TempPathFactory, size: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("logs")
    content = bytes(range(251)) * (size // 251 + 1)
    (folder / "stderr.txt").write_bytes(content[:size])
    settle(folder, "stderr.txt", limit_bytes=limit)
    if not size:
        assert not folder.exists()
        return
    kept = (folder / "stderr.txt").read_bytes()
    cut = b"\n[gpubench: %d bytes cut here]\n" % (size - 2 * KEPT_BYTES)
    ends = content[:KEPT_BYTES] + cut + content[size - KEPT_BYTES : size]
    assert kept == (content[:size] if size <= limit else ends)


def test_a_folder_goes_only_when_nothing_else_is_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "cell_000"
    folder.mkdir()
    for name in ("stdout.txt", "stderr.txt", "core"):
        (folder / name).touch()
    settle(folder, "stdout.txt", "stderr.txt")
    assert [path.name for path in folder.iterdir()] == ["core"]
    settle(tmp_path / "never_there", "stdout.txt")


def test_a_log_that_is_not_there_ends_in_nothing(tmp_path: Path) -> None:
    relieve(tmp_path / "stdout.txt")
    assert read_tail(tmp_path / "stdout.txt") == ""
    (tmp_path / "stdout.txt").write_bytes(b"\xff\xfe" + b"a" * 10 + b"\n")
    assert read_tail(tmp_path / "stdout.txt", length_bytes=5) == "aaaa"
    assert read_tail(tmp_path / "stdout.txt").endswith("a" * 10), "what is no text is no reason to say nothing"
