"""`k2 symbols`: what is traded where, as the venues say it."""

from contextlib import closing

import click

from k2_dagster.cli.common import emit, json_option, settings
from k2_dagster.query.engine import QueryEngine
from k2_dagster.query.symbols import Found, find_symbols
from k2_dagster.schemas.instruments import ASSET_CLASSES
from k2_dagster.schemas.profiles import load_profiles

DEFAULT_LIMIT = 50
# A person looks for one symbol; a program that wants all asks `market_data.symbols`.
MOST_LIMIT = 10_000
SHOWN = (
    *("symbol", "exchange", "canonical_symbol", "asset_class", "instrument_type", "quote_currency", "tick_size"),
    *("lot_size", "status", "valid_from", "valid_to", "said"),
)


@click.command()
@click.argument("text", default="")
@click.option("--exchange", help="Only this exchange.")
@click.option("--asset-class", type=click.Choice(ASSET_CLASSES), help="Only of this class.")
@click.option("--limit", type=click.IntRange(1, MOST_LIMIT), default=DEFAULT_LIMIT, show_default=True,
              help="Most lines.")  # fmt: skip
@json_option
def symbols(text: str, exchange: str | None, asset_class: str | None, limit: int, as_json: bool) -> None:
    """Search what the venues' feeds said of their instruments: TEXT is a venue's symbol or a canonical one, or a part.

    The best matches come first: the whole name, its beginning, the beginning of a part (USDT in BTC-USDT), any part.
    Case, dashes, slashes and underscores do not count. `valid_from` and `valid_to` are the venue's, `said` is when it
    told the current definition; what a venue does not tell is empty. All of it is in market_data.symbols, what was said
    before in market_data.instruments.
    """
    current = settings()
    if exchange is not None:
        load_profiles(current.profiles).exchange(exchange)
    with closing(QueryEngine(current)) as engine:
        found = find_symbols(engine, text, exchange=exchange, asset_class=asset_class, limit=limit)
    if as_json:
        emit(found.rows, as_json)
        return
    if found.rows:
        emit(found.rows, as_json, columns=SHOWN)
    if (more := told(found, text, exchange, asset_class)) is not None:
        click.echo(more, err=bool(found.rows))


def told(found: Found, text: str, exchange: str | None, asset_class: str | None) -> str | None:
    """What is to be said beside the table; None when it says all."""
    if len(found.rows) < found.matches:
        return f"only the best {len(found.rows):,} of {found.matches:,} are shown: say more, or --limit more"
    if found.rows:
        return None
    if found.known:
        near = f"; did you mean {', '.join(found.near)}?" if found.near else ""
        return f"none of {found.known:,} symbols is like {text!r}{near}"
    of = f"{asset_class + ' ' if asset_class else ''}definitions{' of ' + exchange if exchange else ''}"
    who = "`k2 feed VENUE` and `k2 simulate` publish them"
    return f"no {of} have landed: {who}, `k2 status` shows whether they have landed"
