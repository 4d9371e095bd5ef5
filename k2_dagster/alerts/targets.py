"""Whom to tell: addresses of K2_ALERT_URLS, and sending to one through Apprise."""

import hashlib
import logging
import re
from dataclasses import dataclass, field

import apprise

from k2_dagster.alerts.messages import Message
from k2_dagster.alerts.signals import RANKS, Severity
from k2_dagster.errors import AlertUndelivered, ConfigurationError
from k2_dagster.observability.masking import mask
from k2_dagster.settings import Settings

# Connecting and answering take four seconds each in Apprise, a mail server's greeting fifteen.
SEND_TIMEOUT_SECONDS = 20.0
# Of what a service said, for the record.
REASON_CHARACTERS = 300
FINGERPRINT_BYTES = 4
EXAMPLE = "slack://TOKENS, or error=mailtos://USER:PASSWORD@HOST?to=ON_CALL for errors and worse"
_ADDRESS = re.compile(r"(?:(?P<least>warning|error|critical)=)?(?P<url>(?P<scheme>[A-Za-z][\w+-]*)://.+)")

# Slack's own form, and the words of Slack, Discord and Teams.
_MENTIONS = re.compile(r"<(?=[!@#])|@(?=(?:everyone|here|channel|all)\b)", re.IGNORECASE)

# Apprise logs addresses whole when they are wrong. What it says of a delivery comes with its result.
logging.getLogger("apprise").propagate = False
logging.getLogger("apprise").addHandler(logging.NullHandler())

_TYPES: dict[str, apprise.NotifyType] = {
    "warning": apprise.NotifyType.WARNING,
    "error": apprise.NotifyType.FAILURE,
    "critical": apprise.NotifyType.FAILURE,
}


@dataclass(frozen=True, slots=True)
class Target:
    """One address. `name` tells it from others without a secret, and stays the same while the address does.

    What is below `least` is not sent to it.
    """

    name: str
    least: Severity
    url: str = field(repr=False)

    def wants(self, severity: Severity) -> bool:
        """Whether incidents of this severity go there."""
        return RANKS[severity] >= RANKS[self.least]


def targets_of(settings: Settings) -> list[Target]:
    """Whom to tell, by the settings. Raises ConfigurationError for an address that Apprise does not take."""
    return [] if settings.alert_urls is None else parse_targets(settings.alert_urls.get_secret_value())


def parse_targets(text: str) -> list[Target]:
    """The targets of `[SEVERITY=]URL`, separated by white space; each once.

    Raises ConfigurationError that says which address is wrong, without showing it.
    """
    found = [_parse(number, word) for number, word in enumerate(text.split(), start=1)]
    return list({one.name: one for one in found}.values())


def send(target: Target, message: Message) -> None:
    """Deliver once. Raises AlertUndelivered with what the service said."""
    service = _service(target.url)
    kind = apprise.NotifyType.SUCCESS if message.transition == "resolved" else _TYPES[message.severity]
    result = service.notify(
        body=calling_nobody(message.body),
        title=calling_nobody(message.title),
        notify_type=kind,
        body_format=apprise.NotifyFormat.TEXT,
        timeout=SEND_TIMEOUT_SECONDS,
    )
    if not result:
        said = "; ".join(str(entry.message) for entry in result.logs()) or f"no answer ({result.status.name})"
        raise AlertUndelivered(f"{target.name} did not take it: {mask(said)[:REASON_CHARACTERS]}", target=target.name)


def calling_nobody(text: str) -> str:
    """The text, in which no name (a symbol may be `<!channel>`) makes a chat service ring everybody: a character of no
    width stands within what Slack and Discord take for a mention."""
    return _MENTIONS.sub(lambda found: f"{found[0]}\u200b", text)


def _parse(number: int, word: str) -> Target:
    found = _ADDRESS.match(word)
    if found is None or not _service(found["url"]):
        raise ConfigurationError(
            f"K2_ALERT_URLS: address {number} is not one that Apprise takes",
            advice=f"valid: {EXAMPLE}; the Apprise documentation lists every service",
        )
    digest = hashlib.blake2b(found["url"].encode(), digest_size=FINGERPRINT_BYTES).hexdigest()
    least: Severity = found["least"] or "warning"  # type: ignore[assignment]
    return Target(f"{found['scheme'].lower()}-{digest}", least, found["url"])


def _service(url: str) -> apprise.Apprise:
    """Empty when the address is not valid. Nothing is kept on disk, and nothing is asked of the network yet."""
    asset = apprise.AppriseAsset(async_mode=False, app_id="K2", app_desc="K2", storage_mode="memory")
    service = apprise.Apprise(asset=asset)
    service.add(url)
    return service
