"""Thinned commits prove what the single ones proved, with Kafka and without, and Dagster's mirror counts each once."""

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from k2_dagster.kafka.clients import client_config
from k2_dagster.lake import expiry
from k2_dagster.lake.catalog import load_table
from k2_dagster.lake.expiry import expire_snapshots
from k2_dagster.lake.fence import ingest_lineage
from k2_dagster.schemas.topics import topic_name
from k2_dagster.state.totals import read_totals
from k2_dagster.verify.proof import verify
from tests.verify.conftest import Landed, MakeLanded
from tests.verify.test_proof import _append, _delete, _rows, faults

pytestmark = [pytest.mark.stack, pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")]

TABLES = ("market_data.ticks", "market_data.quotes", "market_data.quarantine")


def commits(landed: Landed) -> int:
    return int(landed.sql("SELECT count(*) FROM k2.commits").scalar_one())


def age(landed: Landed) -> None:
    """As if it all had happened in one minute, long ago."""
    landed.sql(
        "UPDATE k2.commits SET stamp = date_trunc('minute', now() - interval '40 days') "
        "+ (position % 10000) * interval '1 millisecond'"
    )


def expire(landed: Landed) -> None:
    for table in TABLES:
        expire_snapshots(landed.catalog, landed.database, table, keep=1)


def test_thinning_comes_with_expiry_and_changes_no_proof(
    make_landed: MakeLanded, monkeypatch: pytest.MonkeyPatch
) -> None:
    landed = make_landed()
    before = verify(landed.settings, all_values=True)
    totals = read_totals(landed.database)
    monkeypatch.setattr(expiry, "EXPIRY_SLACK", 0)
    single = commits(landed)
    age(landed)
    expire(landed)  # the lineage still names them all: nothing may go
    assert commits(landed) == single
    for _ in range(2):  # until the lineage names none of the old minute
        for dataset in ("ticks", "quotes"):
            landed.feed.send(dataset, [*landed.feed.messages(dataset, 10), *landed.feed.sent[dataset][:1]])
        landed.drain()
        expire(landed)
    assert commits(landed) == 4 + 2 * 4, "one of each stream and table, and the young ones"

    after = verify(landed.settings, all_values=True)
    assert list(after.findings()) == []
    assert after.total("consumed") == before.total("consumed") + 44
    summed = landed.sql("SELECT sum((counts ->> 'rows')::bigint) FROM k2.commits").scalar_one()
    assert summed == sum(one.rows for one in read_totals(landed.database).values())
    assert totals.keys() == read_totals(landed.database).keys()
    for table in TABLES:
        metadata = load_table(landed.catalog, table).metadata
        named = [one.commit_id for one in ingest_lineage(metadata)]
        found = landed.sql("SELECT count(*) FROM k2.commits WHERE id = ANY(:named)", named=named).scalar_one()
        assert found == len(named)

    rows = _rows(landed, "ticks")
    forget(landed, rows["kafka_offset"][rows.num_rows // 2].as_py())
    assert faults(verify(landed.settings)) == {}
    old = rows.slice(0, 1)
    _delete(landed, "ticks", old.to_pylist()[0])
    assert faults(verify(landed.settings, ["ticks"])) == {"count": 1, "digest": 1}
    _append(landed, "ticks", old)
    assert faults(verify(landed.settings, ["ticks"])) == {}


def forget(landed: Landed, before: int) -> None:
    """What retention does to the first partition."""
    admin = AdminClient(client_config(landed.settings))
    topic = topic_name("ticks", landed.exchange)
    for deletion in admin.delete_records([TopicPartition(topic, 0, before)]).values():
        deletion.result(30)
