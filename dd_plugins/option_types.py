"""Faults in the declared options of a record: names taken, types no spec can write."""

from collections.abc import Callable, Sequence
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

__all__ = ["fault_of_options"]

_WRITTEN = (int, float, bool, str, bytes, NoneType, None, Any, Ellipsis, tuple)
_SEVERAL = (list, set, frozenset, Sequence)


def fault_of_options(cls: type, base: type, annotations: dict[str, Any]) -> str | None:
    """Return what is wrong with the declared options of a record, or None.

    Args:
        cls: the class of the record.
        base: the class of all records.
        annotations: the type of each option.
    """
    for option in sorted(vars(cls).get("__annotations__", {}).keys() & annotations):
        for parent in cls.__mro__[1:]:
            declared = vars(base)["__annotations__"] if parent is base else {}
            is_option = option in vars(parent).get("__dataclass_fields__", {})
            is_method = hasattr(vars(parent).get(option), "__get__")
            if option in declared or (is_method and not is_option):
                taken = f"{parent.__name__}.{option}"
                return f"option {option!r} has the name of {taken}; give it another"
    for option, annotation in annotations.items():
        wrong = _unwritable(annotation, base)
        if wrong is not None:
            name = getattr(wrong, "__name__", wrong)
            return (
                f"option {option!r} has type {name}, which no spec can write; use "
                f"{_instead_of(wrong)}"
            )
    return None


def _unwritable(annotation: Any, base: type) -> Any:
    """Return the first type in an annotation without a form in specs, or None."""
    kind, parts = get_origin(annotation), get_args(annotation)
    kind = annotation if kind is None else kind
    if kind is Annotated:
        return _unwritable(parts[0], base)
    if kind in (Union, UnionType, tuple):
        found = (_unwritable(part, base) for part in parts)
        return next((each for each in found if each is not None), None)
    is_record = isinstance(kind, type) and issubclass(kind, base)
    if is_record or kind in (*_WRITTEN, Literal, Callable):
        return None
    if isinstance(kind, str | TypeVar):  # not resolved yet
        return None
    return kind


def _instead_of(wrong: Any) -> str:
    if wrong in _SEVERAL:
        return "a tuple"
    if isinstance(wrong, type) and issubclass(wrong, Enum):
        return "a Literal"
    if isinstance(wrong, type) and issubclass(wrong, dict):
        return "an option for each key, or a record"
    return "str"
