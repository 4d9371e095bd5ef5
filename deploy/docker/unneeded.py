"""Print the installed packages that k2-dagster without its extras does not need, one a line: the image drops them.

The lock has no dependency graph, so it is walked in what is installed.
"""

import sys
from importlib.metadata import PackageNotFoundError, distribution, distributions

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# pip does the uninstalling
KEPT = ("k2-dagster", "pip")


def main() -> None:
    """Write to standard output."""
    needed = {name for root in KEPT for name in closure(root)}
    installed = {canonicalize_name(one.metadata["Name"]) for one in distributions()}
    sys.stdout.writelines(f"{name}\n" for name in sorted(installed - needed))


def closure(root: str) -> set[str]:
    """The package and all that it needs, directly or not, with the extras that its dependants ask for."""
    waiting: list[tuple[str, frozenset[str]]] = [(canonicalize_name(root), frozenset())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        waiting += needs(*one)
    return {name for name, _ in seen}


def needs(name: str, extras: frozenset[str]) -> list[tuple[str, frozenset[str]]]:
    """What a package needs here; nothing of one that this platform does not have."""
    try:
        lines = distribution(name).requires or []
    except PackageNotFoundError:
        return []
    wanted = [
        requirement
        for requirement in map(Requirement, lines)
        if requirement.marker is None
        or any(requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""}) | {""})
    ]
    return [(canonicalize_name(one.name), frozenset(one.extras)) for one in wanted]


if __name__ == "__main__":
    main()
