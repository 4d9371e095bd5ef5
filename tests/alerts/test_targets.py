"""Addresses, and sending to real local servers: a webhook and a mail server."""

from asyncio import Server
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from email.message import Message as Mail
from email.policy import default

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from k2_dagster.alerts.messages import Message
from k2_dagster.alerts.targets import Target, calling_nobody, parse_targets, send
from k2_dagster.errors import AlertUndelivered, ConfigurationError
from tests.alerts.support import receiving

MESSAGE = Message(
    "check/ticks/accounting/x|2026-03-01", 3, "opened", "error", "[error] Größer", "Text\nIncident: check#3"
)


def test_addresses_are_separated_by_space_and_may_name_the_least_severity() -> None:
    found = parse_targets(" json://127.0.0.1:1/a?x=1\n critical=json://127.0.0.1:1/b  json://127.0.0.1:1/a?x=1 ")
    assert [one.least for one in found] == ["warning", "critical"]
    assert [[one.wants(severity) for severity in ("warning", "error", "critical")] for one in found] == [
        [True, True, True],
        [False, False, True],
    ]


def test_names_stay_and_say_nothing_secret() -> None:
    (one,) = parse_targets("json://ann:swordfish@127.0.0.1:1/")
    assert one.name.startswith("json-")
    assert one == parse_targets("json://ann:swordfish@127.0.0.1:1/")[0]
    assert "swordfish" not in repr(one)
    assert one.name != parse_targets("json://ann:other@127.0.0.1:1/")[0].name


@pytest.mark.parametrize("wrong", ["nonsense", "slack://swordfish", "fatal=json://127.0.0.1/swordfish", "error="])
def test_a_wrong_address_is_named_by_its_place_and_not_shown(wrong: str) -> None:
    with pytest.raises(ConfigurationError, match="K2_ALERT_URLS: address 2") as caught:
        parse_targets(f"json://127.0.0.1:1/ {wrong}")
    assert "swordfish" not in str(caught.value)


def test_a_webhook_gets_title_text_and_kind() -> None:
    with receiving() as receiver:
        send(Target("t", "warning", receiver.url), MESSAGE)
    (got,) = receiver.got
    assert (got["title"], got["message"], got["type"]) == (MESSAGE.title, MESSAGE.body, "failure")


@pytest.mark.parametrize(
    "name", ["<!channel>", "<!here|x>", "<@U6TTX1F9R>", "@everyone", "@HERE", "@all", "<#C024BE7LR>"]
)
def test_a_symbol_rings_nobody(name: str) -> None:
    with receiving() as receiver:
        send(Target("t", "warning", receiver.url), replace(MESSAGE, title=f"gap of {name}"))
    told = receiver.got[0]["title"]
    assert name not in told
    assert told.replace("\u200b", "").endswith(f"gap of {name}")


def test_addresses_and_comparisons_are_left_alone() -> None:
    text = "who@example.com, 1 < 2, a <b>, @allies"
    assert calling_nobody(text) == text


@pytest.mark.parametrize("status", [400, 429, 500])
def test_a_refusal_is_an_error_with_what_was_said(status: int) -> None:
    with receiving() as receiver:
        receiver.status = status
        with pytest.raises(AlertUndelivered, match=rf"^t did not take it: .*{status}"):
            send(Target("t", "warning", receiver.url), MESSAGE)


def test_nobody_there_is_an_error() -> None:
    with receiving() as receiver:
        pass
    with pytest.raises(AlertUndelivered, match=r"t did not take it: .*onnection"):
        send(Target("t", "warning", receiver.url), MESSAGE)


class Mailbox:
    """Keeps what the mail server gets; refuses with `refusal` where it is set."""

    def __init__(self) -> None:
        self.got: list[Mail] = []
        self.refusal = ""

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        if self.refusal:
            return self.refusal
        assert isinstance(envelope.content, bytes)
        self.got.append(message_from_bytes(envelope.content, policy=default))
        return "250 OK"


class MailServer(Controller):
    """On a port of the system's choosing, which the base class would not find again."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@pytest.fixture
def mail() -> Iterator[tuple[Mailbox, Target]]:
    box = Mailbox()
    controller = MailServer(box, hostname="127.0.0.1", port=0)
    controller.start()
    url = f"mailto://127.0.0.1:{controller.port}/?from=k2@k2.example&to=oncall@k2.example&mode=insecure"
    try:
        yield box, Target("mail", "warning", url)
    finally:
        controller.stop()


def test_a_mail_is_sent(mail: tuple[Mailbox, Target]) -> None:
    box, target = mail
    send(target, MESSAGE)
    (got,) = box.got
    assert got["subject"] == MESSAGE.title
    assert got["to"] == "oncall@k2.example"
    payloads = [part.get_content() for part in got.walk() if part.get_content_type() == "text/plain"]  # type: ignore[attr-defined]
    assert "Incident: check#3" in payloads[0]


def test_a_mail_server_that_refuses_is_an_error(mail: tuple[Mailbox, Target]) -> None:
    box, target = mail
    box.refusal = "451 try later"
    with pytest.raises(AlertUndelivered, match="mail did not take it"):
        send(target, MESSAGE)
