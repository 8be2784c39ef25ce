"""A bound on the norm of the gradient."""

from typing import Self

from pydantic import PositiveFloat
from torch.nn.utils import clip_grad_norm_

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.run import Task
from dd_plugins.runtime.processes import average
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.wrappers.base import AbstractWrapper

__all__ = ["Clip"]


@record
class Clip(AbstractWrapper):
    """Scale the gradient on the pixels down to a largest norm.

    For methods with rare spikes of the gradient: the moments of the image optimizer
    keep a spike for hundreds of steps.

    The gradient is first averaged over the processes of a run. Images of a context do
    not count, as they do not move.

    Args:
        base: any distiller.
        max_norm: the largest Frobenius norm of the gradient on all pixels.
    """

    name = "clip"
    keeps_privacy = True

    max_norm: PositiveFloat = 1.0

    def for_task(self, task: Task) -> Self:
        """Settle the base's options.

        Raises:
            OptionError: the base moves no image.
        """
        self.check_base_moves_images()
        return super().for_task(task)

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Clip the gradient on the pixels, and report its norm before clipping."""
        del state, real, step
        pixels = leaves.pixels
        assert pixels.grad is not None
        (pixels.grad,) = average([pixels.grad])
        leaves.clear_fixed(pixels.grad)
        # clip_grad_norm_ changes gradients in place, and returns the norm before.
        return {"gradient_norm": clip_grad_norm_([pixels], self.max_norm)}
