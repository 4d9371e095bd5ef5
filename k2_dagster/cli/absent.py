"""A process without a package that others import if they find it."""

import sys
from importlib.machinery import ModuleSpec
from typing import Any


class _Without:
    """A finder of modules that does not find some."""

    def __init__(self, finder: Any, names: frozenset[str]) -> None:
        self._finder = finder
        self._names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """None for a name left out: the import system says then that there is no such module."""
        found: ModuleSpec | None = None if name in self._names else self._finder.find_spec(name, path, target)
        return found

    def __getattr__(self, name: str) -> Any:
        """All else (caches, installed distributions) is the finder's own."""
        return getattr(self._finder, name)


def leave_out(*names: str) -> None:
    """From now on these packages are not installed, as far as this process can tell. For a process that is ours alone:
    a package that is imported already stays."""
    sys.meta_path[:] = [_Without(finder, frozenset(names)) for finder in sys.meta_path]
