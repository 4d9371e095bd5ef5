"""A gap of 500 halts, alerts, is acknowledged, recovered and filled, and the check turns green: through Dagster.

    python -m proofs.halted

Ingest is Dagster's alone: its sensors launch the drains and the checks. What a person does is done as they do it (the
job `acknowledge`), what a process does by `k2 recover` and rounds of `k2 watch`. Each step is looked at from outside:
SQL, the table's rows, what a webhook got, Dagster's GraphQL.

    1. halt         numbers 101 to 600 of a symbol do not come: its partition halts behind the message that shows it
    2. go on        the other partition lands what comes afterwards, the halted one does not
    3. alert        the breaker and the failed check reach a webhook; the check of the day is red, with severity ERROR
    4. wait         before a person has decided, nothing is asked for
    5. acknowledge  by Dagster's job, with a name and a reason; what waited lands, the gap stays
    6. recover      the gap is asked for, fetched from the venue, published, and lands late through Dagster
    7. fill         the ledger says filled, `complete` says complete, and every trade is in the table once, as it was
    8. green        the check passes, and both incidents are resolved, which the webhook is told
"""

import sys
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import click

from k2_dagster.alerts.judge import HOLD_SECONDS
from k2_dagster.devstack.stack import Stack
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.database import Database
from proofs.accounting import account
from proofs.common import Proof, conclude, new_lake, new_token, proof_stack, scratch_folder
from proofs.dagster_live import everything_landed, live_dagster, run_status, runs
from proofs.halted_scene import Scene, until
from proofs.halted_servers import PARTITIONS, new_market, outside

# Numbers of the halted symbol: what came, what did not, what showed it, what came behind the halt.
BEFORE, FIRST, LAST, SHOWN, NEWEST = 100, 101, 600, 700, 720
MISSING = LAST - FIRST + 1
# Of the symbol on the other partition: with the gap, and afterwards.
OTHER, OTHER_NEWEST = 300, 400
HALTED, GOES_ON = 0, 1
WHO, WHY = "ann", "the venue has confirmed the outage"

_PROFILE = """version = 1
[exchanges.{name}]
title = "Halts at a gap"
asset_class = "crypto"
calendar = "24/7"
timezone = "UTC"
entitlement_class = "simulated"
partitions = {partitions}
on_critical_gap = "halt"
gap_page_at = 10
gap_halt_above = 100
gap_grace_messages = 5
gap_grace_seconds = 0.0
receive_delay_seconds = 3600.0
[exchanges.{name}.streams.match]
dataset = "ticks"
domain = "dense"
[exchanges.{name}.recovery]
source = "coinbase_rest"
url = "{url}"
"""


@click.command()
@click.option("--hold", default=HOLD_SECONDS, show_default=True, help="Seconds until an incident counts as resolved.")
@click.option("--home", type=click.Path(path_type=Path), help="Use, and keep, the stack of this folder.")
def main(hold: float, home: Path | None) -> None:
    """Run the proof."""
    with proof_stack(home) as stack, scratch_folder() as folder:
        result = run(stack, folder, hold_seconds=hold)
    sys.exit(conclude(result))


def run(stack: Stack, folder: Path, *, hold_seconds: float) -> Proof:
    """The proof on a running stack."""
    conditions = {"missing": MISSING, "partitions": PARTITIONS, "hold_seconds": hold_seconds}
    result = Proof("halted", conditions=conditions)
    market = new_market(f"e{new_token()}")
    with outside(market, NEWEST) as servers:
        profile = _PROFILE.format(name=market.exchange, partitions=PARTITIONS, url=servers.url)
        lake = new_lake(
            stack,
            folder,
            profile,
            K2_DAGSTER_URI=stack.create_database(f"dagster_{new_token()}"),
            K2_FRESHNESS_TARGET_SECONDS="1",
            K2_ALERT_URLS=servers.webhook,
        )
        with (
            live_dagster(lake) as parts,
            closing(Database(lake.settings)) as database,
            Publisher(lake.settings, lake.profiles, market.exchange, publisher_session="p1") as publisher,
        ):
            scene = Scene(lake, market, servers, parts, publisher, database, result, hold_seconds)
            try:
                _play(scene)
            except TimeoutError as error:
                result.object_to(str(error))
            result.counts |= _counts(scene)
    return result


def _play(scene: Scene) -> None:
    _halt(scene)
    _go_on(scene)
    day = str(scene.gaps()[0]["event_day"])
    keys = _alert(scene, day)
    _wait(scene)
    _acknowledge(scene)
    _recover(scene)
    _fill(scene)
    _green(scene, day, keys)


def _halt(scene: Scene) -> None:  # Step 1
    scene.publish(HALTED, 1, BEFORE)
    scene.publish(HALTED, LAST + 1, SHOWN)
    scene.publish(GOES_ON, 1, OTHER)
    until("the partition is halted", lambda: bool(scene.breakers()))
    until("the other partition has landed", lambda: scene.numbers(GOES_ON) == list(range(1, OTHER + 1)))
    (breaker,), (gap,) = scene.breakers(), scene.gaps()
    told = (gap["first_sequence"], gap["last_sequence"], gap["missing"], gap["level"], gap["state"])
    scene.result.expect("the gap", told, (FIRST, LAST, MISSING, "halt", "open"))
    halted = (breaker["kafka_partition"], breaker["missing"], breaker["acknowledged_at"])
    scene.result.expect("the breaker", halted, (HALTED, MISSING, None))


