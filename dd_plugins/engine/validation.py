"""Validation accuracy during a run: it is only shown, and decides nothing."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from dd_plugins.data.images import Images
from dd_plugins.data.preprocess import Transform
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.returned import (
    check_logits,
    check_predictor,
    check_teacher,
)
from dd_plugins.distillers.state import AbstractState
from dd_plugins.engine.settled import Settled
from dd_plugins.run import Run
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.training.outputs import accuracy
from dd_plugins.training.protocols import recipe_for, training_set_of
from dd_plugins.training.train import train_network
from dd_plugins.wrappers.base import base_of

__all__ = ["validation_accuracy", "validation_steps"]

_VALIDATIONS = 10  # measurements of validation accuracy in a run, or some more
_VALIDATION_IMAGES = 1_000  # at most, each time
_PROBE_STEPS = 200  # training steps of a network for a measurement
_STEPS_BETWEEN = 50  # steps from one such network to the next, or more


def validation_steps(settled: Settled, steps: int) -> tuple[int, ...]:
    """Return the steps after which accuracy is measured: about ten, and the last.

    In a run of fewer than 20 steps it is measured after each. A method without a
    predictor needs a trained network for each measurement, which takes longer than some
    steps. It is measured every 50 steps at most, and in a run of 51 to 499 steps also
    after a twentieth of them: from then on the time left includes the measurements.
    """
    if not _validates(settled):
        return ()
    every = first = max(1, steps // _VALIDATIONS)
    method = type(base_of(settled.distiller))
    if method.predictor is AbstractDistiller.predictor and every < _STEPS_BETWEEN:
        every = _STEPS_BETWEEN
        first = steps if steps <= every else math.ceil(steps / 20)
    return tuple(sorted({first, *range(every, steps, every), steps}))


def _validates(settled: Settled) -> bool:
    """Return whether there are validation images that may be read."""
    has_images = len(settled.data.validation.labels) > 0
    return has_images and not settled.distiller.private


def validation_accuracy(
    run: Run,
    settled: Settled,
    step: int,
    state: AbstractState,
    leaves: Leaves,
    transform: Transform,
    distilled: Callable[[], DistilledSet],
) -> float:
    """Return the accuracy on held-out images, by the method's own predictor.

    If it has none, a fresh network is trained on the set, for at most 200 steps; its
    accuracy is lower than in an evaluation.

    Args:
        run: the run.
        settled: its choices.
        step: number of steps done.
        state: the state of the distiller.
        leaves: the set.
        transform: the map to the value space.
        distilled: makes the set as it is now.
    """
    data, task, distiller = settled.data, run.task, settled.distiller
    generator = run.generator("validation", step)
    order = torch.randperm(len(data.validation.labels), generator=generator)
    chosen = order[:_VALIDATION_IMAGES]
    images = Images(*(tensor[chosen] for tensor in data.validation))

    own = check_predictor(distiller, distiller.predictor(state, leaves))

    def classify(images: Tensor) -> Tensor:
        assert own is not None
        return check_logits(distiller, own(images), len(images), task.num_classes)

    if own is None:
        module = settled.network.for_evaluation().build(
            task.image_shape,
            task.num_classes,
            generator=generator,
            device=run.device,
        )
        made = distilled()
        recipe = recipe_for(made)
        training_set = training_set_of(made, device=run.device)
        teacher = distiller.teacher(state, leaves)
        teacher = check_teacher(distiller, teacher, distiller.label_kind)
        if teacher is not None:  # an unfinished set has no views
            views = teacher.view_labels(mirror=task.mirror)
            training_set = replace(training_set, views=views)
        classify = train_network(
            module,
            training_set,
            replace(recipe, steps=min(recipe.steps, _PROBE_STEPS)),
            generator=generator,
            precision=run.precision,
        )
    return accuracy(
        classify,
        images,
        transform,
        device=run.device,
        batch_size=None if own is None else len(images.labels),
    )
