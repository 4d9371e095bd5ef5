"""What each stream is doing, from the fence, Kafka, leases and the control database: no process has to remember it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from k2_dagster.errors import K2Error, NotInitialized, TerminalError
from k2_dagster.ingest.halted import breaker_words, halted_problem
from k2_dagster.ingest.lost import Lost, find_lost, topic_is_gone
from k2_dagster.ingest.unleased import silent_seconds, unleased_driver
from k2_dagster.kafka.ends import Place, TopicEnd, TopicEnds
from k2_dagster.kafka.first_times import first_times
from k2_dagster.kafka.topics import count_changed
from k2_dagster.lake.catalog import close_catalog, load_table, open_catalog
from k2_dagster.lake.fence import Vector, position_key, read_fence
from k2_dagster.schemas.datasets import table_name
from k2_dagster.schemas.profiles import ExchangeProfile, Profiles
from k2_dagster.schemas.topics import FEED_DATASETS, topic_name
from k2_dagster.settings import Settings
from k2_dagster.state.breakers import list_breakers
from k2_dagster.state.database import Database
from k2_dagster.state.gaps import count_missing
from k2_dagster.state.leases import Lease, read_leases
from k2_dagster.state.positions import known_topics
from k2_dagster.state.stream_states import StreamState, read_states
from k2_dagster.state.totals import Totals, read_totals

State = Literal["ok", "partition halted", "not initialized", "waiting", "retrying", "halted", "unknown"]
Stream = tuple[str, str]

# Brokers end a transaction whose producer is gone after 15 minutes at most; one that is older hangs, and holds back
# everything behind it until somebody ends it.
HUNG_TRANSACTION_SECONDS = 900.0
# Lost ranges that a problem names; `k2 ingest accept-loss` shows them all.
LOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """One dataset of one exchange.

    `fence` counts offsets landed or quarantined, `lag_messages` those behind it, `held_messages` the ones of them that
    a transaction without an end holds back (all three None when the topic cannot be asked); `lag_seconds` is the age of
    the oldest. `driver` is a process with a lease, `dagster` while its daemon lives, `none`, or `unknown` when its
    storage cannot be asked. `problem` says why the stream cannot go on, and `since` when whoever drives it met that
    first. `fences` and `ends` are by partition. `size_unit` is what sizes count (None for control), and
    `contract_value` what a contract is worth, by symbol.
    """

    exchange: str
    dataset: str
    driver: str
    state: State
    fence: int | None
    lag_messages: int | None
    lag_seconds: float | None
    held_messages: int | None
    rows: int
    quarantined: int
    open_gaps: int
    last_commit: datetime | None
    breaker: str
    since: datetime | None
    problem: str
    fences: Mapping[int, int]
    ends: Mapping[int, int]
    size_unit: str | None
    contract_value: Mapping[str, str]


@dataclass(slots=True)
class _Facts:
    """Everything that was found, for all streams at once."""

    vectors: Mapping[str, Vector | K2Error]
    ends: Mapping[str, TopicEnd | K2Error]
    earliest: Mapping[Place, int | K2Error]
    high: Mapping[Place, int | K2Error]
    incarnations: Mapping[str, Sequence[str]]
    totals: Mapping[tuple[str, str, str], Totals]
    open_gaps: Mapping[Stream, int]
    leases: Mapping[str, Lease]
    states: Mapping[Stream, StreamState]
    silent_seconds: float | None
    breakers: Mapping[Stream, Sequence[Mapping[str, Any]]]
    first_times: Mapping[Place, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a stream stands in Kafka: fences, committed and high ends by partition; or the error that hides it."""

    fences: Mapping[int, int] = field(default_factory=dict)
    ends: Mapping[int, int] = field(default_factory=dict)
    high: Mapping[int, int] = field(default_factory=dict)
    lost: Sequence[Lost] = ()
    error: K2Error | None = None


