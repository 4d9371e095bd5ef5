"""The scenarios hold, and whatever is broken in the tracker or the ledger makes them fail."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from k2_dagster.feeds.simulator.faults import FaultType
from k2_dagster.ingest import batch, kernel
from k2_dagster.ingest.channel_numbers import ChannelNumbers
from k2_dagster.ingest.ledger import ledger_changes
from k2_dagster.ingest.numbering import Judged, Numbering
from k2_dagster.ingest.sessions import Sessions
from k2_dagster.ingest.terms import Terms
from k2_dagster.ingest.tracker import Tracker
from k2_dagster.schemas.profiles import Domain
from k2_dagster.state import channel_fills, gaps
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import LedgerChange
from proofs.common import Proof, conclude
from proofs.scenarios.__main__ import run
from proofs.scenarios.database import throwaway_database

SEEDS_IN_CI = 100
# Two in a row speak all six domains.
FIRST, FEW = 1, 2


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with throwaway_database() as own:
        yield own


@pytest.mark.timeout(900)
def test_the_ledger_is_what_was_planted(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    proof = run(database, SEEDS_IN_CI, FIRST)
    status = conclude(proof)
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert line["findings"] == []
    assert (status, line["holds"]) == (0, True)
    assert set(line["planted"]) == {f"{kind.value} in {domain.value}" for kind in FaultType for domain in Domain}
    assert line["set_aside"] <= SEEDS_IN_CI // 10
    rows = line["ledger_rows"]
    for kind in (
        *("gaps level=warn state=open", "gaps level=page state=filled", "gaps level=halt state=open", "breakers"),
        *("gaps level=warn state=accepted", "gaps level=warn state=expired", "gap_events event=request", "resets"),
        *("holes cause=quarantined", "intervals is_open=True", "intervals is_open=False", "connections", "holds"),
    ):
        assert rows[kind], kind
    assert line["crashes"]
    assert line["acknowledged"]
    assert line["brought_again"]


def _changes(change: Callable[[LedgerChange], list[LedgerChange]]) -> Any:
    """`ledger_changes` with one of its reports of a gap made into something else."""
    real = ledger_changes

    def broken(*arguments: Any) -> Any:
        made = real(*arguments)
        for at, one in enumerate(made):
            if isinstance(one, LedgerChange) and one.change == "report":
                return [*made[:at], *change(one), *made[at + 1 :]]
        return made

    return broken


def _without_fills(numbering: Numbering, *arguments: Any, **options: Any) -> Judged:
    judged = _JUDGE(numbering, *arguments, **options)
    return replace(judged, events=[one for one in judged.events if one.kind != kernel.FILL])


NOTHING = np.zeros(0, dtype=np.int64)
_JUDGE = Numbering.judge
_LOAD = Tracker.load


def _patient(_: type[Tracker], data: bytes, terms: Terms) -> Tracker:
    """After a restart, holes wait for one message more."""
    return _LOAD(data, replace(terms, grace_messages=terms.grace_messages + 1))


DEFECTS: dict[str, tuple[Any, str, Any, str]] = {
    "a gap is swallowed": (batch, "ledger_changes", _changes(lambda _: []), "gaps: planted and not in the ledger"),
    "a gap is doubled": (
        *(batch, "ledger_changes"),
        _changes(lambda one: [one, replace(one, opened_offset=one.opened_offset + 1)]),
        "gaps: in the ledger and not planted",
    ),
    "a gap is one number too long": (
        *(batch, "ledger_changes"),
        _changes(lambda one: [replace(one, last_sequence=one.last_sequence + 1)]),
        "gaps: planted and not in the ledger",
    ),
    "a level is wrong": (
        *(batch, "ledger_changes"),
        _changes(lambda one: [replace(one, level={"warn": "page", "page": "halt", "halt": "warn"}[one.level])]),
        "gaps: planted and not in the ledger",
    ),
    "late numbers fill nothing": (Numbering, "judge", _without_fills, "gaps: in the ledger and not planted"),
    "a fill is forgotten when folded": (gaps, "_settle", lambda *_: None, "gaps: in the ledger and not planted"),
    "late numbers of a channel fill nothing": (
        *(channel_fills, "_fill"),
        lambda *_: None,
        "gaps: in the ledger and not planted",
    ),
    "a restart forgets": (Tracker, "load", classmethod(lambda cls, _, terms: cls(terms)), "intervals: "),
    "a restart changes the grace": (Tracker, "load", classmethod(_patient), "gaps: planted and not in the ledger"),
    "sessions begin unseen": (Sessions, "take_resets", lambda _: [], "resets: planted and not in the ledger"),
    "nothing halts": (batch, "critical_gaps", lambda *_: {}, "breakers: planted and not in the ledger"),
    "numbers of a channel are no identity": (
        *(ChannelNumbers, "judge"),
        lambda *_: (NOTHING, NOTHING),
        "is again: 1 rows",
    ),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_is_found(defect: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, broken, finding = DEFECTS[defect]
    monkeypatch.setattr(owner, name, broken)
    proof: Proof = run(database, FEW, 1_000 + 10 * list(DEFECTS).index(defect))
    assert any(finding in one for one in proof.findings), proof.findings[:3]
