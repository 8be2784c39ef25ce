"""Completion of names in a shell, from names kept by the last command."""

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import click

from dd_plugins.errors import FileError
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.files import write_atomically

__all__ = ["completed", "keep_names"]

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def keep_names(names: Mapping[str, list[str]]) -> None:
    """Keep names for completion; do nothing if the folder cannot be written.

    Args:
        names: names by kind, such as ``"distiller"``.
    """
    text = json.dumps(names)
    with suppress(OSError, FileError):
        path = _file()
        if not path.exists() or path.read_text() != text:
            write_atomically(path, lambda file: file.write(text.encode()))


def completed(*kinds: str) -> Complete:
    """Return a ``shell_complete`` function of click for specs of these kinds.

    The name at the end of a spec is completed: ``metadd(fre`` as well as ``conv,ml``.
    Before the first command of an installation has run, no name is known.

    Args:
        *kinds: the kinds of names, such as ``"distiller"``.
    """

    def complete(
        context: click.Context, parameter: click.Parameter, incomplete: str
    ) -> list[str]:
        del context, parameter
        known: dict[str, list[str]] = {}
        with suppress(OSError, ValueError):
            known = json.loads(_file().read_text())
        before, begun = re.fullmatch(r"(.*[(,=\s])?(.*)", incomplete, re.S).groups("")  # type: ignore[union-attr]
        return [
            f"{before}{name}"
            for kind in kinds
            for name in known.get(kind, [])
            if name.startswith(begun)
        ]

    return complete


def _file() -> Path:
    """Return the file of the names of this Python environment."""
    key = hashlib.sha256(sys.prefix.encode()).hexdigest()[:16]
    return cache_folder() / "names" / f"{key}.json"
