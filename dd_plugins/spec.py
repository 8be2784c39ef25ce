"""Spec strings, ``metadd(frepo(pool_size=20), weight=0.5)``, and their objects.

A spec string is a name, or a call with literal arguments; an argument may itself be a
spec. The string is parsed to Python's syntax tree and never evaluated. The ``repr`` of
a record is its spec.
"""

import ast
import dataclasses
import functools
import warnings
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any, ClassVar, TypeGuard, TypeVar, dataclass_transform

import pydantic
import pydantic.dataclasses

from dd_plugins.errors import OptionError, PluginError, UnknownNameError
from dd_plugins.option_types import fault_of_options
from dd_plugins.runtime.text import counted

__all__ = [
    "Call",
    "Record",
    "build_part",
    "is_record",
    "names_of",
    "parse",
    "read",
    "record",
    "refuse_without_effect",
    "split_specs",
    "takes_text",
    "unknown_name",
]

_MAX_LENGTH = 10_000  # people type specs; deep nesting exhausts the parser
_MAX_BITS = 64  # of an int: torch takes no more, and Python refuses to print huge ones
_LISTED = 5  # names in the error for an unknown one
_MARK = "__made_by_record__"

RecordType = TypeVar("RecordType", bound="Record")


@dataclasses.dataclass(frozen=True)
class Call:
    """A parsed spec: a registered name and its arguments, not looked up yet.

    Attributes:
        name: the registered name.
        arguments: positional arguments: literals, tuples or further calls.
        options: keyword arguments, likewise.
    """

    name: str
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)


