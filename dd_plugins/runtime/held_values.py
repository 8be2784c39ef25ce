"""The values that a function holds: bound arguments, defaults and its closure."""

import functools
import hashlib
from collections.abc import Iterator
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

import torch

__all__ = ["PLAIN", "Held", "held_by"]

PLAIN = (str, int, float, bool, type(None))
"""The types of values whose ``repr`` tells all."""


class Held(NamedTuple):
    """Everything inside a function.

    Attributes:
        code: the functions and classes found, the function itself included.
        values: a digest of the values, the same in every process. It is empty if there
            are none but plain bound arguments, and None if one of them has no content
            to be known by, such as a lock.
    """

    code: frozenset[Any]
    values: str | None


def held_by(function: Any) -> Held:
    """Return everything inside a function, a class or a callable object.

    A function holds its bound arguments, its defaults and the variables of its closure;
    in a script or notebook, also its global variables. Functions, local classes and
    other objects found are searched in turn.
    """
    while isinstance(function, functools.partial) and all(
        isinstance(each, PLAIN)
        for each in (*function.args, *function.keywords.values())
    ):
        function = function.func
    search = _Search()
    try:
        content = search.content(function)
    except Exception:  # an object may refuse with any error
        return Held(frozenset(search.code), None)
    if isinstance(content, str):  # the name of the function alone
        return Held(frozenset(search.code), "")
    return Held(frozenset(search.code), _digest(repr(content).encode()))


class _Search:
    """A search through objects.

    Attributes:
        code: the functions and classes found so far.
    """

    def __init__(self) -> None:
        self.code: set[Any] = set()
        self._visited: dict[int, tuple[int, object]] = {}  # holds each, for its id

    def content(self, value: Any) -> object:
        """Return text or lists of text for an object: a bare name for bare code.

        Raises:
            Exception: it cannot be taken apart.
        """
        if isinstance(value, PLAIN):
            return [repr(value)]
        if isinstance(value, ModuleType):
            return [value.__name__]
        is_code = isinstance(value, FunctionType | type)
        if id(value) in self._visited:
            number, _ = self._visited[id(value)]
            return _name(value) if is_code else [number]
        self._visited[id(value)] = len(self._visited), value
        if not is_code:
            return self._content_of_object(value)
        self.code.add(value)
        held = _held_by_class if isinstance(value, type) else _held_by_function
        inside = [(name, self.content(each)) for name, each in held(value)]
        telling = [(name, each) for name, each in inside if not _is_bare(name, each)]
        return [_name(value), telling] if telling else _name(value)

    def _content_of_object(self, value: Any) -> object:
        match value:
            case bytes():
                return [_digest(value)]
            case set() | frozenset():
                return sorted(repr(self.content(each)) for each in value)
            case torch.Tensor():
                flat = value.detach().cpu().flatten().view(torch.uint8)
                shape = tuple(value.shape)
                return [str(value.dtype), str(shape), _digest(flat.numpy().tobytes())]
            case BuiltinFunctionType() if not _is_of_object(value):
                return _name(value)
        if isinstance(value, tuple):
            parts = (type(value), *value)
        else:
            parts = value.__reduce_ex__(2)  # as pickle takes it apart
        if isinstance(parts, str):
            return [_name(type(value)), parts]
        listed = [tuple(each) if isinstance(each, Iterator) else each for each in parts]
        return [self.content(each) for each in listed]


def _held_by_function(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield the values of a function, with their names if they are global."""
    code = function.__code__
    for name, cell in zip(code.co_freevars, function.__closure__ or (), strict=True):
        if name != "__class__":  # the class of a method
            yield "closure", cell.cell_contents
    defaults = function.__kwdefaults__ or {}
    for value in (*(function.__defaults__ or ()), *defaults.values()):
        yield "default", value
    if function.__module__ == "__main__":
        for name in sorted(_names(code) & function.__globals__.keys()):
            value = function.__globals__[name]
            if not isinstance(value, ModuleType):
                yield name, value


def _held_by_class(cls: type) -> Iterator[tuple[str, object]]:
    """Yield the bases and attributes of a class of a script or of a function."""
    if cls.__module__ != "__main__" and "<locals>" not in cls.__qualname__:
        return
    for base in cls.__bases__:
        yield base.__name__, base
    for name, value in vars(cls).items():
        match value:
            case staticmethod() | classmethod():
                yield name, value.__func__
            case property():
                yield name, value.fget
            case functools.cached_property():
                yield name, value.func
            case _ if isinstance(value, FunctionType) or not name.startswith("_"):
                yield name, value


def _names(code: CodeType) -> set[str]:
    """Return the names of globals and attributes in bytecode, nested code included."""
    nested = (each for each in code.co_consts if isinstance(each, CodeType))
    return set(code.co_names).union(*map(_names, nested))


def _is_bare(name: str, content: object) -> bool:
    """Return whether code holds nothing and goes by its own name, so tells nothing."""
    return isinstance(content, str) and content.rpartition(".")[2] == name


def _is_of_object(function: BuiltinFunctionType) -> bool:
    """Return whether a built-in function is a method of an object."""
    return not isinstance(function.__self__, ModuleType | type | None)


def _name(code: Any) -> str:
    return f"{code.__module__}.{code.__qualname__}"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
