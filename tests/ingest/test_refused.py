"""What a feed handler refused: quarantined with its bytes, known when it comes again, and no gap."""

from dataclasses import replace
from typing import Any

import pytest

from k2_dagster.schemas.datasets import WIRE_DATASETS
from tests.ingest.helpers import Sent, avro, refused
from tests.ingest.test_batch import land, reasons, ticks

TICKS = WIRE_DATASETS["ticks"]


@pytest.mark.parametrize("sequence", [4, None], ids=["number known", "number unknown"])
def test_what_a_feed_refused_is_quarantined_with_its_bytes_and_explains_its_hole(sequence: int | None) -> None:
    sent = [replace(one, value=avro(TICKS, sequence=one.offset + 1, **pair(one.offset + 1))) for one in ticks(12)]
    sent[3] = Sent(b"\0\0\0\0\7 as it came", offset=3, headers=refused("A", 4, sequence))
    landed = land("ticks", sent, {4, 7})
    assert landed.quarantine == {(0, 3): ("refused_by_feed", "why", "A", b"testex.A", None)}
    assert landed.ledger == []
    # All of it again: only duplicates, and still no gap
    again = [replace(one, offset=12 + one.offset) for one in sent]
    landed = land("ticks", [*sent, *again], {4, 15})
    assert {offset: reason for offset, reason in reasons(landed).items() if offset >= 12} == dict.fromkeys(
        range(12, 24), "duplicate"
    )
    assert landed.ledger == []
    # Read at last, by a mended format with numbers of its own: it lands, once
    mended = [replace(one, offset=24 + one.offset, value=avro(TICKS, sequence=4, **pair(4, "q"))) for one in ticks(2)]
    landed = land("ticks", [*sent, *again, *mended], {20})
    assert ((0, 24) in landed.rows, reasons(landed)[25]) == (True, "duplicate")
    (began,) = landed.ledger
    assert (began.change, began.previous_session, began.session) == ("session", "p", "q")


def pair(number: int, session: str = "p") -> dict[str, Any]:
    return {"publisher_session": session, "publisher_sequence": number}


def test_what_a_feed_refused_without_a_pair_explains_a_hole_of_the_symbol_of_its_key() -> None:
    sent = ticks(12)
    sent[3] = Sent(b"x", offset=3, headers=[("k2-refused-reason", b"why"), ("k2-refused-sequence", b"many")])
    landed = land("ticks", sent)
    assert landed.quarantine == {(0, 3): ("refused_by_feed", "why", "A", b"testex.A", None)}
    assert landed.ledger == []


def test_what_was_lost_is_not_taken_for_refused_before() -> None:
    sent = [replace(one, value=avro(TICKS, sequence=one.offset + 1, **pair(one.offset + 1))) for one in ticks(12)]
    late = Sent(b"as it came", offset=12, headers=refused("A", 4, 4))
    landed = land("ticks", [*sent[:3], *sent[4:], late])
    assert reasons(landed) == {12: "refused_by_feed"}
