"""What speaks against a new version of a message schema: BACKWARD, and K2's stricter rule.

BACKWARD (whoever reads with the new schema can read what was written with the old one) is judged by Avro's reference
checker. It does not look at logical types, scales and units, lets a field disappear, and lets a long become a float.
Here, of a field that exists, name, unit, scale and logical type stay, and its type may only widen without loss: it may
become nullable, and an int may become a long. A field that is no longer wanted stays, and is null. A new field may be
null, or is a list, so that older messages need no invented value; and no two names differ only in case, because SQL
does not tell them apart.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import avro.errors
import avro.schema
from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType

Kind = Literal["AVRO", "JSON"]

# Attributes of a type that say what its numbers mean.
MEANING = ("logicalType", "scale", "precision", "unit")
# Avro type -> types that hold all its values exactly.
WIDER = {"int": {"long"}}
# JSON Schema keywords that do not restrict values.
JSON_ANNOTATIONS = frozenset({"$schema", "$id", "$comment", "title", "description", "default", "examples"})
JSON_MEANING = ("scale", "unit", "format", "contentEncoding")
NO_PLACE = "readers and tables have no exact place for that"
NO_VALUE = "older messages have no value for it, and none may be invented"
_STEPS = {"items": "[]", "values": "{}"}
_JSON_WALKED = frozenset({"type", "properties", "required", "items", "minimum", "maximum", "enum", *JSON_MEANING})


@dataclass(frozen=True, order=True)
class Problem:
    """One reason against a schema: the field's path (`bids[].price`; empty for the schema itself), what changed, and
    why that breaks somebody."""

    field: str
    what: str
    why: str


REMOVED = "it is removed or renamed"


def problems(old_text: str, new_text: str, kind: Kind) -> list[Problem]:
    """What speaks against `new_text` as the next version of `old_text`, in the order of the fields; empty when nothing
    does. A text that is no schema is a problem too."""
    found = []
    parsed: list[Any] = []
    for name, text in (("old", old_text), ("new", new_text)):
        try:
            parsed.append(json.loads(text))
            if kind == "AVRO":
                avro.schema.parse(text)
        except (ValueError, avro.errors.AvroException) as error:
            found.append(Problem("", f"the {name} text is not a schema", str(error)))
    if found:
        return found
    if kind == "JSON":
        return list(dict.fromkeys(_json(parsed[0], parsed[1], "")))
    own = list(dict.fromkeys(_avro(parsed[0], parsed[1], "")))
    return own + [one for one in _backward(old_text, new_text) if not _is_reported(one.field, own)]


def _avro(old: Any, new: Any, path: str) -> Iterator[Problem]:
    """Our rule, down the types of fields that both schemas have."""
    old_branches, new_branches = _branches(old), _branches(new)
    if "null" in old_branches and "null" not in new_branches:
        yield Problem(path, "it may no longer be null", "messages that have no value for it cannot be read")
    taken = {"null"}
    for name, old_type in old_branches.items():
        new_name = name if name in new_branches else _only_other(new_branches)
        if name == "null":
            continue
        taken.add(new_name or "")
        if new_name is None:
            yield Problem(path, f"its type {name} is gone", "values of that type cannot be read")
        elif new_name != name and new_name not in WIDER.get(name, ()):
            yield Problem(path, f"its type was {name}, is {new_name}", "not every value stays what it was")
        else:
            yield from _avro_type(old_type, new_branches[new_name], path)
    if "" not in taken:
        for name in sorted(new_branches.keys() - taken):
            yield Problem(path, f"it may now be {name}", NO_PLACE)


def _avro_type(old: Any, new: Any, path: str) -> Iterator[Problem]:
    yield from _meaning(old, new, path, MEANING)
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return
    match old["type"]:
        case "record":
            yield from _avro_record(old, new, path)
        case "array":
            yield from _avro(old["items"], new["items"], f"{path}[]")
        case "map":
            yield from _avro(old["values"], new["values"], f"{path}{{}}")


def _avro_record(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Problem]:
    new_fields = {field["name"]: field for field in new["fields"]}
    for field in old["fields"]:
        name = _join(path, field["name"])
        if field["name"] not in new_fields:
            yield _removed(name)
        else:
            yield from _avro(field["type"], new_fields[field["name"]]["type"], name)
    for name in sorted(new_fields.keys() - {field["name"] for field in old["fields"]}):
        if not {"null", "array"} & _branches(new_fields[name]["type"]).keys():
            yield Problem(_join(path, name), "it is new and can neither be null nor is it a list", NO_VALUE)
    yield from _same_but_for_case(new_fields, path)


def _same_but_for_case(names: Iterable[str], path: str) -> Iterator[Problem]:
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other != name:
            yield Problem(_join(path, name), f"its name is {other} but for case", "SQL does not tell them apart")


def _branches(type_: Any) -> dict[str, Any]:
    """Type name -> type, of a union or of a single type. Records are one kind whatever their name: the reference
    checker looks at names."""
    members = type_ if isinstance(type_, list) else [type_]
    return {_type_name(member): member for member in members}


def _type_name(type_: Any) -> str:
    while isinstance(type_, Mapping):
        type_ = type_["type"]
    return str(type_)


def _only_other(branches: Mapping[str, Any]) -> str | None:
    others = [name for name in branches if name != "null"]
    return others[0] if len(others) == 1 else None


def _meaning(old: Any, new: Any, path: str, attributes: tuple[str, ...]) -> Iterator[Problem]:
    old_values, new_values = (one if isinstance(one, Mapping) else {} for one in (old, new))
    for name in attributes:
        before, after = old_values.get(name), new_values.get(name)
        if before != after:
            yield Problem(
                path,
                f"its {name} was {_shown(before)}, is {_shown(after)}",
                "the same number would mean something else; add a new field instead",
            )


def _shown(value: Any) -> str:
    return "not given" if value is None else repr(value)


def _removed(name: str) -> Problem:
    return Problem(
        name,
        REMOVED,
        "values that publishers still send would be dropped without a word; keep the field and leave it null",
    )


def _backward(old_text: str, new_text: str) -> list[Problem]:
    """The reference checker's findings."""
    checker = ReaderWriterCompatibilityChecker()  # type: ignore[no-untyped-call]
    result = checker.get_compatibility(avro.schema.parse(new_text), avro.schema.parse(old_text))
    if result.compatibility is not SchemaCompatibilityType.incompatible:
        return []
    said = "; ".join(sorted(result.messages))
    places = sorted(place for place in result.locations if place != "/") or ["/"]
    return [_explained(_field_at(json.loads(new_text), place), said) for place in places]