class Record:
    """An immutable, validated record of options, built from a spec.

    Attributes:
        name: the registered name of the class, an identifier.
        positional: the fields accepted by position, in a spec or in Python.
        aliases: earlier names of the class, still valid in specs.
        parts: for an option whose value is a record but not a plugin, the classes of
            this record. A kernel is one: ``kip(kernel=fc(depth=2))``.
    """

    name: ClassVar[str]
    positional: ClassVar[tuple[str, ...]] = ()
    aliases: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[Mapping[str, tuple[type["Record"], ...]]] = {}

    def options(self) -> dict[str, Any]:
        """Return every field with its value, in the order of declaration."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    def __repr__(self) -> str:
        """Return the spec: the name, positional fields, and options not at defaults."""
        positional = [repr(getattr(self, field)) for field in self.positional]
        arguments = ", ".join(positional + self.named_options(but=self.positional))
        return f"{self.name}({arguments})" if arguments else self.name

    def named_options(self, but: tuple[str, ...] = ()) -> list[str]:
        """Return ``name=value`` for each option not at its default.

        Args:
            but: options to leave out.
        """
        return [
            f"{name}={value!r}"
            for name, value in self.options().items()
            if name not in but and value != _default(type(self), name)
        ]


def _default(cls: type[Record], option: str) -> object:
    """Return the default of an option, set plainly or by ``pydantic.Field``."""
    fields: dict[str, pydantic.fields.FieldInfo] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return fields[option].get_default(call_default_factory=True)


def refuse_without_effect(given: Record, options: Iterable[str], why: str) -> None:
    """Refuse options that others leave without effect, unless they are at the default.

    It is for validators: a record turns a ValueError into an OptionError.

    Args:
        given: a record, as made so far.
        options: the names of options without effect.
        why: a sentence that names the other option, for the message.

    Raises:
        ValueError: such an option is not at its default.
    """
    for name in options:
        value = getattr(given, name)
        if value != _default(type(given), name):
            raise ValueError(f"{why}: expected no {name}, got {value!r}")


@dataclass_transform(
    kw_only_default=True, frozen_default=True, field_specifiers=(pydantic.Field,)
)
def record(cls: type[RecordType]) -> type[RecordType]:
    """Make a subclass of :class:`Record` a frozen, validated dataclass.

    Options are passed by name; those in ``positional`` by position as well.

    Types are checked strictly: no string becomes a number. Unknown options, infinities
    and NaN are refused. Each fault raises an OptionError of one line, whether a spec or
    Python code is wrong.

    Raises:
        PluginError: an option hides a method, or no spec can write its values.
    """
    config = pydantic.ConfigDict(
        extra="forbid", strict=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )
    decorate = pydantic.dataclasses.dataclass(
        frozen=True, kw_only=True, repr=False, config=config
    )
    made: type[RecordType] = decorate(cls)  # type: ignore[assignment]
    fields: dict[str, pydantic.fields.FieldInfo] = made.__pydantic_fields__  # type: ignore[attr-defined]
    types = {name: field.annotation for name, field in fields.items()}
    fault = fault_of_options(made, Record, types)
    if fault is not None:
        raise PluginError(f"{cls.__name__}: {fault}")
    validate = made.__init__

    @functools.wraps(validate)
    def construct(self: RecordType, /, *arguments: Any, **options: Any) -> None:
        options = _by_name(type(self), arguments, options)
        _check_options(type(self), options)
        try:
            validate(self, **options)
        except pydantic.ValidationError as error:
            raise OptionError(f"{self.name}: {_one_line(type(self), error)}") from None

    made.__init__ = construct  # type: ignore[assignment, method-assign]
    setattr(made, _MARK, True)
    return made


def is_record(cls: type) -> TypeGuard[type[Record]]:
    """Return whether :func:`record` made this class itself, not only a base of it."""
    return _MARK in vars(cls)


def _by_name(
    cls: type[Record], arguments: Sequence[Any], options: dict[str, Any]
) -> dict[str, Any]:
    """Return all options by name, those given by position before the others.

    Raises:
        OptionError: there are too many arguments, or an option is given twice.
    """
    if len(arguments) > len(cls.positional):
        noun = "argument" if len(arguments) == 1 else "arguments"
        takes = ", ".join(cls.positional) or "none; name its options"
        raise OptionError(
            f"{cls.name}: {len(arguments)} positional {noun} given, it takes {takes}"
        )
    given = dict(zip(cls.positional, arguments, strict=False))
    if twice := sorted(given.keys() & options.keys()):
        raise OptionError(
            f"{cls.name}: option {twice[0]!r} is given twice, expected once"
        )
    return given | options


def _check_options(cls: type[Record], options: dict[str, Any]) -> None:
    """Refuse unknown options, and whole numbers too large to be validated or printed.

    Raises:
        OptionError: an option is unknown, or a whole number has more than 64 bits.
    """
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    for name, value in options.items():
        if name not in known:
            raise OptionError(f"{cls.name}: {unknown_name('option', name, known)}")
        values = value if isinstance(value, tuple | list) else (value,)
        sizes = [each.bit_length() for each in values if isinstance(each, int)]
        if max(sizes, default=0) > _MAX_BITS:
            raise OptionError(
                f"{cls.name}: {name} must be of at most {_MAX_BITS} bits, got a whole "
                f"number of {max(sizes)} bits; give a smaller one"
            )


def build_part(cls: type[Record], option: str, call: Call) -> Record:
    """Build the record of an option listed in :attr:`Record.parts`.

    Raises:
        OptionError: the spec is malformed, or an option is out of its range.
        UnknownNameError: the option takes no record of this name.
    """
    known = {part.name: part for part in cls.parts[option]}
    if call.name not in known:
        raise unknown_name(f"{option} of {cls.name}", call.name, sorted(known))
    return _build_of_literals(known[call.name], call)


def _build_of_literals(cls: type[RecordType], call: Call) -> RecordType:
    """Build a record whose options are literals or records of its own parts.

    Raises:
        OptionError: an option is a name in place of a value, or out of its range.
        UnknownNameError: an option takes no record of this name.
    """
    options: dict[str, Any] = {}
    for name, value in call.options.items():
        if isinstance(value, Call):
            if name not in cls.parts:
                raise OptionError(
                    f"{call.name}: {name}={value.name} is no value; quote text "
                    f"({value.name!r}), and write True, False or None with a capital"
                )
            options[name] = build_part(cls, name, value)
        else:
            options[name] = value
    return cls(*call.arguments, **options)


def takes_text(cls: type[Record], option: str) -> bool:
    """Return whether an option is text, so a spec must quote it."""
    fields: dict[str, pydantic.fields.FieldInfo] = cls.__pydantic_fields__  # type: ignore[attr-defined]
    return option in fields and fields[option].annotation is str


def read(cls: type[RecordType], spec: str, example: str) -> RecordType:
    """Build a record of one class, outside all registries, from a spec.

    Args:
        cls: the record class.
        spec: the spec, such as ``"recipe(steps=300)"``.
        example: a spec of this class, for the error message.

    Raises:
        OptionError: the spec is malformed, or names another class, or an option is out
            of its range.
    """
    call = parse(spec)
    if call.name != cls.name:
        raise OptionError(f"expected {cls.name}, such as {example!r}, got {spec!r}")
    return _build_of_literals(cls, call)


_PYDANTICS = "Input should be "
_WANTED = {
    "bool_type": "True or False",
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "tuple_type": "a tuple",
}
"""How errors name the type of an option, by the name of pydantic's fault."""


