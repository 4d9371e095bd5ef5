"""The forms of addresses that K2 takes, and the one form into which it brings each.

Every function returns the address as the libraries below need it, or raises ValueError that says what would be valid.
"""

import re
from pathlib import Path

# The driver that K2 and Dagster bring; with SQLAlchemy 2.1 a bare postgresql:// means psycopg 3, which nobody brings.
POSTGRES_DRIVER = "postgresql+psycopg2"
DATABASE_FORM = "postgresql://user:password@host:port/database"
WAREHOUSE_FORM = "file:///absolute/folder, an absolute path, or s3://bucket/prefix"
# What Amazon and the servers of the development stack take as a bucket's name.
_BUCKET = re.compile(r"^[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]$")
# As SQLAlchemy reads what follows the scheme; the host may be missing, where a parameter names a socket's folder.
_DATABASE = re.compile(r"^(?:[^:/@]*(?::[^@]*)?@)?(?:\[[^/?]+\]|[^/:?@]+)?(?::\d+)?/[^/?]+(?:\?.*)?$")
_POSTGRES_SCHEMES = ("postgresql", "postgres", POSTGRES_DRIVER)


def database_uri(text: str) -> str:
    """A PostgreSQL database for SQLAlchemy, with the driver named."""
    scheme, _, rest = text.partition("://")
    if scheme not in _POSTGRES_SCHEMES or _DATABASE.match(rest) is None:
        raise ValueError(f"valid: {DATABASE_FORM}")
    return f"{POSTGRES_DRIVER}://{rest}"


def warehouse_root(text: str) -> str:
    """The root of the tables, without a slash at its end."""
    if text.startswith("/"):
        text = f"file://{text}"
    scheme, _, rest = text.partition("://")
    root = f"{scheme}://{rest.rstrip('/')}"
    if scheme == "file" and rest.startswith("/") and rest.strip("/") and not re.search(r"[?#]", rest):
        return root
    bucket = rest.split("/")[0]
    if scheme == "s3" and _BUCKET.match(bucket) and not re.search(r"[?#\s]|//", rest.rstrip("/")):
        return root
    raise ValueError(f"valid: {WAREHOUSE_FORM}")


def folder_warehouse(folder: Path) -> str:
    """The warehouse in a local folder."""
    return f"file://{folder.absolute()}"
