"""Table metadata that is never changed in place, so that nobody has to copy it.

PyIceberg copies the whole metadata, snapshot by snapshot, whenever it stages an update: most of a commit's time, under
the interpreter lock, and it grows with the number of snapshots. Its updates make new objects of what they change.
"""

from collections.abc import Mapping
from typing import Any

from pyiceberg.table.metadata import TableMetadata, TableMetadataV2


class SharedMetadata(TableMetadataV2):
    """Metadata whose copies have its parts in common."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "SharedMetadata":  # noqa: ARG002
        """A copy with these fields; `deep` is what PyIceberg asks for."""
        return super().model_copy(update=update)


def shared(metadata: TableMetadata) -> TableMetadata:
    """The metadata as one that is shared; of another format version than ours, as it is."""
    if type(metadata) is not TableMetadataV2:
        return metadata
    return SharedMetadata.model_construct(_fields_set=metadata.model_fields_set, **dict(metadata))
