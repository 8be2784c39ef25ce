"""Parts shared by both commands: an option, and the printing of a line."""

import click
from rich.console import Console
from rich.text import Text

from dd_plugins.api import plain

__all__ = ["dataset_option", "say"]

dataset_option = click.option("--dataset", required=True, help="Name, or folder:PATH.")
"""``dataset: str``."""


def say(console: Console, line: str) -> None:
    """Print one line as plain text: no markup, and no control codes."""
    console.print(Text(plain(line)), soft_wrap=True)
