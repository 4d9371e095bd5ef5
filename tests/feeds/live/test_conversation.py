import contextlib
import json
from typing import Any

import pytest

from k2_dagster.feeds.capture.block import DAMAGE
from k2_dagster.feeds.live.asking import ANSWER_SECONDS
from k2_dagster.feeds.live.binance import TOPICS_PER_REQUEST
from k2_dagster.feeds.live.conversation import (
    ACKNOWLEDGE_SECONDS,
    Conversation,
    Drop,
    Fetch,
    LeftOut,
    Refuse,
    Send,
    TellBook,
)
from k2_dagster.feeds.live.venue import Topic
from k2_dagster.feeds.live.venues import VENUES
from tests.feeds.live.support import acknowledged

# Two symbols as each venue writes them.
SYMBOLS = {
    "binance": ("BTCUSDT", "ETHUSDT"),
    "binance_usdm": ("BTCUSDT", "ETHUSDT"),
    "binance_coinm": ("BTCUSD_PERP", "ETHUSD_PERP"),
    "coinbase": ("BTC-USD", "ETH-USD"),
    "kraken": ("XBT/USD", "ETH/USD"),
    "kraken_futures": ("PI_XBTUSD", "PI_ETHUSD"),
}


def talk_of(venue: str, known: set[Topic] | None = None) -> Conversation:
    return Conversation(VENUES[venue], SYMBOLS[venue], set() if known is None else known, 0.0, lambda: 0.0)


def requests(talk: Conversation) -> list[Any]:
    (send,) = talk.greet()
    assert isinstance(send, Send)
    return json.loads(json.dumps(list(send.messages)))  # type: ignore[no-any-return]


def agreed(venue: str) -> Conversation:
    """A conversation in which everything was acknowledged."""
    talk = talk_of(venue)
    for request in requests(talk):
        for reply in acknowledged(request):
            talk.replied(reply)
    return talk


@pytest.mark.parametrize("venue", VENUES)
def test_every_topic_is_asked_for_and_acknowledged_also_twice(venue: str) -> None:
    known: set[Topic] = set()
    talk = talk_of(venue, known)
    for request in requests(talk):
        for reply in acknowledged(request) * 2:
            assert talk.replied(reply) == []
    assert talk.is_acknowledged
    assert known == set(VENUES[venue].topics(SYMBOLS[venue]))
    talk.heard(ACKNOWLEDGE_SECONDS)
    assert not [one for one in talk.tick(ACKNOWLEDGE_SECONDS) if isinstance(one, Drop)]


@pytest.mark.parametrize("venue", VENUES)
def test_what_is_not_acknowledged_in_time_ends_the_connection(venue: str) -> None:
    talk = talk_of(venue)
    *most, _ = [reply for request in requests(talk) for reply in acknowledged(request)]
    for reply in most:
        talk.replied(reply)
    talk.heard(ACKNOWLEDGE_SECONDS)
    (drop,) = [one for one in talk.tick(ACKNOWLEDGE_SECONDS) if isinstance(one, Drop)]
    assert "no acknowledgement within" in drop.reason
    assert SYMBOLS[venue][1] in drop.reason


REFUSALS = {
    "binance": {"error": {"code": 2, "msg": "Invalid request: BTCUSDT"}, "id": 1},
    "binance_usdm": {"code": 2, "msg": "Invalid request: BTCUSDT", "id": 1},
    "coinbase": {"type": "error", "message": "Failed to subscribe", "reason": "BTC-USD is not a valid product"},
    "kraken": {
        "event": "subscriptionStatus", "status": "error", "pair": "XBT/USD", "errorMessage": "Currency pair XBT/USD?",
        "subscription": {"name": "trade"},
    },
    "kraken_futures": {"event": "error", "message": "Invalid product id PI_XBTUSD"},
}  # fmt: skip


@pytest.mark.parametrize("venue", REFUSALS)
def test_a_symbol_that_was_never_there_is_refused_and_one_that_was_is_left_out(venue: str) -> None:
    symbol = SYMBOLS[venue][0]
    (refuse,) = talk_of(venue).replied(REFUSALS[venue])
    assert isinstance(refuse, Refuse)
    assert symbol in {one for _, one in refuse.topics}
    assert symbol in refuse.reason
    before = talk_of(venue, set(VENUES[venue].topics(SYMBOLS[venue])))
    (left_out,) = before.replied(REFUSALS[venue])
    assert isinstance(left_out, LeftOut)
    assert left_out.topics == refuse.topics
    assert before.replied(REFUSALS[venue]) == []


