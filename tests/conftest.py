"""What holds for all tests."""

from __future__ import annotations

from hypothesis import settings

# A busy machine makes an example slow, not wrong: timing never decides a test.
settings.register_profile("gpubench", deadline=None)
settings.load_profile("gpubench")
