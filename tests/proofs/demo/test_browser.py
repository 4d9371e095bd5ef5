"""The links of the demo in a real browser: the failed check is seen, and its runbook is reached by clicking."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from k2_dagster.cli.check import run_checks
from k2_dagster.devstack.dagster import DagsterParts
from k2_dagster.devstack.process import wait_until
from k2_dagster.settings import Settings
from proofs.browser import PATIENCE_SECONDS, VARIABLE, find_chromium, open_page
from proofs.dagster_live import materializations
from proofs.demo.closing import links
from tests.dagster_support import CHECKS_OF_TICKS, make_market

REPOSITORY = Path(__file__).parents[3]
# A tick of the sensor, on a busy machine.
REPORTED_SECONDS = 60.0


def test_a_browser_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such program"):
        find_chromium({VARIABLE: str(tmp_path / "none")})
    program = tmp_path / "chromium"
    program.write_text("")
    program.chmod(0o755)
    assert find_chromium({VARIABLE: str(program)}) == program
    assert find_chromium({"PATH": str(tmp_path)}) == program


@pytest.fixture(scope="module")
def chromium() -> Path:
    found = find_chromium()
    if found is None:
        pytest.skip(f"no Chromium here: install one, or name it in {VARIABLE}")
    return found


@pytest.fixture
def shown(settings: Settings, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The demo's links for an exchange with a gap of three."""
    market = make_market(settings, tmp_path)
    parts = DagsterParts(settings.home, market.settings)
    try:
        parts.up()
        market.publish(market.exchange, 1_500, faults=("drop:3@1s/ticks",))
        market.drain(market.exchange)
        assert wait_until(lambda: bool(materializations(parts, "ticks")), REPORTED_SECONDS)
        run_checks(market.settings, "ticks", market.exchange, market.today)
        yield links(parts.url, market.exchange, market.today) | {"partition": f"{market.today}|{market.exchange}"}
    finally:
        parts.down(purge=True)
        market.platform.close()


@pytest.mark.stack
@pytest.mark.browser
@pytest.mark.timeout(600)
def test_the_links_show_the_partition_the_failed_check_its_runbook_and_the_lineage(
    shown: dict[str, str], chromium: Path
) -> None:
    expect.set_options(timeout=PATIENCE_SECONDS * 1000)
    with open_page(chromium, 1600, 1000) as page:
        _grid(page, shown["partition grid of ticks"], shown["partition"])
        _failed_check(page, shown["the check of sequence gaps, with their ranges"], shown["partition"])
        page.goto(shown["lineage"])
        for group in ("kafka", "market_data"):
            expect(page.get_by_text(group, exact=True).first).to_be_visible()


def _grid(page: Page, link: str, partition: str) -> None:
    page.goto(link)
    expect(page.get_by_text(partition).first).to_be_visible()
    expect(page.get_by_text("Materialized (1)")).to_be_visible()
    expect(page.get_by_text("Failed (0)")).to_be_visible()
    for name in ("rows", "dagster/row_count", "commit_seconds_p50", "gaps"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()


def _failed_check(page: Page, link: str, partition: str) -> None:
    page.goto(link)
    expect(page.get_by_text("1 sequence gaps, 3 messages missing").first).to_be_visible()
    expect(page.get_by_text(partition).first).to_be_visible()
    # one in the list of checks and one beside it; of the others none
    expect(page.get_by_text("Failed", exact=True)).to_have_count(2)
    expect(page.get_by_text("Succeeded", exact=True)).to_have_count(CHECKS_OF_TICKS - 1)
    runbook = page.get_by_role("link", name="runbooks/sequence_gaps.md")
    expect(runbook.first).to_have_attribute(
        "href", "https://github.com/k2-dagster/k2/blob/main/docs/runbooks/sequence_gaps.md"
    )
    page.get_by_text("[Show Markdown]").click()
    text = (REPOSITORY / "docs" / "runbooks" / "sequence_gaps.md").read_text()
    first_step = next(line for line in text.splitlines() if line.startswith("1. ")).removeprefix("1. ")
    expect(page.get_by_role("dialog")).to_contain_text(first_step.split("`")[0])
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    # gaps by level and state, and behind it the ranges
    page.get_by_text("[Show JSON]").last.click()
    expect(page.get_by_text("first_sequence").first).to_be_visible()
