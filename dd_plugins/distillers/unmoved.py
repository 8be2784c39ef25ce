"""The common parts of methods choosing images without moving them."""

import torch

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller, StateType, add_gradient
from dd_plugins.distillers.state import Metrics
from dd_plugins.run import Task
from dd_plugins.synthetic.leaves import Leaves, Parameters

__all__ = ["AbstractUnmoved"]

_MEASURED = 256  # real images of the batch with which the report compares the set


class AbstractUnmoved(AbstractDistiller[StateType]):
    """A method with constant images, chosen class by class.

    A run takes one step. It reports the distance between the mean images of the set and
    of a real batch.
    """

    @property
    def moves_images(self) -> bool:
        """Images stay as they are."""
        return False

    @property
    def classes_apart(self) -> bool:
        """Each class is chosen alone."""
        return True

    def default_steps(self, task: Task) -> int:
        """Return 1: the images stay as they are, however many steps are made."""
        del task
        return 1

    def accumulate(
        self, state: StateType, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add no gradient; report the squared distance of the mean images."""
        del state
        batch = real.batch(step, _MEASURED)
        add_gradient(leaves.pixels, torch.zeros_like(leaves.pixels))
        difference = batch.images.mean(dim=0) - leaves.pixels.detach().mean(dim=0)
        return {"loss": difference.square().sum()}

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return an optimizer without an effect."""
        return torch.optim.SGD(parameters, lr=0.0)
