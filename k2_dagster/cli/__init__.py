"""The command line `k2`.

Commands are loaded when they are called: `COMMANDS` names them all, so `k2 --help` imports none.
"""

import difflib
import errno
import importlib
import os
import traceback
from dataclasses import dataclass
from typing import Any

import click

from k2_dagster import __version__
from k2_dagster.cli.absent import leave_out
from k2_dagster.cli.exits import INTERRUPTED, MEANINGS, MISTAKE, TERMINAL, exit_status
from k2_dagster.errors import K2Error

START = "k2_dagster.cli.common:start"
MASK = "k2_dagster.observability.masking:mask"
# What `run` says to the commands: the process is theirs.
OWN_PROCESS = object()
# Of a disk or a quota that is full, wherever we were writing.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
PRINTABLE = "k2_dagster.observability.printable:printable"


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a command is (`module:attribute`) and its line in `k2 --help`. `without` are packages that its process does
    not load, though libraries would: see `absent.py`."""

    target: str
    help: str
    without: tuple[str, ...] = ()


COMMANDS: dict[str, Entry] = {
    "dev": Entry("k2_dagster.cli.dev:dev", "The development stack: Kafka, registry and PostgreSQL on this machine"),
    "init": Entry("k2_dagster.cli.init:init", "Create topics, subjects, tables and the control schema; repeatable"),
    "doctor": Entry("k2_dagster.cli.doctor:doctor", "Try every address with a real call and say what to do"),
    "settings": Entry("k2_dagster.cli.settings:settings", "Every setting with its value and where it came from"),
    "schemas": Entry("k2_dagster.cli.schemas:schemas", "Check and register the schemas of the datasets"),
    "simulate": Entry("k2_dagster.cli.simulate:simulate", "Publish a simulated exchange, with faults on demand"),
    "play": Entry("k2_dagster.cli.play:play_command", "Publish captured market data"),
    "feed": Entry("k2_dagster.cli.feed:feed_command", "Publish a venue's live market data"),
    "lines": Entry("k2_dagster.cli.lines:lines", "Receive an exchange that sends on two lines, or simulate one"),
    # Pandera and PyArrow load pandas where it is installed (for the calendars), 30 MB of code that ingest never calls
    "ingest": Entry(
        "k2_dagster.cli.ingest:ingest", "Land an exchange's messages in the tables, as a process", ("pandas",)
    ),
    "status": Entry("k2_dagster.cli.status:status", "Fence, lag, last commit and driver of every stream"),
    "watch": Entry("k2_dagster.cli.watch:watch", "Find what is wrong, as a process, and tell people"),
    "incidents": Entry("k2_dagster.cli.incidents:incidents", "What is wrong, what was, and who has been told"),
    "query": Entry("k2_dagster.cli.query:query", "Ask the tables in SQL"),
    "symbols": Entry("k2_dagster.cli.symbols:symbols", "Search what is traded where, as the venues say it"),
    "coverage": Entry("k2_dagster.cli.coverage:coverage", "A day symbol by symbol: what came, and what is missing"),
    "gaps": Entry("k2_dagster.cli.gaps:gaps", "List and explain what is missing"),
    "recover": Entry("k2_dagster.cli.recover:recover", "Get missing messages of an exchange again, as a process"),
    "breaker": Entry("k2_dagster.cli.breaker:breaker", "Partitions that are halted at a critical gap; let them go on"),
    "quarantine": Entry("k2_dagster.cli.quarantine:quarantine", "List, show and reprocess refused messages"),
    "verify": Entry("k2_dagster.cli.verify:verify", "Prove that topics and tables agree, offset by offset"),
    "check": Entry("k2_dagster.cli.check:check", "Run the asset checks of a partition"),
}


class OnDemandGroup(click.Group):
    """Loads a command when it is asked for; turns K2Error into one message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (the signature is the library's)
        """In the order of the table: that of a first day with K2."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """None for an unknown name. Fails when the command is declared but not installed."""
        entry = COMMANDS.get(cmd_name)
        if entry is None:
            return None
        if entry.without and ctx.find_root().obj is OWN_PROCESS:
            leave_out(*entry.without)
        try:
            command = load(entry.target)
        except ModuleNotFoundError as error:
            if error.name != entry.target.partition(":")[0]:
                raise
            ctx.fail(f"`k2 {cmd_name}` is not part of this version of K2")
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.target} is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Suggests the nearest name for an unknown one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            nearest = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean `k2 {nearest[0]}`?" if nearest else " `k2 --help` lists the commands."
            ctx.fail(f"There is no command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """From the table alone: no command is imported."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The exit statuses, as a list."""
        with formatter.section("Exit status"):
            formatter.write_dl([(str(code), meaning) for code, meaning in MEANINGS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error of ours is shown without a traceback, unless K2_LOG_LEVEL is DEBUG. Any other is a
        mistake of ours: it keeps its traceback, and has an exit status of its own."""
        try:
            return super().invoke(ctx)
        except K2Error as error:
            if os.environ.get("K2_LOG_LEVEL", "").upper() == "DEBUG":
                click.echo(traceback.format_exc(), err=True, nl=False)
            click.echo(f"k2: {load(PRINTABLE)(str(error), lines=True)}", err=True)
            ctx.exit(exit_status(error))
        except KeyboardInterrupt:
            click.echo("k2: interrupted", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:  # the reader of our output has gone
                raise
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                click.echo(f"k2: {error.strerror}{f': {error.filename}' if error.filename else ''}", err=True)
                ctx.exit(TERMINAL)
            click.echo(load(MASK)(traceback.format_exc()), err=True, nl=False)
            click.echo(f"k2: {MEANINGS[MISTAKE]}", err=True)
            ctx.exit(MISTAKE)


def load(target: str) -> Any:
    """The object that `module:attribute` names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


@click.group("k2", cls=OnDemandGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="k2")
def main() -> None:
    """A market-data lakehouse: Kafka to Iceberg, nothing lost, nothing twice.

    Settings come from K2_* variables; `k2 settings` lists them.
    """
    load(START)()


def run() -> None:
    """The program `k2`: `main` in a process of its own."""
    main(obj=OWN_PROCESS)