def stream_statuses(settings: Settings, profiles: Profiles, exchanges: Sequence[str]) -> list[StreamStatus]:
    """The status of every stream of the exchanges. What keeps one from being told is its problem.

    Raises DatabaseUnavailable, NotInitialized (no control schema), ConfigurationError.
    """
    database, catalog = Database(settings), open_catalog(settings)
    try:
        streams = [(name, dataset) for name in exchanges for dataset in profiles.exchange(name).datasets]
        vectors: dict[str, Vector | K2Error] = {}
        for dataset in sorted({dataset for _, dataset in streams}):
            try:
                vectors[dataset] = read_fence(load_table(catalog, table_name(dataset)).metadata).vector
            except K2Error as error:
                vectors[dataset] = error
        facts = _gather(settings, database, streams, vectors)
        places = {stream: _place(database, facts, profiles, stream) for stream in streams}
        facts.first_times = first_times(settings, _behind(places))
        return [_status(settings, profiles, facts, stream, places[stream]) for stream in streams]
    finally:
        close_catalog(catalog)
        database.close()


def as_row(status: StreamStatus) -> dict[str, Any]:
    """For JSON."""
    return asdict(status)


def _gather(
    settings: Settings, database: Database, streams: Sequence[Stream], vectors: Mapping[str, Vector | K2Error]
) -> _Facts:
    kafka = TopicEnds(settings)
    ends = kafka.read(topic_name(dataset, exchange) for exchange, dataset in streams)
    places = [(end.topic, number) for end in ends.values() if isinstance(end, TopicEnd) for number in end.ends]
    return _Facts(
        vectors=vectors,
        ends=ends,
        earliest=kafka.earliest(places),
        high=kafka.high_watermarks(places),
        incarnations=known_topics(database),
        totals=read_totals(database),
        open_gaps=count_missing(database),
        leases=read_leases(database),
        states=read_states(database),
        silent_seconds=silent_seconds(settings),
        breakers=_open_breakers(database),
    )


def _place(database: Database, facts: _Facts, profiles: Profiles, stream: Stream) -> _Place:
    exchange, dataset = stream
    topic, table, vector = topic_name(dataset, exchange), table_name(dataset), facts.vectors[dataset]
    end, incarnations = facts.ends[topic], facts.incarnations.get(topic, ())
    if isinstance(vector, K2Error):
        return _Place(error=vector)
    if isinstance(end, NotInitialized):
        return _Place(error=topic_is_gone(topic, table, incarnations, vector))
    if isinstance(end, K2Error):
        return _Place(error=end)
    declared = profiles.exchange(exchange).partitions_of(dataset)
    changed = count_changed({topic: declared}, {topic: len(end.ends)})
    if changed is not None:
        return _Place(error=changed)
    earliest, high = ({number: found[topic, number] for number in end.ends} for found in (facts.earliest, facts.high))
    for one in (*earliest.values(), *high.values()):
        if isinstance(one, K2Error):
            return _Place(error=one)
    firsts, highs = _whole(earliest), _whole(high)
    fences = {number: vector.get(position_key(end.topic_id, number), firsts[number]) for number in end.ends}
    marks = {number: (firsts[number], end.ends[number]) for number in end.ends}
    lost = find_lost(database, table, topic, end.topic_id, incarnations, vector, marks)
    return _Place(fences, end.ends, highs, lost)


def _whole(found: Mapping[int, int | K2Error]) -> dict[int, int]:
    return {number: one for number, one in found.items() if isinstance(one, int)}


def _behind(places: Mapping[Stream, _Place]) -> dict[Place, int]:
    """The first offset behind the fence of every partition that has one."""
    return {
        (topic_name(dataset, exchange), number): fence
        for (exchange, dataset), place in places.items()
        for number, fence in place.fences.items()
        if place.high[number] > fence and not place.lost
    }


