"""Tables on a terminal: no value is ever cut short, and none can steer the terminal."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.table import Table
from rich.text import Text

from k2_dagster.cli.common import emit, emit_one
from k2_dagster.cli.tables import print_table

WORDS = st.text(st.characters(categories=["Lu", "Ll", "Nd"], max_codepoint=0x7F), min_size=1, max_size=30)


def shown(table: Table, width: int) -> str:
    output = io.StringIO()
    print_table(Console(file=output, width=width), table)
    return output.getvalue()


def table_of(names: list[str], rows: list[list[str]]) -> Table:
    table = Table(*names, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def test_where_it_fits_it_is_a_table() -> None:
    lines = shown(table_of(["symbol", "rows"], [["A", "1"], ["B", "2"]]), 20).splitlines()
    assert [line.split() for line in lines] == [["symbol", "rows"], ["A", "1"], ["B", "2"]]


def test_words_may_go_to_the_next_line() -> None:
    text = shown(table_of(["check", "summary"], [["times", "times agree with the numbers"]]), 22)
    assert text.split() == ["check", "summary", "times", "times", "agree", "with", "the", "numbers"]
    assert text.startswith("check  summary")


def test_where_it_does_not_fit_each_value_has_a_line_with_its_name() -> None:
    text = shown(table_of(["symbol", "first", "note"], [["BTC-USD", "1234567", ""], ["[b]", "7", "why"]]), 12)
    assert text == "symbol  BTC-USD\nfirst   1234567\n\nsymbol  [b]\nfirst   7\nnote    why\n"


def test_a_long_heading_stands_above_its_value() -> None:
    ruler = "00h         06h         12h         18h"
    text = shown(table_of(["symbol", ruler], [["A", "·" * 48]]), 30)
    assert text == f"symbol  A\n        {ruler}\n        {'·' * 48}\n"


@given(
    st.integers(1, 3).flatmap(lambda n: st.lists(st.lists(WORDS, min_size=n, max_size=n), min_size=2)),
    st.integers(4, 60),
)
def test_no_value_is_cut_short_at_any_width(rows: list[list[str]], width: int) -> None:
    text = shown(table_of(rows[0], rows[1:]), width)
    words = text.split()
    assert "…" not in text
    for row in rows[1:]:
        assert set(row) <= set(words)


def test_values_of_messages_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    hostile = {"symbol": "\x1b[31m[red]X\x07", "key": "a\nforged  value"}

    emit([hostile], False)
    emit_one(hostile, False)
    emit([hostile], True)

    told = capsys.readouterr().out
    assert not {"\x1b", "\x07"} & set(told)
    assert r"\x1b[31m[red]X\x07" in told
    assert "\nforged" not in told
