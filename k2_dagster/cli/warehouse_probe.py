"""`python -m k2_dagster.cli.warehouse_probe`: write, read and delete an object in the warehouse of the settings.

A process of its own, because a client of object storage that waits for a silent server can only be ended with its
process. Says what is wrong in the last line of standard output, and ends with 1.
"""

import os
import sys
import uuid

import click
from pyiceberg.io import load_file_io

from k2_dagster.errors import K2Error, WarehouseUnavailable
from k2_dagster.lake.catalog import catalog_properties, translated_errors
from k2_dagster.observability.masking import mask
from k2_dagster.settings import Settings, as_environment, load_settings
from k2_dagster.sources import PREFIX


def environment(settings: Settings) -> dict[str, str]:
    """What the process sees: these settings, and of ours whatever is no setting."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    return ours | as_environment(settings)


def probe(settings: Settings) -> None:
    """Raises WarehouseUnavailable."""
    location = f"{settings.warehouse}/.k2-doctor-{uuid.uuid4().hex}"
    content = uuid.uuid4().bytes
    with translated_errors():
        io = load_file_io(catalog_properties(settings), location)
        with io.new_output(location).create() as output:
            output.write(content)
        with io.new_input(location).open() as source:
            read = source.read()
        io.delete(location)
    if read != content:
        raise WarehouseUnavailable("a probe did not read back as it was written: do not trust this storage")


def main() -> int:
    """The exit status."""
    try:
        probe(load_settings())
    except (K2Error, ValueError) as error:
        told = error.message if isinstance(error, K2Error) else str(error)
        click.echo(mask(" ".join(told.split())))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
