"""Spec strings: what is read, what is refused, and in which words."""

import dataclasses
import datetime
import enum
import re
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest
import torch
from pydantic import Field

from dd_plugins import (
    AbstractDistiller,
    AbstractNetwork,
    get_distiller,
    get_network,
    record,
)
from dd_plugins.distillers.dm import DM
from dd_plugins.distillers.frepo import FRePo
from dd_plugins.errors import DDError, OptionError, PluginError, UnknownNameError
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.plugins.manager import Plugins
from dd_plugins.spec import Call, Record, parse, read, shared_spec, split_specs


class Heat(enum.Enum):
    HIGH = "high"


@record
class Oven(AbstractNetwork):
    """A record with every type of option that a spec can write."""

    name = "oven"

    label: str = "plain"
    ratio: float = 1.0
    sizes: tuple[int, ...] = (1, 2)
    turbo: bool | None = None
    mode: Literal["hot", "cold"] = "hot"

    def construct(self, *given: Any, **options: Any) -> FeatureNetwork:
        raise NotImplementedError


def one_line(error: BaseException) -> str:
    """Return the message, which must be one line that a terminal can show."""
    text = str(error)
    assert text.isprintable(), f"not one printable line: {text!r}"
    return text


@pytest.mark.parametrize(
    ("option", "annotation", "told"),
    [
        ("at", Path, "has type Path, which no spec can write; use str"),
        ("at", Path | None, "has type Path, which no spec can write; use str"),
        ("on", torch.device, "has type device, .* use str"),
        ("kind", torch.dtype, "has type dtype, .* use str"),
        ("mode", Heat, "has type Heat, .* use a Literal"),
        ("rates", dict[str, float], "has type dict, .* use an option for each key"),
        ("sizes", list[int], "has type list, .* use a tuple"),
        ("sizes", set[int], "has type set, .* use a tuple"),
        ("pairs", tuple[frozenset[int], ...], "has type frozenset, .* use a tuple"),
        ("values", torch.Tensor, "has type Tensor, .* use str"),
        ("values", np.ndarray, "has type ndarray, .* use str"),
        ("day", datetime.date, "has type date, .* use str"),
        ("optimizer", str, r"has the name of DM\.optimizer; "),
        ("schedule", int, r"has the name of AbstractDistiller\.schedule; "),
        ("bounded", bool, r"has the name of AbstractDistiller\.bounded; "),
        ("options", int, r"has the name of Record\.options; "),
        ("positional", int, r"has the name of Record\.positional; "),
        ("name", str, r"has the name of Record\.name; "),
    ],
)
def test_an_option_without_a_form_or_name_of_its_own_is_refused(
    option: str, annotation: Any, told: str
) -> None:
    made = type("Odd", (DM,), {"__annotations__": {option: annotation}})
    with pytest.raises(PluginError, match=f"Odd: option '{option}' {told}"):
        record(made)


@pytest.mark.parametrize(
    "annotation",
    [
        Literal["a", 2],
        Annotated[int, Field(gt=0)] | None,
        tuple[tuple[float, ...], str],
        AbstractDistiller[Any],
        tuple[AbstractNetwork, ...],
        Callable[..., Any] | str,
    ],
)
def test_an_option_with_a_form_in_specs_is_taken(annotation: Any) -> None:
    made = type("Fine", (DM,), {"__annotations__": {"extra": annotation}, "extra": 2})
    assert record(made)


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("frepo", Call("frepo")),
        ("  frepo() ", Call("frepo")),
        ("frepo(pool_size=20)", Call("frepo", (), {"pool_size": 20})),
        ("f(-1, x=+2.5)", Call("f", (-1,), {"x": 2.5})),
        ("f([1, 'a'], (None, True))", Call("f", ((1, "a"), (None, True)))),
        ("f(g, h(i))", Call("f", (Call("g"), Call("h", (Call("i"),))))),
    ],
)
def test_names_calls_and_literals_are_read(text: str, call: Call) -> None:
    assert parse(text) == call


@pytest.mark.parametrize(
    "spec",
    [
        "frepo",
        "frepo(pool_size=20)",
        "frepo(ridge=1e-05, learning_rate=0.01, learn_labels=False, flip=True)",
        "clip(frepo)",
        "clip(frepo(pool_size=20), max_norm=0.5)",
        "clip(clip(frepo(flip=False), max_norm=2.0), max_norm=0.5)",
    ],
)
def test_repr_of_a_distiller_is_its_spec(spec: str) -> None:
    distiller = get_distiller(spec)
    assert repr(distiller) == spec
    assert get_distiller(repr(distiller)) == distiller