@pytest.mark.parametrize(
    ("venue", "message"),
    [
        ("coinbase", {"type": "error", "message": "rate limit exceeded"}),
        ("kraken", {"event": "error", "errorMessage": "Exceeded msg rate"}),
        ("kraken_futures", {"event": "alert", "message": "Bad websocket message"}),
    ],
)
def test_a_failure_of_nobody_knows_what_ends_a_connection_that_is_not_acknowledged(
    venue: str, message: dict[str, Any]
) -> None:
    talk = talk_of(venue)
    (drop,) = talk.replied(message)
    assert isinstance(drop, Drop)
    assert agreed(venue).replied(message) == []


@pytest.mark.parametrize("venue", VENUES)
@pytest.mark.parametrize("message", [{}, [], 7, "x", None, {"id": True}, {"event": 3}, {"type": "subscriptions"}])
def test_what_is_no_answer_changes_nothing(venue: str, message: Any) -> None:
    talk = talk_of(venue)
    with contextlib.suppress(*DAMAGE):
        assert talk.replied(message) == []
    assert not talk.is_acknowledged


def test_subscribed_twice_is_subscribed() -> None:
    talk = talk_of("kraken")
    again = {
        "event": "subscriptionStatus", "status": "error", "pair": "XBT/USD", "subscription": {"name": "trade"},
        "errorMessage": "Already subscribed",
    }  # fmt: skip
    assert talk.replied(again) == []


@pytest.mark.parametrize("venue", VENUES)
def test_silence_is_probed_once_where_there_is_a_probe_and_then_ends_the_connection(venue: str) -> None:
    talk, silence = agreed(venue), VENUES[venue].silence_seconds
    talk.heard(100.0)
    probes = [
        one for now in (100.0 + silence, 100.1 + silence) for one in talk.tick(now)
        if isinstance(one, Send) and one.messages == [VENUES[venue].probe]
    ]  # fmt: skip
    assert len(probes) == (VENUES[venue].probe is not None)
    assert any(isinstance(one, Drop) for one in talk.tick(100.0 + 2 * silence))
    talk.heard(100.0 + 2 * silence)
    assert not any(isinstance(one, Drop) for one in talk.tick(100.0 + 2 * silence))


def test_a_book_is_fetched_where_snapshots_are_fetched() -> None:
    talk = talk_of("binance")
    update = {"s": "BTCUSDT", "U": 10, "u": 12}
    assert talk.tick(1.0) == []
    assert talk.book("depth", update, 1.0) == []
    assert talk.tick(1.0) == [Fetch("BTCUSDT")]
    assert talk.tick(1.2) == []
    assert talk.waiting_books == 1
    (told,) = talk.book("depth_snapshot", {"symbol": "BTCUSDT", "lastUpdateId": 12}, 1.5)
    assert told == TellBook("BTCUSDT", "started", "snapshot 12")
    assert talk.waiting_books == 0
    (told,) = talk.book("depth", {"s": "BTCUSDT", "U": 20, "u": 22}, 60.0)
    assert isinstance(told, TellBook)
    assert told.state == "ended"
    assert told.reason.endswith("; a snapshot is asked for")


def test_a_symbol_that_nobody_asked_for_makes_no_requests() -> None:
    talk = agreed("binance")
    assert talk.book("depth", {"s": "OTHER", "U": 10, "u": 12}, 1.0) == []
    assert talk.book("depth", {"s": "OTHER", "U": 20, "u": 22}, 1.0) == []
    assert talk.tick(1.0) == []
    assert talk.waiting_books == 0


@pytest.mark.parametrize("venue", ["coinbase", "kraken", "kraken_futures"])
def test_a_book_that_does_not_come_is_subscribed_to_anew(venue: str) -> None:
    talk = agreed(venue)
    talk.heard(ANSWER_SECONDS)
    sent = [one for one in talk.tick(ANSWER_SECONDS) if isinstance(one, Send)]
    kinds = [message.get("type") or message.get("event") for one in sent for message in one.messages]
    assert kinds == ["unsubscribe", "subscribe"] * 2


def test_many_symbols_are_asked_for_in_several_requests() -> None:
    names = tuple(f"S{number}" for number in range(VENUES["binance"].most_symbols))
    talk = Conversation(VENUES["binance"], names, set(), 0.0, lambda: 0.0)
    sent = requests(talk)
    assert max(len(one["params"]) for one in sent) == TOPICS_PER_REQUEST
    assert sum(len(one["params"]) for one in sent) == 3 * len(names)
    for request in sent:
        assert not talk.is_acknowledged
        talk.replied({"result": None, "id": request["id"]})
    assert talk.is_acknowledged
