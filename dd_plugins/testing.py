"""Conformance checks that any plugin author can run on a distiller or a network.

In a test file of your package::

    import pytest
    from dd_plugins import testing
    from my_package import MyDistiller

    @pytest.mark.parametrize("check", testing.DISTILLER_CHECKS, ids=testing.name_of)
    def test_my_distiller(check):
        check(MyDistiller())

A check raises ``AssertionError`` that says what a distiller must do. They run on a toy
problem in a few seconds each; the built-in distillers pass through the same table.
"""

import random
import signal
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dd_plugins.artifact import DistilledSet
from dd_plugins.data import RealData, RealSampler
from dd_plugins.distillers.base import AbstractDistiller, AbstractState, Metrics
from dd_plugins.engine import distill
from dd_plugins.hookspecs import RegisterDistiller, RegisterWrapper, hookimpl
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.plugins import Plugins
from dd_plugins.randomness import derive
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic import Leaves
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = [
    "DISTILLER_CHECKS",
    "NETWORK_CHECKS",
    "PassThrough",
    "name_of",
    "toy_data",
]

Distiller = AbstractDistiller[Any]

_NETWORK = "conv(width=4, depth=2)"
_STEPS = 4
_LONGER = 60


def toy_data() -> RealData:
    """Return two classes of 8x8 images, each a bright blob in a corner of its own.

    120 training images with one channel, 40 test images; the same at every call.
    """
    generator = derive(0, "toy data")
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
    )


