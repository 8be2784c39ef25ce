"""Common parts of both commands: two options, lines of text, a progress display."""

import click
from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from dd_plugins.api import plain

__all__ = ["dataset_option", "progress_bar", "say"]

dataset_option = click.option("--dataset", required=True, help="Name, or folder:PATH.")
"""``dataset: str``."""


def say(console: Console, line: str) -> None:
    """Print one line as plain text: no markup, and no control codes."""
    console.print(Text(plain(line)), soft_wrap=True)


def progress_bar() -> Progress:
    """Return a progress display for terminals, cleared at the end."""
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not console.is_terminal)
