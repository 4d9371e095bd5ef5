"""The declared schemas as versions of their subjects: what would change, and making it so."""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from k2_dagster.errors import ConfigurationError, SchemaIncompatible
from k2_dagster.kafka.registry import Kind, RegisteredSchema, Registry
from k2_dagster.schemas.avro import avro_schema_text
from k2_dagster.schemas.datasets import WIRE_FORMS
from k2_dagster.schemas.declaration import Dataset
from k2_dagster.schemas.evolution import REMOVED, Problem, problems
from k2_dagster.schemas.json_schema import json_schema_text
from k2_dagster.schemas.profiles import Profiles
from k2_dagster.schemas.topics import subject_name, topic_name
from k2_dagster.settings import Settings

FORMS: dict[Kind, Callable[[Dataset], str]] = {"AVRO": avro_schema_text, "JSON": json_schema_text}
FILE_SUFFIXES: dict[Kind, str] = {"AVRO": ".avsc", "JSON": ".json"}


@dataclass(frozen=True)
class DeclaredSchema:
    """A form of a dataset as the next version of a subject."""

    subject: str
    kind: Kind
    text: str


@dataclass(frozen=True)
class SubjectCheck:
    """How a declared schema stands to the newest version there is.

    `state`: `new` there is none; `same` it is the newest; `compatible` it may follow; `ahead` it is an earlier version,
    to which others have added only fields that may be missing; `incompatible` it may not follow, for the reasons in
    `problems`. `notes` name the fields of others that readers of this declaration ignore.
    """

    subject: str
    state: Literal["new", "same", "compatible", "ahead", "incompatible"]
    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class SchemaOutcome:
    """What `register_all` did for one subject; `ahead`: nothing, see `SubjectCheck`. `notes` as there."""

    subject: str
    action: Literal["registered", "new version", "confirmed", "ahead"]
    schema_id: int
    notes: tuple[Problem, ...] = ()


def declared_schemas(profiles: Profiles, exchanges: Iterable[str]) -> list[DeclaredSchema]:
    """The Avro and JSON forms of every topic of these exchanges."""
    return [
        DeclaredSchema(subject_name(topic_name(dataset, exchange), kind), kind, form(WIRE_FORMS[dataset]))
        for exchange in exchanges
        for dataset in profiles.exchange(exchange).topics
        for kind, form in FORMS.items()
    ]


def check_registered(registry: Registry, profiles: Profiles, exchanges: Iterable[str]) -> list[SubjectCheck]:
    """Compare the declared schemas with the newest registered versions. Raises as `Registry` does."""
    return [check for _, _, check in _checked(registry, profiles, exchanges)]


def require_compatible(settings: Settings, profiles: Profiles, exchanges: Iterable[str]) -> None:
    """Raises SchemaIncompatible as `register_all` would, and registers nothing. Raises as `Registry` does."""
    with closing(Registry(settings)) as registry:
        refuse(check_registered(registry, profiles, exchanges))


_Checked = tuple[DeclaredSchema, RegisteredSchema | None, SubjectCheck]


def _checked(
    registry: Registry, profiles: Profiles, exchanges: Iterable[str], also_json: bool = False
) -> list[_Checked]:
    """Declared schemas with the newest version of their subject; JSON ones where a publisher uses JSON, or all."""
    pairs = ((one, registry.latest(one.subject)) for one in declared_schemas(profiles, exchanges))
    return [
        (one, latest, _check(one, latest, partial(registry.earlier, one.subject)))
        for one, latest in pairs
        if one.kind == "AVRO" or also_json or latest is not None
    ]


def check_files(folder: Path) -> list[SubjectCheck]:
    """Compare the declared schemas with the files `{dataset}.avsc` (Avro) and `{dataset}.json` (JSON Schema) of a
    folder, each form that the folder has; a dataset without a file is new.

    Raises ConfigurationError when the folder has no such file, one for a dataset that does not exist, or one that
    cannot be read.
    """
    texts = read_files(folder)
    kinds = [kind for kind in FORMS if any(path_kind == kind for _, path_kind in texts)]
    return [
        _check(
            DeclaredSchema(name + FILE_SUFFIXES[kind] if len(kinds) > 1 else name, kind, FORMS[kind](dataset)),
            RegisteredSchema(0, kind, texts[name, kind]) if (name, kind) in texts else None,
        )
        for kind in kinds
        for name, dataset in WIRE_FORMS.items()
    ]