@pytest.mark.parametrize(
    "spec", ["mlp", "conv(width=32, depth=2)", "conv(normalization='group')"]
)
def test_repr_of_a_network_is_its_spec(spec: str) -> None:
    assert repr(get_network(spec)) == spec


@pytest.mark.parametrize(
    ("written", "shortest"),
    [
        ("frepo(learn_labels=True)", "frepo"),
        ("clip(base=frepo(), max_norm=1)", "clip(frepo)"),
        ("frepo(flip=True, pool_size=3)", "frepo(pool_size=3, flip=True)"),
    ],
)
def test_repr_names_what_differs_from_the_default(written: str, shortest: str) -> None:
    assert repr(get_distiller(written)) == shortest


def test_repr_knows_a_default_that_is_given_by_field() -> None:
    @record
    class Small(Oven):
        name = "small"

        width: int = Field(default=5, gt=0)

    assert repr(Small()) == "small"


@pytest.mark.parametrize(
    "options",
    [
        {"label": 'it\'s "so"\n\\ \x00 ünï 🎈, x=1)'},
        {"ratio": 1e-300},
        {"ratio": -0.1},
        {"sizes": ()},
        {"sizes": (7,), "turbo": False, "mode": "cold"},
    ],
)
def test_any_value_survives_being_written_and_read(options: dict[str, Any]) -> None:
    oven = Oven(**options)
    assert read(Oven, repr(oven), "oven") == oven


@pytest.mark.parametrize(
    "text",
    [
        "open('ran', 'w')",
        "frepo(pool_size=open('ran', 'w'))",
        "frepo(open('ran', 'w'))",
        "frepo(**open('ran', 'w'))",
        "frepo(*open('ran', 'w'))",
        "frepo(ridge=[open('ran', 'w') for _ in (1,)])",
        'frepo(ridge=f\'{open("ran", "w")}\')',
        "frepo(ridge=(lambda: open('ran', 'w'))())",
        "frepo(ridge=(x := open('ran', 'w')))",
        "frepo(ridge=1 if open('ran', 'w') else 2)",
        "frepo(ridge={open('ran', 'w'): 1})",
        "frepo(ridge=-open('ran', 'w'))",
        "frepo(ridge=open('ran', 'w') or 1)",
        "(lambda: open('ran', 'w'))()",
        "__import__('pathlib').Path('ran').touch()",
        "frepo(pool_size=__import__('os').system('touch ran'))",
        "open('ran', 'w').close()",
        "open",
        "frepo.__class__",
        "frepo[open('ran', 'w')]",
    ],
)
def test_hostile_text_is_refused_and_not_evaluated(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises((OptionError, UnknownNameError)) as refused:
        get_distiller(text)
    one_line(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  ",
        "1",
        "None",
        "'frepo'",
        "frepo(",
        "frepo)",
        "frepo; frepo",
        "frepo\nfrepo",
        "frepo = 1",
        "frepo(pool_size=1, pool_size=2)",
        "frepo(pool_size=)",
        "frepo(\0)",
        "frepo(\ud800)",
        "frépo(1 2)",
    ],
)
def test_malformed_text_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(OptionError, match="expected a name") as refused:
        get_distiller(text)
    assert repr(text) in one_line(refused.value)


def test_specs_may_be_nested_deeper_than_anybody_needs() -> None:
    spec = "clip(" * 90 + "frepo" + ")" * 90
    assert repr(get_distiller(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        "clip(" * 1000 + "frepo" + ")" * 1000,
        "(" * 9000,
        "[" * 4000 + "]" * 4000,
        "-" * 9000 + "1",
        "frepo(ridge=" + "-" * 9000 + "1)",
        "a" + ".b" * 4900,
        "a" + "()" * 4900,
        "1" + "+1" * 4900,
        "frepo(pool_size=1" + "0" * 5000 + ")",
        "x" * 20_000,
        "frepo(ridge=" + "1," * 100_000 + ")",
    ],
)
def test_exhausting_text_is_refused_in_few_words(text: str) -> None:
    with pytest.raises(OptionError) as refused:
        get_distiller(text)
    assert len(one_line(refused.value)) < 500


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("freppo", "frepo"),
        ("FREPO", "frepo"),
        ("clipp", "clip"),
        ("clip(clip(fepo))", "frepo"),
        ("clip(clap(frepo))", "clip"),
    ],
)
def test_unknown_distiller_lists_the_nearest_first(text: str, nearest: str) -> None:
    with pytest.raises(UnknownNameError, match="unknown distiller") as refused:
        get_distiller(text)
    told = one_line(refused.value).split("nearest first: ")[1]
    listed, more = told.split("; ")
    known = listed.split(", ")
    assert known[0] == nearest
    assert len(set(known)) == 5
    assert re.fullmatch(r"\d+ more", more)


