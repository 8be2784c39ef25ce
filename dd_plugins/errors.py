"""The errors of this library: one base class, and a subclass for each kind.

Each subclass also extends the matching built-in error, so ``except ValueError`` works
as a caller expects. A message names the argument, the expected value, the given value
and the remedy. ``exit_status`` is the exit status of the command line: 2 for incorrect
use, 1 for a failure.
"""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "DDError",
    "DDWarning",
    "DataError",
    "FileError",
    "ImageSizeError",
    "LostProcessError",
    "MissingExtraError",
    "OptionError",
    "PluginError",
    "RunError",
    "UnknownNameError",
    "described",
    "one_line",
    "what_differs",
]


class DDError(Exception):
    """The base of every error raised on purpose by dd-plugins."""

    exit_status = 1


class DDWarning(UserWarning):
    """A warning to the user; the work goes on.

    The command line prints it on one line.
    """


class OptionError(DDError, ValueError):
    """An option, argument or spec string is malformed or out of its range."""

    exit_status = 2


class UnknownNameError(DDError, LookupError):
    """No plugin registers this name; the message lists the known ones."""

    exit_status = 2


class DataError(DDError, ValueError):
    """Real images or labels cannot be used as they are."""


class ImageSizeError(DataError, OptionError):
    """The real images have several sizes, and no size is given to resize them to."""


class FileError(DDError, ValueError):
    """A file is missing, damaged, foreign or too new, or cannot be written."""


class RunError(DDError, RuntimeError):
    """A run had to stop: a non-finite gradient, a full disk, a singular kernel."""


class LostProcessError(RunError):
    """Another process of the run died, or stopped with an error of its own."""


class PluginError(DDError, RuntimeError):
    """A plugin cannot be registered, or returned a wrong value."""


class MissingExtraError(DDError, ImportError):
    """An optional dependency is not installed; the message names the extra."""


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line, or its class if it has none.

    Example:
        >>> one_line(ValueError("two\\nlines")), one_line(KeyError())
        ('two lines', 'KeyError')
    """
    return " ".join(str(error).split()) or type(error).__name__


def described(error: BaseException) -> str:
    """Return the message of an error in one line, after its class.

    An error of this library is told by its message alone: it says enough.

    Example:
        >>> described(ValueError("two\\nlines")), described(KeyError())
        ('ValueError: two lines', 'KeyError')
    """
    message, name = one_line(error), type(error).__name__
    if isinstance(error, DDError) or message == name:
        return message
    return f"{name}: {message}"


def what_differs(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describe the changed options for a message; empty if there are none.

    Example:
        >>> what_differs({"seed": 1, "steps": 9}, {"seed": 2, "steps": 9})
        'seed was 1, is 2'
    """
    return "; ".join(
        f"{name} was {before.get(name)!r}, is {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    )
