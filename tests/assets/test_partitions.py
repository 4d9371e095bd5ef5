"""Partition keys: which there are, and which are refused."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.assets.partitions import (
    is_open,
    is_partition,
    parse_partition,
    partition_key,
    split,
    table_partitions,
)
from k2_dagster.errors import ConfigurationError
from k2_dagster.ingest.rules import FIRST_DAY
from k2_dagster.schemas.profiles import load_profiles

PROFILES = load_profiles()
PARTITIONS = table_partitions(PROFILES)
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


@given(st.sampled_from(sorted(PROFILES.exchanges)), st.dates(date(2009, 12, 1), date(2026, 6, 1)))
def test_a_key_is_split_again_and_exists_only_within_the_days_kept(exchange: str, day: date) -> None:
    key = partition_key(exchange, day.isoformat())
    assert split(key) == (exchange, day.isoformat())
    exists = is_partition(PROFILES, exchange, day.isoformat(), NOON)
    assert exists == (FIRST_DAY <= day <= NOON.date())
    assert PARTITIONS.has_partition_key(key) == is_partition(PROFILES, exchange, day.isoformat())


@pytest.mark.parametrize("day", ["2026-05-02", "2026-02-30", "yesterday", "", "20260430", "2026-W18-4"])
def test_days_that_are_none_are_no_partition(day: str) -> None:
    assert not is_partition(PROFILES, "sim_crypto", day, NOON)


def test_the_open_day_begins_at_midnight_utc() -> None:
    midnight = datetime(2026, 5, 1, tzinfo=UTC)
    assert is_open("2026-05-01", midnight)
    assert not is_open("2026-04-30", midnight)
    assert not is_open("2026-05-01", midnight + timedelta(days=1))


def test_a_person_is_told_what_would_be_valid() -> None:
    with pytest.raises(ConfigurationError, match="2010-01-01 to today"):
        parse_partition(PROFILES, "sim_crypto", "2031-01-01")
    with pytest.raises(ConfigurationError, match="sim_crypto"):
        parse_partition(PROFILES, "nowhere", "2026-05-01")
