"""`k2 doctor`: every address tried with a real call, in a bounded time."""

import threading
import time
from dataclasses import asdict, dataclass

import click

from k2_dagster.cli import doctor_checks as checks
from k2_dagster.cli.common import emit, json_option
from k2_dagster.cli.common import settings as current_settings
from k2_dagster.cli.doctor_checks import Check
from k2_dagster.cli.exits import FINDING
from k2_dagster.errors import K2Error
from k2_dagster.observability.masking import mask, masked
from k2_dagster.settings import Settings, mixed_addresses
from k2_dagster.sources import STACK_FILE

# A part that needs longer to say that it is there is not well; the checks run side by side.
CHECK_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    ok: bool
    address: str
    found: str
    advice: str
    seconds: float


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Try Kafka, registry, PostgreSQL, warehouse, clock and disk with real calls.

    Exit status 1 if anything is wrong.
    """
    settings = current_settings()
    findings = examine(settings)
    if as_json:
        emit([asdict(one) for one in findings], as_json=True)
    else:
        _show(findings)
        if checks.is_fresh(settings):
            click.echo("\nNothing is set up here yet: `k2 dev up` starts everything, or see docs/settings.md")
    if not all(one.ok for one in findings):
        raise SystemExit(FINDING)


def examine(settings: Settings) -> list[Finding]:
    """Every check that applies to these settings, side by side, all within CHECK_SECONDS."""
    deadline = time.monotonic() + CHECK_SECONDS
    running: dict[str, _Running] = {}
    for name, address, check in _checks(settings):
        # Without PostgreSQL there is no clock to compare, and its finding is told already
        running[name] = _Running(name, address, check, settings, running["catalog"] if name == "clock" else None)
    found = [one.finding(deadline) for one in running.values()]
    return [one for one in found if one is not None]


def _checks(settings: Settings) -> list[tuple[str, str, Check]]:
    home = str(settings.home.absolute())
    chosen: list[tuple[str, str, Check]] = [
        ("kafka", settings.kafka_bootstrap_servers, checks.kafka),
        ("registry", mask(settings.schema_registry_url), checks.registry),
        ("catalog", masked(settings.catalog_uri), checks.catalog),
        ("warehouse", settings.warehouse, checks.warehouse),
        ("clock", "this machine and PostgreSQL", checks.clock),
        ("disk", home, checks.disk),
    ]
    if settings.dagster_uri is not None:
        chosen.insert(3, ("dagster storage", masked(settings.dagster_uri), checks.dagster_storage))
    if mixed_addresses():
        chosen.insert(0, ("addresses", str(settings.home / STACK_FILE), checks.addresses))
    if (settings.home / STACK_FILE).exists():
        chosen.append(("dev stack", home, checks.stack_packages))
    return chosen


class _Running:
    """A check on a thread of its own, which does not keep the process when it never ends."""

    def __init__(self, name: str, address: str, check: Check, settings: Settings, after: "_Running | None") -> None:
        self._name, self._address, self._after = name, address, after
        self._started = time.monotonic()
        self._found: Finding | None = None
        self._skipped = False
        self._thread = threading.Thread(target=self._run, args=(check, settings), daemon=True)
        self._thread.start()

    def finding(self, deadline: float) -> Finding | None:
        """None when the check that comes first has failed."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._skipped or (self._after is not None and self._after.is_silent):
            return None
        return self._found or self._finding(
            False, f"no answer within {CHECK_SECONDS:.0f} s", "something accepts connections there and does not answer"
        )

    @property
    def is_silent(self) -> bool:
        """Whether it has not come to an end."""
        return self._found is None

    def _run(self, check: Check, settings: Settings) -> None:
        if self._after is not None:
            self._after._thread.join()  # noqa: SLF001  (one of us)
            self._skipped = self._after._found is None or not self._after._found.ok  # noqa: SLF001
            if self._skipped:
                return
        try:
            self._found = self._finding(True, check(settings), "")
        except K2Error as error:
            self._found = self._finding(False, mask(error.message), error.advice)
        except Exception as error:  # noqa: BLE001  (on this thread nobody else would tell it)
            told = f"{type(error).__name__}: {error}"
            self._found = self._finding(False, mask(told), "a mistake of K2's: please report it")

    def _finding(self, ok: bool, found: str, advice: str) -> Finding:
        return Finding(self._name, ok, self._address, found, advice, round(time.monotonic() - self._started, 3))


def _show(findings: list[Finding]) -> None:
    width = max(len(one.check) for one in findings)
    for one in findings:
        mark = click.style("ok   ", fg="green") if one.ok else click.style("WRONG", fg="red", bold=True)
        click.echo(f"{mark}  {one.check:{width}}  {one.address}: {one.found}")
        if one.advice:
            click.echo(f"       {'':{width}}  -> {one.advice}")
