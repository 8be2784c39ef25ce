"""The laws of distillers."""

import tempfile
from collections.abc import Callable
from functools import partial

import torch

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.returned import (
    check_labels,
    check_learnables,
    check_metrics,
    check_state,
)
from dd_plugins.distillers.state import Metrics
from dd_plugins.engine.distillation import distill
from dd_plugins.engine.settling import settle
from dd_plugins.hookspecs import hookimpl
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run, RunOptions
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.testing.laws import asserts
from dd_plugins.testing.toys import (
    NETWORK,
    STEPS,
    Distiller,
    Interruption,
    PassThrough,
    assert_draws_nothing_globally,
    assert_equal,
    assert_interrupted,
    dropout_network,
    plugins_with,
    short_run,
    toy_data,
)
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = [
    "DISTILLER_CHECKS",
    "check_global_random_state_is_untouched",
    "check_gradients_are_added",
    "check_inputs_are_unmodified",
    "check_loss_falls",
    "check_same_seed_gives_same_result",
    "check_spec_round_trip",
    "check_state_survives_save_and_restore",
    "check_takes_two_images_a_class",
    "check_works_inside_a_wrapper",
]

_LONGER = 60
_RESUMED, _BREAKS = 14, (3, 8)


class _OneStep:
    """A distiller's arguments at the first step, outside the engine."""

    def __init__(self, distiller: Distiller) -> None:
        data = toy_data()
        options = RunOptions(steps=STEPS, network=NETWORK, precision="float32")
        plugins = Plugins(load=[])
        settled = settle(options, data, plugins, device="cpu", distiller=distiller)
        self.distiller = settled.distiller
        self.run = Run(
            settled.task,
            settled.options.distiller,
            settled.network.for_distillation(),
            STEPS,
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

    def advance(self) -> None:
        self.distiller.advance(self.state, self.leaves, 0)


@asserts
def check_same_seed_gives_same_result(distiller: Distiller) -> None:
    """Two runs of one seed are equal bit for bit; another seed gives another set."""
    first, second = (
        distill(**short_run(distiller, seed=3)),
        distill(**short_run(distiller, seed=3)),
    )
    assert_equal(first, second, "every draw must come from run.generator")
    other = distill(**short_run(distiller, seed=4))
    assert not torch.equal(first.images, other.images), "the seed must matter"


@asserts
def check_global_random_state_is_untouched(distiller: Distiller) -> None:
    """A run leaves the global generators of torch, NumPy and Python alone.

    One of the runs takes a network with dropout, which draws in training mode.
    """

    def run() -> None:
        distill(**short_run(distiller))
        # Each validation trains a network, so these runs are of one step.
        distill(**short_run(distiller, 1, validation=0.1))
        distill(**short_run(distiller, 1, network=dropout_network))

    assert_draws_nothing_globally(
        run,
        "a run must leave the global random state as it was; use run.generator, and "
        "run.layers_drawing_from for networks with dropout",
    )


@asserts
def check_inputs_are_unmodified(distiller: Distiller) -> None:
    """``accumulate`` and ``advance`` change neither the leaves nor the real images."""
    given = _OneStep(distiller)
    tensors = {
        "pixels": given.leaves.pixels,
        "labels": given.leaves.labels,
        **{f"others[{name!r}]": each for name, each in given.leaves.others.items()},
        "real images": given.images,
        "real labels": given.targets,
    }
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    for method, call in (("accumulate", given.accumulate), ("advance", given.advance)):
        call()
        for name, tensor in tensors.items():
            law = f"{method} must not change the {name}"
            assert torch.equal(before[name], tensor), law


@asserts
def check_gradients_are_added(distiller: Distiller) -> None:
    """``accumulate`` adds to the existing gradient, and reports a finite loss."""
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


@asserts
def check_loss_falls(distiller: Distiller) -> None:
    """On the toy problem the loss is lower at the end than at the start."""
    losses: list[float] = []

    class Recorder:
        @hookimpl
        def dd_after_step(self, metrics: dict[str, float]) -> None:
            losses.append(metrics["loss"])

    plugins = Plugins(load=[], extra={"recorder": Recorder()})
    distill(**short_run(distiller, _LONGER, plugins=plugins))
    part = _LONGER // 5
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    assert last < first, f"the loss must fall, it went from {first:g} to {last:g}"


@asserts
def check_state_survives_save_and_restore(distiller: Distiller) -> None:
    """A run that is interrupted twice, and resumed, ends like an uninterrupted one."""
    whole = distill(**short_run(distiller, _RESUMED))
    with tempfile.TemporaryDirectory() as folder:
        run = short_run(distiller, _RESUMED, out=folder)
        for step in _BREAKS:
            stop = Plugins(load=[], extra={"interruption": Interruption(step)})
            options = {**run, "plugins": stop, "resume": step > _BREAKS[0]}
            assert_interrupted(partial(distill, **options))
        resumed = distill(**run, plugins=Plugins(load=[]), resume=True)
    law = "all that changes in a run must be in state_dict; a resumed run must be equal"
    assert_equal(whole, resumed, law)


@asserts
def check_spec_round_trip(distiller: Distiller) -> None:
    """``repr`` is the spec of an equal distiller, also inside a wrapper."""
    plugins = plugins_with(distiller)
    built = plugins.distiller(repr(distiller))
    assert built == distiller, f"repr must build an equal object, got {built!r}"
    wrapped = plugins.distiller(f"pass_through({distiller!r})")
    assert wrapped == PassThrough(base=distiller), (
        f"a wrapper must hold it unchanged, got {wrapped!r}"
    )


@asserts
def check_works_inside_a_wrapper(distiller: Distiller) -> None:
    """An identity wrapper around the distiller leaves its result unchanged."""
    wrapped = distill(**short_run(PassThrough(base=distiller)))
    assert_equal(
        distill(**short_run(distiller)),
        wrapped,
        "a wrapper must be able to stand around it",
    )


@asserts
def check_takes_two_images_a_class(distiller: Distiller) -> None:
    """A run at two images per class gives finite images, two of each class."""
    made = distill(**short_run(distiller, images_per_class=2))
    assert len(made) == 4, f"the set must have 4 images, got {len(made)}"
    assert torch.isfinite(made.images).all(), "the images must be finite"


DISTILLER_CHECKS: tuple[Callable[[Distiller], None], ...] = (
    check_same_seed_gives_same_result,
    check_global_random_state_is_untouched,
    check_inputs_are_unmodified,
    check_gradients_are_added,
    check_loss_falls,
    check_state_survives_save_and_restore,
    check_spec_round_trip,
    check_works_inside_a_wrapper,
    check_takes_two_images_a_class,
)
"""Every check of a distiller; each takes one."""
