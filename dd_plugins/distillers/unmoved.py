"""The common parts of methods whose images are chosen and stay as they are."""

import torch

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller, StateType, add_gradient
from dd_plugins.distillers.state import Metrics
from dd_plugins.run import Task
from dd_plugins.synthetic.leaves import Leaves, Parameters

__all__ = ["AbstractUnmoved"]

_MEASURED = 256  # real images in the batch compared with the set


class AbstractUnmoved(AbstractDistiller[StateType]):
    """A method with constant images, chosen class by class.

    A run takes one step. It reports the squared distance between the mean images of the
    set and of a real batch.
    """

    @property
    def moves_images(self) -> bool:
        """Images stay as they are."""
        return False

    @property
    def classes_apart(self) -> bool:
        """Images of each class are chosen alone, unless a method says otherwise."""
        return True

    def default_steps(self, task: Task) -> int:
        """Return 1: further steps would not change the images."""
        del task
        return 1

    def accumulate(
        self, state: StateType, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add a zero gradient; report the squared distance of the mean images."""
        del state
        batch = real.batch(step, _MEASURED)
        add_gradient(leaves.pixels, torch.zeros_like(leaves.pixels))
        difference = batch.images.mean(dim=0) - leaves.pixels.detach().mean(dim=0)
        return {"loss": difference.square().sum()}

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return an optimizer without effect."""
        return torch.optim.SGD(parameters, lr=0.0)
