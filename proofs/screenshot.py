"""The picture of Dagster for the README, from the stack that `make demo` has left up: `make screenshot`.

It shows the partition grid of `ticks`, with the newest day of the demo's exchange chosen.
"""

import sys
from pathlib import Path

import click

from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.stack import Stack
from k2_dagster.errors import K2Error, StackFailed
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import load_settings
from proofs.browser import VARIABLE, find_chromium, open_page
from proofs.demo.closing import links
from proofs.demo.plan import EXCHANGE
from proofs.demo.stage import HOME
from proofs.demo.state import Watch

PICTURE = Path("docs/images/dagster.png")
WIDTH, HEIGHT = 1600, 1000
# A README is loaded by everyone who passes by.
LARGEST_BYTES = 300_000
# Fonts and dots are drawn a moment after the text is there.
SETTLE_SECONDS = 3.0


def main() -> int:
    """Take the picture. Exit status 1 when there is nothing to take it of, or with."""
    chromium = find_chromium()
    if chromium is None:
        click.echo(f"no Chromium here: install one, or name it in {VARIABLE}", err=True)
        return 1
    try:
        size = _take(chromium)
    except K2Error as error:
        click.echo(str(error), err=True)
        return 1
    click.echo(f"{PICTURE}: {WIDTH} x {HEIGHT}, {size / 1000:.0f} kB")
    return 0 if size <= LARGEST_BYTES else 1


def _take(chromium: Path) -> int:
    settings = load_settings(Stack(HOME).settings_environment())
    url = DagsterParts(HOME, settings).url if (HOME / "dagster" / "port").exists() else ""
    if not url:
        raise StackFailed("Dagster is not up here", advice="run `make demo` first, which leaves it up")
    watch = Watch(settings, load_profiles(settings.profiles), EXCHANGE)
    try:
        day = watch.newest_day()
    finally:
        watch.close()
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    with open_page(chromium, WIDTH, HEIGHT) as page:
        page.goto(links(url, EXCHANGE, day)["partition grid of ticks"])
        page.get_by_text(f"{day}|{EXCHANGE}").first.wait_for()
        page.get_by_text("commit_seconds_p50").first.wait_for()
        page.wait_for_timeout(SETTLE_SECONDS * 1000)
        page.screenshot(path=PICTURE)
    return PICTURE.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