def write_files(folder: Path, kind: Kind = "AVRO") -> list[Path]:
    """Write the declared schemas in one form, for `check_files` to compare later versions with.

    Raises ConfigurationError when the folder cannot be written.
    """
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, dataset in WIRE_FORMS.items():
            paths.append(folder / f"{name}{FILE_SUFFIXES[kind]}")
            paths[-1].write_text(json.dumps(json.loads(FORMS[kind](dataset)), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error}", advice="name another folder") from error
    return paths


def read_files(folder: Path) -> dict[tuple[str, Kind], str]:
    """(dataset, kind) -> schema text of the folder's files; see `check_files`."""
    found = {(path, kind) for kind, suffix in FILE_SUFFIXES.items() for path in folder.glob(f"*{suffix}")}
    unknown = sorted(path.name for path, _ in found if path.stem not in WIRE_FORMS)
    if unknown or not found:
        suffixes = " or ".join(FILE_SUFFIXES.values())
        valid = ", ".join(name + suffix for suffix in FILE_SUFFIXES.values() for name in WIRE_FORMS)
        raise ConfigurationError(
            f"{folder} has " + (f"schemas of no dataset: {', '.join(unknown)}" if unknown else f"no {suffixes} file"),
            advice=f"valid names: {valid}",
        )
    return {(path.stem, kind): _read(path) for path, kind in sorted(found)}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error}", advice="`k2 schemas export` writes such files (UTF-8)"
        ) from error


def register_all(
    settings: Settings, profiles: Profiles, exchanges: Iterable[str], *, also_json: bool = False
) -> list[SchemaOutcome]:
    """Register the declared Avro schema of every topic of these exchanges (and the JSON one where there is an older
    version of it, or `also_json`), and set BACKWARD on the subject. Idempotent.

    All are checked first: raises SchemaIncompatible, naming subjects and fields, before anything is registered. Raises
    as `Registry` does.
    """
    with closing(Registry(settings)) as registry:
        found = _checked(registry, profiles, exchanges, also_json)
        refuse(check for _, _, check in found)
        return [_register(registry, *one) for one in found]


def refuse(checks: Iterable[SubjectCheck]) -> None:
    """Raise SchemaIncompatible when one of the checks found a problem."""
    lines = [
        f"{check.subject}: {problem.field or 'schema'}: {problem.what} ({problem.why})"
        for check in checks
        for problem in check.problems
    ]
    if lines:
        raise SchemaIncompatible(
            "these schema changes would break readers of what is there:\n" + "\n".join(lines),
            advice="docs/schemas.md says how a schema may change",
            problems=lines,
        )


_Earlier = Callable[[], Iterable[RegisteredSchema]]


def _check(declared: DeclaredSchema, latest: RegisteredSchema | None, earlier: _Earlier = tuple) -> SubjectCheck:
    subject, kind = declared.subject, declared.kind
    if latest is None:
        return SubjectCheck(subject, "new")
    if latest.kind != kind:
        other = Problem("", f"its newest version is {latest.kind}, not {kind}", "a subject keeps its kind of schema")
        return SubjectCheck(subject, "incompatible", (other,))
    if _parsed(latest.text) == _parsed(declared.text):
        return SubjectCheck(subject, "same")
    found = tuple(problems(latest.text, declared.text, kind))
    if not found:
        return SubjectCheck(subject, "compatible")
    base = _common_base(declared, latest, earlier) if all(one.what == REMOVED for one in found) else None
    if base is None:
        return SubjectCheck(subject, "incompatible", found)
    notes = tuple(Problem(one.field, "only the registry's newest version has it", "readers ignore it") for one in found)
    is_registered = _parsed(base.text) == _parsed(declared.text)
    return SubjectCheck(subject, "ahead" if is_registered else "compatible", notes=notes)


def _common_base(declared: DeclaredSchema, latest: RegisteredSchema, earlier: _Earlier) -> RegisteredSchema | None:
    """The earlier version to which the newest one and the declaration both only add.

    It tells a field that others have added from one that the declaration has removed: of the latter kind, every version
    before the newest has it too, or there is none.
    """
    return next(
        (
            one
            for one in earlier()
            if one.kind == declared.kind
            and not problems(one.text, declared.text, declared.kind)
            and not problems(one.text, latest.text, declared.kind)
        ),
        None,
    )


def _parsed(text: str) -> object:
    """For comparing; a text that is not JSON stays itself, and `problems` says so."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _register(
    registry: Registry, declared: DeclaredSchema, latest: RegisteredSchema | None, check: SubjectCheck
) -> SchemaOutcome:
    if latest is not None and check.state == "ahead":
        registry.set_backward(declared.subject)
        return SchemaOutcome(declared.subject, "ahead", latest.id, check.notes)
    schema_id = registry.register(declared.subject, declared.text, declared.kind)
    registry.set_backward(declared.subject)
    if latest is None:
        return SchemaOutcome(declared.subject, "registered", schema_id)
    action: Literal["confirmed", "new version"] = "confirmed" if schema_id == latest.id else "new version"
    return SchemaOutcome(declared.subject, action, schema_id, check.notes)


def as_rows(checks: Iterable[SubjectCheck]) -> list[Mapping[str, str]]:
    """One row per problem or note, or per subject that has none."""
    return [
        {"subject": check.subject, "state": check.state, "field": one.field, "what": one.what, "why": one.why}
        for check in checks
        for one in (*check.problems, *check.notes) or (Problem("", "", ""),)
    ]
