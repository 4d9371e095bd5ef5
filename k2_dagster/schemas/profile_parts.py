"""Parts of an exchange's profile that stand by themselves."""

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

URL_PATTERN = r"^[a-z]+://[^\s/]+\S*$"

# Numbers beyond the last one that are believed at once: years of the busiest symbol there is.
DEFAULT_JUMP_ABOVE = 1_000_000_000
# A million times as many are believed where a message covers many: 10^18, and with the largest number still 64 bits.
MAX_JUMP_ABOVE = 1_000_000_000_000


class Strict(BaseModel):
    """A table of the file: no other keys, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)


RETRANSMISSION = "retransmission"
RecoverySourceName = Literal[
    "binance_rest", "binance_usdm_rest", "binance_coinm_rest", "coinbase_rest", "retransmission"
]


class RecoveryProfile(Strict):
    """What gives past messages of the exchange again, and at which address where that is not the venue's own. A
    retransmission server has no other address (tcp://HOST:PORT), and gives the numbers of one `channel`."""

    source: RecoverySourceName
    url: str | None = Field(None, pattern=URL_PATTERN)
    channel: str | None = Field(None, min_length=1, max_length=64)

    @model_validator(mode="after")
    def _told(self) -> Self:
        if (self.source == RETRANSMISSION) != (self.channel is not None):
            raise ValueError(f"channel is for source {RETRANSMISSION}, which needs it")
        if self.source == RETRANSMISSION and not self.address:
            raise ValueError(f"source {RETRANSMISSION} needs url = tcp://HOST:PORT, was {self.url!r}")
        return self

    @property
    def address(self) -> tuple[str, int] | None:
        """Host and port of a tcp:// address."""
        parts = urlsplit(self.url or "")
        try:
            port = parts.port
        except ValueError:
            return None
        return (parts.hostname, port) if parts.scheme == "tcp" and parts.hostname and port else None
