"""The values that a function holds, and the functions and classes among them."""

import functools
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from dd_plugins.runtime.held_values import held_by


def classifier(num_classes: int, *held: object, **named: object) -> None:
    """Stand for a function that makes a network."""


def closure(value: Any) -> Callable[[int], Any]:
    return lambda num_classes: classifier(num_classes, value)


def default(value: Any) -> Callable[..., Any]:
    return lambda num_classes, act=value: classifier(num_classes, act)


def named_default(value: Any) -> Callable[..., Any]:
    return lambda num_classes, *, act=value: classifier(num_classes, act)


def bound(value: Any) -> Callable[..., Any]:
    return functools.partial(classifier, act=value)


def within(value: Any) -> Callable[..., Any]:
    return functools.partial(classifier, {"layers": [(closure(value),)]})


class Maker:
    """A callable object, with a method that makes a network too."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, num_classes: int) -> None:
        classifier(num_classes, self.value)


def method(value: Any) -> Callable[..., Any]:
    return Maker(value).__call__


def local_class(value: Any) -> type:
    class Local(nn.Module):
        act = value

    return Local


def local_method(value: Any) -> type:
    class Local(nn.Module):
        def forward(self, images: torch.Tensor) -> Any:
            return value(super().forward(images))

    return Local


@pytest.mark.parametrize(
    "make",
    [
        *(closure, default, named_default, bound, within, Maker, method),
        *(local_class, local_method),
    ],
)
def test_functions_that_hold_other_values_differ(make: Callable[[Any], Any]) -> None:
    values = [torch.relu, torch.tanh, functools.partial(torch.relu), abs, max]
    digests = [held_by(make(value)).values for value in values]
    assert all(digests)
    assert len({*digests}) == len(values)
    assert [held_by(make(value)).values for value in values] == digests


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        ("a", "b"),
        (b"a", b"b"),
        ({"a", "b"}, {"a", "c"}),
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (torch.zeros(2), torch.zeros(2, 1)),
        (torch.float32, torch.float64),
        (np.zeros(2), np.ones(2)),
        (nn.Linear(2, 2), nn.Linear(2, 2)),
        (torch, np),
    ],
)
def test_values_of_every_kind_count(one: Any, other: Any) -> None:
    assert held_by(closure(one)).values != held_by(closure(other)).values


def test_a_function_that_holds_nothing_has_no_values() -> None:
    for function in (classifier, Maker, functools.partial(classifier, width=2)):
        assert held_by(function).values == ""


def test_circles_end() -> None:
    circle: list[Any] = []
    circle.append(circle)
    assert held_by(closure(circle)).values != held_by(closure([])).values

    def twice(num_classes: int) -> Any:
        return twice(num_classes)

    assert held_by(twice).code == {twice}


def test_an_object_of_unknown_content_makes_the_values_unknown() -> None:
    assert held_by(closure(threading.Lock())).values is None


def test_functions_and_classes_inside_are_found() -> None:
    inner = closure(Maker)
    assert {classifier, inner, Maker} <= held_by(bound(inner)).code


SCRIPT = """
import torch
from torch import nn, tanh
act = {act}
class Block(nn.Module):
    def forward(self, images):
        return [act(each) for each in images], tanh(images)
class Net(nn.Module):
    def __init__(self):
        self.block = Block()
make = lambda num_classes: Net(num_classes)
plain = lambda num_classes: tanh(num_classes)
"""


def test_what_a_function_of_a_script_names_counts() -> None:
    def script(act: str) -> dict[str, Any]:
        names: dict[str, Any] = {"__name__": "__main__"}
        exec(SCRIPT.format(act=act), names)
        return names

    relu, again, other = map(script, ("torch.relu", "torch.relu", "torch.sigmoid"))
    assert {relu["Net"], relu["Block"]} <= held_by(relu["make"]).code
    assert held_by(relu["make"]).values == held_by(again["make"]).values
    assert held_by(relu["make"]).values != held_by(other["make"]).values
    assert held_by(relu["plain"]).values == ""
