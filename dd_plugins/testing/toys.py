"""Small data, networks and runs for the checks of plugins."""

import random
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.decoders.base import AbstractDecoder
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.hookspecs import (
    RegisterDecoder,
    RegisterDistiller,
    RegisterNetwork,
    RegisterParametrization,
    RegisterWrapper,
    hookimpl,
)
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.plugins.manager import Plugins
from dd_plugins.plugins.option_table import every_record
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import Record, record
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = [
    "NETWORK",
    "STEPS",
    "Distiller",
    "Interruption",
    "PassThrough",
    "assert_draws_nothing_globally",
    "assert_equal",
    "assert_interrupted",
    "dropout_network",
    "plugins_with",
    "short_run",
    "toy_data",
]

Distiller = AbstractDistiller[Any]
NETWORK = "conv(width=4, depth=2)"
STEPS = 4


def dropout_network(num_classes: int, channels: int) -> nn.Module:
    """Return a fresh network for 8x8 images; it draws at random in training mode."""
    return nn.Sequential(
        nn.Conv2d(channels, 4, kernel_size=3, padding=1),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, num_classes),
    )


def toy_data(*, validation: float = 0.1) -> RealData:
    """Return two classes of 8x8 images, each a bright blob in a corner of its own.

    120 training images with one channel, 40 test images; the same at every call.

    Args:
        validation: the fraction of held-out training images.
    """
    generator = generator_for(0, "toy data")
    labels = torch.arange(160) % 2
    images = 0.3 * torch.rand(160, 1, 8, 8, generator=generator)
    images[labels == 0, :, :4, :4] += 0.5
    images[labels == 1, :, 4:, 4:] += 0.5
    return RealData.from_tensors(
        images[:120],
        labels[:120],
        test=(images[120:], labels[120:]),
        name="toy",
        preprocessing="standardize",
        validation=validation,
    )


@record
class PassThrough(AbstractWrapper):
    """An identity wrapper; it must not change the result."""

    name = "pass_through"
    keeps_privacy = True

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Leave the gradients as they are."""
        del state, leaves, real, step
        return {}


class _PassThroughPlugin:
    """A plugin for the wrapper of this module."""

    @hookimpl
    def dd_register_wrappers(self, register: RegisterWrapper) -> None:
        register(PassThrough)


class _UnderTest:
    """A plugin to register the classes of some records."""

    def __init__(self, classes: set[type[Record]]) -> None:
        self._classes = classes

    def _of(self, base: type[Any]) -> list[type[Any]]:
        return [each for each in self._classes if issubclass(each, base)]

    @hookimpl
    def dd_register_distillers(self, register: RegisterDistiller) -> None:
        for each in self._of(AbstractDistiller):
            register(each)

    @hookimpl
    def dd_register_networks(self, register: RegisterNetwork) -> None:
        for each in self._of(AbstractNetwork):
            register(each)

    @hookimpl
    def dd_register_parametrizations(self, register: RegisterParametrization) -> None:
        for each in self._of(AbstractParametrization):
            register(each)

    @hookimpl
    def dd_register_decoders(self, register: RegisterDecoder) -> None:
        for each in self._of(AbstractDecoder):
            register(each)


class Interruption:
    """An observer to interrupt a run after a number of steps, as a user would."""

    def __init__(self, step: int) -> None:
        self._step = step

    @hookimpl
    def dd_after_step(self, step: int) -> None:
        """Send SIGINT after the step."""
        if step == self._step:
            signal.raise_signal(signal.SIGINT)


def short_run(
    distiller: Distiller | str,
    steps: int = STEPS,
    validation: float = 0.0,
    **options: Any,
) -> dict[str, Any]:
    """Return the arguments of ``distill`` for a short run on the toy problem.

    It has no validation images by default, as their figures take longest.
    """
    quick = {"network": NETWORK, "device": "cpu", "precision": "float32"}
    data = toy_data(validation=validation)
    return quick | {"data": data, "distiller": distiller, "steps": steps} | options


def assert_equal(first: DistilledSet, second: DistilledSet, law: str) -> None:
    """Assert that two sets have the same tensors."""
    same_images = torch.equal(first.images, second.images)
    assert same_images, f"{law}, but the images differ"
    assert torch.equal(first.labels, second.labels), f"{law}, but the labels differ"


def assert_interrupted(run: Callable[[], object]) -> None:
    """Assert that an interruption stops a run."""
    try:
        run()
    except KeyboardInterrupt:
        return
    raise AssertionError("the run must be interrupted on its way, but it ended")


def plugins_with(checked: Record, **extra: object) -> Plugins:
    """Return plugins with the class under test, and those of all records inside."""
    built_in = {each for _, each in every_record(Plugins(load=[]))}
    inside = {type(each) for each in _records_in(checked)}
    extra["under test"] = _UnderTest(inside - built_in)
    return Plugins(load=[], extra={"pass through": _PassThroughPlugin(), **extra})


def _records_in(value: object) -> Iterator[Record]:
    """Yield the records in an option, from the outside in."""
    if isinstance(value, Record):
        yield value
        value = tuple(value.options().values())
    if isinstance(value, tuple):
        for each in value:
            yield from _records_in(each)


def assert_draws_nothing_globally(act: Callable[[], object], law: str) -> None:
    """Assert that a call leaves the generators of torch, NumPy and Python alone.

    Some libraries draw when they are first imported. So a call with imports may be made
    a second time, and the second decides.

    Raises:
        AssertionError: a generator has changed.
    """
    for _ in range(2):
        # Move the generators on, so a call that seeds them is noticed each time.
        torch.rand(()), np.random.random(), random.random()
        before, modules = _global_random_state(), len(sys.modules)
        act()
        if _global_random_state() == before:
            return
        if len(sys.modules) == modules:
            break
    raise AssertionError(law)


def _global_random_state() -> tuple[object, ...]:
    """Return the states of torch's, NumPy's and Python's global generators."""
    numpy_state = np.random.get_state(legacy=True)
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        *(part.tobytes() if hasattr(part, "tobytes") else part for part in numpy_state),
        random.getstate(),
    )
