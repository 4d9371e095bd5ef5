"""Topics as Dagster sees them: where each ends and how much of it waits, now and then.

Feeds fill the topics and report nothing to Dagster; without this they would look as if they were missing. The first
event of a topic is a materialization, by which its partition is there; later ones are observations.
"""

from collections.abc import Mapping, Sequence

import dagster as dg

from k2_dagster.assets.topics import topic_key
from k2_dagster.ingest.lag import StreamLag

# One event (2 KB) per topic that moved: 80 topics are 23 MB a day.
OBSERVE_SECONDS = 600.0
# Events of one tick (10 ms each); the others follow in the next.
OBSERVED_PER_TICK = 10

# By topic: when it was observed (epoch seconds), and the sum of its ends then.
Observed = Mapping[str, tuple[float, int]]
Event = dg.AssetMaterialization | dg.AssetObservation


def observe(lags: Sequence[StreamLag], before: Observed, now: float) -> tuple[list[Event], Observed]:
    """Events for topics that have moved since they were last observed, long enough ago, and the memory after them."""
    events: list[Event] = []
    after = dict(before)
    for lag in sorted(lags, key=lambda one: before.get(one.topic, (0.0, 0))):
        at, total = before.get(lag.topic, (0.0, -1))
        ends = sum(lag.ends.values())
        if ends == total or now - at < OBSERVE_SECONDS or len(events) >= OBSERVED_PER_TICK:
            continue
        events.append(_event(lag, dg.AssetObservation if lag.topic in before else dg.AssetMaterialization))
        after[lag.topic] = (now, ends)
    return events, after


def _event(lag: StreamLag, kind: type[dg.AssetMaterialization] | type[dg.AssetObservation]) -> Event:
    ends = {str(partition): end for partition, end in sorted(lag.ends.items())}
    return kind(
        asset_key=topic_key(lag.dataset),
        partition=lag.exchange,
        description=f"{lag.topic}: {lag.unlanded_messages} messages are in no table yet",
        metadata={
            "topic": lag.topic,
            "end_offsets": dg.MetadataValue.json(ends),
            "end_offsets_total": sum(lag.ends.values()),
            "lag_messages": lag.lag_messages,
            "halted_messages": lag.halted_messages,
        },
    )
