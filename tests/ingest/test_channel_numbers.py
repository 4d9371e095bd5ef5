"""Numbers of a channel against plain sets, under every split into batches, and at their bound."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from k2_dagster.ingest.channel_numbers import ChannelNumbers
from k2_dagster.ingest.kernel import DUPLICATE, HORIZON, IN_ORDER, NEVER
from k2_dagster.state.frames import framed, unframed
from tests.ingest.channel_model import Channels

MOST, MOST_RECENT = 4, 5


@dataclass(frozen=True)
class Number:
    """A number of a symbol; `wanted` no: something else refuses its message."""

    symbol: str
    number: int
    is_aside: bool = False
    wanted: bool = True
    partition: int = 0

    @property
    def key(self) -> tuple[int, str, str, None, str, str]:
        return key(self.symbol, self.partition)


def key(symbol: str, partition: int = 0) -> tuple[int, str, str, None, str, str]:
    return (partition, "trade", "trade", None, "1", symbol)


def judge_plainly(numbers: Sequence[Number]) -> tuple[Channels, list[int]]:
    model = Channels(MOST, MOST_RECENT)
    return model, [
        model.judge(one.partition, one.key, one.number, is_aside=one.is_aside) if one.wanted else IN_ORDER
        for one in numbers
    ]


def judge_split(numbers: Sequence[Number], cuts: set[int]) -> tuple[ChannelNumbers, list[int]]:
    state, out = ChannelNumbers(MOST, MOST_RECENT), []
    ends = [*sorted(cut for cut in cuts if 0 < cut < len(numbers)), len(numbers)]
    for start, end in zip([0, *ends], ends, strict=False):
        state, batch = ChannelNumbers.load(state.dump(), MOST, MOST_RECENT), numbers[start:end]
        aside = np.array([one.is_aside for one in batch])
        wanted = np.array([one.wanted for one in batch])
        index = np.array([state.key_index(one.key) if one.wanted else -1 for one in batch], np.int64)
        number = np.array([one.number for one in batch], np.int64)
        found = np.full(len(batch), IN_ORDER)
        refused, why = state.judge(index, number, wanted, aside if aside.any() else None)
        found[refused] = why
        out += found.tolist()
    return state, out


NUMBERS = st.builds(
    Number,
    *(st.sampled_from("AB"), st.integers(1, 14), st.booleans(), st.integers(0, 5).map(bool)),
    partition=st.sampled_from((0, 0, 3)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=40), st.sets(st.integers(1, 39)))
def test_any_split_agrees_with_plain_sets(numbers: list[Number], cuts: set[int]) -> None:
    model, wanted = judge_plainly(numbers)
    for state, verdicts in (judge_split(numbers, set()), judge_split(numbers, cuts)):
        assert verdicts == wanted
        assert state.remembered() == {
            name: (one.newest, one.floor, sorted(one.numbers)) for name, one in model.keys.items()
        }
        assert {at: found for at, found in state.recent().items() if found} == {
            at: list(found) for at, found in model.recent.items() if found
        }


@settings(max_examples=200, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=40))
def test_no_number_that_is_remembered_lands_twice_and_none_is_refused_that_has_not_landed_above_the_floor(
    numbers: list[Number],
) -> None:
    """What the rule is for, said without its means: of numbers behind or aside, each lands once; of those in order too,
    until so many others of their partition have landed."""
    state, verdicts = judge_split(numbers, set())
    landed = [at for at, said in enumerate(verdicts) if said == IN_ORDER and numbers[at].wanted]
    for name, number in {(one.key, one.number) for one in numbers if one.wanted}:
        mine = [at for at, one in enumerate(numbers) if one.wanted and (one.key, one.number) == (name, number)]
        _, floor, _ = state.remembered().get(name, (0, NEVER, []))
        mine_landed = [at for at in mine if at in landed]
        assert len(mine_landed) <= 2, "in its order, and once behind it"
        if number > floor:
            assert len(mine_landed) >= 1
        if any(numbers[at].is_aside for at in mine_landed[:1]):
            assert len(mine_landed) == 1
        for first, second in itertools.pairwise(mine_landed):
            between = [at for at in landed if first < at < second and numbers[at].partition == name[0]]
            assert len(between) >= MOST_RECENT
        assert all(verdicts[at] == HORIZON for at in mine if verdicts[at] not in (IN_ORDER, DUPLICATE))


@pytest.mark.parametrize("cuts", [set(), {6}, {1, 2, 3, 4, 5, 6, 7, 8}])
def test_what_landed_in_order_is_known_until_so_many_others_of_its_partition_have(cuts: set[int]) -> None:
    in_order = [Number("AB"[one % 2], one) for one in range(1, 8)]
    again = [Number("B", 1), Number("B", 3), Number("A", 3), Number("A", 4)]
    _, verdicts = judge_split([*in_order, *again, Number("B", 1)], cuts)
    assert verdicts == [IN_ORDER] * 8 + [DUPLICATE, IN_ORDER, DUPLICATE, DUPLICATE]


def test_a_former_state_remembers_nothing_that_landed_in_order() -> None:
    state, _ = judge_split([Number("A", one) for one in (1, 2, 3)], set())
    former = b"".join(framed(name, table) for name, table in unframed(state.dump()) if name != "recent")
    old = ChannelNumbers.load(former)
    assert (old.remembered(), old.recent()) == (state.remembered(), {0: []})
    assert ChannelNumbers.load(old.dump()).recent() == {0: []}


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
    # what is forgotten keeps its room: no batch may tell when it was
    assert state.recent() == {0: [(None, 3), (key("B"), 9)]}
    assert ChannelNumbers.load(state.dump()).recent() == state.recent()
    assert state.key_index(key("B")) == 0
    assert state.key_index(key("A")) == 1
