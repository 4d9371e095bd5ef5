"""Publishes blocks: the feed handler's judgement first, then rows and refusals in the order of their inputs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from k2_dagster.errors import ConfigurationError
from k2_dagster.feeds.capture.block import Block, Int64s, Refusal, Rows
from k2_dagster.feeds.capture.formats import Format
from k2_dagster.feeds.channel_rows import runs
from k2_dagster.feeds.handler import FeedHandler
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.schemas.datasets import WIRE_DATASETS
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.refused import Refused
from k2_dagster.schemas.topics import CONTROL_DATASET

Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class BlockSender:
    """`kept_in` names where the inputs are kept whole: with the place of one, it tells whoever finds it refused."""

    publisher: Publisher
    handler: FeedHandler
    kept_in: str

    def send(self, block: Block) -> None:
        """Publish a block. Raises what Publisher raises."""
        refusals = {dataset: [one for one in block.refusals if one.dataset == dataset] for dataset in WIRE_DATASETS}
        behind: dict[str, Flags] = {}
        if block.arrivals is None:
            for dataset, rows in block.rows.items():
                self.handler.observe(rows.batch)
                behind[dataset] = self.handler.behind
        else:
            orders: list[int] = []
            for piece in _interleaved(block.arrivals, refusals.pop(CONTROL_DATASET)):
                if isinstance(piece, Refusal):
                    self._refuse(piece)
                else:
                    self.handler.arrived(piece.batch)
                    orders += piece.orders[self.handler.behind].tolist()
            behind = {dataset: np.isin(rows.orders, orders) for dataset, rows in block.rows.items()} if orders else {}
        for dataset, refused in refusals.items():
            for part, is_behind in _by_order(block.rows.get(dataset), refused, behind.get(dataset)):
                if isinstance(part, Refusal):
                    self._refuse(part)
                else:
                    places = self._places(part.orders)
                    self.publisher.publish(dataset, part.batch, kept_in=places, is_behind=is_behind)

    def _refuse(self, refusal: Refusal) -> None:
        refused = Refused(refusal.reason, refusal.identity, source=f"{self.kept_in}:{refusal.place}")
        self.publisher.refuse(refusal.dataset, refusal.symbol, refusal.raw, refused)

    def _places(self, orders: Int64s) -> Callable[[int], str]:
        return lambda row: f"{self.kept_in}:{orders[row]}"


def check_streams(profiles: Profiles, exchange: str, format_: Format, source: str) -> None:
    """Raises ConfigurationError when the exchange is not in the profiles, or lacks a stream of the format; `source`
    says what has it."""
    profile = profiles.exchange(exchange)
    for dataset, stream in format_.streams:
        if profile.stream(dataset, stream) is None:
            raise ConfigurationError(
                f"exchange {exchange} declares no stream {stream!r} of {dataset}, which {source} ({format_.name}) has",
                advice=f"add [exchanges.{exchange}.streams.{stream}] to its profile, or name another",
                exchange=exchange,
                stream=stream,
            )


def _by_order(
    rows: Rows | None, refusals: Sequence[Refusal], behind: Flags | None
) -> Iterator[tuple[Rows | Refusal, bool]]:
    """As `_interleaved`, in pieces whose rows came all in the order of their channel or all behind it."""
    at = 0
    for piece in _interleaved(rows, refusals):
        if isinstance(piece, Refusal) or behind is None:
            yield piece, False
            continue
        size = piece.batch.num_rows
        for run, is_behind in runs(behind[at : at + size]):
            yield Rows(piece.batch.slice(run.start, run.stop - run.start), piece.orders[run]), is_behind
        at += size


def _interleaved(rows: Rows | None, refusals: Sequence[Refusal]) -> Iterator[Rows | Refusal]:
    """Rows and refusals of one dataset in the order of their inputs. A refusal that came late would leave a hole that
    nobody can explain any more."""
    if rows is None:
        yield from refusals
        return
    start = 0
    for refusal in refusals:
        stop = int(np.searchsorted(rows.orders, refusal.order, side="right"))
        if stop > start:
            yield Rows(rows.batch.slice(start, stop - start), rows.orders[start:stop])
        yield refusal
        start = max(start, stop)
    if start < rows.batch.num_rows:
        yield Rows(rows.batch.slice(start), rows.orders[start:])
