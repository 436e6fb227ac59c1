"""What holds for all tests."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings

from gpubench.ranges import prepare_ranges

# A busy machine makes an example slow, not wrong: timing never decides a test.
settings.register_profile("gpubench", deadline=None)
settings.load_profile("gpubench")


@pytest.fixture(autouse=True)
def ranges_know_when_torch_traces():
    """As in a worker. Tests that don't import torch are spared it."""
    if torch := sys.modules.get("torch"):
        prepare_ranges(None, torch.compiler.is_dynamo_compiling)
