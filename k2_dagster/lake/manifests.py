"""Which manifests a commit puts together, so that neither commits nor planning slow down with history.

Iceberg's own rule fills manifests up to a size from the oldest on: near the size, it writes a whole one again with
every commit (100 ms), for hundreds of commits. This one is tiered: so many of a tier become one of the next, each
once.
"""

from collections import defaultdict
from collections.abc import Sequence

from pyiceberg.manifest import ManifestContent, ManifestFile
from pyiceberg.table import Transaction
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles, _ManifestMergeManager

# So many manifests become one, and one that names so many files is of the next tier. More would make lists longer,
# which every commit writes; fewer would write entries more often.
FANOUT = 32
# A manifest of so many files is left alone: merging some would hold the table's lock for seconds. Compaction leaves
# fewer files.
MOST_FILES = FANOUT * FANOUT


def to_merge(files: Sequence[int]) -> list[int]:
    """Places of the manifests to put into one, of the lowest tier that is full; none mostly. `files` has how many files
    each names."""
    tiers: dict[bool, list[int]] = defaultdict(list)
    for place, count in enumerate(files):
        if count < MOST_FILES:
            tiers[count >= FANOUT].append(place)
    return next((tiers[tier] for tier in (False, True) if len(tiers[tier]) >= FANOUT), [])


class TieredAppend(_FastAppendFiles):
    """PyIceberg's append with this rule. Use it as a context, as what `Table.append` uses."""

    def __init__(self, transaction: Transaction, snapshot_properties: dict[str, str]) -> None:
        super().__init__(
            operation=Operation.APPEND,
            transaction=transaction,
            io=transaction._table.io,  # noqa: SLF001  (as PyIceberg's own `update_snapshot`)
            snapshot_properties=snapshot_properties,
        )
        self._merger: _ManifestMergeManager[_FastAppendFiles] = _ManifestMergeManager(0, 0, True, self)

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        spec = self._transaction.table_metadata.default_spec_id
        ours = [one for one in manifests if one.content == ManifestContent.DATA and one.partition_spec_id == spec]
        group = [ours[place] for place in to_merge([_files(one) for one in ours])]
        if not group:
            return manifests
        merged = self._merger._create_manifest(spec, group)  # noqa: SLF001  (its other methods choose by size)
        paths = {one.manifest_path for one in group}
        return [merged, *(one for one in manifests if one.manifest_path not in paths)]


def _files(manifest: ManifestFile) -> int:
    return (manifest.added_files_count or 0) + (manifest.existing_files_count or 0)
