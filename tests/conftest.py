"""What holds for all tests."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gpubench.ranges import prepare_ranges

# A busy machine makes an example slow, not wrong: timing never decides a test. Nor does chance: the same examples are
# tried every time. `--hypothesis-profile default` looks for others.
settings.register_profile(
    "gpubench", deadline=None, derandomize=True, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("gpubench")

# Before torch is imported, and for the programs that tests start: its threads wait for one another in a busy loop,
# which takes several times as long as the work itself as soon as something else wants a core.
os.environ.setdefault("OMP_NUM_THREADS", "1")

LONGEST = ("cli", "browser", "kernels", "models")
"""Folders, in the order in which they are begun."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files: at the end no process is to wait for another's."""
    place = {Path(__file__).parent / folder: number for number, folder in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.parent, len(place)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a user's cache holds decides no test, and tests leave nothing in it. pytest's processes share this one."""
    folder = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patch:
        shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
        patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
        yield


@pytest.fixture(autouse=True)
def ranges_know_when_torch_traces():
    """As in a worker. Tests that don't import torch are spared it."""
    if torch := sys.modules.get("torch"):
        prepare_ranges(None, torch.compiler.is_dynamo_compiling)
