"""Exchange profiles: what is packaged, and errors that name file, key, value and what would be valid."""

from pathlib import Path

import pytest

from k2_dagster.errors import ConfigurationError
from k2_dagster.schemas.datasets import RULES_VERSION
from k2_dagster.schemas.profiles import (
    PROFILE_VERSIONS,
    Domain,
    ExchangeProfile,
    Profiles,
    StreamProfile,
    load_profiles,
)

GOOD = """
version = 3

[exchanges.here]
title = "Here"
asset_class = "crypto"
calendar = "24/7"
timezone = "UTC"
entitlement_class = "public"
partitions = 4
on_critical_gap = "halt"

[exchanges.here.streams.trade]
dataset = "ticks"
domain = "dense"
"""


def load(tmp_path: Path, text: str) -> Profiles:
    path = tmp_path / "exchanges.toml"
    path.write_text(text, encoding="utf-8")
    return load_profiles(path)


def test_the_packaged_profiles_are_valid_and_speak_all_domains() -> None:
    profiles = load_profiles()
    domains = {stream.domain for one in profiles.exchanges.values() for stream in one.streams.values()}
    assert domains == set(Domain)
    simulated = [one for name, one in profiles.exchanges.items() if name.startswith("sim_")]
    assert {stream.domain for one in simulated for stream in one.streams.values()} == set(Domain)


def test_defaults_and_derived_values(tmp_path: Path) -> None:
    profiles = load(tmp_path, GOOD)
    here = profiles.exchange("here")
    assert (here.gap_page_at, here.gap_halt_above, here.gap_grace_messages) == (10, 100, 20)
    assert here.datasets == ("ticks", "control", "instruments")
    assert [here.partitions_of(dataset) for dataset in here.datasets] == [4, 1, 1]
    assert here.stream("ticks", "trade") is not None
    assert here.stream("quotes", "trade") is None
    assert here.stream("ticks", "nothing") is None
    control = here.stream("control", "anything")
    assert control is not None
    assert control.domain is Domain.NONE
    instruments = here.stream("instruments", "instruments")
    assert instruments is not None
    assert instruments.domain is Domain.NONE
    assert here.stream("instruments", "anything") is None
    assert profiles.rules_version == RULES_VERSION * PROFILE_VERSIONS + 3


def test_an_exchange_with_recovery_has_a_topic_for_requests(tmp_path: Path) -> None:
    without = load(tmp_path, GOOD).exchange("here")
    assert (without.recovery, without.topics) == (None, without.datasets)
    here = load(tmp_path, GOOD + '[exchanges.here.recovery]\nsource = "coinbase_rest"\n').exchange("here")
    assert here.topics == ("ticks", "control", "instruments", "recovery")
    assert here.partitions_of("recovery") == 1
    # what gives messages again changes no verdict
    assert here.verdict_digest("ticks") == without.verdict_digest("ticks")


def test_sizes_count_what_the_asset_class_trades_unless_it_is_said(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD).exchange("here").size_unit == "base"
    assert load(tmp_path, GOOD.replace('"crypto"', '"equities"')).exchange("here").size_unit == "shares"
    units = {name: one.size_unit for name, one in load_profiles().exchanges.items()}
    assert (units["binance"], units["binance_usdm"], units["binance_coinm"], units["sim_futures"]) == (
        "base", "base", "contracts", "contracts",
    )  # fmt: skip


def test_the_value_of_a_contract_is_that_of_the_longest_key() -> None:
    profiles = load_profiles()
    coinm, kraken = profiles.exchange("binance_coinm"), profiles.exchange("kraken_futures")
    assert coinm.contract_value_of("BTCUSD_PERP") == "100 USD"
    assert coinm.contract_value_of("ETHUSD_PERP") == "10 USD"
    assert (kraken.contract_value_of("PI_XBTUSD"), kraken.contract_value_of("PF_XBTUSD")) == ("1 USD", "1 base")
    assert (kraken.contract_value_of("XX_1"), profiles.exchange("binance").contract_value_of("BTCUSDT")) == (None, None)


def test_which_domains_ingest_judges_alone() -> None:
    assert {one.value for one in Domain if one.judged_by_ingest} == {"dense", "range", "linked"}


