"""Functions shared by benchmarks that add each row to a JSON file as it is made."""

import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from dd_plugins.functional.statistics import mean_interval

MEBIBYTE = 1024  # in KiB, the unit of ru_maxrss

Row = dict[str, Any]


def made_rows(path: Path) -> list[Row]:
    """Return the rows of a JSON file; none if it does not exist."""
    return json.loads(path.read_text()) if path.exists() else []


def is_made(rows: Iterable[Row], key: Sequence[str], wanted: Sequence[object]) -> bool:
    """Return whether a row has these values of these fields; None if it lacks one."""
    return tuple(wanted) in [tuple(row.get(name) for name in key) for row in rows]


def add_row(path: Path, row: Row) -> None:
    """Add a row to a JSON file; make the file if it does not exist."""
    path.write_text(json.dumps([*made_rows(path), row], indent=1) + "\n")


def added_rows(path: Path, jobs: Iterable[tuple[str, Sequence[str]]]) -> Iterator[Row]:
    """Run commands in turn, each prints a row as JSON; add and yield each row.

    The commands after a failed one are still run.

    Args:
        path: the JSON file.
        jobs: the name of each row, and the arguments of Python.

    Raises:
        SystemExit: at the end, with the names of the rows whose command failed.
    """
    failed = []
    for name, command in jobs:
        done = subprocess.run(
            [sys.executable, *command], check=False, stdout=subprocess.PIPE, text=True
        )
        if done.returncode:
            print(f"{name}: failed", flush=True)
            failed.append(name)
            continue
        row: Row = json.loads(done.stdout.splitlines()[-1])
        add_row(path, row)
        yield row
    if failed:
        sys.exit(f"Error: rows not made: {'; '.join(failed)}")


def grouped(rows: Sequence[Row], key: Sequence[str]) -> list[list[Row]]:
    """Group rows with the same values of these fields, in their order."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(name) for name in key), []).append(row)
    return list(groups.values())


def given(options: Any, *names: str) -> list[str]:
    """Return the words of a command line for the named options, if they are set."""
    words: list[str] = []
    for name in names:
        value, flag = getattr(options, name), f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        elif value:
            words += [flag, str(value)]
    return words


def peak_mebibytes() -> float:
    """Return the peak memory of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE


def percent(fractions: Sequence[float]) -> str:
    """Return a mean in per cent, with its 95 % interval if it has one."""
    if not fractions:
        return ""
    told, interval = f"{100 * statistics.mean(fractions):.1f}", mean_interval(fractions)
    if interval is None:
        return told
    return f"{told} ({100 * interval[0]:.1f} to {100 * interval[1]:.1f})"