def _status(settings: Settings, profiles: Profiles, facts: _Facts, stream: Stream, place: _Place) -> StreamStatus:
    exchange, dataset = stream
    halts = facts.breakers.get(stream, ())
    lease, known = facts.leases.get(exchange), facts.states.get(stream)
    leased = lease is not None and lease.age_seconds < settings.lease_stale_seconds
    driver = f"process {lease.holder}" if leased and lease is not None else unleased_driver(facts.silent_seconds)
    totals = facts.totals.get((table_name(dataset), exchange, dataset))
    told = place.error is None
    lag = {number: max(0, place.high[number] - fence) for number, fence in place.fences.items()}
    held = sum(max(0, place.high[number] - end) for number, end in place.ends.items())
    seconds = _age_seconds(facts.first_times, topic_name(dataset, exchange), lag)
    return StreamStatus(
        exchange=exchange,
        dataset=dataset,
        driver=driver,
        state=_state(place, known, bool(halts)),
        fence=sum(place.fences.values()) if told else None,
        lag_messages=sum(lag.values()) if told else None,
        lag_seconds=round(seconds, 3) if told and seconds is not None else None,
        held_messages=held if told else None,
        rows=totals.rows if totals is not None else 0,
        quarantined=totals.quarantined if totals is not None else 0,
        open_gaps=facts.open_gaps.get(stream, 0),
        last_commit=totals.last_stamp if totals is not None else None,
        breaker=breaker_words(profiles.exchange(exchange).on_critical_gap, dataset, halts),
        since=known.since if known is not None else None,
        problem=_problem(place, known, held, seconds)
        or halted_problem(halts, settings.kafka_retention_hours, datetime.now(UTC))
        or _undriven(driver, seconds, settings),
        fences=dict(place.fences),
        ends=dict(place.ends),
        **_units(profiles.exchange(exchange), dataset),
    )


def _undriven(driver: str, lag_seconds: float | None, settings: Settings) -> str:
    if driver != "none" or not lag_seconds or lag_seconds < settings.freshness_target_seconds:
        return ""
    return "nobody lands this: start `k2 ingest`, or Dagster's daemon"


def _units(profile: ExchangeProfile, dataset: str) -> dict[str, Any]:
    if dataset in FEED_DATASETS:
        return {"size_unit": None, "contract_value": {}}
    return {"size_unit": profile.size_unit, "contract_value": profile.contract_value}


def _age_seconds(times: Mapping[Place, int], topic: str, lag: Mapping[int, int]) -> float | None:
    """Age of the oldest message behind the fence; None when it could not be told."""
    waiting = [number for number, messages in lag.items() if messages]
    found = [times[topic, number] for number in waiting if (topic, number) in times]
    if not found:
        return None if waiting else 0.0
    return max(0.0, datetime.now(UTC).timestamp() - min(found) / 1000)


def _state(place: _Place, known: StreamState | None, breaker_is_open: bool) -> State:
    if place.lost:
        return "halted"
    if isinstance(place.error, NotInitialized):
        return "not initialized"
    if isinstance(place.error, TerminalError):
        return "halted"
    if known is not None:
        return known.condition
    if place.error is not None:
        return "unknown"
    return "partition halted" if breaker_is_open else "ok"


def _problem(place: _Place, known: StreamState | None, held: int, lag_seconds: float | None) -> str:
    if place.error is not None:
        return place.error.message
    if place.lost:
        more = f"; and {len(place.lost) - LOST_NAMED} more" if len(place.lost) > LOST_NAMED else ""
        return "; ".join(str(one) for one in place.lost[:LOST_NAMED]) + more
    if known is not None:
        return known.message
    if held and lag_seconds is not None and lag_seconds > HUNG_TRANSACTION_SECONDS:
        return f"a transaction that does not end holds back {held:,} messages for {lag_seconds:,.0f} s"
    return ""


def _open_breakers(database: Database) -> dict[Stream, list[dict[str, Any]]]:
    out: dict[Stream, list[dict[str, Any]]] = {}
    for row in list_breakers(database, only_open=True):
        out.setdefault((row["exchange"], row["dataset"]), []).append(row)
    return out


def is_in_use(status: StreamStatus) -> bool:
    """Whether anything ever came of the stream, or should have: those of an exchange that was never initialised did
    not."""
    return bool(status.fence or status.lag_messages or status.last_commit) or status.state not in (
        "ok",
        "not initialized",
    )


def in_trouble(statuses: Iterable[StreamStatus]) -> bool:
    """Whether some stream cannot go on."""
    return any(one.problem for one in statuses)
