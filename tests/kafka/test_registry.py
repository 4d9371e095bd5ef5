"""The registry client against a real registry, and against answers that a real one gives only when it is ill."""

import http.server
import json
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing

import pytest

from k2_dagster.errors import (
    ConfigurationError,
    RegistryRejected,
    RegistryUnavailable,
    SchemaIncompatible,
    SchemaUnknown,
)
from k2_dagster.kafka.registry import CACHED_SCHEMAS, RegisteredSchema, Registry
from k2_dagster.settings import Settings

# Apicurio tells the kind by `$schema`
JSON_TEXT = '{"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}'


def record(*names: str) -> str:
    fields = [{"name": name, "type": "long"} for name in names]
    return json.dumps({"type": "record", "name": "R", "fields": fields})


@pytest.fixture
def registry(kafka_settings: Settings) -> Iterator[Registry]:
    with closing(Registry(kafka_settings)) as opened:
        yield opened


@pytest.fixture
def subject() -> str:
    return f"test.{uuid.uuid4().hex[:12]}-value"


@pytest.mark.stack
def test_a_schema_is_registered_once_and_found_by_id(registry: Registry, subject: str) -> None:
    assert registry.latest(subject) is None
    assert registry.check_compatible(subject, record("a")) == []
    schema_id = registry.register(subject, record("a"))
    assert registry.register(subject, record("a")) == schema_id
    assert registry.schema(schema_id).kind == "AVRO"
    assert json.loads(registry.schema(schema_id).text) == json.loads(record("a"))
    latest = registry.latest(subject)
    assert latest is not None
    assert latest.id == schema_id
    assert subject in registry.subjects()


@pytest.mark.stack
def test_json_schemas_keep_their_kind(registry: Registry, subject: str) -> None:
    schema_id = registry.register(subject, JSON_TEXT, "JSON")
    assert registry.schema(schema_id).kind == "JSON"
    latest = registry.latest(subject)
    assert latest is not None
    assert latest.kind == "JSON"


@pytest.mark.stack
def test_backward_is_enforced_and_said(registry: Registry, subject: str) -> None:
    registry.register(subject, record("a"))
    registry.set_backward(subject)
    assert registry.check_compatible(subject, record("a", "b")) != []
    with pytest.raises(SchemaIncompatible, match=subject):
        registry.register(subject, record("a", "b"))


@pytest.mark.stack
def test_an_unknown_id_is_unknown_and_not_remembered(registry: Registry) -> None:
    for _ in range(2):
        with pytest.raises(SchemaUnknown, match="2000000000"):
            registry.schema(2_000_000_000)


@pytest.mark.stack
def test_what_is_no_schema_is_rejected_in_the_registrys_words(registry: Registry, subject: str) -> None:
    with pytest.raises(RegistryRejected, match="422"):
        registry.register(subject, "{not a schema")


class Answers(http.server.BaseHTTPRequestHandler):
    """Gives the class's answer to whatever is asked."""

    status, body, asked = 200, b"{}", 0

    def do_GET(self) -> None:
        type(self).asked += 1
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the signature is the library's)
        """Nothing on standard error."""


@pytest.fixture
def ill() -> Iterator[tuple[type[Answers], Registry]]:
    """A server whose answer a test chooses, and a client of it."""
    handler = type("Chosen", (Answers,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    with closing(Registry(Settings(schema_registry_url=f"http://127.0.0.1:{server.server_port}/"))) as registry:
        yield handler, registry
    server.shutdown()
    thread.join()
    server.server_close()


def test_known_ids_are_answered_from_memory_within_a_bound(ill: tuple[type[Answers], Registry]) -> None:
    handler, registry = ill
    handler.body = b'{"schema": "\\"long\\""}'
    assert registry.schema(0) == registry.schema(0) == RegisteredSchema(0, "AVRO", '"long"')
    assert handler.asked == 1
    for schema_id in range(1, CACHED_SCHEMAS + 1):
        registry.schema(schema_id)
    handler.status = 503
    registry.schema(CACHED_SCHEMAS)
    with pytest.raises(RegistryUnavailable, match="503"):
        registry.schema(0)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, b"boom", RegistryUnavailable),
        (401, b'{"error_code": 401, "message": "who?"}', ConfigurationError),
        (404, b"<html>no such page</html>", RegistryRejected),
        (404, b'{"error_code": 40403, "message": "Schema not found"}', SchemaUnknown),
        (200, b"<html>a login page</html>", RegistryUnavailable),
    ],
)
def test_every_kind_of_answer_has_its_error(
    ill: tuple[type[Answers], Registry], status: int, body: bytes, error: type[Exception]
) -> None:
    handler, registry = ill
    handler.status, handler.body = status, body
    with pytest.raises(error):
        registry.schema(7)


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        (b'{"schema": "message X {}", "schemaType": "PROTOBUF"}', "PROTOBUF", "message X {}"),
        (b'{"schemaType": "AVRO"}', "AVRO", ""),
    ],
)
def test_a_schema_that_nobody_here_can_read_is_handed_over_as_it_is(
    ill: tuple[type[Answers], Registry], body: bytes, kind: str, text: str
) -> None:
    """Whether that matters is for the reader of a message to say: the topic goes on."""
    handler, registry = ill
    handler.body = body
    assert registry.schema(7) == RegisteredSchema(7, kind, text)


def test_no_answer_is_unavailable_and_a_wrong_address_is_not() -> None:
    with (
        closing(Registry(Settings(schema_registry_url="http://127.0.0.1:1"))) as nobody,
        pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:1"),
    ):
        nobody.schema(1)
    with (
        closing(Registry(Settings(schema_registry_url="localhost:8081"))) as wrong,
        pytest.raises(ConfigurationError, match="K2_SCHEMA_REGISTRY_URL"),
    ):
        wrong.schema(1)