def _go_on(scene: Scene) -> None:  # Step 2
    scene.publish(HALTED, SHOWN + 1, NEWEST)
    scene.publish(GOES_ON, OTHER + 1, OTHER_NEWEST)
    until("the other partition goes on", lambda: scene.numbers(GOES_ON) == list(range(1, OTHER_NEWEST + 1)))
    landed = max(int(one["kafka_offset"]) for one in scene.rows(HALTED))
    scene.result.expect("the last offset of the halted partition", landed, scene.breakers()[0]["kafka_offset"])


def _alert(scene: Scene, day: str) -> tuple[str, str]:  # Step 3
    breaker = f"breaker/{topic_name('ticks', scene.market.exchange)}/{HALTED}"
    check = f"check/ticks/sequence_gaps/{scene.market.exchange}|{day}"
    until("the check is red", lambda: scene.check(day)[0] == "FAILED")
    scene.result.expect("the check", scene.check(day)[1:], ("ERROR", MISSING))
    until("the webhook has the breaker", lambda: scene.told(breaker, "opened"))
    until("the webhook has the failed check", lambda: scene.told(check, "opened"))
    body = str(scene.outside.told[f"{breaker}#1"]["message"])
    for part in (f"{FIRST} to {LAST}", "k2 breaker acknowledge", "runbooks/breaker.md"):
        scene.result.expect(f"{part!r} in what the webhook got", part in body, True)
    return breaker, check


def _wait(scene: Scene) -> None:  # Step 4
    report = scene.recover()
    scene.result.expect("asked for before the acknowledgement", (report["asked"], scene.outside.asked), (0, []))


def _acknowledge(scene: Scene) -> None:  # Step 5
    said = {"breaker_id": int(scene.breakers()[0]["id"]), "acknowledged_by": WHO, "reason": WHY}
    run_id = scene.launch("acknowledge", {"ops": {"acknowledge_breaker": {"config": said}}})
    until("the halt is acknowledged", lambda: run_status(scene.parts, run_id) == "SUCCESS")
    (breaker,) = scene.breakers()
    found = (breaker["acknowledged_by"], breaker["acknowledged_reason"])
    scene.result.expect("the acknowledgement on record", found, (WHO, WHY))
    landed = [*range(1, BEFORE + 1), *range(LAST + 1, NEWEST + 1)]
    until("what waited behind the halt has landed", lambda: scene.numbers(HALTED) == landed)
    scene.result.expect("the gap behind the acknowledgement", scene.gaps()[0]["state"], "open")
    scene.result.expect("completeness before the recovery", _completeness(scene), "Gaps")


def _completeness(scene: Scene) -> str:
    return type(scene.complete(HALTED, 2, NEWEST - 1)).__name__


def _recover(scene: Scene) -> None:  # Step 6
    report = scene.recover()
    found = (report["asked"], report["published"], report["outcomes"])
    scene.result.expect("the recovery", found, (1, MISSING, {"recover": 1}))
    events = scene.sql("""SELECT event, attempt FROM k2.gap_events JOIN k2.gaps ON gaps.id = gap_events.gap_id
        WHERE gaps.exchange = :exchange ORDER BY gap_events.id""")
    scene.result.expect("what was tried", [tuple(one.values()) for one in events], [("request", 1), ("recover", 1)])


def _fill(scene: Scene) -> None:  # Step 7
    until("the gap is filled", lambda: scene.gaps()[0]["state"] == "filled")
    until("all has landed", lambda: everything_landed(scene.lake, [scene.market.exchange]))
    scene.result.expect("numbers that filled the gap", (len(scene.gaps()), scene.gaps()[0]["filled"]), (1, MISSING))
    scene.result.expect("completeness", _completeness(scene), "Complete")
    rows = scene.rows(HALTED)
    late = [int(one["sequence"]) for one in rows if one["origin"] == "recovered"]
    scene.result.expect("recovered rows", late == list(range(FIRST, LAST + 1)), True)
    scene.result.expect("the partition of every row", {one["kafka_partition"] for one in rows}, {HALTED})
    wanted = [scene.market.values(number) for number in range(1, NEWEST + 1)]
    found = [(one["sequence"], one["price"], one["size"], one["exchange_timestamp"]) for one in rows]
    scene.result.expect("every trade once, as it was", found == wanted, True)
    for example in account(scene.lake, [scene.market.exchange]).examples:
        scene.result.object_to(example)


def _green(scene: Scene, day: str, keys: tuple[str, str]) -> None:  # Step 8
    until("the check is green", lambda: scene.check(day)[0] == "SUCCEEDED")
    scene.result.expect("messages that the check misses", scene.check(day)[2], 0)
    for key in keys:
        until(f"the webhook has the end of {key}", partial(scene.told, key, "resolved"))
    until("no incident of the exchange is open", scene.all_resolved)


def _counts(scene: Scene) -> dict[str, Any]:
    done = [one for one in runs(scene.parts) if one["status"] == "SUCCESS"]
    return {
        "runs": {job: sum(one["jobName"] == job for one in done) for job in ("drain", "check", "acknowledge")},
        "rows": len(scene.rows(HALTED)) + len(scene.rows(GOES_ON)),
        "recovered": sum(one["origin"] == "recovered" for one in scene.rows(HALTED)),
        "told": sorted(scene.outside.told),
        "asked_of_the_venue": len(scene.outside.asked),
    }


if __name__ == "__main__":
    main()
