"""Documentation that is held to the code: paths, links, commands, settings, errors, examples, versions."""

import ast
import importlib
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
from pytest_examples import CodeExample, EvalExample, find_examples

from k2_dagster import __version__
from k2_dagster.cli import COMMANDS
from k2_dagster.cli.init import initialize
from k2_dagster.schemas.profiles import load_profiles
from k2_dagster.settings import Settings, as_environment, environment_name
from tests.reference import EXAMPLE, REFERENCE, REPOSITORY, command_named, example, reference

PAGES = sorted(page.relative_to(REPOSITORY) for page in [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")])
PACKAGE = REPOSITORY / "k2_dagster"
# A path of ours in backticks; a folder ends with a slash
PATH = re.compile(r"`((?:k2_dagster|tests|proofs|docs|deploy)/[\w./-]*|[a-z_]+/[\w/]+\.py)`")
K2_LINE = re.compile(r"^(?:\$ )?(?:\.venv/bin/)?(k2 .+)$")
REWRITE = "`.venv/bin/python -m tests.reference` writes it anew"


def text_of(page: Path) -> str:
    """The page without its comments."""
    return re.sub(r"<!--.*?-->", "", (REPOSITORY / page).read_text(), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_paths_exist(page: Path) -> None:
    named = PATH.findall(text_of(page))
    missing = [one for one in named if not (REPOSITORY / one).exists() and not (PACKAGE / one).exists()]
    assert not missing


def test_where_is_x_names_whole_paths() -> None:
    _, _, table = text_of(Path("ARCHITECTURE.md")).partition("## Where is X?")
    rows = [line for line in table.splitlines() if line.startswith("| ") and "`" in line]
    named = [
        path for row in rows for path in re.findall(r"`([^`]+)`", row.split(" | ")[1]) if not path.startswith("k2 ")
    ]
    assert len(rows) > 20
    assert [path for path in named if not (REPOSITORY / path).exists()] == []


def test_the_floors_are_those_that_lint_enforces() -> None:
    contracts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = [one["layers"] for one in contracts if one["id"] == "floors"]
    _, _, after = text_of(Path("ARCHITECTURE.md")).partition("## The floors")
    block = after.split("```")[1]
    drawn = [re.split(r"\s{2,}", line)[0] for line in block.strip().splitlines()]
    rooms = [" | ".join(re.sub(r"\.py$|/$", "", room) for room in line.split(" | ")) for line in drawn]
    assert rooms[: len(layers)] == layers


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        found = (REPOSITORY / page).parent / path if path else REPOSITORY / page
        if not found.exists() or (anchor and anchor not in anchors(found.resolve())):
            broken.append(target)
    assert not broken


@cache
def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_reached_from_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)", text_of(Path("docs/index.md"))))
    pages = {str(page.relative_to("docs")) for page in PAGES if page.parent == Path("docs")} - {"index.md"}
    assert pages <= linked


def test_the_reference_is_written_from_the_code() -> None:
    assert REFERENCE.read_text() == reference(), REWRITE


def unknown_settings(text: str) -> list[str]:
    """Names K2_* of a text that are of no setting; `K2_KAFKA_*` stands for all that begin so."""
    known = [environment_name(name) for name in Settings.model_fields]
    return [
        name + star
        for name, star in re.findall(r"\b(K2_[A-Z0-9_]*)(\*?)", text)
        if not (any(one.startswith(name) for one in known) if star else name in known)
    ]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_settings_that_a_page_names_exist(page: Path) -> None:
    assert unknown_settings(text_of(page)) == []


def test_settings_that_other_files_name_exist() -> None:
    for name in ("Makefile", "Dockerfile", "docker-compose.yml", ".env.example", "workspace.yaml", "pyproject.toml"):
        assert unknown_settings((REPOSITORY / name).read_text()) == [], name


def test_a_wrong_setting_would_be_found() -> None:
    assert unknown_settings("`K2_TEST_STACK_HOME=/x`, K2_KAFAK_* but K2_*, K2_KAFKA_* and K2_HOME") == [
        "K2_TEST_STACK_HOME",
        "K2_KAFAK_*",
    ]


def test_the_example_environment_is_written_from_the_settings() -> None:
    assert EXAMPLE.read_text() == example(EXAMPLE.read_text()), REWRITE


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_commands_exist_with_their_options(page: Path) -> None:
    for line in commands_of(text_of(page)):
        check_command(line)


def test_a_wrong_command_would_be_found() -> None:
    for wrong in ("k2 ingest --exchnage x", "k2 quarantine reproces", "k2 verfy", "k2 query x --format xls"):
        with pytest.raises(AssertionError):
            check_command(wrong)


def commands_of(text: str) -> Iterator[str]:
    """Lines of blocks that call k2, and `k2 ...` in the text."""
    blocks = re.findall(r"^ *```(\w*)\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)
    for language, block in blocks:
        if language not in ("", "console"):
            continue
        # What is quoted, or ends in a backslash, goes on in the next line
        joined = re.sub(r"\\\n\s*", "", block)
        joined = re.sub(r'"[^"]*"', lambda quoted: re.sub(r"\s+", " ", quoted[0]), joined)
        yield from (found[1] for line in joined.splitlines() if (found := K2_LINE.match(line.strip())))
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"`(k2 [^`]+)`", prose)


def check_command(line: str) -> None:
    """Fails for a command, subcommand, option or choice that does not exist."""
    # Two spaces end the command in a list of commands; brackets and bars are notation
    words = shlex.split(re.split(r"\s{2,}", line)[0].replace("[", " ").replace("]", " "), comments=True)
    assert words[1:], line
    name, *rest = words[1:]
    if name.startswith("-") or name.isupper():
        return
    assert name in COMMANDS, f"{line!r}: no command {name}"
    command = command_named(name)
    if command is None:
        return
    options = option_names(command)
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-") and rest[0] != "...":
        for one in rest[0].split("|"):
            assert one in command.commands, f"{line!r}: no command {one}"
        command, rest = command.commands[rest[0].split("|")[0]], rest[1:]
        options |= option_names(command)
    for place, word in enumerate(rest):
        if not re.match(r"--?[a-z]", word):
            continue
        option, _, value = word.partition("=")
        assert option in options, f"{line!r}: no option {option}"
        value = value or next(iter(rest[place + 1 :]), "")
        kind = options[option].type
        if isinstance(kind, click.Choice) and value.islower() and "|" not in value:
            assert value in [str(one) for one in kind.choices], f"{line!r}: {option} {value}"


def option_names(command: click.Command) -> dict[str, click.Option]:
    """Every spelling of every option."""
    options = [one for one in command.params if isinstance(one, click.Option)]
    return {spelling: one for one in options for spelling in (*one.opts, *one.secondary_opts, "--help", "-h")}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    code = re.findall(r"`([^`\n]+)`|^(?:\$ )?(make [^\n]+)$", text_of(page), re.MULTILINE)
    lines = [shlex.split(one.split("  ")[0]) for pair in code for one in pair if one.startswith("make ")]
    named = {word for line in lines for word in line[1:] if "=" not in word}
    assert named <= targets


def test_the_newest_version_of_the_changelog_is_the_packages() -> None:
    versions = re.findall(r"^## (\S+)", text_of(Path("CHANGELOG.md")), re.MULTILINE)
    assert versions[0] == __version__


def test_pages_and_sections_that_the_code_names_exist() -> None:
    missing = []
    for source in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.toml"), *(REPOSITORY / "proofs").rglob("*.py")):
        # A text may be split over lines of source
        text = re.sub(r'"\s*\n\s*f?"', "", source.read_text())
        for page, section in re.findall(r"\b(docs/[\w/-]+\.md)(?:, '([^']+)')?", text):
            found = REPOSITORY / page
            if not found.exists() or (section and f"# {section}\n" not in found.read_text()):
                missing.append((source.name, page, section))
    assert not missing


def test_decisions_that_the_code_cites_are_explained() -> None:
    cited = set()
    for source in (*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.toml"), *(REPOSITORY / "proofs").rglob("*.py")):
        for group in re.findall(r"DESIGN (D\d+(?:, D\d+)*)", source.read_text()):
            cited |= set(group.split(", "))
    explained = set(re.findall(r"^## (D\d+)$", text_of(Path("docs/decisions.md")), re.MULTILINE))
    assert cited
    assert cited <= explained


def python_examples(*pages: str | Path) -> list[CodeExample]:
    """Every Python block of the pages."""
    return [one for one in find_examples(*(str(REPOSITORY / page) for page in pages)) if one.prefix == "python"]


@pytest.mark.parametrize("block", python_examples(*PAGES), ids=str)
def test_examples_parse_and_import_what_exists(block: CodeExample) -> None:
    for node in ast.walk(ast.parse(block.source)):
        if isinstance(node, ast.ImportFrom) and node.module is not None:
            module = importlib.import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.stack
@pytest.mark.parametrize("block", python_examples("README.md"), ids=str)
def test_the_examples_of_the_readme_run(
    block: CodeExample, eval_example: EvalExample, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = load_profiles(settings.profiles)
    initialize(settings, profiles, ("sim_crypto",))
    for name, value in as_environment(settings).items():
        monkeypatch.setenv(name, value)
    eval_example.run_print_check(block)