def test_unknown_network_lists_networks_alone() -> None:
    with pytest.raises(UnknownNameError, match="unknown network 'dc_convnett'") as told:
        get_network("dc_convnett")
    known = one_line(told.value).split("nearest first: ")[1].split(", ")
    assert known[0] == "dc_convnet"
    assert "frepo" not in known


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("frepo(poolsize=3)", "frepo: unknown option 'poolsize'.*first: pool_size,"),
        ("clip(frepo(rigde=1))", "frepo: unknown option 'rigde'.*first: ridge,"),
        ("clip", r"clip: a wrapper needs the distiller .*: clip\(frepo\)$"),
        ("clip(max_norm=1)", "clip: a wrapper needs the distiller that it wraps"),
        ("clip(frepo, base=frepo)", "clip: option 'base' is given twice"),
        ("clip(frepo, 2)", "clip: 2 positional argument"),
        ("frepo(20)", "frepo: 1 positional argument"),
    ],
)
def test_unknown_missing_or_misplaced_options_are_told(text: str, told: str) -> None:
    with pytest.raises(OptionError, match=told) as refused:
        get_distiller(text)
    one_line(refused.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        # No value is converted to another type.
        ("pool_size='3'", "pool_size must be a whole number, got '3'"),
        ("pool_size=3.0", "pool_size must be a whole number, got 3.0"),
        ("pool_size=True", "pool_size must be a whole number, got True"),
        ("learn_labels=None", "learn_labels must be True or False, got None"),
        ("pool_size=[3]", r"pool_size must be a whole number, got \(3,\)"),
        ("pool_size=frepo", "pool_size must be a whole number, got frepo"),
        ("learn_labels=1", "learn_labels must be True or False, got 1"),
        ("ridge='1'", "ridge must be a number, got '1'"),
        ("ridge=1j", "ridge must be a number, got 1j"),
        # Ranges.
        ("pool_size=0", "pool_size must be greater than 0, got 0"),
        ("pool_size=-5", "pool_size must be greater than 0, got -5"),
        ("ridge=-1e-9", "ridge must be .*, got -1e-09"),
        ("learning_rate=0", "learning_rate must be greater than 0, got 0"),
        # Infinities.
        ("ridge=1e999", "ridge must be a finite number, got inf"),
        ("ridge=-1e999", "ridge must be a finite number, got -inf"),
        ("ridge=1e999j", "ridge must be a number"),
    ],
)
def test_wrong_values_are_told_with_option_and_value(options: str, told: str) -> None:
    with pytest.raises(OptionError, match=f"^frepo: {told}") as refused:
        get_distiller(f"frepo({options})")
    one_line(refused.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"pool_size": 0}, "^frepo: pool_size must be greater than 0, got 0"),
        ({"pool": 1}, "^frepo: unknown option 'pool'; known, nearest first: pool_"),
    ],
)
def test_python_is_told_the_same(options: dict[str, Any], told: str) -> None:
    with pytest.raises(OptionError, match=told) as refused:
        FRePo(**options)
    one_line(refused.value)
    with pytest.raises(OptionError, match=told):
        dataclasses.replace(FRePo(), **options)


def test_a_choice_lists_what_may_be_chosen() -> None:
    with pytest.raises(
        OptionError, match=r"normalization must be .*'group'.*got 'groups'"
    ):
        get_network("conv(normalization='groups')")


def test_text_of_a_wrong_length_is_no_wrong_type() -> None:
    @record
    class Named(Record):
        name = "named"
        word: Annotated[str, Field(min_length=2)] = "two"

    with pytest.raises(OptionError, match=r"word: String should have at least 2"):
        Named(word="a")
    with pytest.raises(OptionError, match="word must be text, got 3"):
        Named(word=3)  # type: ignore[arg-type]


def test_a_wrapper_refuses_what_is_no_distiller() -> None:
    with pytest.raises(
        OptionError, match=r"clip: base must be .*AbstractDistiller.*got conv"
    ):
        get_distiller("clip(conv)")


