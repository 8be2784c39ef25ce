"""Names and paths as plain text."""

import ast

import pytest

from dd_plugins.runtime.text import duration_text, plain, size_text


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


def test_sizes_and_durations_never_have_an_exponent() -> None:
    sizes = [999, 1_000, 999_499, 999_600, 10**12 - 1, 10**17]
    told = ["999 bytes", "1 kB", "999 kB", "1 MB", "1 TB", "100,000 TB"]
    assert list(map(size_text, sizes)) == told
    days = [duration_text(86_400 * each) for each in (999.4, 999.7, 54_321)]
    assert days == ["999 days", "1,000 days", "54,321 days"]
