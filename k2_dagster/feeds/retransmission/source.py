"""Recovery of a channel's gaps from the venue's retransmission server."""

import time

import numpy as np
import pyarrow as pa

from k2_dagster.errors import SubscriptionRefused, VenueUnavailable
from k2_dagster.feeds.mold.messages import Place, decode_messages, placed
from k2_dagster.feeds.mold.packets import Packet
from k2_dagster.feeds.mold.requests import MOST_REQUESTED, Reason, Refusal, Request
from k2_dagster.feeds.recovery.source import WAIT_FIELD, MissingRange, Recovered, require_range
from k2_dagster.feeds.retransmission.client import Address, ask_range, is_temporary, wait_seconds

# What one `fetch` gives at most: a few tens of megabytes. Who wants more asks for the rest.
MOST_FETCHED = 100_000


class RetransmissionSource:
    """Gives past messages of one channel of one exchange again, as a RecoverySource.

    A range of a symbol's own numbers it cannot serve: lines number their channel only.
    """

    def __init__(self, exchange: str, address: Address, channel: str) -> None:
        self._exchange = exchange
        self._address = address
        self._channel = channel

    def fetch(self, missing: MissingRange) -> Recovered:
        """See RecoverySource. The first MOST_FETCHED of a longer range. Raises SubscriptionRefused for another exchange
        or channel and for a symbol's own numbers, ConfigurationError for a range that cannot be."""
        self._check(missing)
        last = min(missing.last, missing.first + MOST_FETCHED - 1)
        first, expired = missing.first, None
        packets, refusal, reason = self._asked(missing.session, first, last)
        if not packets and refusal is not None and refusal.reason is Reason.EXPIRED and refusal.available <= last:
            # What follows is still there
            expired = refusal
            packets, refusal, reason = self._asked(missing.session, max(first, refusal.available), last)
        if not packets and refusal is not None and is_temporary(refusal):
            raise self._later(refusal)
        return self._recovered(packets, expired or refusal, reason)

    def close(self) -> None:
        """Nothing is kept open."""

    def _check(self, missing: MissingRange) -> None:
        if (missing.exchange, missing.channel) != (self._exchange, self._channel) or missing.symbol:
            raise SubscriptionRefused(
                f"{missing.exchange}: the retransmission server has channel {self._channel!r} of {self._exchange}, not "
                f"{f'the numbers of {missing.symbol}' if missing.symbol else f'channel {missing.channel!r}'}",
                advice="it serves gaps of the channel that its lines number",
            )
        require_range(missing, least=1)

    def _asked(self, session: str, first: int, last: int) -> tuple[list[Packet], Refusal | None, str]:
        """What came of first..last before the server would not go on, or could not: then the reason."""
        packets: list[Packet] = []
        following = first
        try:
            while following <= last:
                before = following
                request = Request(session, following, min(MOST_REQUESTED, last + 1 - following))
                for answer in ask_range(self._address, request):
                    if isinstance(answer, Refusal):
                        return packets, answer, ""
                    packets.append(answer)
                    following = answer.next_sequence
                if following == before:
                    break
        except VenueUnavailable as error:
            if not packets:  # else what came is an answer
                raise
            return packets, None, error.message
        return packets, None, ""

    def _recovered(self, packets: list[Packet], refusal: Refusal | None, reason: str) -> Recovered:
        messages = [message for packet in packets for message in packet.messages]
        numbers = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(one.sequence, one.next_sequence) for one in packets)]
        )
        session = packets[0].session if packets else ""
        decoded = decode_messages(messages)
        now = time.time_ns() // 1000
        rows = {}
        for dataset, (places, batch) in decoded.rows.items():
            at = numbers[places]
            place = Place(
                self._exchange, self._channel, pa.repeat(session, len(at)), at, np.full(len(at), now, np.int64)
            )
            rows[dataset] = placed(batch, place)
        reasons = [one for one in ("" if refusal is None else _why(refusal), reason) if one]
        if decoded.refused:
            reasons.append(f"{len(decoded.refused)} messages could not be read: {next(iter(decoded.refused.values()))}")
        exhausted = bool(decoded.refused) or (refusal is not None and not is_temporary(refusal))
        return Recovered(rows, exhausted=exhausted, reason="; ".join(reasons))

    def _later(self, refusal: Refusal) -> VenueUnavailable:
        return VenueUnavailable(
            f"retransmission server {self._address[0]}:{self._address[1]}: {_why(refusal)}",
            advice=f"ask again in {wait_seconds(refusal):g} s", **{WAIT_FIELD: wait_seconds(refusal)},
        )  # fmt: skip


def _why(refusal: Refusal) -> str:
    match refusal.reason:
        case Reason.TOO_MANY:
            return "too many requests"
        case Reason.BUSY:
            return "it is busy"
        case Reason.NOT_SENT:
            return f"number {refusal.sequence} was not sent yet, {refusal.next_sequence} comes next"
        case Reason.EXPIRED:
            return f"number {refusal.sequence} is not kept any more, what can be had begins with {refusal.available}"
        case Reason.OTHER_SESSION:
            return f"session {refusal.session} is not kept"
