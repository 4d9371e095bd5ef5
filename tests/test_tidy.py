"""The shape of the code, as a ratchet: an exception is listed with its reason, and leaves the list when it is gone."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parent.parent
FOLDERS = ("k2_dagster", "proofs", "tests")

FILE_LINES = 300
FUNCTION_LINES = 50

LONG_FILES = {
    "k2_dagster/ingest/avro_kernel.py": "the compiled Avro reader: numba inlines within a module",
    "k2_dagster/ingest/kernel.py": "the compiled sequence kernel: numba inlines within a module",
    "tests/feeds/simulator/test_feed.py": "cases of one behaviour; to be split",
    "tests/ingest/test_decode.py": "cases of one behaviour; to be split",
    "tests/kafka/test_reader.py": "one behaviour suite for both readers; to be split",
    "tests/verify/test_proof.py": "one planted fault per test; to be split",
}
LONG_FUNCTIONS = {
    "k2_dagster/ingest/avro_kernel.py:read": "compiled by numba, which pays for each call across functions",
    "k2_dagster/feeds/simulator/market.py:_run": "compiled by numba, which pays for each call across functions",
    "k2_dagster/schemas/common.py:identity_fields": "a declaration: a table of columns in code",
}
# Where a name of this machine is part of what the file is about.
PATHS_ALLOWED: dict[str, str] = {}

_MACHINE_PATH = re.compile(r"""["'](?:file://)?/(?:root|work|home|tmp|Users|mnt|opt)/""")


def sources(*folders: str) -> Iterator[tuple[str, str]]:
    for folder in folders:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            yield path.relative_to(REPOSITORY).as_posix(), path.read_text()


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Name and lines, without the docstring."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = node.body[:1] if ast.get_docstring(node) is not None else []
            yield node.name, _lines(node) - sum(_lines(one) for one in docstring)


def _lines(node: ast.stmt) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_files_are_short() -> None:
    found = {name for name, text in sources(*FOLDERS) if len(text.splitlines()) > FILE_LINES}

    assert found == set(LONG_FILES), f"longer than {FILE_LINES} lines, or no longer so"


def test_functions_are_short() -> None:
    found = {
        f"{name}:{function}"
        for name, text in sources(*FOLDERS)
        for function, lines in functions(text)
        if lines > FUNCTION_LINES
    }

    assert found == set(LONG_FUNCTIONS), f"longer than {FUNCTION_LINES} lines, or no longer so"


def test_only_the_command_line_and_the_proofs_print() -> None:
    found = [
        f"{name}:{node.lineno}"
        for name, text in sources("k2_dagster")
        if not name.startswith("k2_dagster/cli/")
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]

    assert found == [], "log an event instead"


def test_no_path_of_one_machine() -> None:
    found = {name for name, text in sources("k2_dagster", "proofs") if _MACHINE_PATH.search(text)}

    assert found == set(PATHS_ALLOWED), "take the path from a setting"


def test_every_module_says_what_it_is() -> None:
    bare = [
        name
        for name, text in sources("k2_dagster", "proofs")
        if text.strip() and not ast.get_docstring(ast.parse(text))
    ]

    assert bare == []


def test_tests_mirror_the_package() -> None:
    """A folder of tests stands for a folder of the package, or for `proofs`."""
    folders = {path.parent.relative_to(REPOSITORY / "tests") for path in (REPOSITORY / "tests").rglob("test_*.py")}
    strange = [
        folder.as_posix()
        for folder in folders
        if not (REPOSITORY / "k2_dagster" / folder).is_dir() and not (REPOSITORY / folder).is_dir()
    ]

    assert strange == []
