"""Where the files are that a sweep or a flag names as plugins."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from gpubench.errors import ConfigError, Location
from gpubench.sweep.problems import raise_problems

__all__ = ["find_plugins"]

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def find_plugins(
    plugins: Sequence[str], folder: Path | None = None, locate: Callable[[int], Location] | None = None
) -> list[str]:
    """Files as absolute paths, from `folder` (a sweep's) or else the current one; names of modules as they are.

    `locate` tells where the nth was written, for errors; without it they come from the flag `--plugin`.
    `ConfigError` names every file that isn't there.
    """
    folders = list(dict.fromkeys([(folder or Path()).resolve(), Path.cwd()]))
    found, problems = [], []
    for index, plugin in enumerate(plugins):
        file = next((candidate for each in folders if _exists(candidate := each / plugin)), None)
        if file and file.is_file() and file.suffix == ".py":
            found.append(str(file.resolve()))
        elif _MODULE.fullmatch(plugin) and not plugin.endswith(".py"):
            found.append(plugin)
        else:
            location = locate(index) if locate else Location(f"--plugin {plugin}")
            message = (
                f"{plugin!r} is no Python file; a plugin is a file that ends in .py, or a module's name"
                if file
                else f"no file {plugin!r} in {' or '.join(map(str, folders))}"
            )
            problems.append(ConfigError(message, location))
    raise_problems(problems)
    return found


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that no file can have: too long
        return False
