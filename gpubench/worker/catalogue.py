"""`python -m gpubench.worker.catalogue OUT [PLUGIN …]`: import everything registered and describe it as JSON in OUT.

It runs in a process of its own, so that a plugin that crashes or hangs can't take the command line with it. The file
beside OUT that ends in `.importing` names the plugin that is being imported; the one that ends in `.problem` says, with
exit status 2, why one can't be.
"""

from __future__ import annotations

import faulthandler
import hashlib
import importlib.metadata
import signal
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path

from gpubench.catalogue import IMPORTING, PROBLEM, Catalogue, dump_catalogue
from gpubench.errors import PluginError
from gpubench.registry import registered
from gpubench.worker.plugins import ENTRY_POINTS, load_all


def describe(plugins: Sequence[str], began: Callable[[str], object]) -> Catalogue:
    """Everything registered, and the files it was made from; `began` hears of each plugin before it is imported."""
    load_all(plugins, began)
    workloads = {name: workload.info() for name, workload in registered().items()}
    return Catalogue(workloads=workloads, files=_sources(_plugin_packages(plugins)))


def _plugin_packages(plugins: Sequence[str]) -> set[str]:
    """The packages of plugins that are modules: their sources count even where libraries are installed."""
    modules = [plugin for plugin in plugins if not plugin.endswith(".py")]
    modules += [entry_point.module for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS)]
    return {module.partition(".")[0] for module in modules}


def _sources(packages: set[str]) -> dict[str, str]:
    """The modules in memory that aren't the interpreter's or a library's: gpubench's own and the plugins'."""
    libraries = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    own = Path(__file__).resolve().parent.parent
    hashes = {}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file or not file.endswith(".py") or not Path(file).is_file():
            continue  # some of torch's modules name files that there are not
        path = Path(file).resolve()
        is_library = any(path.is_relative_to(library) for library in libraries)
        if not is_library or path.is_relative_to(own) or name.partition(".")[0] in packages:
            hashes[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return hashes


def main() -> int:
    out, *plugins = sys.argv[1:]
    answer = Path(out)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    try:
        answer.write_bytes(dump_catalogue(describe(plugins, answer.with_suffix(IMPORTING).write_text)))
    except PluginError as error:
        answer.with_suffix(PROBLEM).write_text(str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