BAD = {
    "an unknown domain": (
        'domain = "dense"',
        'domain = "thick"',
        ["exchanges.here.streams.trade.domain", "thick", "range"],
    ),
    "an unknown dataset": (
        'dataset = "ticks"',
        'dataset = "trades"',
        ["streams.trade.dataset", "trades", "valid datasets"],
    ),
    "an unknown key": (
        "partitions = 4",
        "partitions = 4\npartition = 4",
        ["exchanges.here.partition is no key", "did you mean partitions?", "closed_session_days"],
    ),
    "an unknown key of a stream": (
        'domain = "dense"',
        'domain = "dense"\ndomian = "dense"',
        ["exchanges.here.streams.trade.domian is no key", "did you mean domain?", "keys there: dataset, domain"],
    ),
    "a source that nothing is": (
        'domain = "dense"',
        'domain = "dense"\n[exchanges.here.recovery]\nsource = "kraken_rest"',
        ["exchanges.here.recovery.source was 'kraken_rest'", "binance_rest", "coinbase_rest"],
    ),
    "an unknown key of recovery": (
        'domain = "dense"',
        'domain = "dense"\n[exchanges.here.recovery]\nsource = "binance_rest"\nadress = "x"',
        ["exchanges.here.recovery.adress is no key", "keys there: source, url, channel"],
    ),
    "a retransmission without a channel": (
        'domain = "dense"',
        'domain = "dense"\n[exchanges.here.recovery]\nsource = "retransmission"\nurl = "tcp://a:1"',
        ["exchanges.here.recovery", "channel is for source retransmission, which needs it"],
    ),
    "a retransmission without an address": (
        'domain = "dense"',
        'domain = "dense"\n[exchanges.here.recovery]\nsource = "retransmission"\nchannel = "1"\nurl = "tcp://a:b"',
        ["exchanges.here.recovery", "needs url = tcp://HOST:PORT, was 'tcp://a:b'"],
    ),
    "a recovery without a source": (
        'domain = "dense"',
        'domain = "dense"\n[exchanges.here.recovery]\nurl = "https://x"',
        ["exchanges.here.recovery.source is missing", "keys there: source, url, channel"],
    ),
    "an address that is none": (
        'domain = "dense"',
        'domain = "dense"\n[exchanges.here.recovery]\nsource = "binance_rest"\nurl = "here"',
        ["exchanges.here.recovery.url was 'here'", "an address, as https://host:port"],
    ),
    "an unknown key of the file": ("version = 3", "version = 3\nverison = 3", ["verison is no key", "mean version?"]),
    "a missing key": ('title = "Here"', "", ["exchanges.here.title is missing", "keys there: title, asset_class"]),
    "a text for a number": ("partitions = 4", 'partitions = "4"', ["exchanges.here.partitions", "'4'", "integer"]),
    "a fraction for a number": ("partitions = 4", "partitions = 4.0", ["exchanges.here.partitions", "4.0", "integer"]),
    "a truth for a number": ("partitions = 4", "partitions = true", ["exchanges.here.partitions", "True", "integer"]),
    "a number without end": (
        "partitions = 4",
        "partitions = 4\ngap_grace_seconds = inf",
        ["exchanges.here.gap_grace_seconds", "inf", "finite"],
    ),
    "no number": (
        "partitions = 4",
        "partitions = 4\ngap_grace_seconds = nan",
        ["exchanges.here.gap_grace_seconds", "nan", "finite"],
    ),
    "an unknown calendar": ('"24/7"', '"XNYC"', ["exchanges.here.calendar", "XNYC", "24/7", "did you mean XNYS?"]),
    "a stream that no message can have": (
        "exchanges.here.streams.trade",
        'exchanges.here.streams."my trades"',
        ["exchanges.here.streams.my trades", "without a space"],
    ),
    "a session without length": (
        'timezone = "UTC"',
        'timezone = "UTC"\nopens = "09:30"\ncloses = "09:30"',
        ["exchanges.here", "closes (09:30) must be after opens (09:30)"],
    ),
    "a time without quotes": (
        'timezone = "UTC"',
        'timezone = "UTC"\nopens = 09:30:00\ncloses = "16:00"',
        ["exchanges.here.opens", "time(9, 30)", "string"],
    ),
    "no partitions": ("partitions = 4", "partitions = 0", ["exchanges.here.partitions", "0", "greater than 0"]),
    "too many partitions": ("partitions = 4", "partitions = 100000", ["exchanges.here.partitions", "1024"]),
    "an unknown zone": ('"UTC"', '"Mars/Base"', ["exchanges.here.timezone", "Mars/Base", "IANA"]),
    "opens without closes": (
        'timezone = "UTC"',
        'timezone = "UTC"\nopens = "09:30"',
        ["exchanges.here", "belong together"],
    ),
    "a clock time": (
        'timezone = "UTC"',
        'timezone = "UTC"\nopens = "9h"',
        ["exchanges.here.opens", "9h", '"00:00" to "23:59"'],
    ),
    "thresholds in disorder": (
        "partitions = 4",
        "partitions = 4\ngap_halt_above = 10",
        ["gap_halt_above (10)", "gap_page_at (10)"],
    ),
    "an unknown unit of sizes": (
        "partitions = 4",
        'partitions = 4\nsize_unit = "lots"',
        ["size_unit", "lots", "shares"],
    ),
    "contracts of no value": (
        "partitions = 4",
        'partitions = 4\nsize_unit = "contracts"',
        ["exchanges.here", "contract_value"],
    ),
    "a value of no contract": (
        "partitions = 4",
        'partitions = 4\ncontract_value = { "*" = "10 USD" }',
        ["exchanges.here", "size_unit is 'base'"],
    ),
    "a value without its unit": (
        "partitions = 4",
        'partitions = 4\nsize_unit = "contracts"\ncontract_value = { "*" = "10" }',
        ["exchanges.here.contract_value", "an amount and its unit"],
    ),
    "a negative skew": ("partitions = 4", "partitions = 4\nclock_skew_seconds = -1", ["clock_skew_seconds", "-1"]),
    "a delay without end": (
        "partitions = 4",
        "partitions = 4\nreceive_delay_seconds = inf",
        ["receive_delay_seconds", "inf", "finite"],
    ),
    "an unknown answer to a gap": ('"halt"', '"ignore"', ["on_critical_gap", "ignore", "mark_stale"]),
    "an exchange name for no topic": (
        "exchanges.here",
        'exchanges."No Topic"',
        ["exchanges.No Topic", "lower-case letters"],
    ),
    "a version of zero": ("version = 3", "version = 0", ["version", "0"]),
}


