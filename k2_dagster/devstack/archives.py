"""Unpacks an archive, and never outside its folder: Python's own filter sees to that from 3.11.4 on."""

import tarfile
from pathlib import Path


def extract(archive: Path, folder: Path) -> None:
    """Raises tarfile.TarError or OSError for what is no archive, or would be written elsewhere."""
    with tarfile.open(archive) as packed:
        if hasattr(tarfile, "data_filter"):
            packed.extractall(folder, filter="data")
        elif outside := [one.name for one in packed.getmembers() if not _is_within(one, folder)]:
            raise tarfile.ExtractError(f"not a file or a folder within: {outside[0]}")
        else:
            packed.extractall(folder)


def _is_within(member: tarfile.TarInfo, folder: Path) -> bool:
    plain = member.isfile() or member.isdir()
    return plain and (folder / member.name).resolve().is_relative_to(folder.resolve())
