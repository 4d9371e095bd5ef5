"""Folders that PostgreSQL's system user may pass through where we are root: opened when needed, closed when nobody is.

`opened.json` in the user's cache names, for each folder that was closed to others before, the homes of the stacks that
need it open.
"""

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k2_dagster.devstack.downloads import cache_folder
from k2_dagster.devstack.files import write_atomically
from k2_dagster.devstack.locking import exclusive
from k2_dagster.devstack.process import Progress

OPENED_FILE = "opened.json"

Homes = dict[str, list[str]]


def open_way(path: Path, uid: int, home: Path, progress: Progress) -> None:
    """Let that user pass through (not list) the folders of others above the path, and say which were closed."""
    others = [folder for folder in path.parents if folder.stat().st_uid != uid]
    closed = [folder for folder in others if not folder.stat().st_mode & stat.S_IXOTH]
    with _opened() as opened:
        for folder in others:
            homes = opened.get(str(folder), [])
            if str(home) not in homes and (homes or folder in closed):
                opened[str(folder)] = [*homes, str(home)]
    for folder in closed:
        progress(f"letting others pass through {folder} (not list it): PostgreSQL does not run as root")
        folder.chmod(folder.stat().st_mode | stat.S_IXOTH)


def close_ways(home: Path) -> None:
    """Close what was opened for this stack and no other one needs."""
    with _opened() as opened:
        for folder, homes in list(opened.items()):
            needed = [one for one in homes if one != str(home) and Path(one).exists()]
            if needed:
                opened[folder] = needed
                continue
            del opened[folder]
            if Path(folder).exists():
                Path(folder).chmod(Path(folder).stat().st_mode & ~stat.S_IXOTH)


@contextmanager
def _opened() -> Iterator[Homes]:
    """The content of the file, written back when it was changed."""
    path = cache_folder() / OPENED_FILE
    with exclusive(path.with_suffix(".lock")):
        try:
            before: Homes = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            before = {}
        now = {folder: list(homes) for folder, homes in before.items()}
        yield now
        if now != before:
            write_atomically(path, json.dumps(now, indent=1))
