"""Imports what registers workloads: the built-in ones, entry points, and the files and modules a sweep names."""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from gpubench.collection import garbage_collection_paused
from gpubench.errors import PluginError
from gpubench.workloads import load_builtin

__all__ = ["ENTRY_POINTS", "load_all"]

ENTRY_POINTS = "gpubench.plugins"


@garbage_collection_paused()  # what torch and Triton make stays: to look through it takes a quarter of a worker's start
def load_all(plugins: Sequence[str], began: Callable[[str], object] = lambda plugin: None) -> None:
    """Register everything there is; PluginError names the plugin, the line and the fault.

    `began` hears of each plugin before it is imported: the import may never come back.
    """
    load_builtin()
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        name = f"entry point {entry_point.name} ({entry_point.value})"
        began(name)
        _guard(name, entry_point.load)
    for plugin in dict.fromkeys(plugins):
        began(plugin)
        _guard(plugin, partial(_load, plugin))
    gc.freeze()  # later collections needn't look through it either


def _load(plugin: str) -> None:
    path = Path(plugin)
    if path.suffix != ".py":
        sys.path.append(str(Path.cwd()))  # last: a random.py there must not take the place of Python's own
        importlib.import_module(plugin)
        return
    # Under its own name in sys.modules, so that pickling, dataclasses and Triton find the module of their source.
    spec = importlib.util.spec_from_file_location(f"gpubench_plugin_{path.stem}", path)
    assert spec is not None and spec.loader is not None, f"{path} ends in .py"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.parent))  # a plugin may import its neighbours
    spec.loader.exec_module(module)


def _guard(plugin: str, load: Callable[[], object]) -> None:
    try:
        load()
    except BaseException as error:  # nobody else raises here: a KeyboardInterrupt, too, is the plugin's own
        raise PluginError(f"plugin {plugin}: {_describe(error)}{_place(error, plugin)}") from error


def _describe(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"called sys.exit({error.code!r}) while it was imported; a plugin may only register"
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)  # a KeyError's is quoted
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _place(error: BaseException, plugin: str) -> str:
    """The deepest line of the plugin's own that was running; a SyntaxError names its own."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename).name == Path(plugin).name]
    return f" (at {own[-1].filename}:{own[-1].lineno})" if own else ""
