"""gpubench: one grid in, the truth about every cell out, also about the ones that died.

Importing this package is cheap: nothing heavy is loaded until a name is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__all__ = ["Run", "Unsupported", "Workload", "annotate", "get_workload", "load_run", "shared", "workload"]
__version__ = "0.1.0"

if TYPE_CHECKING:
    from gpubench.analysis.run import Run, load_run
    from gpubench.errors import Unsupported
    from gpubench.ranges import annotate
    from gpubench.registry import Workload, get_workload, workload
    from gpubench.sharing import shared

_HOMES = {
    "Run": "gpubench.analysis.run",
    "Unsupported": "gpubench.errors",
    "Workload": "gpubench.registry",
    "annotate": "gpubench.ranges",
    "get_workload": "gpubench.registry",
    "load_run": "gpubench.analysis.run",
    "shared": "gpubench.sharing",
    "workload": "gpubench.registry",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gpubench' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
