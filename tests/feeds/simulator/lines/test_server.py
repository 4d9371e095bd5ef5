import contextlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.errors import ConfigurationError, VenueUnavailable
from k2_dagster.feeds.mold.packets import Packet, decode_packet
from k2_dagster.feeds.mold.requests import Reason, Refusal, Request, decode_refusal, encode_request, frame
from k2_dagster.feeds.retransmission.client import BooksAnswer, ask_books, ask_packet, ask_range
from k2_dagster.feeds.simulator.lines import answering, server
from k2_dagster.feeds.simulator.lines.answering import History, Rates, refused
from k2_dagster.feeds.simulator.lines.server import Books, RetransmissionServer
from tests.feeds.lines.exchange import HOST

MESSAGES = [b"message %d" % number for number in range(1, 1_001)]


@contextmanager
def serving(rates: Rates | None = None, books: Books | None = None) -> Iterator[RetransmissionServer]:
    history = History("S")
    history.append(MESSAGES)
    with RetransmissionServer(history, books or Books(), (HOST, 0), rates) as one:
        yield one


def test_udp_answers_with_one_packet_of_as_many_as_fit() -> None:
    with serving() as one:
        packet = ask_packet(one.address, Request("S", 5, 500))
        assert isinstance(packet, Packet)
        assert packet.sequence == 5
        assert list(packet.messages) == MESSAGES[4 : packet.next_sequence - 1]
        assert 50 < len(packet.messages) < 500
        small = ask_packet(one.address, Request("S", 1000, 5))
    assert isinstance(small, Packet)
    assert list(small.messages) == MESSAGES[-1:]
    assert (one.report.answered, one.report.messages) == (2, len(packet.messages) + 1)


def test_tcp_gives_all_of_them() -> None:
    with serving() as one:
        packets = list(ask_range(one.address, Request("S", 1, 1_000)))
    assert [message for packet in packets if isinstance(packet, Packet) for message in packet.messages] == MESSAGES


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request("S", 1001, 1), Reason.NOT_SENT), (Request("S", 10**9, 1), Reason.NOT_SENT),
        (Request("T", 1, 1), Reason.OTHER_SESSION),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_with_its_reason(request_: Request, reason: Reason) -> None:
    with serving() as one:
        over_udp = ask_packet(one.address, request_)
        (over_tcp,) = ask_range(one.address, request_)
    assert over_udp == over_tcp == Refusal(request_.session, request_.sequence, reason, 0, 1, 1001)
    assert one.report.refused == {reason.name.lower(): 2}


def test_a_client_that_asks_too_often_is_told_when_to_ask_again() -> None:
    with serving(Rates(per_second=2.0, at_once=2)) as one:
        answers = [ask_packet(one.address, Request("S", 1, 1)) for _ in range(3)]
    assert isinstance(answers[1], Packet)
    assert isinstance(answers[2], Refusal)
    assert answers[2].reason is Reason.TOO_MANY
    assert 0 < answers[2].wait_milliseconds <= 501


@given(st.lists(st.floats(0, 0.5), max_size=60))
def test_no_client_is_answered_oftener_than_it_may(steps: list[float]) -> None:
    rates, now, answered = Rates(per_second=4.0, at_once=3), 0.0, 0
    for step in steps:
        now += step
        wait = rates.wait_seconds("one", now)
        answered += wait == 0
        assert answered <= 3 + 4.0 * now + 1e-6
        if wait:
            later = Rates(per_second=4.0, at_once=3)
            later._clients = rates._clients.copy()
            later._clients["one"] = answering._Bucket(rates._clients["one"].tokens, now)
            assert later.wait_seconds("one", now + wait + 1e-9) == 0
    assert Rates().wait_seconds("other", 0.0) == 0


