"""Text from outside, harmless to a terminal: whoever may write to a topic must not write to the screen of a person.

Escape sequences move the cursor and rewrite what was shown, line feeds make lines that nobody printed, and direction
marks show a text in another order than it has. Such characters are shown as their escapes.
"""

import re

# Controls (C0, DEL, C1), zero-width and direction marks, line and paragraph separators, halves of surrogate pairs.
_HARMFUL = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")
_HARMFUL_IN_LINES = re.compile(_HARMFUL.pattern.replace(r"\x00-\x1f", r"\x00-\x09\x0b-\x1f"))


def printable(text: str, *, lines: bool = False) -> str:
    r"""The text with such characters as `\x1b` or `\u202e`. With `lines`, line feeds stay."""
    return (_HARMFUL_IN_LINES if lines else _HARMFUL).sub(_escape, text)


def printable_json(document: str) -> str:
    """A JSON document that says the same: its line feeds are its own, and all other such characters are in strings."""
    return _HARMFUL_IN_LINES.sub(lambda found: f"\\u{ord(found[0]):04x}", document)


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    known = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}.get(found[0])
    return known or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
