"""Conformance checks that any plugin author can run on what the plugin offers.

In a test file of your package::

    import pytest
    from dd_plugins import testing
    from my_package import MyDistiller

    @pytest.mark.parametrize("check", testing.DISTILLER_CHECKS, ids=testing.name_of)
    def test_my_distiller(check):
        check(MyDistiller())

A check raises ``AssertionError`` that says what must be done, also where what it checks
raises something else. They run on a toy problem in a few seconds each; the built-ins
pass through the same tables, of which there is one for each kind: distillers, networks,
data sets (functions that load them), observers (plugin objects) and attacks.
"""

import dataclasses
import functools
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from dd_plugins.artifact import DistilledSet
from dd_plugins.data import RealData
from dd_plugins.distillers.base import AbstractDistiller, AbstractState, Metrics
from dd_plugins.engine import distill
from dd_plugins.errors import DDWarning, PluginError
from dd_plugins.hookspecs import RegisterDistiller, RegisterWrapper, hookimpl
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.plugins import Plugins
from dd_plugins.randomness import derive
from dd_plugins.returned import (
    check_labels,
    check_learnables,
    check_metrics,
    check_state,
)
from dd_plugins.run import Run, RunOptions
from dd_plugins.sampler import RealSampler
from dd_plugins.settling import settle
from dd_plugins.spec import Record, is_record, record
from dd_plugins.synthetic import Leaves
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = [
    "ATTACK_CHECKS",
    "DATASET_CHECKS",
    "DISTILLER_CHECKS",
    "NETWORK_CHECKS",
    "OBSERVER_CHECKS",
    "PassThrough",
    "name_of",
    "toy_data",
]

Distiller = AbstractDistiller[Any]
Checked = TypeVar("Checked")

_NETWORK = "conv(width=4, depth=2)"
_STEPS = 4
_LONGER = 60


def _asserts(check: Callable[[Checked], None]) -> Callable[[Checked], None]:
    """Let a check fail by an AssertionError, whatever a plugin raises in it."""

    @functools.wraps(check)
    def asserting(checked: Checked) -> None:
        try:
            check(checked)
        except AssertionError:
            raise
        except PluginError as error:
            raise AssertionError(str(error)) from error
        except Exception as error:
            law = (check.__doc__ or "").strip().splitlines()[0]
            raise AssertionError(
                f"must not raise {type(error).__name__} ({error}); the law is: {law}"
            ) from error

    return asserting


