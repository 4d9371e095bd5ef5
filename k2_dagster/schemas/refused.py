"""Input that a feed handler could not make a row of: its original bytes as a message, and in headers what is known.

Publishers write the headers, ingest and the verification read them. A message is a refused one when it has the first of
them; its value is not a framed record, whatever its bytes look like, and is null where Kafka would not take it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from k2_dagster.schemas.common import NAME_PATTERN
from k2_dagster.schemas.declaration import MAX_SEQUENCE

Headers = list[tuple[str, str | bytes | None]]

REASON_HEADER = "k2-refused-reason"
# Where the input is kept whole (`file:place`), and its size and blake2b-128 digest where the value leaves it out.
SOURCE_HEADER = "k2-refused-source"
BYTES_HEADER = "k2-refused-bytes"
DIGEST_HEADER = "k2-refused-digest"
# A reason is for a person.
MAX_REASON_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class VenueIdentity:
    """What a refused input still tells of itself, in the terms of the common columns; None where it tells nothing."""

    stream: str | None = None
    kind: str | None = None
    symbol: str | None = None
    session: str | None = None
    channel: str | None = None
    sequence: int | None = None
    previous_sequence: int | None = None


NOTHING_KNOWN = VenueIdentity()


@dataclass(frozen=True, slots=True)
class Refused:
    """One refused input. The publisher pair identifies it, so that the same one published again is a duplicate."""

    reason: str
    identity: VenueIdentity = NOTHING_KNOWN
    publisher_session: str | None = None
    publisher_sequence: int | None = None
    source: str = ""
    left_out_bytes: int | None = None
    left_out_digest: str = ""


_TEXTS = ("stream", "kind", "symbol", "session", "channel")
_NUMBERS = ("sequence", "previous_sequence")
_LOWEST = {"previous_sequence": -1, "publisher_sequence": 1}


def refused_headers(refused: Refused) -> Headers:
    """The headers that say it; what is not known has none."""
    known: list[tuple[str, object]] = [
        (REASON_HEADER, refused.reason[:MAX_REASON_CHARACTERS]),
        (SOURCE_HEADER, refused.source or None),
        (BYTES_HEADER, refused.left_out_bytes),
        (DIGEST_HEADER, refused.left_out_digest or None),
    ]
    known += [(_header(one.name), getattr(refused.identity, one.name)) for one in fields(VenueIdentity)]
    known += [(_header(name), getattr(refused, name)) for name in ("publisher_session", "publisher_sequence")]
    return [(name, str(value).encode()) for name, value in known if value is not None]


def read_refused(headers: Iterable[tuple[str, bytes | None]]) -> Refused | None:
    """What the headers say; None for a message that no feed handler refused. What is no valid name or number counts as
    not known."""
    found = dict(headers)
    if REASON_HEADER not in found:
        return None
    said: dict[str, Any] = {name: _name(found.get(_header(name))) for name in _TEXTS}
    said |= {name: _number(name, found.get(_header(name))) for name in _NUMBERS}
    return Refused(
        reason=_text(found[REASON_HEADER])[:MAX_REASON_CHARACTERS],
        identity=VenueIdentity(**said),
        publisher_session=_name(found.get(_header("publisher_session"))),
        publisher_sequence=_number("publisher_sequence", found.get(_header("publisher_sequence"))),
        source=_text(found.get(SOURCE_HEADER)),
        left_out_bytes=_number("bytes", found.get(BYTES_HEADER)),
        left_out_digest=_text(found.get(DIGEST_HEADER)),
    )


def valid_name(text: object) -> str | None:
    """The text if it may stand in a name column, else None."""
    return text if isinstance(text, str) and re.fullmatch(NAME_PATTERN, text) else None


def valid_number(value: object, lowest: int = 0) -> int | None:
    """The number if it may stand in a sequence column, else None."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return value if is_number and lowest <= value <= MAX_SEQUENCE else None  # type: ignore[operator,return-value]


def _header(name: str) -> str:
    return f"k2-refused-{name.replace('_', '-')}"


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")


def _name(value: bytes | None) -> str | None:
    return valid_name(_text(value))


def _number(name: str, value: bytes | None) -> int | None:
    text = _text(value)
    # Longer than any valid number, it need not be read
    number = int(text) if re.fullmatch(r"-?[0-9]{1,19}", text) else None
    return valid_number(number, _LOWEST.get(name, 0))
