"""What every RecoverySource does, whatever stands behind it: a suite that the tests of each source inherit.

class TestMine(RecoverySourceBehaviour):
    @pytest.fixture
    def served(self) -> Iterator[Served]: ...
"""

from abc import ABC, abstractmethod
from typing import Any

import pyarrow as pa
import pytest

from k2_dagster.errors import TerminalError, VenueUnavailable
from k2_dagster.feeds.recovery.source import MissingRange, RecoverySource
from k2_dagster.schemas.arrow import wire_schema
from k2_dagster.schemas.datasets import dataset_named

# What a row is, apart from when it was received and by whom published.
IDENTITY = ("exchange", "stream", "kind", "symbol", "session", "channel", "sequence", "exchange_timestamp")


class Served(ABC):
    """A source with a venue of the test's behind it that has the numbers `first`..`last` (at least 30 of them)."""

    source: RecoverySource
    first: int
    last: int

    @abstractmethod
    def missing(self, first: int, last: int) -> MissingRange:
        """A range that the source can be asked for."""

    @abstractmethod
    def truth(self, first: int, last: int) -> dict[str, list[dict[str, Any]]]:
        """The rows that the venue has of these numbers, by dataset, in their order; only the columns of IDENTITY."""

    @abstractmethod
    def refuse_for(self, seconds: float) -> None:
        """Refuse what is asked now, and say to ask again after about so long."""

    @abstractmethod
    def forget_below(self, number: int) -> None:
        """Have no message below it any more."""

    @abstractmethod
    def answer_garbage(self) -> None:
        """Answer with what is no answer."""

    @abstractmethod
    def go_away(self) -> None:
        """Answer nobody any more."""

    @abstractmethod
    def foreign(self) -> list[MissingRange]:
        """Ranges that this source cannot serve, of another symbol numbering, channel or exchange."""


def identities(rows: dict[str, pa.RecordBatch]) -> dict[str, list[dict[str, Any]]]:
    return {dataset: batch.select(list(IDENTITY)).to_pylist() for dataset, batch in rows.items() if batch.num_rows}


class RecoverySourceBehaviour:
    """Inherit it, and give the fixture `served`."""

    def test_it_gives_the_rows_of_a_range_in_order(self, served: Served) -> None:
        first, last = served.first + 3, served.first + 17
        found = served.source.fetch(served.missing(first, last))
        assert identities(found.rows) == served.truth(first, last)

    def test_a_single_number(self, served: Served) -> None:
        found = served.source.fetch(served.missing(served.first + 5, served.first + 5))
        assert identities(found.rows) == served.truth(served.first + 5, served.first + 5)

    def test_everything_there_is(self, served: Served) -> None:
        found = served.source.fetch(served.missing(served.first, served.last))
        assert identities(found.rows) == served.truth(served.first, served.last)

    def test_rows_are_in_wire_form_without_publisher_pair(self, served: Served) -> None:
        found = served.source.fetch(served.missing(served.first, served.first + 9))
        for dataset, batch in found.rows.items():
            assert batch.schema == wire_schema(dataset_named(dataset))
            for name in ("publisher_session", "publisher_sequence", "publish_timestamp"):
                assert batch.column(name).null_count == batch.num_rows

    def test_asking_twice_gives_the_same(self, served: Served) -> None:
        answers = [served.source.fetch(served.missing(served.first, served.first + 9)) for _ in range(2)]
        assert identities(answers[0].rows) == identities(answers[1].rows)

    def test_what_was_forgotten_is_exhausted_and_says_why(self, served: Served) -> None:
        served.forget_below(served.first + 10)
        found = served.source.fetch(served.missing(served.first, served.first + 8))
        assert identities(found.rows) == {}
        assert found.exhausted
        assert found.reason

    def test_of_a_range_that_is_half_forgotten_the_rest_is_given(self, served: Served) -> None:
        served.forget_below(served.first + 10)
        found = served.source.fetch(served.missing(served.first + 5, served.first + 14))
        assert identities(found.rows) == served.truth(served.first + 10, served.first + 14)
        assert found.exhausted

    def test_a_venue_that_wants_fewer_requests_says_when_to_ask_again(self, served: Served) -> None:
        served.refuse_for(2.0)
        with pytest.raises(VenueUnavailable) as raised:
            served.source.fetch(served.missing(served.first, served.first + 2))
        assert 0 < raised.value.fields["wait_seconds"] <= 3

    def test_garbage_is_no_answer(self, served: Served) -> None:
        served.answer_garbage()
        with pytest.raises(VenueUnavailable):
            served.source.fetch(served.missing(served.first, served.first + 2))

    def test_a_venue_that_is_away_is_told(self, served: Served) -> None:
        served.go_away()
        with pytest.raises(VenueUnavailable):
            served.source.fetch(served.missing(served.first, served.first + 2))

    def test_what_it_cannot_serve_is_terminal_and_says_why(self, served: Served) -> None:
        for missing in served.foreign():
            with pytest.raises(TerminalError) as raised:
                served.source.fetch(missing)
            assert raised.value.advice

    def test_a_range_that_ends_before_it_begins_is_told(self, served: Served) -> None:
        with pytest.raises(TerminalError, match=f"{served.first + 5} to {served.first + 4}") as raised:
            served.source.fetch(served.missing(served.first + 5, served.first + 4))
        assert "valid" in raised.value.advice

    def test_it_may_be_closed_twice(self, served: Served) -> None:
        served.source.close()
        served.source.close()
