"""The options of all records: the name, type, default and description of each."""

import inspect
import re
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from dd_plugins.errors import UnknownNameError
from dd_plugins.plugins.manager import Plugins
from dd_plugins.spec import Record, unknown_name
from dd_plugins.synthetic.views import Views
from dd_plugins.training.recipes import Recipe

__all__ = [
    "Documented",
    "OptionRow",
    "documented",
    "every_record",
    "options_page",
]

_ALSO: dict[str, tuple[type[Record], ...]] = {"recipe": (Recipe,), "views": (Views,)}
"""Records with a spec, registered by no plugin."""
_FIRST = ("distiller", "wrapper", "parametrization", "network", "recipe")


@dataclass(frozen=True)
class OptionRow:
    """An option of a record.

    Attributes:
        name: its name in a spec.
        kind: its type and range, in words: ``"number above 0"``.
        default: its default, as a spec writes it; None if it must be given.
        sentence: its description in the docstring.
    """

    name: str
    kind: str
    default: str | None
    sentence: str


@dataclass(frozen=True)
class Documented:
    """A record with a spec, and its options.

    Attributes:
        kind: its kind: ``"distiller"``.
        name: its name in a spec.
        summary: the first paragraph of its docstring.
        options: its options, in the order of declaration.
    """

    kind: str
    name: str
    summary: str
    options: tuple[OptionRow, ...]


def documented(plugins: Plugins, name: str | None = None) -> list[Documented]:
    """Return all records, or those of one name: a network and a kernel may share it.

    Raises:
        UnknownNameError: no record has the name; the message lists the nearest names.
    """
    records = list(every_record(plugins))
    found = [
        _documented(kind, record)
        for kind, record in sorted(records, key=_place)
        if name in (None, record.name, *record.aliases)
    ]
    if name is not None and not found:
        known = sorted({record.name for _, record in records})
        raise UnknownNameError(unknown_name("name", name, known))
    return found


def _place(found: tuple[str, type[Record]]) -> tuple[int, str]:
    """Return the place of a record: most readers look for a distiller."""
    kind = found[0]
    return _FIRST.index(kind) if kind in _FIRST else len(_FIRST), kind


def every_record(plugins: Plugins) -> Iterator[tuple[str, type[Record]]]:
    """Yield the kind and class of each record with a spec."""
    seen: set[type[Record]] = set()
    for registry in [*plugins.record_registries, *plugins.collect_all()]:
        for name in registry.names():
            record: type[Record] = registry.get(name)
            kind = registry.kind
            if kind == "distiller" and "base" in record.positional:
                kind = "wrapper"
            yield kind, record
            for option, parts in record.parts.items():
                fresh = [part for part in parts if part not in seen]
                seen.update(fresh)
                yield from ((option, part) for part in fresh)
    for kind, records in _ALSO.items():
        yield from ((kind, record) for record in records if record not in seen)


def _documented(kind: str, record: type[Record]) -> Documented:
    text = inspect.getdoc(record) or ""
    sentences: dict[str, str] = {}
    for base in reversed(record.__mro__):  # a class describes its own options
        sentences |= dict(_arguments(inspect.cleandoc(base.__doc__ or "")))
    fields: dict[str, Any] = record.__pydantic_fields__  # type: ignore[attr-defined]
    options = []
    for name, field in fields.items():
        needed = field.is_required()
        default = field.get_default(call_default_factory=True)
        options.append(
            OptionRow(
                name,
                _kind(field.annotation, tuple(field.metadata)),
                None if needed else repr(default),
                sentences.get(name, ""),
            )
        )
    return Documented(kind, record.name, _plain(text.split("\n\n")[0]), tuple(options))


def _arguments(text: str) -> Iterator[tuple[str, str]]:
    """Yield the name and description of each argument in a docstring."""
    section = re.search(r"^Args:\n((?:    .*\n?|\n)+)", text, re.M)
    if section is None:
        return
    for entry in re.split(r"\n(?=    \S)", section[1].rstrip()):
        name, _, said = entry.strip().partition(":")
        yield name.strip(), _plain(said)


def _plain(text: str) -> str:
    """Return a docstring's text as one line, without its markup."""
    line = " ".join(text.split())
    line = re.sub(r":\w+:`~?(?:[\w.\\ ]*\.)?([^`]+)`", r"\1", line)
    return line.replace("``", "").strip()


_WORDS: dict[Any, str] = {
    int: "whole number",
    float: "number",
    bool: "True or False",
    str: "text",
    type(None): "None",
    Callable: "function of Python",
}
_BOUNDS = {
    "gt": "above {}",
    "ge": "at least {}",
    "lt": "below {}",
    "le": "at most {}",
}


def _kind(annotation: Any, metadata: tuple[Any, ...] = ()) -> str:
    """Return a type and its range, in words."""
    bounds = " and ".join(_bounds(metadata))
    return f"{_type(annotation)} {bounds}" if bounds else _type(annotation)


def _type(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], parts[1:])
    if origin in (Union, types.UnionType):
        return " or ".join(map(_type, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    if origin is tuple:
        inner = [part for part in parts if part is not Ellipsis]
        return f"several, each {_type(inner[0])}" if inner else "several"
    for kind in (origin, annotation):
        if kind in _WORDS:
            return _WORDS[kind]
    name = getattr(annotation, "__name__", str(annotation))
    return f"spec of a {_in_words(name)}"


def _bounds(metadata: tuple[Any, ...]) -> Iterator[str]:
    for each in metadata:
        yield from _bounds(tuple(getattr(each, "metadata", ())))
        for name, words in _BOUNDS.items():
            if getattr(each, name, None) is not None:
                yield words.format(getattr(each, name))


def _in_words(name: str) -> str:
    """Return the name of a class as words: ``AbstractNetwork`` is a network."""
    words = re.findall(r"[A-Z][a-z]+|[A-Z]+(?![a-z])", name.removeprefix("Abstract"))
    return " ".join(word.lower() for word in words) or name


def options_page(plugins: Plugins) -> str:
    """Return all records and their options as a page of Markdown."""
    lines = ["# Options", ""]
    lines += [
        "Everything that a spec may name, from the code. `dd-plugins options NAME` "
        "shows the same, and what installed plugins add.",
        "",
    ]
    for found in documented(plugins):
        lines += [f"## `{found.name}` ({found.kind})", "", found.summary, ""]
        if not found.options:
            lines += ["It has no options.", ""]
            continue
        lines += ["| option | type | default | what it does |", "|---|---|---|---|"]
        for option in found.options:
            default = "must be given" if option.default is None else option.default
            cells = (f"`{option.name}`", option.kind, f"`{default}`", option.sentence)
            lines.append(
                f"| {' | '.join(each.replace('|', ' or ') for each in cells)} |"
            )
        lines.append("")
    return "\n".join(lines)
