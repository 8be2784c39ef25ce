"""A wrapper is its base but for what it changes: every member is passed on."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

import dd_plugins
from dd_plugins.api import (
    AbstractDistiller,
    AbstractState,
    AbstractWrapper,
    Leaves,
    Task,
    WrappedState,
    record,
)
from dd_plugins.distillers.dm import DM
from dd_plugins.errors import PluginError
from dd_plugins.testing import PassThrough, toy_data

MEMBERS = [name for name in vars(AbstractDistiller) if not name.startswith("_")]
PROPERTIES = [
    name for name in MEMBERS if isinstance(vars(AbstractDistiller)[name], property)
]
CHANGED = ["for_task", "accumulate"]
METHODS = [name for name in MEMBERS if name not in PROPERTIES and name not in CHANGED]


class Answer:
    """What the base returns, to be told from all else."""


def recording(told: list[tuple[str, tuple[Any, ...]]]) -> AbstractDistiller[Any]:
    """Return a distiller that answers each call in its own way, and notes it."""

    def method(name: str) -> Any:
        answer = Answer()

        def called(self: Any, *given: Any) -> Any:
            told.append((name, given))
            return answer

        return called

    members: dict[str, Any] = {name: method(name) for name in METHODS}
    for name in PROPERTIES:
        members[name] = property(method(name))
    return type("Recording", (DM,), members)()


@dataclass
class Outer(AbstractState):
    """The state of a wrapper that has objects of its own."""

    within: AbstractState

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        del state


@record
class Holding(AbstractWrapper):
    """Keeps the base's state in its own."""

    name = "holding"

    def adjust(self, *given: Any) -> Any:
        return {}

    def inner(self, state: AbstractState) -> AbstractState:
        assert isinstance(state, Outer)
        return state.within


@pytest.mark.parametrize("name", PROPERTIES)
def test_what_the_base_is_the_wrapper_is(name: str) -> None:
    told: list[Any] = []
    base = recording(told)
    assert getattr(PassThrough(base), name) is getattr(base, name)
    assert getattr(Holding(PassThrough(base)), name) is getattr(base, name)


@pytest.mark.parametrize("name", METHODS)
def test_what_the_wrapper_is_asked_the_base_answers(name: str) -> None:
    told: list[tuple[str, tuple[Any, ...]]] = []
    base = recording(told)
    inner = object()
    outer = Outer(None, inner)  # type: ignore[arg-type]
    with_state = name in ("advance", "labels", "teacher", "privacy", "predictor")
    count = vars(AbstractDistiller)[name].__code__.co_argcount - 1
    rest = tuple(object() for _ in range(count - with_state))
    given = ((outer,) if with_state else ()) + rest
    got = getattr(Holding(PassThrough(base)), name)(*given)
    expected = None if name == "advance" else getattr(base, name)(*given)
    assert got is expected
    assert told[0] == (name, ((inner,) if with_state else ()) + rest)


def leaves() -> Leaves:
    pixels = torch.zeros(2, 1, 2, 2, requires_grad=True)
    return Leaves(pixels, torch.eye(2), torch.arange(2))


def test_the_gradient_is_adjusted_after_the_base_has_added_to_it() -> None:
    told: list[Any] = []

    def accumulate(self: Any, state: Any, leaves: Leaves, *rest: Any) -> Any:
        told.append(state)
        leaves.pixels.grad = torch.ones_like(leaves.pixels)
        return {"loss": torch.tensor(1.0), "kept": torch.tensor(2.0)}

    @record
    class Twice(Holding):
        name = "twice"

        def adjust(self, state: Any, leaves: Leaves, real: Any, step: int) -> Any:
            assert leaves.pixels.grad is not None
            leaves.pixels.grad.mul_(2).add_(step)
            told.append((state, real))
            return {"loss": torch.tensor(9.0)}

    base = type("Base", (DM,), {"accumulate": accumulate})()
    seen, inner, real = leaves(), object(), object()
    outer = Outer(None, inner)  # type: ignore[arg-type]
    metrics = Twice(base).accumulate(outer, seen, real, 3)  # type: ignore[arg-type]
    assert seen.pixels.grad is not None
    assert seen.pixels.grad.unique().tolist() == [5.0]
    assert told == [inner, (outer, real)]
    assert {name: float(value) for name, value in metrics.items()} == {
        "loss": 9.0,
        "kept": 2.0,
    }


def test_options_of_the_base_are_settled_however_deep_it_stands() -> None:
    task = Task("toy", (1, 8, 8), 2, 7, 500)
    base = dd_plugins.get_distiller("frepo")
    settled = PassThrough(PassThrough(base)).for_task(task)
    assert settled == PassThrough(PassThrough(base.for_task(task)))
    assert base.for_task(task) != base, "else this would tell nothing"


@pytest.mark.parametrize(
    "spec", ["frepo(pool_size=2)", "dsa", "dm", "kmeans(training_steps=0)"]
)
def test_a_wrapper_that_changes_nothing_gives_the_same_set(spec: str) -> None:
    options: dict[str, Any] = {"steps": 3, "network": "mlp(width=4)"}
    base = dd_plugins.get_distiller(spec)
    plain = dd_plugins.distill(toy_data(validation=0), base, **options)
    wrapped = PassThrough(PassThrough(base))
    same = dd_plugins.distill(toy_data(validation=0), wrapped, **options)
    assert torch.equal(plain.images, same.images)
    assert torch.equal(plain.labels, same.labels)
    for name in ("recipe", "label_kind", "value_space", "network", "initial_images"):
        assert getattr(same.header, name) == getattr(plain.header, name)


def test_a_state_that_would_be_merged_as_its_base_s_is_refused() -> None:
    with pytest.raises(PluginError, match="Counting defines state_dict, so it must"):

        class Counting(WrappedState):
            def state_dict(self) -> dict[str, Any]:
                return {"base": self.base.state_dict()}