def toy_data(*, validation: float = 0.1) -> RealData:
    """Return two classes of 8x8 images, each a bright blob in a corner of its own.

    120 training images with one channel, 40 test images; the same at every call.

    Args:
        validation: the part of the training images that is held out.
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
        validation=validation,
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
    distiller: Distiller | str,
    steps: int = _STEPS,
    validation: float = 0.0,
    **options: Any,
) -> DistilledSet:
    """Distil the toy problem; without validation images, whose figures take longest."""
    options = {"network": _NETWORK, "device": "cpu", "precision": "float32"} | options
    return distill(toy_data(validation=validation), distiller, steps=steps, **options)


def _assert_equal(first: DistilledSet, second: DistilledSet, law: str) -> None:
    same_images = torch.equal(first.images, second.images)
    assert same_images, f"{law}, but the images differ"
    assert torch.equal(first.labels, second.labels), f"{law}, but the labels differ"


class _OneStep:
    """What a distiller is given at the first step, outside of the engine."""

    def __init__(self, distiller: Distiller) -> None:
        data = toy_data()
        options = RunOptions(steps=_STEPS, network=_NETWORK, precision="float32")
        plugins = Plugins(load=[])
        settled = settle(options, data, plugins, device="cpu", distiller=distiller)
        self.distiller = settled.distiller
        self.run = Run(
            settled.task,
            settled.options.distiller,
            settled.network.for_distillation(),
            _STEPS,
            0,
            settled.device,
        )
        self.images, self.targets = data.train.images[:] - 0.5, data.train.labels
        self.sampler = RealSampler(
            self.images, self.targets, seed=0, device=torch.device("cpu")
        )
        state = self.distiller.setup(self.run, self.sampler)
        self.state = check_state(self.distiller, state)
        first = torch.tensor([0, 1])
        labels = self.distiller.initial_labels(self.targets[first], 2)
        self.leaves = Leaves(
            self.images[first].clone().requires_grad_(),
            check_labels(self.distiller, labels, 2, 2).requires_grad_(
                self.distiller.learns_labels
            ),
            self.targets[first],
            {
                name: each.clone().requires_grad_()
                for name, each in check_learnables(
                    self.distiller, self.distiller.learnables(self.run)
                ).items()
            },
        )

    def accumulate(self) -> Metrics:
        metrics = self.distiller.accumulate(self.state, self.leaves, self.sampler, 0)
        return check_metrics(self.distiller, metrics, self.leaves.pixels.device)


@_asserts
def check_same_seed_gives_same_result(distiller: Distiller) -> None:
    """Two runs of one seed are equal bit for bit; another seed gives another set."""
    first, second = _run(distiller, seed=3), _run(distiller, seed=3)
    _assert_equal(first, second, "every draw must come from run.generator")
    other = _run(distiller, seed=4)
    assert not torch.equal(first.images, other.images), "the seed must matter"


@_asserts
def check_global_random_state_is_untouched(distiller: Distiller) -> None:
    """A run leaves the global generators of torch, NumPy and Python alone."""
    before = _global_random_state()
    _run(distiller, validation=0.1)
    law = "a run must leave the global random state as it was; use run.generator"
    assert _global_random_state() == before, law


def _global_random_state() -> tuple[object, ...]:
    numpy_state = np.random.get_state(legacy=True)
    return (
        torch.random.get_rng_state().numpy().tobytes(),
        *(part.tobytes() if hasattr(part, "tobytes") else part for part in numpy_state),
        random.getstate(),
    )


@_asserts
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


@_asserts
def check_gradients_are_added(distiller: Distiller) -> None:
    """``accumulate`` adds to the gradient that is there, and reports a finite loss."""
    fresh, given = _OneStep(distiller), _OneStep(distiller)
    metrics = fresh.accumulate()
    assert "loss" in metrics, "accumulate must report a 'loss'"
    assert torch.isfinite(metrics["loss"]), "the loss must be finite"
    assert fresh.leaves.pixels.grad is not None, "accumulate must add to pixels.grad"
    if isinstance(distiller, AbstractWrapper):
        return  # a wrapper may change the gradient of its base
    for leaf in given.leaves.learned():
        leaf.grad = torch.ones_like(leaf)
    given.accumulate()
    pairs = {
        "pixels": (given.leaves.pixels, fresh.leaves.pixels),
        "labels": (given.leaves.labels, fresh.leaves.labels),
        **{
            f"others[{name!r}]": (leaf, fresh.leaves.others[name])
            for name, leaf in given.leaves.others.items()
        },
    }
    for name, (leaf, alone) in pairs.items():
        if leaf.requires_grad:
            law = f"accumulate must add to {name}.grad, not replace it"
            assert alone.grad is not None, f"accumulate must add to {name}.grad"
            torch.testing.assert_close(leaf.grad, 1 + alone.grad, msg=law)


@_asserts
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


@_asserts
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


@_asserts
def check_spec_round_trip(distiller: Distiller) -> None:
    """``repr`` is a spec that builds an equal distiller, also inside a wrapper."""
    plugins = _plugins_with(distiller)
    built = plugins.distiller(repr(distiller))
    assert built == distiller, f"repr must build an equal object, got {built!r}"
    wrapped = plugins.distiller(f"pass_through({distiller!r})")
    assert wrapped == PassThrough(base=distiller), f"wrapped, it became {wrapped!r}"


@_asserts
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


@_asserts
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


@_asserts
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


Loader = Callable[[], RealData]


@_asserts
def check_dataset_is_reproducible(load: Loader) -> None:
    """Two loads give the same images, labels and class names, and draw nothing."""
    before = _global_random_state()
    first, second = load(), load()
    for data in (first, second):
        got = type(data).__name__
        assert isinstance(data, RealData), f"a loader must return RealData, got {got}"
    assert first.fingerprint == second.fingerprint, "the same images at every load"
    assert first.class_names == second.class_names, "the same class names at every load"
    law = "loading must leave the global random state as it was"
    assert _global_random_state() == before, law


@_asserts
def check_dataset_has_a_test_set(load: Loader) -> None:
    """The test set has images of the training images' shape, and of every class."""
    data = load()
    images, labels = data.read_test()
    assert tuple(images.shape[1:]) == data.image_shape, (
        f"test images must have shape {data.image_shape}, got {tuple(images.shape[1:])}"
    )
    tested = set(labels.tolist())
    missing = [name for n, name in enumerate(data.class_names) if n not in tested]
    assert not missing, f"the test set must hold every class, it lacks {missing}"


@_asserts
def check_dataset_can_be_distilled(load: Loader) -> None:
    """A core set of one image for each class can be made of it."""
    data = load()
    options = {"network": "mlp(width=4)", "device": "cpu", "plugins": Plugins(load=[])}
    made = distill(data, "random", steps=1, **options)  # type: ignore[arg-type]
    assert len(made) == data.num_classes, "an image for each class"


DATASET_CHECKS: tuple[Callable[[Loader], None], ...] = (
    check_dataset_is_reproducible,
    check_dataset_has_a_test_set,
    check_dataset_can_be_distilled,
)
"""Every check of a data set; each takes a function without arguments that loads it."""