def test_clients_that_are_known_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answering, "CLIENTS_KEPT", 2)
    rates = Rates(per_second=0.001, at_once=1)
    for name in ("a", "b", "c"):
        assert rates.wait_seconds(name, 0.0) == 0
    assert list(rates._clients) == ["b", "c"]


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 20), st.sampled_from(["S", "T"]))
def test_a_request_is_refused_exactly_when_its_first_message_is_not_there(
    sequence: int, available: int, kept: int, session: str
) -> None:
    bounds = (available, available + kept)
    refusal = refused(Request(session, sequence, 3), "S", bounds, 0.0)
    is_there = session == "S" and available <= sequence < available + kept
    assert (refusal is None) == is_there
    if refusal is not None:
        assert (refusal.available, refusal.next_sequence, refusal.wait_milliseconds) == (*bounds, 0)


def test_malformed_requests_are_counted_and_nothing_else_happens() -> None:
    with serving() as one:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for data in (b"", b"x", bytes(20), encode_request(Request("S", 1, 1)) + b"x"):
                client.sendto(data, one.address)
            client.sendto(encode_request(Request("S", 7, 1)), one.address)
            client.settimeout(5)
            assert decode_packet(client.recv(2000)) == Packet("S", 7, (MESSAGES[6],))
        assert one.report.malformed == 4


@pytest.mark.parametrize(
    "data", [b"\0\0x", b"\xff\xffR", frame(ord("Q")), frame(ord("R"), b"short"), frame(ord("B"), b"x")]
)
def test_a_conversation_that_is_not_understood_ends(data: bytes) -> None:
    with serving() as one:
        with socket.create_connection(one.address, 5) as client:
            client.sendall(data)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(100) == b""
        assert isinstance(ask_packet(one.address, Request("S", 1, 1)), Packet)
        assert one.report.malformed == 1


def test_one_conversation_too_many_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONVERSATIONS", 1)
    with serving() as one, socket.create_connection(one.address, 5) as client:
        client.sendall(frame(ord("R"), encode_request(Request("S", 1, 1))))
        assert client.recv(1)  # it is being served
        (answer,) = ask_range(one.address, Request("S", 1, 1))
    assert isinstance(answer, Refusal)
    assert (answer.reason, answer.wait_milliseconds) == (Reason.BUSY, server.BUSY_MILLISECONDS)


def test_books_are_given_with_the_number_behind_them() -> None:
    books = Books()
    with serving(books=books) as one:
        refusal = ask_books(one.address)
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Reason.NOT_SENT
        books.put([Packet("S", 8, (b"a", b"b")), Packet("S", 8, (b"c",))])
        assert ask_books(one.address) == BooksAnswer("S", 8, [b"a", b"b", b"c"])
    assert one.report.books == 1


def test_books_are_limited_too() -> None:
    with serving(Rates(per_second=0.001, at_once=1)) as one:
        ask_books(one.address)
        answer = ask_books(one.address)
    assert isinstance(answer, Refusal)
    assert answer.reason is Reason.TOO_MANY


def test_what_expired_is_refused_with_what_can_be_had() -> None:
    history = History("S", most_messages=10)
    history.append(MESSAGES[:10])
    history.append(MESSAGES[10:20])
    with RetransmissionServer(history, Books(), (HOST, 0)) as one:
        answer = ask_packet(one.address, Request("S", 1, 1))
    assert answer == Refusal("S", 1, Reason.EXPIRED, 0, history.bounds[0], 21)


def test_an_address_that_is_taken_is_told() -> None:
    with serving() as one, pytest.raises(ConfigurationError, match=str(one.address[1])):
        RetransmissionServer(History("S"), Books(), one.address)


def test_nobody_there_is_told_in_time() -> None:
    with serving() as one:
        address = one.address
    with pytest.raises(VenueUnavailable):
        ask_packet(address, Request("S", 1, 1), 0.2)
    with pytest.raises(VenueUnavailable):
        list(ask_range(address, Request("S", 1, 1)))


def test_an_answer_to_another_request_is_not_taken_for_ours() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as fake:
        fake.bind((HOST, 0))
        with pytest.raises(VenueUnavailable, match="in time"):
            ask_packet(fake.getsockname(), Request("S", 1, 1), 0.1)
        data, client = fake.recvfrom(100)
    assert data == encode_request(Request("S", 1, 1))
    assert client[0] == HOST


def test_a_refusal_says_its_reason() -> None:
    with pytest.raises(Exception, match="count"):
        decode_refusal(encode_request(Request("S", 1, 1)))
