import zipfile
from pathlib import Path

import pyarrow as pa
import pytest

from k2_dagster.errors import CaptureInvalid
from proofs.capture_truth import us_equities
from tests.feeds.capture.support import counts, read_whole


@pytest.mark.captures
@pytest.mark.parametrize("name", ["aig_20131007_trade", "aig_20131008_trade", "aig_20131007_quote"])
def test_rows_equal_the_independent_count(sample_data: Path, name: str) -> None:
    path = sample_data / "us_equities" / f"{name}.zip"
    whole, truth = read_whole(path), us_equities(path)
    rows = {dataset: table.num_rows for dataset, table in whole.tables.items() if table.num_rows}
    assert rows == truth.rows
    assert whole.inputs == truth.rows.total()
    if name.endswith("trade"):
        found = counts(whole)
        assert (found.days, found.digests) == (truth.days, truth.digests)
    assert not whole.refusals


def _zip(folder: Path, member: str, *lines: str) -> Path:
    path = folder / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, "".join(f"{line}\n" for line in lines))
    return path


def test_a_trade_is_exact_and_in_new_york_time(tmp_path: Path) -> None:
    whole = read_whole(_zip(tmp_path, "20131007_aig_Trade_Tick.csv", "14400688,491800,300,P,2000,1"))
    (row,) = whole.tables["ticks"].to_pylist()
    assert (row["symbol"], row["price"], row["size"], row["side"]) == ("AIG", 4_918_000_000, 30_000_000_000, "unknown")
    assert row["exchange_timestamp"].isoformat() == "2013-10-07T08:00:00.688000+00:00"
    assert row["conditions"] == ["2000", "exchange=P", "suspicious"]
    assert (row["sequence"], row["receive_timestamp"], row["session"]) == (None, None, None)


@pytest.mark.parametrize(
    ("day", "hour", "utc"), [("20131103", 1, 5), ("20131103", 4, 9), ("20130310", 4, 8), ("20130310", 1, 6)]
)
def test_days_on_which_the_clock_changes(tmp_path: Path, day: str, hour: int, utc: int) -> None:
    whole = read_whole(_zip(tmp_path, f"{day}_aig_Trade_Tick.csv", f"{hour * 3_600_000},1,1,P,1,0"))
    assert whole.tables["ticks"]["exchange_timestamp"][0].as_py().hour == utc


def test_a_side_that_is_not_given_is_the_participants_last_and_null_before_its_first(tmp_path: Path) -> None:
    whole = read_whole(
        _zip(
            tmp_path,
            "20131007_aig_Quote_Tick.csv",
            "14400000,0,0,494100,300,Q,1,0",
            "14400001,491800,300,0,0,P,1,0",
            "14400002,490000,200,0,0,Q,1,0",
            "14400003,0,0,492000,3000,P,1,0",
            "14400004,0,0,494000,100,Q,1,0",
        )
    )
    sides = ("bid_price", "bid_size", "ask_price", "ask_size")
    rows = [
        tuple(value and value // 10**4 for value in row.values())
        for row in whole.tables["quotes"].select(sides).to_pylist()
    ]
    price, size = 10**0, 10**4
    assert rows == [
        (None, None, 494_100 * price, 300 * size),
        (491_800 * price, 300 * size, None, None),
        (490_000 * price, 200 * size, 494_100 * price, 300 * size),
        (491_800 * price, 300 * size, 492_000 * price, 3_000 * size),
        (490_000 * price, 200 * size, 494_000 * price, 100 * size),
    ]
    # What was not in the message is said; what was never known is null
    carried = [
        [one for one in conditions if "=" in one] for conditions in whole.tables["quotes"]["conditions"].to_pylist()
    ]
    assert carried == [
        ["exchange=Q"],
        ["exchange=P"],
        ["exchange=Q", "carried=ask"],
        ["exchange=P", "carried=bid"],
        ["exchange=Q", "carried=bid"],
    ]


@pytest.mark.parametrize(
    "bad",
    ["x,1,1,P,1,0", "86400000,1,1,P,1,0", "1,1,1,P,1", "1,1.5,1,P,1,0", "1,1,1,P,1,2", "1,9223372036854775807,1,P,1,0"],
)
def test_damage_is_refused_and_the_rest_lives(tmp_path: Path, bad: str) -> None:
    whole = read_whole(_zip(tmp_path, "20131007_aig_Trade_Tick.csv", "1,1,1,P,1,0", bad, "2,1,1,P,1,0"))
    assert [one[:3] for one in whole.refusals] == [(2, "ticks", "AIG")]
    assert whole.tables["ticks"].num_rows == 2


def test_a_name_without_a_date_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(CaptureInvalid, match="20131399_aig"):
        read_whole(_zip(tmp_path, "20131399_aig_Trade_Tick.csv", "1,1,1,P,1,0"))


@pytest.mark.captures
def test_times_never_fall(sample_data: Path) -> None:
    times = read_whole(sample_data / "us_equities" / "aig_20131008_trade.zip").tables["ticks"]["exchange_timestamp"]
    micros = times.cast(pa.int64()).to_pylist()
    assert micros == sorted(micros)
