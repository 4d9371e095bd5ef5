"""Names of topics, subjects and keys."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.topics import message_key, parse_topic, subject_name, topic_name

EXCHANGES = st.from_regex(r"[a-z0-9][a-z0-9_]{0,39}", fullmatch=True)


@given(st.sampled_from(sorted(WIRE_DATASETS)), EXCHANGES)
def test_a_topic_name_tells_dataset_and_exchange(dataset: str, exchange: str) -> None:
    assert parse_topic(topic_name(dataset, exchange)) == (dataset, exchange)


@pytest.mark.parametrize("topic", ["", "market.ticks", "market.ticks.", "market.trades.binance", "other.ticks.binance"])
def test_another_form_is_refused_with_the_valid_one(topic: str) -> None:
    with pytest.raises(ConfigurationError, match=r"market\.DATASET\.EXCHANGE"):
        parse_topic(topic)


def test_a_subject_keeps_one_kind_of_schema() -> None:
    assert subject_name("market.ticks.iex") == "market.ticks.iex-value"
    assert subject_name("market.ticks.iex", "JSON") == "market.ticks.iex-value-json"


def test_the_key_is_exchange_and_symbol() -> None:
    assert message_key("iex", "BRK.B") == b"iex.BRK.B"
