"""Client of a schema registry that speaks Confluent's REST protocol."""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

import httpx

from k2_dagster.errors import (
    TRY_ADDRESS,
    ConfigurationError,
    RegistryRejected,
    RegistryUnavailable,
    SchemaIncompatible,
    SchemaUnknown,
)
from k2_dagster.settings import Settings

# One request; a registry that is well answers in milliseconds, one that starts or elects a leader in a few seconds.
REQUEST_TIMEOUT_SECONDS = 10.0
# A registry that is down must be noticed soon: drains wait on it.
CONNECT_TIMEOUT_SECONDS = 3.0
# Schemas never change under their id. A lake has some versions of a few datasets per exchange; this many schemas of
# 10 kB are 10 MB.
CACHED_SCHEMAS = 1_024
# What a 5xx or foreign page says may be long; errors quote this much.
QUOTED_CHARACTERS = 500

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
SCHEMA_NOT_FOUND = 40403
BACKWARD = "BACKWARD"
HTTP_NOT_FOUND, HTTP_CONFLICT, HTTP_UNPROCESSABLE = 404, 409, 422

Kind = Literal["AVRO", "JSON"]


@dataclass(frozen=True)
class RegisteredSchema:
    """A schema as the registry keeps it. `kind` is one of `Kind`, or another that K2 cannot read (PROTOBUF)."""

    id: int
    kind: str
    text: str


class Registry:
    """Schemas by id (cached: they never change) and subjects. May be shared by threads.

    Every method raises RegistryUnavailable (no answer, or 5xx), ConfigurationError (401, 403) and RegistryRejected
    (any other refusal, in the registry's words).
    """

    def __init__(self, settings: Settings) -> None:
        password = settings.schema_registry_password
        self._url = settings.schema_registry_url.rstrip("/")
        self._client = httpx.Client(
            timeout=httpx.Timeout(REQUEST_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS),
            headers={"Accept": f"{MEDIA_TYPE}, application/json", "Content-Type": MEDIA_TYPE},
            auth=(settings.schema_registry_username, password.get_secret_value() if password else "")
            if settings.schema_registry_username
            else None,
            trust_env=False,
        )
        self._cache: OrderedDict[int, RegisteredSchema] = OrderedDict()
        self._lock = threading.Lock()

    def register(self, subject: str, text: str, kind: Kind = "AVRO") -> int:
        """Id of this schema under the subject, registered if it is not yet. Raises SchemaIncompatible."""
        answer = self._call("POST", f"/subjects/{_quoted(subject)}/versions", _body(text, kind), subject=subject)
        return int(answer["id"])

    def schema(self, schema_id: int) -> RegisteredSchema:
        """The schema of an id, from memory where it was asked before. Raises SchemaUnknown."""
        with self._lock:
            known = self._cache.get(schema_id)
            if known is not None:
                self._cache.move_to_end(schema_id)
                return known
        answer = self._call("GET", f"/schemas/ids/{schema_id}", missing_ok=True)
        if answer is None:
            raise SchemaUnknown(
                f"the registry at {self._url} knows no schema with id {schema_id}",
                advice="if the publisher has just registered it, wait; else find out what wrote the message",
                schema_id=schema_id,
            )
        found = _registered(schema_id, answer)
        with self._lock:
            self._cache[schema_id] = found
            while len(self._cache) > CACHED_SCHEMAS:
                self._cache.popitem(last=False)
        return found

    def latest(self, subject: str) -> RegisteredSchema | None:
        """The newest version of the subject; None where there is none."""
        answer = self._call("GET", f"/subjects/{_quoted(subject)}/versions/latest", missing_ok=True)
        return None if answer is None else _registered(int(answer["id"]), answer)

    def earlier(self, subject: str) -> Iterator[RegisteredSchema]:
        """The versions of the subject before its newest, from new to old. Asked for one by one."""
        numbers = self._call("GET", f"/subjects/{_quoted(subject)}/versions", missing_ok=True) or []
        for number in sorted((int(one) for one in numbers), reverse=True)[1:]:
            answer = self._call("GET", f"/subjects/{_quoted(subject)}/versions/{number}", missing_ok=True)
            if answer is not None:  # deleted meanwhile
                yield _registered(int(answer["id"]), answer)

    def subjects(self) -> list[str]:
        """Every subject that has a version, sorted."""
        return sorted(str(name) for name in self._call("GET", "/subjects"))

    def check_compatible(self, subject: str, text: str, kind: Kind = "AVRO") -> list[str]:
        """What the registry has against this schema as the next version of the subject; empty when nothing."""
        path = f"/compatibility/subjects/{_quoted(subject)}/versions/latest?verbose=true"
        answer = self._call("POST", path, _body(text, kind), missing_ok=True, subject=subject)
        if answer is None or answer["is_compatible"]:
            return []
        return [str(message) for message in answer.get("messages") or []] or ["incompatible (no reason given)"]

    def set_backward(self, subject: str) -> None:
        """Make the registry refuse versions of this subject that cannot read what the last one wrote."""
        self._call("PUT", f"/config/{_quoted(subject)}", {"compatibility": BACKWARD}, subject=subject)

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        missing_ok: bool = False,
        subject: str = "",
    ) -> Any:
        """The decoded answer; None for an id or subject that does not exist, where that is allowed."""
        try:
            response = self._client.request(method, self._url + path, json=body)
        except httpx.InvalidURL as error:
            raise ConfigurationError(
                f"K2_SCHEMA_REGISTRY_URL was {self._url!r}: {error}", advice="valid: http://host:port"
            ) from error
        except httpx.UnsupportedProtocol as error:
            raise ConfigurationError(
                f"K2_SCHEMA_REGISTRY_URL was {self._url!r}", advice="valid: http://host:port or https://host:port"
            ) from error
        except httpx.HTTPError as error:
            raise RegistryUnavailable(
                f"the schema registry at {self._url} did not answer: {error or type(error).__name__}",
                advice=TRY_ADDRESS,
            ) from error
        if response.is_success:
            return _decoded(response, self._url)
        if missing_ok and _is_not_found(response):
            return None
        raise _refusal(response, self._url, subject)


