"""What is shown of text from outside cannot steer a terminal, and JSON says the same."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from k2_dagster.observability.printable import printable, printable_json

HOSTILE = st.text(
    st.sampled_from("ab[]\x00\x07\x1b\n\r\t\x7f\x9b\u200b\u202e\u2028\u2066\ufeff\ud800") | st.characters()
)


@pytest.mark.parametrize(
    ("given_text", "shown"),
    [
        ("BTC-USD", "BTC-USD"),
        ("\x1b[31mRED\x1b]0;title\x07", r"\x1b[31mRED\x1b]0;title\x07"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\u202egnp", r"\u202egnp"),
        ("\x9b31m", r"\x9b31m"),
        ("☃ € ü", "☃ € ü"),
    ],
)
def test_what_steers_a_terminal_is_shown_as_its_escape(given_text: str, shown: str) -> None:
    assert printable(given_text) == shown


@given(HOSTILE)
def test_no_control_is_left(text: str) -> None:
    for shown in (printable(text), printable(text, lines=True).replace("\n", "")):
        assert not [one for one in shown if unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp")]
        assert "\u202e" not in shown


@given(st.dictionaries(HOSTILE, HOSTILE))
def test_a_json_document_says_the_same(document: dict[str, str]) -> None:
    shown = printable_json(json.dumps(document, indent=2, ensure_ascii=False))

    assert json.loads(shown) == document
    assert printable(shown.replace("\n", "")) == shown.replace("\n", "")
