"""Names and paths as plain text."""

import ast

import pytest

from dd_plugins.runtime.text import plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("plain text, ünïcode 漢字 🎈", "plain text, ünïcode 漢字 🎈"),
        ("a\nb\tc\r", r"a\nb\tc\r"),
        ("\x1b[2J\x07", r"\x1b[2J\x07"),
        ("\u202eright to left", r"\u202eright to left"),
        ("\u00a0\u2028", r"\xa0\u2028"),
        ("caf\udce9", r"caf\udce9"),  # of a file name that is not UTF-8
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_what_is_not_printable_is_an_escape(text: str, shown: str) -> None:
    found = plain(text)
    assert found == shown
    assert found.isprintable()
    assert plain(found) == found
    assert ast.literal_eval(f"'{found}'") == text
