"""A small distiller: synthetic images are drawn to the mean image of their class."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.api import (
    AbstractDistiller,
    AbstractState,
    Leaves,
    Metrics,
    Parameters,
    RealSampler,
    Run,
    Task,
    add_gradient,
    record,
)


@dataclass
class PixelMeansState(AbstractState):
    """A running mean of each class, in pixels: all that changes during a run.

    Attributes:
        means: float32 of shape ``(classes, channels, height, width)``.
    """

    means: Tensor

    def state_dict(self) -> dict[str, Any]:
        return {"means": self.means}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.means.copy_(state["means"])


@record
class PixelMeans(AbstractDistiller[PixelMeansState]):
    """Match the mean synthetic image of each class to a running mean of real ones.

    Args:
        batch_size: real images of each class at a step.
        smoothing: of the running mean, from 0 for none to just below 1.
        learning_rate: of Adam on the pixels.
    """

    name = "pixel_means"

    batch_size: PositiveInt = 64
    smoothing: float = Field(default=0.9, ge=0, lt=1)
    learning_rate: PositiveFloat = 0.05

    def default_steps(self, task: Task) -> int:
        return 100

    def setup(self, run: Run, real: RealSampler) -> PixelMeansState:
        task = run.task
        shape = (task.num_classes, *task.image_shape)
        return PixelMeansState(run, torch.zeros(shape, device=run.device))

    def accumulate(
        self, state: PixelMeansState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        classes = leaves.classes
        total = torch.zeros((), device=state.means.device)
        # Class by class, so that only one class's graph is in memory.
        for label, old in enumerate(state.means):
            new = real.class_batch(step, label, self.batch_size).images.mean(dim=0)
            target = new if step == 0 else torch.lerp(new, old, self.smoothing)
            loss = (
                (leaves.pixels[classes == label].mean(dim=0) - target).square().mean()
            )
            (gradient,) = torch.autograd.grad(loss, leaves.pixels)
            add_gradient(leaves.pixels, gradient)
            state.means[label] = target
            total += loss.detach()
        return {"loss": total}

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.learning_rate)
