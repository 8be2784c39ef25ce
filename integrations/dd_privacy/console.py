"""The printing of a line, shared by both commands."""

from rich.console import Console
from rich.text import Text

from dd_plugins.api import plain

__all__ = ["say"]


def say(console: Console, line: str) -> None:
    """Print one line as plain text: no markup, and no control codes."""
    console.print(Text(plain(line)), soft_wrap=True)
