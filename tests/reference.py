"""Writes docs/reference.md and the settings of .env.example from the code: `python -m tests.reference`.

`test_docs.py` holds the files to it, so a setting, error, reason or command that is added must appear there.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from k2_dagster import errors
from k2_dagster.cli import COMMANDS, load
from k2_dagster.cli.exits import MEANINGS
from k2_dagster.fields import default_text, type_text, unit_text
from k2_dagster.schemas.quarantine import REASONS
from k2_dagster.settings import Settings, environment_name

REPOSITORY = Path(__file__).parent.parent
REFERENCE = REPOSITORY / "docs/reference.md"
EXAMPLE = REPOSITORY / ".env.example"
# What stands before it in .env.example is written by hand.
SETTINGS_BEGIN = "# Every setting of K2:\n"

OPENING = """# Reference

Written from the code by `python -m tests.reference`; a test compares them. By hand, nothing is changed here.
"""


def reference() -> str:
    """The text of docs/reference.md."""
    parts = (_settings(), _commands(), _exits(), _errors(), _reasons())
    return "\n".join([OPENING, *("\n".join(part) for part in parts)])


def example(before: str) -> str:
    """The text of .env.example: what is written by hand in `before`, and every setting with its default."""
    by_hand, begin, _ = before.partition(SETTINGS_BEGIN)
    if not begin:
        raise SystemExit(f"{EXAMPLE.name} has no line {SETTINGS_BEGIN.strip()!r}")
    lines = (
        f"\n# {_help(name)}\n# {environment_name(name)}={default_text(Settings.model_fields[name])}\n"
        for name in Settings.model_fields
    )
    return by_hand + begin + "".join(lines)


def _settings() -> Iterator[str]:
    yield "## Settings\n"
    yield "A value comes from the environment, else from `stack.env` in the folder `K2_HOME` (`k2 dev up` writes it), "
    yield "else it is the default.\n"
    yield "An empty value unsets a setting that may be unset, and is an error for any other.\n"
    yield "| environment | type | default | unit | meaning |"
    yield "|---|---|---|---|---|"
    for name, field in Settings.model_fields.items():
        default = default_text(field)
        shown = f"`{default}`" if default else ""
        cells = (f"`{environment_name(name)}`", type_text(field), shown, unit_text(field), str(field.description))
        yield f"| {' | '.join(_escaped(cell) for cell in cells)} |"
    yield ""


def _commands() -> Iterator[str]:
    yield "## Commands\n"
    yield "Reading commands take `--json`. `-h` or `--help` explains each.\n"
    for name, entry in COMMANDS.items():
        yield from _command(f"k2 {name}", command_named(name), entry.help)


def command_named(name: str) -> click.Command | None:
    """The command, or None while its module is not in the tree."""
    target = COMMANDS[name].target
    try:
        command = load(target)
    except ModuleNotFoundError as error:
        if error.name != target.partition(":")[0]:
            raise
        return None
    assert isinstance(command, click.Command)
    return command


def _command(path: str, command: click.Command | None, line: str = "") -> Iterator[str]:
    yield f"### `{path}`\n"
    if command is None:
        yield f"{line}. Not in this version.\n"
        return
    yield f"{_paragraphs(command.help or line)}\n"
    parameters = [one for one in command.params if not getattr(one, "hidden", False)]
    arguments = [one for one in parameters if isinstance(one, click.Argument)]
    if arguments:
        yield f"Arguments: {', '.join(f'`{one.human_readable_name}`' for one in arguments)}.\n"
    options = [one for one in parameters if isinstance(one, click.Option)]
    for option in options:
        yield f"- `{', '.join([*option.opts, *option.secondary_opts])}`: {_option_help(option)}"
    if options:
        yield ""
    if isinstance(command, click.Group):
        for name, child in sorted(command.commands.items()):
            yield from _command(f"{path} {name}", child)


def _option_help(option: click.Option) -> str:
    text = option.help or ""
    if isinstance(option.type, click.Choice):
        text += f" One of: {', '.join(str(one) for one in option.type.choices)}."
    default = option.default
    if option.show_default and isinstance(default, str | int | float) and not isinstance(default, bool):
        text += f" Default: {default}."
    return " ".join(text.split()).strip()


def _exits() -> Iterator[str]:
    yield "## Exit status\n"
    yield "| status | meaning |"
    yield "|---|---|"
    yield from (f"| {code} | {meaning} |" for code, meaning in MEANINGS.items())
    yield ""


def _errors() -> Iterator[str]:
    yield "## Errors\n"
    yield "Every error says what was found and what to do; [recovery.md](recovery.md) has the longer stories.\n"
    tree = (errors.__doc__ or "").split("\n\n")[1]
    yield f"```\n{tree}\n```\n"


def _reasons() -> Iterator[str]:
    yield "## Quarantine reasons\n"
    yield "| reason | meaning |"
    yield "|---|---|"
    yield from (f"| `{reason}` | {meaning} |" for reason, meaning in REASONS.items())
    yield ""


def _help(name: str) -> str:
    field = Settings.model_fields[name]
    unit = unit_text(field)
    return f"{field.description} ({type_text(field)})" + (f" [{unit}]" if unit else "")


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _paragraphs(text: str) -> str:
    return "\n\n".join(" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip()))


def main() -> None:
    """Write both files."""
    REFERENCE.write_text(reference())
    EXAMPLE.write_text(example(EXAMPLE.read_text()))
    sys.stdout.write(f"{REFERENCE.name} and {EXAMPLE.name} are written\n")


if __name__ == "__main__":
    main()
