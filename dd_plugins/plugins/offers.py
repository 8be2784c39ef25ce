"""What a plugin may offer: checked when it is registered or given."""

import inspect

import click

from dd_plugins.data.named import DATASET_NAME, DatasetLoader
from dd_plugins.errors import OptionError
from dd_plugins.plugins.registry import NO_RECORD, RecordType
from dd_plugins.spec import is_record


def no_spec(spec: object, kind: str, example: str) -> OptionError:
    """Return the error for what is neither text nor a record of its kind.

    Such as a module of torch.
    """
    got = spec.__name__ if isinstance(spec, type) else type(spec).__name__
    return OptionError(
        f"a {kind} is a spec such as {example!r}, or an object of a subclass of "
        f"Abstract{kind.capitalize()}, got {got}; docs/writing-a-plugin.md shows "
        "how to make one"
    )


def checked_object(record: RecordType) -> RecordType:
    """Return a record that was given as an object.

    A class that adds methods alone needs no decorator for that.

    Raises:
        OptionError: its class declares options, and was not made by ``record``.
    """
    for cls in type(record).__mro__:
        if is_record(cls):
            break
        if any(
            "ClassVar" not in str(kind)
            for kind in inspect.get_annotations(cls).values()
        ):
            raise OptionError(f"{type(record).__name__} {NO_RECORD}")
    return record


def checked_command_name(command: click.Command) -> str:
    """Return the name of a command that is one."""
    if not isinstance(command, click.Command) or not command.name:
        raise TypeError(f"{command!r} is not a click command with a name")
    return command.name


def checked_dataset(name: str, loader: DatasetLoader) -> tuple[str, DatasetLoader]:
    """Return a name and a loader that are such."""
    if not DATASET_NAME.fullmatch(name):
        raise ValueError(
            f"data set name {name!r}: expected lower-case letters, digits, '-' and '_'"
        )
    if not callable(loader):
        raise TypeError(f"the loader of data set {name!r} cannot be called")
    return name, loader
