"""The exception tree: drawn, complete, and explained."""

import inspect
import re
from pathlib import Path

import pytest

from k2_dagster import errors
from k2_dagster.errors import K2Error, TerminalError, TransientError

CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if issubclass(one, K2Error)]
PAGE = Path(__file__).parent.parent / "docs/errors.md"


def drawn_tree() -> dict[str, tuple[str, str]]:
    """Name -> (parent, meaning) of the tree in the module's docstring."""
    tree: dict[str, tuple[str, str]] = {}
    parents: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^    (?P<bars>[│ ├└─]*)(?P<name>[A-Z]\w+)(?:  +(?P<meaning>.+))?$", line)
        if found and (found["bars"] or found["name"] == "K2Error"):
            depth = len(found["bars"]) // 4
            parents[depth:] = [found["name"]]
            tree[found["name"]] = (parents[depth - 1] if depth else "Exception", found["meaning"] or "")
    return tree


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    actual = {one.__name__: one.__base__.__name__ for one in CLASSES if one.__base__}

    assert {name: parent for name, (parent, _) in drawn_tree().items()} == actual


@pytest.mark.parametrize("error", [one for one in CLASSES if one is not K2Error])
def test_each_says_once_what_it_means(error: type[K2Error]) -> None:
    meaning = drawn_tree()[error.__name__][1]

    assert (error.__doc__ or "").rstrip(".").lower() == meaning.lower()


@pytest.mark.parametrize("error", [one for one in CLASSES if one not in (K2Error, TransientError, TerminalError)])
def test_each_is_either_worth_retrying_or_not(error: type[K2Error]) -> None:
    assert issubclass(error, TransientError) != issubclass(error, TerminalError)


@pytest.mark.parametrize("error", CLASSES)
def test_each_is_explained_to_whoever_meets_it(error: type[K2Error]) -> None:
    assert f"`{error.__name__}`" in PAGE.read_text()


def test_a_message_carries_its_advice_and_its_fields() -> None:
    error = errors.QueryRefused("no table x", advice="tables: a, b", table="x")

    assert str(error) == "no table x\n  -> tables: a, b"
    assert (error.message, error.advice, error.fields) == ("no table x", "tables: a, b", {"table": "x"})
    assert str(errors.QueryRefused("no table x")) == "no table x"
