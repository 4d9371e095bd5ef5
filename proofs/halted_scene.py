"""What the proof `halted` does and looks at: a feed, the table's rows, SQL, Dagster's GraphQL, two commands of K2."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import text

from k2_dagster.assets.partitions import partition_key
from k2_dagster.coverage.asking import complete
from k2_dagster.coverage.complete import Answer
from k2_dagster.devstack.dagster import LOCATION, DagsterParts
from k2_dagster.devstack.process import wait_until
from k2_dagster.feeds.capture.coinbase import take
from k2_dagster.feeds.capture.lines import Collector
from k2_dagster.feeds.publisher import Publisher
from k2_dagster.state.database import Database
from k2_dagster.watch.composition import opened_watch
from proofs.accounting import table_rows
from proofs.common import Lake, Proof, say
from proofs.halted_servers import Market, Outside

# A tick of a sensor, the start of a run and its work: 10 s on an idle machine, many times that on a busy one.
STEP_SECONDS = 180.0
COMMAND_SECONDS = 120.0
FLUSH_SECONDS = 60.0

_LAUNCH = """mutation($params: ExecutionParams!) { launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on PythonError { message } } }"""
_CHECK = """query($partition: String!) { assetCheckExecutions(
    assetKey: {path: ["ticks"]}, checkName: "sequence_gaps", limit: 1, partition: $partition) {
    status evaluation { severity metadataEntries { label ... on IntMetadataEntry { intValue } } } } }"""


@dataclass
class Scene:
    """What every step looks at."""

    lake: Lake
    market: Market
    outside: Outside
    parts: DagsterParts
    publisher: Publisher
    database: Database
    result: Proof
    hold_seconds: float

    def publish(self, partition: int, first: int, last: int) -> None:
        """Trades of the symbol there, as the venue's websocket sends them and K2's feed handler publishes them."""
        symbol = self.market.symbol(partition)
        collector = Collector(self.market.exchange)
        for number in range(first, last + 1):
            trade = {"type": "match", "product_id": symbol, **self.market.trade(number)}
            take(collector, number, b"%.6f: %s" % (time.time(), orjson.dumps(trade)))
        block = collector.block(first, last - first + 1)
        self.result.expect("trades of the feed that cannot be read", len(block.refusals), 0)
        self.publisher.publish("ticks", block.rows["ticks"].batch)
        self.publisher.flush(FLUSH_SECONDS)

    def rows(self, partition: int) -> list[dict[str, Any]]:
        """Of the symbol there, by number."""
        wanted = ("symbol", "sequence", "price", "size", "exchange_timestamp", "origin", "kafka_partition")
        found = table_rows(self.lake, "ticks", self.market.exchange, (*wanted, "kafka_offset"))
        rows = [one for one in found.to_pylist() if one["symbol"] == self.market.symbol(partition)]
        return sorted(rows, key=lambda one: int(one["sequence"]))

    def numbers(self, partition: int) -> list[int]:
        """The numbers in the table, with repeats."""
        return [int(one["sequence"]) for one in self.rows(partition)]

    def sql(self, query: str) -> list[dict[str, Any]]:
        """Rows of the control database that are this exchange's."""
        with self.database.begin() as connection:
            found = connection.execute(text(query), {"exchange": self.market.exchange})
            return [dict(one) for one in found.mappings()]

    def gaps(self) -> list[dict[str, Any]]:
        """The ledger's."""
        return self.sql("SELECT * FROM k2.gaps WHERE exchange = :exchange ORDER BY id")

    def breakers(self) -> list[dict[str, Any]]:
        """Open and acknowledged ones."""
        return self.sql("SELECT * FROM k2.breakers WHERE exchange = :exchange ORDER BY id")

    def complete(self, partition: int, first: int, last: int) -> Answer:
        """Whether the trades of the symbol there are in the table, from a number's time to another's."""
        asked = (self.market.exchange, "match", self.market.symbol(partition))
        return complete(self.database, self.lake.profiles, *asked, self.market.at(first), self.market.at(last))

    def check(self, day: str) -> tuple[str, str, int | None]:
        """The newest evaluation of `sequence_gaps` for the day: status, severity, messages that are missing."""
        partition = str(partition_key(self.market.exchange, day))
        found = self.parts.graphql(_CHECK, {"partition": partition})["assetCheckExecutions"]
        if not found or not found[0]["evaluation"]:
            return "", "", None
        said = found[0]["evaluation"]
        numbers = {one["label"]: one.get("intValue") for one in said["metadataEntries"]}
        return str(found[0]["status"]), str(said["severity"]), numbers.get("messages_missing")

    def launch(self, job: str, config: dict[str, Any]) -> str:
        """Launch a job of Dagster's as a person does; the run's id. Raises RuntimeError with Dagster's answer."""
        selector = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION, "jobName": job}
        params = {"selector": selector, "runConfigData": config}
        answer = self.parts.graphql(_LAUNCH, {"params": params})["launchRun"]
        if "run" not in answer:
            raise RuntimeError(f"the job {job} was not launched: {answer}")
        return str(answer["run"]["runId"])

    def recover(self) -> dict[str, Any]:
        """What `k2 recover --once --json` says."""
        command = [sys.executable, "-m", "k2_dagster.cli", "recover", self.market.exchange, "--once", "--json"]
        done = subprocess.run(
            command,
            env={**os.environ, **self.lake.environment},
            stdout=subprocess.PIPE,
            timeout=COMMAND_SECONDS,
            check=True,
        )
        report: dict[str, Any] = json.loads(done.stdout)
        return report

    def watch(self) -> None:
        """A round of `k2 watch`, as `--once` does it, but for how long a signal must be gone."""
        with opened_watch(
            self.lake.settings, self.lake.profiles, threading.Event(), settled=True, hold_seconds=self.hold_seconds
        ) as watch:
            watch.round()

    def all_resolved(self) -> bool:
        """A round of `k2 watch`; whether no incident of the exchange is open by then."""
        self.watch()
        of_exchange = "key LIKE '%' || :exchange || '%'"
        return not self.sql(f"SELECT key FROM k2.incidents WHERE resolved_at IS NULL AND {of_exchange}")

    def told(self, key: str, transition: str) -> bool:
        """A round of `k2 watch`; whether the webhook has got this message by then."""
        self.watch()
        kind = "success" if transition == "resolved" else "failure"
        return any(name.rsplit("#", 1)[0] == key and one["type"] == kind for name, one in self.outside.told.items())


def until(what: str, holds: Callable[[], bool]) -> None:
    """Wait until it is so. Raises TimeoutError that says what was waited for."""
    if not wait_until(holds, STEP_SECONDS):
        raise TimeoutError(f"within {STEP_SECONDS:.0f} s it did not come to be that {what}")
    say(what)
