"""Runs that stand before their first step, and a method that does as it is told."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dd_plugins.api import (
    AbstractDistiller,
    DistilledSet,
    Leaves,
    Metrics,
    NoState,
    Parameters,
    RealData,
    RealSampler,
    Run,
    RunOptions,
    Settled,
    add_gradient,
    record,
    settle,
)
from dd_plugins.engine.learning import Learning, StopOrSave
from dd_plugins.testing import toy_data

GO_ON = StopOrSave(False, False)


@record
class Told(AbstractDistiller[NoState]):
    """Its gradient is a given number for each pixel; SGD moves the set."""

    name = "told"

    gradient: float = 1.0
    learning_rate: float = 0.5

    def accumulate(
        self, state: NoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        add_gradient(leaves.pixels, torch.full_like(leaves.pixels, self.gradient))
        return {"before": torch.tensor(7.0), "loss": torch.tensor(float(step))}

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.learning_rate)


def doing(**methods: Callable[..., Any]) -> Told:
    """Return the method with others in the place of its own."""
    return type("Doing", (Told,), methods)()


def small_settled(
    distiller: Any = "dm(real_batch_size=8)",
    data: RealData | None = None,
    context: DistilledSet | None = None,
    **options: Any,
) -> Settled:
    """Return the choices of a run of three steps on the toy problem."""
    held = [] if context is None else context.header.initial_classes
    given = {"steps": 3, "network": "mlp(width=4)", "precision": "float32"} | options
    method = None if isinstance(distiller, str) else distiller
    asked = RunOptions(repr(distiller) if method else distiller, **given)
    return settle(
        asked,
        toy_data() if data is None else data,
        device="cpu",
        context_labels=held,
        distiller=method,
    )


def small_run(settled: Settled, **fields: Any) -> Run:
    """Return a run by these choices."""
    return Run(
        settled.task,
        settled.options.distiller,
        settled.network.for_distillation(),
        settled.options.steps or 1,
        settled.options.seed,
        settled.device,
        settled.precision,
        **fields,
    )


def begun(
    distiller: Any = "dm(real_batch_size=8)",
    data: RealData | None = None,
    context: DistilledSet | None = None,
    folder: Path | None = None,
    **options: Any,
) -> Learning:
    """Return what a run learns, before its first step."""
    settled = small_settled(distiller, data, context, **options)
    learning = Learning(small_run(settled), settled, folder, context)
    learning.begin(None)
    return learning


def of_classes(made: DistilledSet, classes: list[int]) -> DistilledSet:
    """Return the images of these classes alone, as a context."""
    held, began = made.header.initial_classes, made.header.initial_indices
    kept = [place for place, label in enumerate(held) if label in classes]
    changed = {
        "initial_classes": [held[place] for place in kept],
        "initial_indices": None if began is None else [began[place] for place in kept],
        "stored_images": len(kept),
        "stored_values": made.images[kept].numel(),
    }
    return replace(
        made,
        images=made.images[kept],
        labels=made.labels[kept],
        header=made.header.model_copy(update=changed),
        stored={},
    )