def _one_line(cls: type[Record], error: pydantic.ValidationError) -> str:
    """Describe the first fault in the options of ``cls``."""
    detail = error.errors()[0]
    option = ".".join(str(part) for part in detail["loc"])
    known = [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return str(unknown_name("option", option, known))
    if detail["type"] in ("missing", "missing_keyword_only_argument"):
        example = f"a wrapper needs the distiller that it wraps: {cls.name}(frepo)"
        return example if option == "base" else f"option {option!r} is required"
    message = " ".join(detail["msg"].removeprefix("Value error, ").split())
    if not option:  # the options do not fit together
        return str(message)
    wanted = _WANTED.get(detail["type"])
    if wanted is None and message.startswith(_PYDANTICS):
        wanted = message.removeprefix(_PYDANTICS)
        wanted = wanted.replace("greater than or equal to", "at least")
        wanted = wanted.replace("less than or equal to", "at most")
    if detail["type"] == "too_short":
        fewest = counted(detail["ctx"]["min_length"], "item")
        return f"{option} must have at least {fewest}, got {detail['input']!r}"
    if wanted is None:
        return f"{option}: {message}, got {detail['input']!r}"
    return f"{option} must be {wanted}, got {detail['input']!r}"


def parse(text: str) -> Call:
    """Parse a spec string without evaluating it.

    Raises:
        OptionError: the text is not a name or a call with literal arguments.

    Example:
        >>> parse("frepo(pool_size=20)")
        Call(name='frepo', arguments=(), options={'pool_size': 20})
    """
    try:
        value = _value(_tree(text))
    except _UNREADABLE as error:
        raise OptionError(
            f"spec {_shown(text)}: {_reason(error)}; expected a name or a call with "
            "literal arguments, such as 'frepo(pool_size=20)'"
        ) from None
    if not isinstance(value, Call):
        several = "; pass several as a list" if isinstance(value, tuple) else ""
        raise OptionError(
            f"spec {_shown(text)}: expected a name, such as 'frepo'{several}"
        )
    return value


def names_of(spec: str) -> str:
    """Return the name in a spec, with the names of nested specs.

    Text other than a spec, such as the name of a foreign method, is returned as it is.

    Example:
        >>> names_of("metadd(frepo(pool_size=20), weight=0.5)")
        'metadd(frepo)'
    """
    try:
        return _names(parse(spec))
    except OptionError:
        return spec


def _names(call: Call) -> str:
    inside = [_names(each) for each in call.arguments if isinstance(each, Call)]
    base = call.options.get("base")
    inside += [_names(base)] if isinstance(base, Call) else []
    return f"{call.name}({', '.join(inside)})" if inside else call.name


def shared_spec(one: str, other: str) -> str:
    """Return a spec with those of its options that another spec has as well.

    Text other than a spec, and a spec of another name, change nothing.

    Example:
        >>> shared_spec("conv(width=32, normalization='batch')", "conv(width=32)")
        'conv(width=32)'
    """
    try:
        differ = parse(one).name != parse(other).name
    except OptionError:
        return one
    if differ:
        return one
    first, second = _tree(one), _tree(other)
    kept = {ast.unparse(each) for each in getattr(second, "keywords", ())}
    if isinstance(first, ast.Call):
        first.keywords = [each for each in first.keywords if ast.unparse(each) in kept]
        if not (first.args or first.keywords):
            return parse(one).name
    return ast.unparse(first)


def split_specs(text: str) -> list[str]:
    """Split a text at the commas between specs.

    Raises:
        OptionError: the text is not a list of specs.

    Example:
        >>> split_specs("mlp, vgg11(width=16, normalization='none')")
        ['mlp', "vgg11(width=16, normalization='none')"]
    """
    try:
        body = _tree(f"[{text}]" if isinstance(text, str) else text)
        if not isinstance(body, ast.List) or not body.elts:
            raise ValueError("there is none")
        return [ast.unparse(item) for item in body.elts]
    except _UNREADABLE as error:
        raise OptionError(
            f"{_shown(text)}: {_reason(error)}; expected specs separated by commas, "
            "such as 'mlp,conv(width=32)'"
        ) from None


_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)


