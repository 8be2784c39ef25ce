"""The code behind an object: versions of installed packages, or sources."""

import hashlib
import inspect
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from dd_plugins.runtime.held_values import held_by
from dd_plugins.spec import Record

__all__ = ["code_of"]

_WITHOUT_ENTRY = sys.stdlib_module_names - {"__main__"} | {
    *("dd_plugins", "dd_avalanche", "dd_privacy", "torch"),
}


def code_of(*records: Record) -> dict[str, str]:
    """Identify the code behind records and their parts.

    The result is a part of the keys of kept files. The library's own code has no entry:
    a format number stands for it. Neither has torch.

    Args:
        *records: networks, distillers, wrappers or others.

    Returns:
        For an installed package, the versions of its distributions, by name; for any
        other, such as one under development, a SHA-256 over all its Python files, since
        they may use each other, or over the text of a script or notebook.
    """
    found: dict[str, str] = {}
    typed: dict[str, set[str]] = {}
    for made in _code(records):
        package = made.__module__.partition(".")[0]
        if package in _WITHOUT_ENTRY:
            continue
        versions = _installed(package)
        if versions is not None:
            found |= versions
        elif files := list(_files(package)):
            found |= {f"source of {package}": _digest(files)}
        else:  # typed into a console or a notebook
            name = f"source of {made.__module__}.{made.__qualname__}"
            text = hashlib.sha256(_text_of(made)).hexdigest()
            typed.setdefault(name, set()).add(text)  # two lambdas have one name
    return found | {name: " ".join(sorted(texts)) for name, texts in typed.items()}


def _code(records: Iterable[Record]) -> set[Any]:
    """Return the classes of records, all their bases, and functions in their options.

    Records within records are included, and all functions and classes that these hold.
    """
    found: set[Any] = set()
    for record in records:
        for cls in type(record).__mro__:
            found |= held_by(cls).code
        for value in record.options().values():
            values = value if isinstance(value, tuple) else (value,)
            found |= _code(each for each in values if isinstance(each, Record))
            for each in filter(callable, values):
                found |= held_by(each).code
    return found


def _files(package: str) -> Iterator[Path]:
    """Yield the Python files of a package, or the file of a module."""
    module = sys.modules.get(package)
    folders = [Path(folder) for folder in getattr(module, "__path__", ())]
    for folder in folders:
        yield from sorted(folder.rglob("*.py"))
    file = getattr(module, "__file__", None)
    if not folders and file is not None and Path(file).is_file():
        yield Path(file)


@cache
def _installed(package: str) -> dict[str, str] | None:
    """Return the versions of a package's distributions; None if not installed."""
    folders = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")}
    folders |= {Path(each) for each in sys.path if each.endswith("-packages")}
    places = {folder.resolve() for folder in folders}
    files = list(_files(package))
    if not files or not all(
        places.intersection(file.resolve().parents) for file in files
    ):
        return None
    versions = {}
    for name in packages_distributions().get(package, ()):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions or None


def _digest(files: Iterable[Path]) -> str:
    """Return a SHA-256 over the files of a package."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _text_of(made: Any) -> bytes:
    """Return the source of a class or function, or else its bytecode and constants."""
    try:
        return inspect.getsource(made).encode()
    except (OSError, TypeError):
        if isinstance(made, FunctionType):
            return repr(_content(made)).encode()
        parts = [
            (name, _content(value))
            for name, value in sorted(vars(made).items())
            if not name.startswith("__") or isinstance(value, FunctionType)
        ]
        return repr(parts).encode()


def _content(value: object) -> object:
    """Return the form of an attribute of a class, to detect a change."""
    match value:
        case FunctionType():
            by_name = sorted((value.__kwdefaults__ or {}).items())
            defaults = [*(value.__defaults__ or ()), *(each for _, each in by_name)]
            names = [name for name, _ in by_name]
            return _content(value.__code__), names, [*map(_content, defaults)]
        case CodeType():
            return _code_content(value)
        case staticmethod() | classmethod():
            return _content(value.__func__)
        case property():
            return [_content(each) for each in (value.fget, value.fset, value.fdel)]
        case bool() | int() | float() | complex() | str() | bytes() | tuple() | None:
            return repr(value)
        case _:
            return type(value).__name__  # its repr may hold an address


def _code_content(code: CodeType) -> object:
    """Return the form of bytecode without its file and lines: a notebook changes both.

    The order of constant sets differs between processes.
    """
    return (
        *(code.co_code, code.co_names, code.co_varnames, code.co_freevars),
        *(code.co_argcount, code.co_kwonlyargcount),
        *(
            sorted(map(repr, each)) if isinstance(each, frozenset) else _content(each)
            for each in code.co_consts
        ),
    )
