"""The progress of a long command, and the time left."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dd_plugins.runtime.text import duration_text, plain

if TYPE_CHECKING:
    from rich.progress import Progress

__all__ = ["OnProgress", "ProgressShown", "part_of", "seconds_left", "shown_progress"]

OnProgress = Callable[[str, float, float], None]
"""Called with what goes on, the work done and all work, in a unit of equal time."""

_LINE_SECONDS = 10.0  # between two lines, where there is no terminal


def seconds_left(done: float, total: float, begun: float, elapsed: float) -> float:
    """Return the seconds for the rest of some work, at its mean speed so far.

    Args:
        done: work done, in a unit proportional to time.
        total: all work.
        begun: work done before the clock started; less than ``done``.
        elapsed: seconds since the clock started.

    Example:
        >>> seconds_left(done=30, total=100, begun=10, elapsed=5)
        17.5
    """
    return elapsed * (total - done) / (done - begun)


def part_of(
    on_progress: OnProgress | None,
    what: str,
    before: float,
    total: float,
    each: float = 1,
) -> Callable[[int], None]:
    """Return a function that reports steps as a part of longer work.

    Args:
        on_progress: the callback; None for nothing.
        what: the name of the part.
        before: work done before this part.
        total: all work.
        each: the work of a step.
    """

    def on_step(done: int) -> None:
        if on_progress is not None:
            on_progress(what, before + each * done, total)

    return on_step


class ProgressShown:
    """The display of one command on standard error.

    A terminal gets a bar with the share done and the time left. A pipe or a notebook
    gets a line every ten seconds, and one at the end.

    Args:
        progress: rich's display, not started; None for lines.
        in_seconds: whether work is in seconds; a first line then says how long it is.
    """

    def __init__(
        self, progress: "Progress | None", *, in_seconds: bool = False
    ) -> None:
        self._in_seconds = in_seconds
        self._progress = progress
        self._task = None if progress is None else progress.add_task("", total=None)
        self._begun: float | None = None
        self._started = self._shown = time.monotonic()

    def update(self, what: str, done: float, total: float) -> None:
        """Show how far the work is.

        Args:
            what: the name of the current part, and its figures.
            done: work done, in a unit proportional to time.
            total: all work, in that unit.
        """
        now = time.monotonic()
        if self._begun is None or done < self._begun:
            self._begun, self._started = done, now
            if self._in_seconds:
                self.line(f"this takes about {duration_text(total)}")
        left = ""
        if self._begun < done < total:
            rest = seconds_left(done, total, self._begun, now - self._started)
            left = f"{duration_text(rest)} left"
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task, completed=done, total=total, what=plain(what), left=left
            )
        elif done >= total or now - self._shown >= _LINE_SECONDS:
            share = f"{100 * done / total:.0f} %" if total else "done"
            self.line(", ".join(each for each in (f"{what}: {share}", left) if each))
            self._shown = now

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        if self._progress is not None:
            from rich.text import Text

            self._progress.console.print(Text(plain(text)), soft_wrap=True)
        else:
            sys.stderr.write(f"{plain(text)}\n")
            sys.stderr.flush()


@contextmanager
def shown_progress(
    begun: str, *, silent: bool = False, in_seconds: bool = False
) -> Iterator[ProgressShown]:
    """Show the progress of a command in this block.

    Args:
        begun: the text on a terminal before the first update: ``"reading data"``.
        silent: whether to show nothing, as in all processes of a group but the first.
        in_seconds: whether work is in seconds; a first line then says how long it is.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
    from rich.table import Column

    console = Console(stderr=True, quiet=silent)
    if silent or not console.is_terminal:
        yield (_Silent if silent else ProgressShown)(None, in_seconds=in_seconds)
        return
    cut = Column(no_wrap=True, overflow="ellipsis", ratio=1)
    whole = Column(no_wrap=True)
    progress = Progress(
        TextColumn("{task.fields[what]}", table_column=cut, markup=False),
        BarColumn(bar_width=10),
        TaskProgressColumn(table_column=whole),
        TextColumn("{task.fields[left]}", table_column=whole, markup=False),
        console=console,
        expand=True,
        transient=True,
    )
    shown = ProgressShown(progress, in_seconds=in_seconds)
    progress.update(progress.task_ids[0], what=plain(begun), left="")
    with progress:
        yield shown


class _Silent(ProgressShown):
    """Shows nothing."""

    def update(self, what: str, done: float, total: float) -> None: ...

    def line(self, text: str) -> None: ...