@pytest.mark.parametrize(("good", "bad", "said"), BAD.values(), ids=list(BAD))
def test_an_error_names_file_key_value_and_what_is_valid(tmp_path: Path, good: str, bad: str, said: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(tmp_path, GOOD.replace(good, bad))
    assert all(part in str(caught.value) for part in [*said, str(tmp_path / "exchanges.toml"), "docs/exchanges.md"])


def test_what_is_not_toml_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"not TOML.*line 2"):
        load(tmp_path, "version = 1\nversion = 2\n")


def test_a_file_that_is_no_text_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "exchanges.toml").write_bytes(b"version = 1 # \xff")
    for path in (tmp_path / "exchanges.toml", tmp_path):
        with pytest.raises(ConfigurationError, match="cannot be read"):
            load_profiles(path)


def test_a_file_that_is_not_there_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="K2_PROFILES"):
        load_profiles(tmp_path / "none.toml")


def test_an_unknown_exchange_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="valid: here"):
        load(tmp_path, GOOD).exchange("there")


def test_the_page_explains_every_key_and_domain() -> None:
    page = (Path(__file__).parents[2] / "docs" / "exchanges.md").read_text(encoding="utf-8")
    keys = [*ExchangeProfile.model_fields, *StreamProfile.model_fields, "version"]
    assert [key for key in keys if f"`{key}`" not in page] == []
    assert [one.value for one in Domain if f"`{one.value}`" not in page] == []


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('days_of = "XCME"', "valid: a calendar whose trading days are known"),
        ('days_of = "XNYS"\nweekdays = ["mon"]', "give one of them"),
        ('weekdays = ["monday"]', "'monday'"),
        ('holidays = ["soon"]', "'soon'"),
    ],
)
def test_trading_days_are_checked(tmp_path: Path, lines: str, told: str) -> None:
    text = GOOD.replace('calendar = "24/7"', f'calendar = "XCME"\n{lines}')
    assert text != GOOD
    with pytest.raises(ConfigurationError, match=told):
        load(tmp_path, text)
    with pytest.raises(ConfigurationError, match="has no other trading days"):
        load(tmp_path, GOOD.replace('calendar = "24/7"', 'calendar = "24/7"\nholidays = [2026-12-25]'))


def test_trading_days_can_be_told(tmp_path: Path) -> None:
    days = 'calendar = "XCME"\nweekdays = ["mon", "tue"]\nholidays = [2026-12-25]'
    here = load(tmp_path, GOOD.replace('calendar = "24/7"', days)).exchange("here")
    assert (here.weekdays, [str(one) for one in here.holidays]) == (("mon", "tue"), ["2026-12-25"])
