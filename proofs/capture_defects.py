"""The clean and the corrupted CSV twins: what they hold, where they differ, and what K2 must report of each defect."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from proofs.capture_truth import Chain, Truth, capture_lines, scaled, utc_day

Row = dict[str, str]
# Columns in which the lines of one depth message differ.
_OF_A_LEVEL = ("IsAsk", "Price", "Quantity", "_line")


@dataclass(frozen=True)
class Defect:
    """One planted defect of a corrupted twin. `line` is the file's (the header is 1), `found_by` what K2 must report:

    `duplicate` (quarantined with that reason), `gap` (numbers first..last missing), `rule` (quarantined as
    rule_violated), `times` (by that check: received `micros` after it happened), `day` (a commit into another day).
    """

    line: int
    found_by: Literal["duplicate", "gap", "rule", "times", "day"]
    first: int = 0
    last: int = 0
    micros: int = 0
    day: str = ""


def binance_csv(path: Path) -> Truth:
    """Rows and chain of one CSV of trades, or of depth with consecutive lines of one message as one row."""
    truth = Truth()
    chain = Chain(truth)
    for lines in _messages(_table(path)):
        message, time = lines[0], _exchange_micros(lines[0])
        dataset = "ticks" if "TradeId" in message else "book"
        truth.add(dataset, message["Symbol"], time, *_values(lines))
        if _plausible(time):
            # Else it will be quarantined, and so claims no number
            first, last = _numbers(message)
            chain.follow("trade" if dataset == "ticks" else "depth", message["Symbol"], first - 1, last)
    return truth


def _values(lines: list[Row]) -> tuple[object, ...]:
    message = lines[0]
    if "TradeId" in message:
        side = "sell" if message["IsBuyerMarketMaker"] == "1" else "buy"
        number = message["TradeId"]
        return int(number), scaled(message["Price"]), scaled(message["Quantity"]), side, number
    first, last = _numbers(message)
    bids, asks = (
        tuple((scaled(one["Price"]), scaled(one["Quantity"])) for one in lines if one["IsAsk"] == side)
        for side in ("0", "1")
    )
    return last, first - 1, "delta", bids, asks


def _numbers(message: Row) -> tuple[int, int]:
    """First and last number that a message covers."""
    if "TradeId" in message:
        return int(message["TradeId"]), int(message["TradeId"])
    return int(message["FirstUpdateId"]), int(message["FinalUpdateId"])


def _table(path: Path) -> list[Row]:
    lines = list(capture_lines(path))
    names = lines[0].split(",")
    return [
        dict(zip(names, line.split(","), strict=True), _line=str(number)) for number, line in enumerate(lines[1:], 2)
    ]


def _messages(rows: list[Row]) -> Iterator[list[Row]]:
    """Every trade; of depth, the lines of each message (those that agree in all but side, price and quantity)."""
    held: list[Row] = []
    for row in rows:
        if held and ("TradeId" in row or _shared(row) != _shared(held[0])):
            yield held
            held = []
        held.append(row)
    if held:
        yield held


def _shared(row: Row) -> Row:
    return {name: value for name, value in row.items() if name not in _OF_A_LEVEL}


def differences(clean: Path, corrupted: Path) -> dict[int, dict[str, tuple[str, str]]]:
    """Line -> column -> (clean, corrupted) of every cell that differs between the twins."""
    found: dict[int, dict[str, tuple[str, str]]] = defaultdict(dict)
    for left, right in zip(_table(clean), _table(corrupted), strict=True):
        for name, value in left.items():
            if value != right[name]:
                found[int(left["_line"])][name] = (value, right[name])
    return dict(found)


def expected_defects(clean: Path, corrupted: Path) -> list[Defect]:
    """What K2 must report of a corrupted twin, one or more entries per planted defect, in file order.

    Every message with a differing line is covered; raises ValueError for a difference that no report follows from.
    """
    changed = differences(clean, corrupted)
    days = {utc_day(_exchange_micros(row)) for row in _table(clean)}
    known: dict[str, int] = {}
    found: list[Defect] = []
    for lines in _messages(_table(corrupted)):
        cells = {name: cell for row in lines for name, cell in changed.get(int(row["_line"]), {}).items()}
        reports = [*_of_numbers(lines[0], known), *(_of_cells(lines, cells, days) if cells else ())]
        if cells and not reports:
            raise ValueError(f"{corrupted.name}, line {lines[0]['_line']}: no report of a change of {', '.join(cells)}")
        found += reports
    return found


def _of_numbers(message: Row, known: dict[str, int]) -> list[Defect]:
    if not _plausible(_exchange_micros(message)):
        # Quarantined, so it claims no number
        return []
    line, symbol = int(message["_line"]), message["Symbol"]
    first, last = _numbers(message)
    before = known.get(symbol)
    known[symbol] = max(last, before or last)
    reports: list[Defect] = []
    if before is not None and first > before + 1:
        reports.append(Defect(line, "gap", first=before + 1, last=first - 1))
    if before is not None and last <= before:
        reports.append(Defect(line, "duplicate", first=first, last=last))
    return reports


def _of_cells(lines: list[Row], cells: dict[str, tuple[str, str]], days: set[str]) -> list[Defect]:
    line, time = int(lines[0]["_line"]), _exchange_micros(lines[0])
    if not _plausible(time) or any(one["Price"].startswith("-") for one in lines):
        return [Defect(line, "rule")]
    if utc_day(time) not in days:
        return [Defect(line, "day", day=utc_day(time))]
    if {"EventTime", "TransactionTime", "TimestampOfReceive"} & cells.keys():
        return [Defect(line, "times", micros=int(lines[0]["TimestampOfReceive"]) - time)]
    return []


def _exchange_micros(row: Row) -> int:
    return int(row["TransactionTime"] if "TransactionTime" in row else row["EventTime"])


def _plausible(micros: int) -> bool:
    return datetime(1980, 1, 1, tzinfo=UTC) <= datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=micros)