@pytest.mark.parametrize(
    ("error", "meant"), [(OptionError, ValueError), (UnknownNameError, LookupError)]
)
def test_errors_are_ours_and_the_builtin_they_mean(
    error: type[DDError], meant: type[Exception]
) -> None:
    assert issubclass(error, DDError)
    assert issubclass(error, meant)
    assert error.exit_status == 2


def test_a_record_cannot_be_changed() -> None:
    distiller = get_distiller("frepo")
    with pytest.raises(AttributeError):
        distiller.pool_size = 3  # type: ignore[attr-defined]


BIG = "0x" + "f" * 5000


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("frepo(self=1)", "unknown option 'self'"),
        ("frepo(__dataclass_self__=1)", "unknown option '__dataclass_self__'"),
        (f"frepo(learning_rate={BIG})", "at most 64 bits"),
        (f"frepo(pool_size={BIG})", "at most 64 bits"),
        (f"frepo(pool_size=-{BIG})", "at most 64 bits"),
        (f"metadd(frepo, stages=(1, {BIG}))", "at most 64 bits"),
        ("frepo(loss='\\d')", "invalid escape"),
        ("frepo(pool_size=1if 1 else 2)", "invalid decimal literal"),
        ("frepo(pool_size=" + "-" * 9000 + "1)", "nested too deeply"),
        ("frepo(pool_size=not 1)", "not 1' is not a literal"),
    ],
)
def test_hostile_specs_are_refused_in_a_line(text: str, told: str) -> None:
    with pytest.raises(OptionError) as refused:
        get_distiller(text)
    assert told in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert len(str(refused.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["mlp," * 5000, "-" * 9000 + "1", "not " * 2400 + "1", f"mlp({BIG})", "", 5]
)
def test_hostile_lists_of_specs_are_refused_in_a_line(text: str) -> None:
    with pytest.raises(OptionError, match="expected specs") as refused:
        split_specs(text)
    assert len(str(refused.value)) < 500


def test_python_may_not_give_a_number_that_cannot_be_printed_either() -> None:
    with pytest.raises(OptionError, match="pool_size must be of at most 64 bits"):
        FRePo(pool_size=10**5000)


@pytest.mark.parametrize(
    ("one", "other", "shared"),
    [
        ("conv", "conv", "conv"),
        ("conv(width=4, depth=2)", "conv(depth=2, width=4)", "conv(width=4, depth=2)"),
        ("conv(normalization='batch')", "conv(normalization='none')", "conv"),
        ("conv(width=4)", "conv", "conv"),
        ("timm('a', pretrained=True)", "timm('a')", "timm('a')"),
        ("conv(width=4)", "mlp(width=8)", "conv(width=4)"),
        ("a network of others", "a network of others", "a network of others"),
        ("conv(width=4)", "no spec!", "conv(width=4)"),
    ],
)
def test_a_spec_keeps_the_options_that_another_shares(
    one: str, other: str, shared: str
) -> None:
    assert shared_spec(one, other) == shared


@pytest.mark.parametrize(
    ("find", "spec", "told"),
    [
        ("distiller", "mtt(label_learning_rate=5.0)", "learn_labels: .* 5.0"),
        ("distiller", "mtt(label_momentum=0.5)", "no label_momentum, got 0.5"),
        ("distiller", "rotated(dm, current_images=3)", "no current_images, got 3"),
        (
            "distiller",
            "kip(learn_labels=True, label_solve=True)",
            "kip: label_solve=True .*: expected no learn_labels, got True",
        ),
        (
            "parametrization",
            "generator(weights='random', recipe=decoder_recipe(steps=5))",
            "no recipe, got",
        ),
        (
            "parametrization",
            "generator(weights='random', missing_generator='refuse')",
            "no missing_generator, got 'refuse'",
        ),
    ],
)
def test_options_without_effect_are_refused(find: str, spec: str, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        getattr(Plugins(load=[]), find)(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "mtt(label_learning_rate=2.0, label_momentum=0.9)",
        "mtt(learn_labels=True, label_learning_rate=5.0)",
        "rotated(dm, current_images=10)",
        "rotated(dm, current_turns=1, current_images=3)",
        "kip(learn_labels=False, label_solve=True)",
    ],
)
def test_options_with_an_effect_or_at_their_default_are_taken(spec: str) -> None:
    built = Plugins(load=[]).distiller(spec)
    assert Plugins(load=[]).distiller(repr(built)) == built
