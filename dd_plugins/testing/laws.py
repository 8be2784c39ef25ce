"""The laws of plugins: where one is broken, its check raises an AssertionError."""

import functools
from collections.abc import Callable
from typing import TypeVar

from dd_plugins.errors import PluginError
from dd_plugins.plugins.registry import NO_RECORD
from dd_plugins.spec import Record, is_record

__all__ = ["asserts", "name_of"]

Checked = TypeVar("Checked")


def asserts(check: Callable[[Checked], None]) -> Callable[[Checked], None]:
    """Let a check fail with an AssertionError, whatever error a plugin raises.

    A class in place of an object fails every check, and so does a record whose own
    class is not decorated with ``record``.
    """

    @functools.wraps(check)
    def asserting(checked: Checked) -> None:
        if isinstance(checked, type):
            name = checked.__name__
            raise AssertionError(f"expected an object, as {name}() makes, got {name}")
        cls = type(checked)
        if isinstance(checked, Record) and not is_record(cls):
            raise AssertionError(f"{cls.__name__} must be a record: {NO_RECORD}")
        try:
            check(checked)
        except AssertionError:
            raise
        except PluginError as error:
            raise AssertionError(str(error)) from error
        except Exception as error:
            law = (check.__doc__ or "").strip().splitlines()[0]
            raise AssertionError(
                f"must not raise {type(error).__name__} ({error}); the law is: {law}"
            ) from error

    return asserting


def name_of(check: object) -> str:
    """Return the id of a check, or of a checked object, for pytest."""
    return getattr(check, "__name__", repr(check))
