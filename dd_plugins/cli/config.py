"""Options in a TOML file: ``--config``."""

import tomllib
from pathlib import Path
from typing import Any

import click

from dd_plugins import options as shared
from dd_plugins.errors import FileError, OptionError
from dd_plugins.spec import unknown_name

__all__ = ["config_option"]


def _take(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> None:
    """Use the values in a file as the defaults of a command."""
    if path is None or context.resilient_parsing:
        return
    known = {
        name.removeprefix("--"): option
        for option in context.command.params
        if isinstance(option, click.Option) and option is not parameter
        for name in option.opts
    }
    try:
        given = tomllib.loads(path.read_text())
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:  # not TOML, or not text
        raise OptionError(f"{path} must be a TOML file: {error}") from error
    for name in given:
        if name not in known:
            raise OptionError(f"{path}: {unknown_name('option', name, sorted(known))}")
    values = {
        str(known[name].name): _as_typed(value, known[name])
        for name, value in given.items()
    }
    context.default_map = {**(context.default_map or {}), **values}


def _as_typed(value: Any, option: click.Option) -> Any:
    """Return a TOML value as it is typed on the command line, for click to check.

    A list stands for repeated options, or for one option with commas.
    """
    if option.is_flag:
        return value
    if option.multiple:
        return [str(each) for each in (value if isinstance(value, list) else [value])]
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


config_option = click.option(
    "--config",
    type=shared.path_type,
    is_eager=True,
    expose_value=False,
    callback=_take,
    help="TOML file with options of this command, such as ipc = 10. Options on the "
    "command line come first. 'dd-plugins info PATH --config' writes one.",
)
"""Reads defaults of all other options of a command from a file."""
