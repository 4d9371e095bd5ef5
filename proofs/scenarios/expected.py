"""The rows of each ledger table that a scenario must leave, from what `wanted.py` finds in its messages."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from k2_dagster.schemas.control import NO_SYMBOL
from k2_dagster.schemas.profiles import Domain
from k2_dagster.schemas.topics import CONTROL_DATASET
from proofs.scenarios.asked import STREAMS, Scenario
from proofs.scenarios.channels import fill_offset, missed_by_handler
from proofs.scenarios.ingesting import EPOCH, WHO, WHY, Landed
from proofs.scenarios.rows import NEXT_STATES, Ledger, row
from proofs.scenarios.sending import COPY, LATE, SPOILED, Run, Sent
from proofs.scenarios.wanted import (
    PUBLISHER,
    VENUE,
    Clock,
    Missing,
    Span,
    View,
    end_of_hold,
    is_over,
    level,
    missing,
    moment,
    reported_at,
    stretches,
    views,
)

_KINDS = {"ticks": "trade", "quotes": "quote", "book": "book"}


class Expected:
    """Collects the rows of a scenario."""

    def __init__(self, scenario: Scenario, run: Run, landed: Sequence[Landed]) -> None:
        self._scenario, self._run = scenario, run
        self._landed = {one.dataset: one for one in landed}
        self._clocks = {name: Clock(topic) for name, topic in run.kafka.topics.items()}
        self._gaps: list[dict[str, Any]] = []
        names = ("gaps", "gap_events", "resets", "connections", "breakers", "holds", "intervals", "holes")
        self.ledger: Ledger = {name: Counter() for name in names}

    def build(self) -> Ledger:
        """All tables."""
        for view in views(self._scenario, self._run):
            for one in missing(view, self._run.truth):
                self._missing(view, one)
            self._intervals(view)
            if view.topic.dataset in STREAMS:
                self._resets(view)
        self._control()
        self._breakers()
        for gap in self._gaps:
            gap.pop("fill_offset")
            self.ledger["gaps"][row(**gap)] += 1
        return self.ledger

    def _named(self, view: View, key: tuple[str, str]) -> dict[str, Any]:
        dataset, venue = view.topic.dataset, view.numbering == VENUE
        return {
            "exchange": self._scenario.exchange,
            "dataset": dataset,
            "numbering": view.numbering,
            "stream": STREAMS[dataset] if venue else "",
            "kind": _KINDS[dataset] if venue else "",
            "session": key[0],
            "symbol": key[1],
        }

    def _missing(self, view: View, one: Missing) -> None:
        below, above = view.around(one.key, one.span)
        from_start = view.numbering == PUBLISHER and view.strict
        if above is None or (below is None and not from_start):
            return
        clock = self._clocks[view.topic.dataset]
        at = reported_at(view, clock, one.key, above, self._scenario)
        if one.how == "damaged" or at is None:
            cause, to = "quarantined" if one.how == "damaged" else "waiting", moment(above.row["exchange_timestamp"])
            self._hole(view, one.key, one.span, below, to, above.partition, cause)
            return
        self._gap(view, one, below, above, at)

    def _gap(self, view: View, one: Missing, below: Sent | None, above: Sent, at: int) -> None:
        found = next(sent for sent in view.topic.messages if (sent.partition, sent.offset) == (above.partition, at))
        first, last = one.span
        late = []
        for sent in view.keys[one.key] if one.how == "late" else ():
            came = view.span(sent.row)
            if sent.state != LATE or not one.span[0] <= came[0] <= one.span[1]:
                continue
            if sent.offset <= at:  # within the grace, as it may be at the end of a run; the lowest come first
                first = came[1] + 1
            else:
                late.append(sent.offset)
        if first > last:
            return
        count = 1 if view.domain is Domain.LINKED and view.numbering == VENUE else last - first + 1
        # what is said of a message whose bytes are spoiled is Kafka's: it may say anything
        readable = found.is_readable and found.state != SPOILED
        micros = found.row["exchange_timestamp"] if readable else found.time_ms * 1_000
        gap = {
            **self._named(view, one.key),
            "channel": "",
            "first_sequence": first,
            "last_sequence": last,
            "missing": count,
            "filled": last - first + 1 if late else 0,
            "quarantined": 0,
            "level": level(count, self._scenario),
            "cause": "unknown",
            "topic_epoch": EPOCH,
            "kafka_partition": above.partition,
            "opened_offset": above.offset,
            "reported_offset": at,
            "event_day": str(moment(micros))[:10],
            "from_time": moment(below.row["exchange_timestamp"]) if below is not None else None,
            "to_time": moment(above.row["exchange_timestamp"]),
            "seen_at": moment(found.time_ms * 1_000),
            "fill_offset": max(late, default=None),
        }
        self._gaps.append({**gap, "state": self._decided(gap)})

    def _decided(self, gap: dict[str, Any]) -> str:
        """What became of a gap: what people said of it, until its numbers came."""
        state, place = "open", gap["kafka_partition"]
        name = (gap["numbering"], gap["session"], gap["channel"] or gap["symbol"], gap["first_sequence"])
        for key, what, positions in self._landed[gap["dataset"]].decisions:
            if key != name:
                continue
            said = row(gap=name, dataset=gap["dataset"], event=what, by=WHO, note=WHY)
            self.ledger["gap_events"][said] += 1
            if gap["fill_offset"] is None or positions[place] <= gap["fill_offset"]:
                state = NEXT_STATES.get((state, what), state)
        return "filled" if gap["fill_offset"] is not None and state != "accepted" else state

    def _hole(
        self, view: View, key: tuple[str, str], span: Span, below: Sent | None, to: Any, partition: int,
        cause: str = "quarantined",
    ) -> None:  # fmt: skip
        # what lies below the first number that came is no hole of an interval
        if below is None and cause == "quarantined":
            return
        good = view.good(key)
        first = max(span[0], view.span(good[0].row)[0])
        if first > span[1]:
            return
        self.ledger["holes"][
            row(
                **self._named(view, key),
                kafka_partition=partition,
                first_sequence=first,
                last_sequence=span[1],
                from_time=moment(below.row["exchange_timestamp"]) if below is not None else None,
                to_time=to,
                cause=cause,
            )
        ] += 1

    def _intervals(self, view: View) -> None:
        over = is_over(self._scenario, view, self._clocks[view.topic.dataset])
        for key, found in view.keys.items():
            good = view.good(key)
            if not good:
                continue
            spoiled = stretches(view, key)
            for span, by in spoiled:
                below, _ = view.around(key, span)
                self._hole(view, key, span, below, moment(by.row["exchange_timestamp"]), by.partition)
            last = view.span(good[-1].row)[1]
            for span, _ in spoiled:
                last = span[1] if span[0] == last + 1 else last
            numbered = view.counted(key)
            behind = sum(one.state == LATE for one in numbered) if view.numbering == VENUE else 0
            self.ledger["intervals"][
                row(
                    **self._named(view, key),
                    kafka_partition=good[0].partition,
                    first_sequence=view.span(good[0].row)[0],
                    last_sequence=last,
                    from_time=moment(good[0].row["exchange_timestamp"]),
                    to_time=moment(good[-1].row["exchange_timestamp"]),
                    messages=len(numbered),
                    out_of_order=behind,
                    duplicates=sum(one.state == COPY for one in found),
                    is_open=(good[0].partition, key[0]) not in over,
                )
            ] += 1

    def _resets(self, view: View) -> None:
        """In each partition, the first message of every session but its first."""
        name, begun = "session" if view.numbering == VENUE else "publisher_session", dict[int, list[str]]()
        for one in (one for one in view.topic.messages if one.is_readable):
            if one.row[name] in (known := begun.setdefault(one.partition, [])):
                continue
            known.append(one.row[name])
            if len(known) > 1:
                micros = one.row["exchange_timestamp"] if one.state != "spoiled" else one.time_ms * 1_000
                where = view.topic.dataset, view.numbering, STREAMS[view.topic.dataset], ""
                self._reset(*where, known[-2], known[-1], one, micros, None)

    def _reset(
        self, dataset: str, numbering: str, stream: str, channel: str, before: str | None, session: str, one: Sent,
        micros: int, first: int | None,
    ) -> None:  # fmt: skip
        self.ledger["resets"][
            row(
                exchange=self._scenario.exchange, dataset=dataset, numbering=numbering, stream=stream, channel=channel,
                previous_session=before, session=session, first_sequence=first, topic_epoch=EPOCH,
                kafka_partition=one.partition, kafka_offset=one.offset, at=moment(micros),
            )
        ] += 1  # fmt: skip

    def _control(self) -> None:
        """What the feed handler said: of each session that it saw, of what channels lost, of connections."""
        said = self._run.kafka.topics[CONTROL_DATASET].messages
        sessions: dict[tuple[str, str | None], str] = {}
        told = {
            (one.row["stream"], one.row["channel"], one.row["session"]): one
            for one in said
            if one.row["kind"] == "session"
        }
        for (stream, channel, session), first in self._run.seen.items():
            one = told.get((stream, channel, session))
            before = sessions.get((stream, channel))
            sessions[stream, channel] = session
            if one is not None:
                place = ("", channel) if channel is not None else (stream, "")
                numbering = "channel" if channel is not None else "feed"
                micros = one.row["exchange_timestamp"]
                self._reset(CONTROL_DATASET, numbering, *place, before, session, one, micros, first)
        for one in said:
            if one.row["kind"] == "connection":
                self.ledger["connections"][
                    row(
                        exchange=self._scenario.exchange, stream=one.row["stream"], state=one.row["state"],
                        reason=one.row["reason"], topic_epoch=EPOCH, kafka_partition=0, kafka_offset=one.offset,
                        at=moment(one.row["exchange_timestamp"]),
                    )
                ] += 1  # fmt: skip
        self._channel_gaps(said)

    def _channel_gaps(self, said: list[Sent]) -> None:
        """What the handler told, and where it told of it: told are the numbers that the truth says were missing."""
        names = ("channel", "session", "first_sequence", "last_sequence")
        told = {tuple(one.row[name] for name in names): one for one in said if one.row["kind"] == "gap"}
        for line in self._run.truth:
            if line["type"] not in ("drop", "late") or line["domain"] != Domain.CHANNEL.value:
                continue
            missed = missed_by_handler(self._scenario, self._run, line)
            if missed is None:
                continue
            one = told.get((line["channel"], line["session"], missed.first, missed.last))
            at, micros = (one.offset, one.row["exchange_timestamp"]) if one else (None, None)
            count = missed.last - missed.first + 1
            gap = {
                "exchange": self._scenario.exchange, "dataset": CONTROL_DATASET, "numbering": "channel",
                "stream": line["stream"], "kind": "", "session": line["session"], "symbol": NO_SYMBOL,
                "channel": line["channel"], "first_sequence": missed.first, "last_sequence": missed.last,
                "missing": count, "filled": count if missed.is_late else 0, "quarantined": 0,
                "level": level(count, self._scenario), "cause": "unknown", "topic_epoch": EPOCH, "kafka_partition": 0,
                "opened_offset": at, "reported_offset": at, "event_day": str(moment(micros))[:10],
                "from_time": moment(missed.before_micros), "to_time": moment(missed.after_micros),
                "seen_at": moment(one.time_ms * 1_000) if one else None,
                "fill_offset": fill_offset(said, line, missed),
            }  # fmt: skip
            self._gaps.append({**gap, "state": self._decided(gap)})

    def _breakers(self) -> None:
        """Where a gap is critical and the profile says halt: behind the message that showed it, until acknowledged."""
        if self._scenario.profile.on_critical_gap != "halt":
            return
        critical = [one for one in self._gaps if one["level"] == "halt" and one["dataset"] != CONTROL_DATASET]
        first: dict[tuple[str, int, int], dict[str, Any]] = {}
        for gap in sorted(critical, key=lambda one: one["numbering"] != VENUE):
            first.setdefault((gap["dataset"], gap["kafka_partition"], gap["reported_offset"]), gap)
        for (dataset, partition, offset), gap in first.items():
            place = {
                "exchange": self._scenario.exchange, "dataset": dataset, "topic_epoch": EPOCH,
                "kafka_partition": partition,
            }  # fmt: skip
            names = ("numbering", "stream", "kind", "session", "symbol", "first_sequence", "last_sequence", "missing")
            told = {name: gap[name] for name in names}
            self.ledger["breakers"][
                row(
                    **place, **told, kafka_offset=offset, event_time=gap["to_time"], acknowledged_by=WHO,
                    acknowledged_reason=WHY, through_offset=offset,
                )
            ] += 1  # fmt: skip
            span = f"{gap['first_sequence']} to {gap['last_sequence']}"
            reason = f"{gap['missing']} numbers of {gap['symbol']} are missing: {span}"
            self.ledger["holds"][
                row(
                    **place, kind="halted", from_offset=offset + 1, from_time=gap["to_time"], reason=reason,
                    **end_of_hold(self._run.kafka.topics[dataset], partition, offset),
                )
            ] += 1  # fmt: skip