@_asserts
def check_observer_does_not_fail(observer: object) -> None:
    """An observer takes a run with a folder and one without, and a run that goes on."""
    stop = {"observer": observer, "interruption": _Interruption(_STEPS // 2)}
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("error", DDWarning)
        _run("dm", plugins=Plugins(load=[], extra={"observer": observer}))
        try:
            _run("dm", out=folder, plugins=Plugins(load=[], extra=stop))
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("the run must be interrupted half-way")
        again = Plugins(load=[], extra={"observer": observer})
        _run("dm", out=folder, resume=True, plugins=again)


@_asserts
def check_observer_changes_nothing(observer: object) -> None:
    """A run ends the same with the observer, and nothing is drawn globally."""
    plain = _run("dm", plugins=Plugins(load=[]))
    before = _global_random_state()
    observed = _run("dm", plugins=Plugins(load=[], extra={"observer": observer}))
    _assert_equal(plain, observed, "an observer must not change the run")
    law = "an observer must leave the global random state as it was"
    assert _global_random_state() == before, law


OBSERVER_CHECKS: tuple[Callable[[object], None], ...] = (
    check_observer_does_not_fail,
    check_observer_changes_nothing,
)
"""Every check of an observer; each takes a plugin object."""


@_asserts
def check_attack_is_a_record(attack: Record) -> None:
    """An attack is decorated with ``record``, and its ``repr`` is its spec."""
    cls = type(attack)
    assert is_record(cls), f"{cls.__name__} must be decorated with dd_plugins.record"
    built = cls(**attack.options())
    assert built == attack, f"equal options must make an equal attack, got {built!r}"
    threats = ("images", "model", "both")
    threat = getattr(attack, "threat_model", None)
    assert threat in threats, f"threat_model must be one of {threats}, got {threat!r}"


@_asserts
def check_attack_scores(attack: Record) -> None:
    """Scores are finite float64, one for each example, and the same at every call."""
    before = _global_random_state()
    first, second = (_scores(attack, _evidence(attack)) for _ in range(2))
    assert torch.equal(first, second), "the same evidence must give the same scores"
    law = "an attack must leave the global random state as it was"
    assert _global_random_state() == before, law


@_asserts
def check_attack_changes_no_evidence(attack: Record) -> None:
    """What an attack is given is the same afterwards: other attacks see it too."""
    given, untouched = _evidence(attack), _evidence(attack)
    _scores(attack, given)
    for number, (one, other) in enumerate(
        zip(_tensors(given), _tensors(untouched), strict=True)
    ):
        assert torch.equal(one, other), f"tensor {number} of the evidence was changed"


def _scores(attack: Any, evidence: Any) -> Tensor:
    found = attack.scores(evidence)
    expected = f"float64 scores of shape {tuple(evidence.labels.shape)}"
    assert isinstance(found, Tensor), f"must return {expected}, got {type(found)}"
    assert found.dtype == torch.float64, f"must return {expected}, got {found.dtype}"
    shape = tuple(found.shape)
    assert found.shape == evidence.labels.shape, f"must return {expected}, got {shape}"
    assert torch.isfinite(found).all(), "scores must be finite"
    return found


def _evidence(attack: Any) -> Any:
    """Return evidence of a toy audit, of the classes beside the attack's own base."""
    base = [cls for cls in type(attack).__mro__ if "scores" in vars(cls)][-1]
    kinds = sys.modules[base.__module__]
    generator = derive(0, "evidence")
    count, classes = 120, 3
    labels = torch.arange(count) % classes

    def seen(members: Tensor) -> Any:
        outputs = torch.randn(count, classes, generator=generator)
        outputs[torch.arange(count), labels] += members.float()
        distances = torch.rand(2, count, generator=generator)
        return kinds.Seen(outputs, *distances)

    runs = torch.rand(16, count, generator=generator) < 0.5
    population = torch.zeros(count, dtype=torch.bool)
    population[-20:] = True
    runs[:, -20:] = False
    known = torch.zeros(count, dtype=torch.bool)
    known[:80] = True
    return kinds.Evidence(
        seen(runs[0]),
        labels,
        known,
        runs[0] & known,
        population,
        tuple(kinds.Reference(seen(members), members) for members in runs[1:]),
    )


def _tensors(value: Any) -> list[Tensor]:
    """Return the tensors of nested dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in _tensors(item)]
    return []


ATTACK_CHECKS: tuple[Callable[[Any], None], ...] = (
    check_attack_is_a_record,
    check_attack_scores,
    check_attack_changes_no_evidence,
)
"""Every check of a membership-inference attack; each takes one."""


def name_of(check: object) -> str:
    """Return the id of a check or of what is checked, for pytest."""
    return getattr(check, "__name__", repr(check))
