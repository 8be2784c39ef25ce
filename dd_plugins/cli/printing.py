"""Functions of the built-in commands for printing and writing figures."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dd_plugins.errors import described
from dd_plugins.runtime.files import write_atomically
from dd_plugins.runtime.text import plain

if TYPE_CHECKING:
    from dd_plugins.evaluation.results import NetworkResult
    from dd_plugins.runtime.progress import OnProgress

__all__ = [
    "as_text",
    "figure_columns",
    "print_tables",
    "run_all",
    "say",
    "training_progress",
    "validation_text",
    "write_json",
]


@contextmanager
def training_progress(*, in_seconds: bool = False) -> Iterator["OnProgress"]:
    """Show the progress of training on standard error, from process 0 alone.

    Args:
        in_seconds: whether the amount of work is in seconds.

    Yields:
        The argument ``on_progress`` for functions of the library.
    """
    from dd_plugins.runtime import processes
    from dd_plugins.runtime.progress import shown_progress

    silent = processes.rank() > 0
    with shown_progress("reading data", silent=silent, in_seconds=in_seconds) as shown:
        yield shown.update


def validation_text(score: float | None) -> str:
    """Return a validation accuracy as part of a line."""
    return "no validation images" if score is None else f"validation {score:.4f}"


def figure_columns(result: "NetworkResult") -> tuple[str, str, str]:
    """Return mean, deviation and interval as columns of a table."""
    if result.std is None or result.bounds is None:
        return f"{result.mean:.4f}", "", ""
    low, high = result.bounds
    return f"{result.mean:.4f}", f"{result.std:.4f}", f"{low:.4f} to {high:.4f}"


def as_text(content: object) -> Text:
    """Return names and paths as text for rich to show exactly as written.

    A character missing from the screen's encoding is written as an escape, so no table
    is lost to an error.
    """
    encoding = sys.stdout.encoding or "utf-8"
    shown = plain(str(content)).encode(encoding, "backslashreplace").decode(encoding)
    return Text(shown, overflow="fold")


def say(line: str, *, err: bool = False) -> None:
    """Print a line, with unprintable characters in names and paths escaped."""
    click.echo(plain(line), err=err)


def print_tables(console: Console, parts: Iterable[Table | Text]) -> None:
    """Print tables and their titles; titles are not wrapped."""
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def run_all(*actions: Callable[[], object]) -> None:
    """Perform all actions in turn, even if an earlier one fails; then raise its error.

    So figures are printed even if their file cannot be written, and the file is written
    even if printing fails. Of several errors the first is raised, and the others are
    printed.
    """
    errors = []
    for action in actions:
        try:
            action()
        except Exception as error:
            errors.append(error)
    if not errors:
        return
    first, *others = errors
    for other in others:
        say(f"Error: {described(other)}", err=True)
    raise first


def write_json(path: Path | None, content: dict[str, Any]) -> None:
    """Write figures to a file; do nothing if the path is None."""
    if path is None:
        return
    text = json.dumps(content, indent=1) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))
