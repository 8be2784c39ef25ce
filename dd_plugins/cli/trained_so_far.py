"""Networks that a command has trained so far, kept until it ends."""

import hashlib
import json
import shutil
from pathlib import Path

import click

from dd_plugins.cli.printing import say
from dd_plugins.errors import FileError
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.runtime.files import check_writable

__all__ = ["kept_networks", "remove_networks"]

# Parameters that change no network.
_OUTPUTS = {"json_file", "html_file", "plot_file", "overwrite"}


def kept_networks() -> Path | None:
    """Return the folder, in the cache, for the networks of the running command.

    After a stop, the same words in the same working directory get the same folder. A
    line on standard error then tells how many networks it holds.

    Returns:
        The folder, there or not yet; None if it cannot be written, which a line on
        standard error tells.
    """
    folder = cache_folder() / "evaluations" / _name(click.get_current_context())
    try:
        check_writable(folder / "network.safetensors")
    except FileError as error:
        _say_once(f"trained networks are not kept: {error}")
        return None
    held = len(list(folder.glob("*.safetensors")))
    if held:
        _say_once(f"networks that the stopped command has trained: {held}; going on")
    return folder


def remove_networks(folder: Path | None) -> None:
    """Remove the networks of a command that has come to its end."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _name(context: click.Context) -> str:
    """Return a name for a command with its parameters and working directory."""
    given = {
        name: value for name, value in context.params.items() if name not in _OUTPUTS
    }
    words = [context.command_path, Path.cwd(), given]
    text = json.dumps(words, default=str, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _say_once(line: str) -> None:
    from dd_plugins.runtime import processes

    if processes.rank() == 0:
        say(line, err=True)