@record
class PassThrough(AbstractWrapper):
    """A wrapper that changes nothing; what it wraps must give the same result."""

    name = "pass_through"

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Leave the gradients as they are."""
        del state, leaves, real, step
        return {}


class _PassThroughPlugin:
    """A plugin that offers the wrapper of this module."""

    @hookimpl
    def dd_register_wrappers(self, register: RegisterWrapper) -> None:
        register(PassThrough)


class _UnderTest:
    """A plugin that offers the class under test, which no package has registered."""

    def __init__(self, distiller: Distiller) -> None:
        self._class = type(distiller)

    @hookimpl
    def dd_register_distillers(self, register: RegisterDistiller) -> None:
        register(self._class)


class _Interruption:
    """An observer that stops a run as a person would, after a number of steps."""

    def __init__(self, step: int) -> None:
        self._step = step

    @hookimpl
    def dd_after_step(self, step: int) -> None:
        if step == self._step:
            signal.raise_signal(signal.SIGINT)


def _run(
    distiller: Distiller | str, steps: int = _STEPS, **options: Any
) -> DistilledSet:
    options = {"network": _NETWORK, "device": "cpu", "precision": "float32"} | options
    return distill(toy_data(), distiller, steps=steps, **options)


def _assert_equal(first: DistilledSet, second: DistilledSet, law: str) -> None:
    same_images = torch.equal(first.images, second.images)
    assert same_images, f"{law}, but the images differ"
    assert torch.equal(first.labels, second.labels), f"{law}, but the labels differ"


class _OneStep:
    """What a distiller is given at the first step, outside of the engine."""

    def __init__(self, distiller: Distiller) -> None:
        data = toy_data()
        task = Task(data.name, data.image_shape, data.num_classes, 1, _STEPS)
        plugins = Plugins(load=[])
        self.distiller = distiller.for_task(task)
        self.run = Run(
            task,
            repr(self.distiller),
            plugins.network(_NETWORK).for_distillation(),
            _STEPS,
            0,
            torch.device("cpu"),
        )
        self.images, self.targets = data.train.images[:] - 0.5, data.train.labels
        self.sampler = RealSampler(
            self.images, self.targets, seed=0, device=torch.device("cpu")
        )
        self.state = self.distiller.setup(self.run, self.sampler)
        first = torch.tensor([0, 1])
        self.leaves = Leaves(
            self.images[first].clone().requires_grad_(),
            self.distiller.initial_labels(self.targets[first], 2).requires_grad_(
                self.distiller.learns_labels
            ),
        )

    def accumulate(self) -> Metrics:
        return self.distiller.accumulate(self.state, self.leaves, self.sampler, 0)


def check_same_seed_gives_same_result(distiller: Distiller) -> None:
    """Two runs of one seed are equal bit for bit; another seed gives another set."""
    first, second = _run(distiller, seed=3), _run(distiller, seed=3)
    _assert_equal(first, second, "every draw must come from run.generator")
    other = _run(distiller, seed=4)
    assert not torch.equal(first.images, other.images), "the seed must matter"


def check_global_random_state_is_untouched(distiller: Distiller) -> None:
    """A run leaves the global generators of torch, NumPy and Python alone."""
    before = _global_random_state()
    _run(distiller)
    law = "a run must leave the global random state as it was; use run.generator"
    assert _global_random_state() == before, law


def _global_random_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=True)
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        *(part.tobytes() if hasattr(part, "tobytes") else part for part in numpy_state),
        random.getstate(),
    )


def check_inputs_are_unmodified(distiller: Distiller) -> None:
    """``accumulate`` changes neither the leaves nor the real images."""
    given = _OneStep(distiller)
    tensors = (given.leaves.pixels, given.leaves.labels, given.images, given.targets)
    before = [tensor.detach().clone() for tensor in tensors]
    given.accumulate()
    for name, old, new in zip(
        ("pixels", "labels", "real images", "real labels"), before, tensors, strict=True
    ):
        assert torch.equal(old, new), f"accumulate must not change the {name}"


def check_gradients_are_added(distiller: Distiller) -> None:
    """``accumulate`` adds to the gradient that is there, and reports a finite loss."""
    fresh, given = _OneStep(distiller), _OneStep(distiller)
    metrics = fresh.accumulate()
    assert "loss" in metrics, "accumulate must report a 'loss'"
    assert torch.isfinite(metrics["loss"]), "the loss must be finite"
    assert fresh.leaves.pixels.grad is not None, "accumulate must add to pixels.grad"
    if isinstance(distiller, AbstractWrapper):
        return  # a wrapper may change the gradient of its base
    for leaf in given.leaves:
        if leaf.requires_grad:
            leaf.grad = torch.ones_like(leaf)
    given.accumulate()
    for name, leaf, alone in zip(
        given.leaves._fields, given.leaves, fresh.leaves, strict=True
    ):
        if leaf.requires_grad:
            law = f"accumulate must add to {name}.grad, not replace it"
            assert alone.grad is not None, f"accumulate must add to {name}.grad"
            torch.testing.assert_close(leaf.grad, 1 + alone.grad, msg=law)


def check_loss_falls(distiller: Distiller) -> None:
    """On the toy problem the loss at the end is below that at the beginning."""
    losses: list[float] = []

    class Recorder:
        @hookimpl
        def dd_after_step(self, metrics: dict[str, float]) -> None:
            losses.append(metrics["loss"])

    plugins = Plugins(load=[], extra={"recorder": Recorder()})
    _run(distiller, _LONGER, plugins=plugins)
    part = _LONGER // 5
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    assert last < first, f"the loss must fall, it went from {first:g} to {last:g}"


def check_state_survives_save_and_restore(distiller: Distiller) -> None:
    """A run that is interrupted and goes on ends as if it had not been."""
    whole = _run(distiller)
    interrupting = Plugins(load=[], extra={"interruption": _Interruption(_STEPS // 2)})
    with tempfile.TemporaryDirectory() as folder:
        try:
            _run(distiller, out=folder, plugins=interrupting)
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("the run must be interrupted half-way")
        resumed = _run(distiller, out=folder, resume=True, plugins=Plugins(load=[]))
    law = "all that changes in a run must be in state_dict; a resumed run must be equal"
    _assert_equal(whole, resumed, law)


def check_spec_round_trip(distiller: Distiller) -> None:
    """``repr`` is a spec that builds an equal distiller, also inside a wrapper."""
    plugins = _plugins_with(distiller)
    built = plugins.distiller(repr(distiller))
    assert built == distiller, f"repr must build an equal object, got {built!r}"
    wrapped = plugins.distiller(f"pass_through({distiller!r})")
    assert wrapped == PassThrough(base=distiller), f"wrapped, it became {wrapped!r}"


def check_works_inside_a_wrapper(distiller: Distiller) -> None:
    """A wrapper that changes nothing changes nothing."""
    wrapped = _run(PassThrough(base=distiller))
    _assert_equal(_run(distiller), wrapped, "a wrapper must be able to stand around it")


def _plugins_with(distiller: Distiller) -> Plugins:
    """Return plugins among which the class under test is registered."""
    installed = type(distiller).name in Plugins().distillers
    extra: dict[str, object] = {"pass through": _PassThroughPlugin()}
    if not installed:
        extra["under test"] = _UnderTest(distiller)
    return Plugins(extra=extra)


DISTILLER_CHECKS: tuple[Callable[[Distiller], None], ...] = (
    check_same_seed_gives_same_result,
    check_global_random_state_is_untouched,
    check_inputs_are_unmodified,
    check_gradients_are_added,
    check_loss_falls,
    check_state_survives_save_and_restore,
    check_spec_round_trip,
    check_works_inside_a_wrapper,
)
"""Every check of a distiller; each takes one."""


def check_network_is_reproducible(network: AbstractNetwork) -> None:
    """The same generator gives the same weights, without touching global state."""
    before = torch.random.get_rng_state()
    first, second = (_weights(network, seed=0) for _ in range(2))
    assert torch.equal(first, second), "the same generator must give the same weights"
    assert not torch.equal(first, _weights(network, seed=1)), "the seed must matter"
    law = "building a network must leave torch's global random state as it was"
    assert torch.equal(before, torch.random.get_rng_state()), law


def _weights(network: AbstractNetwork, seed: int) -> Tensor:
    module = network.build((1, 8, 8), 3, generator=derive(seed, "network check"))
    return torch.cat([weight.detach().flatten() for weight in module.parameters()])


def check_network_shapes(network: AbstractNetwork) -> None:
    """Features are flat, logits are one a class, and gradients reach the images."""
    module = network.build((1, 8, 8), 3, generator=derive(0, "network check")).eval()
    images = torch.rand(2, 1, 8, 8, generator=derive(0, "images")).requires_grad_()
    features = module.features(images)
    assert features.ndim == 2, f"features must be flat, got {tuple(features.shape)}"
    assert len(features) == 2, f"one row for each image, got {tuple(features.shape)}"
    logits = module(images)
    assert logits.shape == (2, 3), f"logits must be (2, 3), got {tuple(logits.shape)}"
    (gradient,) = torch.autograd.grad(logits.square().sum(), images)
    assert torch.isfinite(gradient).all(), "gradients on images must be finite"
    assert bool((gradient != 0).any()), "gradients must reach the images"


NETWORK_CHECKS: tuple[Callable[[AbstractNetwork], None], ...] = (
    check_network_is_reproducible,
    check_network_shapes,
)
"""Every check of a network; each takes one that fits 8x8 images."""


def name_of(check: object) -> str:
    """Return the id of a check or of what is checked, for pytest."""
    return getattr(check, "__name__", repr(check))
