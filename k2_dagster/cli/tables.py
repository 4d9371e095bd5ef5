"""Tables for people: as wide as the terminal, and where that is too narrow, a line per value."""

from rich.console import Console
from rich.markup import render
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# Wide enough that no line of a table is folded when it goes into a pipe or file.
PIPE_WIDTH_CHARACTERS = 4_000
# A longer heading is no name but belongs above its values, such as the hours of a day.
NAME_CHARACTERS = 24


def width_of_output() -> int:
    """Characters of a line of standard output."""
    console = Console()
    return console.width if console.is_terminal else PIPE_WIDTH_CHARACTERS


def print_rich(table: Table) -> None:
    """To standard output, as wide as the terminal, or unfolded where there is none."""
    print_table(Console(width=width_of_output()), table)


def print_table(console: Console, table: Table) -> None:
    """As a table, where every word fits; else no value may be cut short, and each gets a line with its name."""
    if Measurement.get(console, console.options.update(width=PIPE_WIDTH_CHARACTERS), table).minimum <= console.width:
        console.print(table)
        return
    names = [_plain(column.header) for column in table.columns]
    width = max((len(name) for name in names if len(name) <= NAME_CHARACTERS), default=0)
    for number, row in enumerate(zip(*(column.cells for column in table.columns), strict=True)):
        if number:
            console.print()
        for name, cell in zip(names, row, strict=True):
            if not _plain(cell):
                continue
            value = cell if isinstance(cell, Text) else render(str(cell))
            beside = name if len(name) <= NAME_CHARACTERS else ""
            if not beside:
                console.print(Text(f"{'':{width}}  {name}", "bold"), soft_wrap=True)
            console.print(Text.assemble((f"{beside:{width}}", "bold"), "  ", value), soft_wrap=True)


def _plain(content: object) -> str:
    return content.plain if isinstance(content, Text) else render(str(content)).plain