def _tree(text: str) -> ast.expr:
    """Return the syntax tree of a text; treat a warning of Python as an error.

    Raises:
        SyntaxError: it is not an expression, or a string in it has an unknown escape.
        ValueError: it is too long, or not a string.
        RecursionError: it is nested too deeply.
        MemoryError: likewise.
    """
    if not isinstance(text, str):
        raise ValueError(f"a spec must be text, got {type(text).__name__}")
    if len(text) > _MAX_LENGTH:
        raise ValueError(
            f"a spec has at most {_MAX_LENGTH} characters, got {len(text)}"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        warnings.simplefilter("error", DeprecationWarning)  # of escapes, in Python 3.11
        try:
            return ast.parse(text.strip(), mode="eval").body
        except (SyntaxWarning, DeprecationWarning) as warning:
            raise ValueError(str(warning)) from None


def _shown(text: str) -> str:
    shown = str(text)
    return repr(shown if len(shown) <= 80 else f"{shown[:77]}...")


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError | MemoryError):
        return "nested too deeply"
    text = getattr(error, "msg", None) or str(error) or type(error).__name__
    return " ".join(text.split())


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name):
            return Call(name)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=keywords):
            options: dict[str, Any] = {}
            for keyword in keywords:
                if keyword.arg is None:
                    given = _shown(f"**{ast.unparse(keyword.value)}")
                    raise ValueError(f"options must be named, got {given}")
                if keyword.arg in options:
                    raise ValueError(f"option {keyword.arg!r} must be given only once")
                options[keyword.arg] = _value(keyword.value)
            return Call(
                name, tuple(_value(argument) for argument in arguments), options
            )
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return tuple(_value(item) for item in items)
        case ast.Constant():
            return node.value
        case ast.UnaryOp(
            op=ast.USub() | ast.UAdd(), operand=ast.Constant(value=number)
        ) if type(number) in (int, float, complex):
            return ast.literal_eval(node)
    raise ValueError(f"{ast.unparse(node)!r} is not a literal")


def unknown_name(kind: str, name: str, known: list[str]) -> UnknownNameError:
    """Return the error for an unknown name; it lists the five nearest names."""

    def unlikeness(candidate: str) -> tuple[float, str]:
        likeness = SequenceMatcher(None, name.lower(), candidate.lower()).ratio()
        return -likeness, candidate

    nearest = sorted(known, key=unlikeness)[:_LISTED]
    listed = ", ".join(nearest) or "none"
    if len(known) > _LISTED:
        listed += f"; {len(known) - _LISTED} more"
    return UnknownNameError(f"unknown {kind} {name!r}; known, nearest first: {listed}")