def _quoted(subject: str) -> str:
    return quote(subject, safe="")


def _body(text: str, kind: Kind) -> dict[str, Any]:
    return {"schema": text} if kind == "AVRO" else {"schema": text, "schemaType": kind}


def _registered(schema_id: int, answer: Any) -> RegisteredSchema:
    """A text that is not there cannot be read, which is for the reader of a message to say."""
    return RegisteredSchema(schema_id, str(answer.get("schemaType") or "AVRO"), str(answer.get("schema") or ""))


def _decoded(response: httpx.Response, url: str) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise RegistryUnavailable(
            f"{url} answered {response.status_code} with something that is not JSON",
            advice="K2_SCHEMA_REGISTRY_URL must be the root of a registry that speaks Confluent's protocol",
        ) from error


def _is_not_found(response: httpx.Response) -> bool:
    """Whether an id, subject or version is missing; a page that is missing (a wrong address) has no such code."""
    return response.status_code == HTTP_NOT_FOUND and 40400 < _error(response)[0] < 40500


def _error(response: httpx.Response) -> tuple[int, str]:
    """The registry's code (0 when it gave none) and words."""
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        return 0, response.text[:QUOTED_CHARACTERS]
    return int(answer.get("error_code") or 0), str(answer.get("message") or response.text)[:QUOTED_CHARACTERS]


def _refusal(response: httpx.Response, url: str, subject: str) -> Exception:
    status, (code, words) = response.status_code, _error(response)
    about = f" for {subject}" if subject else ""
    if status >= 500:
        return RegistryUnavailable(f"the schema registry at {url} answered {status}{about}: {words}", code=code)
    if status in (401, 403):
        return ConfigurationError(
            f"the schema registry at {url} answered {status}{about}: {words}",
            advice="check K2_SCHEMA_REGISTRY_USERNAME and K2_SCHEMA_REGISTRY_PASSWORD",
        )
    if status == HTTP_CONFLICT:
        return SchemaIncompatible(
            f"the registry refused the schema{about}: {words}",
            advice="`k2 schemas check` says which field and why",
            subject=subject,
        )
    return RegistryRejected(
        f"the schema registry at {url} answered {status}{about}: {words}", code=code, subject=subject
    )
