"""The printing of a line."""

import io

from rich.console import Console

from dd_privacy.console import say


def test_a_line_is_plain_text() -> None:
    terminal = Console(width=20, file=io.StringIO(), force_terminal=True)
    say(terminal, "[red]a[/red] \x1b[2J " + "long " * 20)
    (line,) = terminal.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert line.startswith("[red]a[/red] \\x1b[2J long")
