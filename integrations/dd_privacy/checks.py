"""Checks of single values, for audits and for private training."""

from dd_plugins.api import OptionError

__all__ = ["number"]


def number(name: str, value: object) -> float:
    """Return a Python, NumPy or torch number as a Python float.

    Raises:
        OptionError: the value is text, a truth value, or not a single number.
    """
    try:
        logical = str(getattr(value, "dtype", "")) in ("bool", "torch.bool")
        if logical or isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise OptionError(f"{name} must be a number, got {value!r}") from None
