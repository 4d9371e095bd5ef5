"""A setting's field in words: type, unit and default, for errors, `k2 settings` and the reference."""

from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

_TYPE_NAMES: dict[Any, str] = {int: "integer", float: "number", str: "text", Path: "path", SecretStr: "secret"}


def type_text(field: FieldInfo) -> str:
    """The type in words: `integer`, `plain | native`, `text or unset`."""
    return _type_text(field.annotation)


def unit_text(field: FieldInfo) -> str:
    """The unit, if the setting has one."""
    return str(_extra(field).get("unit", ""))


def default_text(field: FieldInfo) -> str:
    """The default as it would be written; empty for none."""
    if field.default_factory is not None:
        return str(_extra(field)["default"])
    default = field.default
    if isinstance(default, SecretStr):
        return str(default.get_secret_value())
    return "" if default is None else str(default)


def _type_text(annotation: Any) -> str:
    if get_origin(annotation) is Annotated:
        return _type_text(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return " | ".join(get_args(annotation))
    if annotation in _TYPE_NAMES:
        return _TYPE_NAMES[annotation]
    members = [one for one in get_args(annotation) if one is not NoneType]
    return f"{_type_text(members[0])} or unset"


def _extra(field: FieldInfo) -> dict[str, Any]:
    return field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
