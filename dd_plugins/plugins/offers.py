"""Checks of a plugin's offers, at registration or when given as objects."""

import inspect

from dd_plugins.data.named import DATASET_NAME, DatasetLoader
from dd_plugins.errors import OptionError
from dd_plugins.plugins.registry import NO_RECORD, RecordType
from dd_plugins.runtime.text import with_article
from dd_plugins.spec import Call, is_record

__all__ = ["checked_dataset", "checked_object", "not_a_spec", "not_a_value"]


def not_a_spec(spec: object, kind: str, example: str) -> OptionError:
    """Return the error for a value other than a spec or a record of its kind.

    An example is a torch module.
    """
    got = spec.__name__ if isinstance(spec, type) else type(spec).__name__
    return OptionError(
        f"{with_article(kind)} must be a spec such as {example!r}, or an object of a "
        f"subclass of Abstract{kind.capitalize()}, got {got}; "
        "docs/writing-a-plugin.md shows how to make one"
    )


def not_a_value(call: Call, option: str, given: Call) -> OptionError:
    """Return the error for a bare name where an option needs a value."""
    return OptionError(
        f"{call.name}: {option}={given.name} is neither a value nor a known "
        f"distiller, network or decoder; quote text ({given.name!r}), and "
        "write True, False or None with a capital"
    )


def checked_object(record: RecordType) -> RecordType:
    """Return a record given as an object, after checking its class.

    A class adding only methods needs no decorator.

    Raises:
        OptionError: its class declares options, but was not made by ``record``.
    """
    for cls in type(record).__mro__:
        if is_record(cls):
            break
        if any(
            "ClassVar" not in str(kind)
            for kind in inspect.get_annotations(cls).values()
        ):
            raise OptionError(
                f"{type(record).__name__} must be a record itself: {NO_RECORD}"
            )
    return record


def checked_dataset(name: str, loader: DatasetLoader) -> tuple[str, DatasetLoader]:
    """Return the name and the loader of a data set, after checking both."""
    if not DATASET_NAME.fullmatch(name):
        raise ValueError(
            "data set name: expected lower-case letters, digits, '-', '_' and '.', got "
            f"{name!r}"
        )
    if not callable(loader):
        raise TypeError(
            f"the loader of data set {name!r} must be callable, got {loader!r}"
        )
    return name, loader
