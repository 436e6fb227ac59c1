"""`python -m gpubench.worker.catalogue OUT [PLUGIN …]`: import everything registered and describe it as JSON in OUT.

It runs in a process of its own, so that a plugin that crashes or hangs can't take the command line with it. Exit
status 2 and one sentence on standard error when a plugin can't be imported.
"""

from __future__ import annotations

import hashlib
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from gpubench.catalogue import Catalogue, dump_catalogue
from gpubench.errors import PluginError
from gpubench.registry import registered
from gpubench.worker.plugins import load_all


def describe(plugins: Sequence[str]) -> Catalogue:
    """Everything registered, and the files it was made from."""
    load_all(plugins)
    workloads = {name: workload.info() for name, workload in registered().items()}
    return Catalogue(workloads=workloads, files=_sources())


def _sources() -> dict[str, str]:
    """The modules in memory that aren't the interpreter's or a library's: gpubench's own and the plugins'."""
    libraries = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    package = Path(__file__).resolve().parent.parent
    hashes = {}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py") or not Path(file).is_file():
            continue  # some of torch's modules name files that there are not
        path = Path(file).resolve()
        if path.is_relative_to(package) or not any(path.is_relative_to(library) for library in libraries):
            hashes[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def main() -> int:
    out, *plugins = sys.argv[1:]
    try:
        Path(out).write_bytes(dump_catalogue(describe(plugins)))
    except PluginError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