def _explained(field: str, said: str) -> Problem:
    return Problem(
        field, "messages of the old version cannot be read", f"a new field needs a default, a type must match ({said})"
    )


def _field_at(schema: Any, place: str) -> str:
    """`/fields/18/type/items/fields/0/type` -> `bids[].price`, as far as the place is in the schema."""
    steps, path = place.strip("/").split("/"), ""
    for before, step in zip(["", *steps], steps, strict=False):
        if isinstance(schema, list) and step.isdigit() and int(step) < len(schema):
            schema = schema[int(step)]
        elif isinstance(schema, Mapping) and step in schema:
            schema = schema[step]
        else:
            break
        path = _join(path, schema["name"]) if before == "fields" else path + _STEPS.get(step, "")
    return path


def _is_reported(field: str, reported: list[Problem]) -> bool:
    """Whether our rule has said so already: the checker often names only the record that a field is in."""
    return any(not field or field == one.field or one.field.startswith((f"{field}.", f"{field}[")) for one in reported)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _json(old: Any, new: Any, path: str) -> Iterator[Problem]:
    """The same rule for JSON Schema, conservatively: what restricts and is not understood must not change."""
    old, new = (one if isinstance(one, Mapping) else {} for one in (old, new))
    yield from _json_types(old, new, path)
    yield from _meaning(old, new, path, JSON_MEANING)
    yield from _json_bounds(old, new, path)
    for word in sorted((old.keys() | new.keys()) - JSON_ANNOTATIONS - _JSON_WALKED):
        if old.get(word) != new.get(word):
            yield Problem(
                path,
                f"its {word} was {_shown(old.get(word))}, is {_shown(new.get(word))}",
                "it may refuse old messages",
            )
    yield from _json_properties(old, new, path)
    if "items" in old or "items" in new:
        yield from _json(old.get("items"), new.get("items"), f"{path}[]")


def _json_types(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Problem]:
    old_types, new_types = _json_type_set(old), _json_type_set(new)
    if new_types is None and old_types is not None:
        yield Problem(path, "its type is no longer given", "any value would pass")
    elif new_types is not None and (old_types is None or not old_types <= new_types):
        gone = sorted((old_types or set()) - new_types) or ["any"]
        yield Problem(path, f"it may no longer be {', '.join(gone)}", "messages that have such a value are refused")
    elif old_types is not None and new_types is not None and not new_types <= old_types | {"null"}:
        added = sorted(new_types - old_types - {"null"})
        yield Problem(path, f"it may now be {', '.join(added)}", NO_PLACE)


def _json_type_set(schema: Mapping[str, Any]) -> set[str] | None:
    given = schema.get("type")
    if given is None:
        return None
    return {given} if isinstance(given, str) else set(given)


def _json_bounds(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Problem]:
    for word, is_narrower in (
        ("minimum", lambda before, after: before is None or after > before),
        ("maximum", lambda before, after: before is None or after < before),
        ("enum", lambda before, after: before is None or not all(value in after for value in before)),
    ):
        before, after = old.get(word), new.get(word)
        if before == after:
            continue
        changed = f"its {word} was {_shown(before)}, is {_shown(after)}"
        if after is not None and is_narrower(before, after):
            yield Problem(path, changed, "it refuses values that were valid")
        elif word != "enum":
            yield Problem(path, changed, NO_PLACE)


def _json_properties(old: Mapping[str, Any], new: Mapping[str, Any], path: str) -> Iterator[Problem]:
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    for name, field in old_fields.items():
        if name not in new_fields:
            yield _removed(_join(path, name))
        else:
            yield from _json(field, new_fields[name], _join(path, name))
    yield from _same_but_for_case(new_fields, path)
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield Problem(_join(path, name), "it is now required", "messages without it are refused")
