"""`k2 settings`."""

import click

from k2_dagster.cli.common import emit, json_option
from k2_dagster.observability.masking import masked
from k2_dagster.settings import explain_settings


@click.command()
@json_option
def settings(as_json: bool) -> None:
    """Every setting with its value, where the value came from, its unit and meaning. Secrets are masked."""
    rows = [
        {
            "name": one.name,
            "value": masked(one.value),
            "source": one.source,
            "unit": one.unit,
            "help": one.help,
        }
        for one in explain_settings()
    ]
    emit(rows, as_json)
