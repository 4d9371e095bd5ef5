"""The compose file's foreign servers, held against the very servers: the names that each would take."""

import re
import subprocess
import zipfile
from collections.abc import Iterable

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from k2_dagster.devstack.downloads import Store
from k2_dagster.devstack.s3 import versitygw_program
from k2_dagster.devstack.stack import Stack
from tests.test_compose import services

# What the image itself reads: not a configuration of the broker.
OF_THE_IMAGE = {"CLUSTER_ID"}


def broker_name(variable: str) -> str:
    """As the image of Apache Kafka makes a configuration's name: ___ is a dash, __ an underscore, _ a dot."""
    name = variable.removeprefix("KAFKA_").lower()
    return name.replace("___", "-").replace("__", "\0").replace("_", ".").replace("\0", "_")


def unknown(given: Iterable[str], known: set[str]) -> list[str]:
    return sorted(set(given) - known)


@pytest.fixture(scope="module")
def broker_configurations(stack: Stack) -> set[str]:
    """Every configuration that the real broker knows, at whatever value."""
    admin = AdminClient({"bootstrap.servers": stack.addresses().kafka_bootstrap_servers})
    resource = ConfigResource(ConfigResource.Type.BROKER, "1")
    return set(admin.describe_configs([resource])[resource].result(20))


@pytest.mark.stack
def test_the_brokers_variables_are_configurations_of_kafka(broker_configurations: set[str]) -> None:
    given = services()["kafka"]["environment"].keys() - OF_THE_IMAGE
    assert all(name.startswith("KAFKA_") for name in given)
    assert len(given) > 10
    assert unknown(map(broker_name, given), broker_configurations) == []


@pytest.mark.stack
def test_a_wrong_configuration_would_be_found(broker_configurations: set[str]) -> None:
    wrong = ("KAFKA_LOG_DIR_S", "KAFKA_ADVERTISED_LISTENER", "KAFKA_MIN_INSYNC_REPLICAS")
    assert unknown(map(broker_name, wrong), broker_configurations) == ["advertised.listener", "log.dir.s"]


@pytest.mark.stack
def test_the_registrys_variables_are_properties_of_apicurio(stack: Stack) -> None:
    known = registry_properties()
    given = services()["registry"]["environment"]
    assert len(given) > 3
    assert unknown(given, known) == []
    assert unknown(["APICURIO_STORAGE_KIND", "APICURIO_STORAGE_KIN"], known) == ["APICURIO_STORAGE_KIN"]


def registry_properties() -> set[str]:
    """The properties that the registry's own classes name, as environment variables."""
    folder = Store().unpacked("registry", lambda _: None)
    found: set[bytes] = set()
    for jar in folder.rglob("*apicurio*.jar"):
        with zipfile.ZipFile(jar) as archive:
            for name in archive.namelist():
                if name.endswith((".class", ".properties")):
                    found.update(re.findall(rb"apicurio\.[a-z0-9.-]+[a-z0-9]", archive.read(name)))
    assert len(found) > 100
    return {re.sub(r"[.-]", "_", one.decode()).upper() for one in found}


def test_the_flags_of_the_s3_server_are_its_own() -> None:
    program = versitygw_program()
    if not program.exists():
        pytest.skip("versitygw is not built here: `k2 dev up --s3` builds it where Go is at hand")
    told = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    known = set(re.findall(r"^   (--[a-z0-9-]+)", told, re.MULTILINE))
    commands = set(re.findall(r"^   ([a-z0-9]+)  ", told, re.MULTILINE))
    variables = set(re.findall(r"[$]([A-Z_]+)", told))
    service = services()["s3"]
    (line,) = service["command"]
    words = line.partition("versitygw ")[2].split()

    given = [word for word in words if word.startswith("--")]
    assert len(given) > 2
    assert unknown(given, known) == []
    assert [word for word in words if word in commands] == ["posix"]
    assert unknown(service["environment"], variables) == []
    assert unknown(["--port", "--prot"], known) == ["--prot"]
