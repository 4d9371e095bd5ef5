"""Numbers of a channel against plain sets, under every split into batches, and at their bound."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest.channel_numbers import ChannelNumbers
from k2_dagster.ingest.kernel import DUPLICATE, HORIZON, IN_ORDER, NEVER
from tests.ingest.channel_model import Remembered

MOST = 4


@dataclass(frozen=True)
class Number:
    """A number of a symbol; `wanted` no: something else refuses its message."""

    symbol: str
    number: int
    is_aside: bool = False
    wanted: bool = True


@dataclass
class Model:
    """One message after the other."""

    keys: dict[str, Remembered] = field(default_factory=dict)

    def judge(self, one: Number) -> int:
        if not one.wanted:
            return IN_ORDER
        return self.keys.setdefault(one.symbol, Remembered(MOST)).judge(one.number, is_aside=one.is_aside)


def judge_split(numbers: Sequence[Number], cuts: set[int]) -> tuple[ChannelNumbers, list[int]]:
    state, out = ChannelNumbers(MOST), []
    ends = [*sorted(cut for cut in cuts if 0 < cut < len(numbers)), len(numbers)]
    for start, end in zip([0, *ends], ends, strict=False):
        state, batch = ChannelNumbers.load(state.dump(), MOST), numbers[start:end]
        aside = np.array([one.is_aside for one in batch])
        wanted = np.array([one.wanted for one in batch])
        index = np.array([state.key_index(key(one.symbol)) if one.wanted else -1 for one in batch], np.int64)
        number = np.array([one.number for one in batch], np.int64)
        found = np.full(len(batch), IN_ORDER)
        refused, why = state.judge(index, number, wanted, aside if aside.any() else None)
        found[refused] = why
        out += found.tolist()
    return state, out


def key(symbol: str) -> tuple[int, str, str, None, str, str]:
    return (0, "trade", "trade", None, "1", symbol)


NUMBERS = st.builds(Number, st.sampled_from("AB"), st.integers(1, 14), st.booleans(), st.integers(0, 5).map(bool))


@settings(max_examples=300, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=40), st.sets(st.integers(1, 39)))
def test_any_split_agrees_with_plain_sets(numbers: list[Number], cuts: set[int]) -> None:
    model = Model()
    wanted = [model.judge(one) for one in numbers]
    for state, verdicts in (judge_split(numbers, set()), judge_split(numbers, cuts)):
        assert verdicts == wanted
        assert state.remembered() == {
            key(name): (one.newest, one.floor, sorted(one.numbers)) for name, one in model.keys.items()
        }


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=40))
def test_no_number_that_is_remembered_lands_twice_and_none_is_refused_that_has_not_landed_above_the_floor(
    numbers: list[Number],
) -> None:
    """What the rule is for, said without its means: of numbers behind or aside, each lands once."""
    state, verdicts = judge_split(numbers, set())
    for name, (_, floor, _) in ((name, state.remembered().get(key(name), (0, NEVER, []))) for name in "AB"):
        mine = [(one, said) for one, said in zip(numbers, verdicts, strict=True) if one.symbol == name and one.wanted]
        for number in {one.number for one, _ in mine}:
            of_number = [(one, said) for one, said in mine if one.number == number]
            landed = [one for one, said in of_number if said == IN_ORDER]
            assert len(landed) <= 2, "in its order, and once behind it"
            if number > floor:
                assert len(landed) >= 1
            if any(one.is_aside for one in landed[:1]):
                assert len(landed) == 1
            assert all(said == HORIZON for _, said in of_number if said not in (IN_ORDER, DUPLICATE))


@pytest.mark.parametrize("cuts", [set(), {1}, {1, 2, 3}])
def test_beyond_the_bound_the_lowest_are_forgotten_and_refused(cuts: set[int]) -> None:
    behind = [Number("A", one) for one in (100, 10, 20, 30, 40, 50)]
    state, verdicts = judge_split([*behind, Number("A", 10), Number("A", 7), Number("A", 20), Number("A", 11)], cuts)
    assert verdicts == [IN_ORDER] * 6 + [HORIZON, HORIZON, DUPLICATE, IN_ORDER]
    assert state.remembered()[key("A")] == (100, 11, [20, 30, 40, 50])


def test_a_number_far_ahead_costs_no_message_behind_it() -> None:
    """Damage may say anything; what follows it lands, each number once."""
    numbers = [Number("A", one) for one in (1, 2**62, *range(2, 40), 39, 38)]
    assert judge_split(numbers, set())[1] == [IN_ORDER] * 40 + [DUPLICATE] * 2


def test_sessions_that_are_over_are_forgotten() -> None:
    state, _ = judge_split([Number("A", 3), Number("B", 9), Number("B", 4), Number("A", 2)], set())
    state.forget(lambda one: one[-1] == "A")
    assert state.remembered() == {key("B"): (9, NEVER, [4])}
    assert state.key_index(key("B")) == 0
    assert state.key_index(key("A")) == 1
