"""Text without secrets, for whoever prints or logs it."""

import re
from typing import Any

from pydantic import SecretStr

MASK = "***"
DATABASE = "postgresql"
# Greedy up to the last @ of the word: a password may hold any character, and hiding too much is the safe mistake.
_PASSWORD_IN_URI = re.compile(r"(?P<start>[A-Za-z][\w+.-]*://[^\s:/?#@]*):(?P<secret>\S+)@")
_SECRET_PARAMETER = re.compile(
    r"(?P<start>[?&\s](?:\w*password|\w*secret\w*|\w*token)=)(?P<secret>[^&\s]+)", re.IGNORECASE
)


def mask(text: str) -> str:
    """The text with passwords in addresses (`scheme://user:***@host`) and in their parameters hidden."""
    return _SECRET_PARAMETER.sub(rf"\g<start>{MASK}", _PASSWORD_IN_URI.sub(rf"\g<start>:{MASK}@", text))


def masked(value: Any) -> str:
    """A value of a setting as it may be shown: a database's address without its password, any other secret not at all
    (in the address of a chat or a pager, every part may be the secret)."""
    if not isinstance(value, SecretStr):
        return "" if value is None else mask(str(value))
    clear = value.get_secret_value()
    return mask(clear) if clear.startswith(DATABASE) else MASK
