"""The learnable set: what the optimizer moves, and what a distiller sees of it."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Leaves", "Synthetic"]


class Leaves(NamedTuple):
    """The synthetic set as a distiller sees it: leaves of the autograd graph.

    Attributes:
        pixels: float32 of shape ``(n, channels, height, width)``, in the value space of
            the model; takes a gradient.
        labels: float32 of shape ``(n, classes)``; takes a gradient if it is learnable.
    """

    pixels: Tensor
    labels: Tensor


class Synthetic:
    """Plain pixels and labels, each one tensor; what is learned.

    What lies behind the pixels is known here alone. The engine decodes the parameters
    into leaves, the distiller adds to the gradients of the leaves, and
    :meth:`pull_back` turns these into gradients of the parameters.

    Args:
        images: float32 of shape ``(n, channels, height, width)``.
        labels: float32 of shape ``(n, classes)``.
        learn_labels: whether the labels are parameters too.
        fixed: images and labels that stand before the others in the set, and are no
            parameters: a distiller sees them, the optimizer does not.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        learn_labels: bool,
        fixed: Leaves | None = None,
    ) -> None:
        self._images = images.detach().clone(memory_format=torch.channels_last)
        self._labels = labels.detach().clone()
        self._learn_labels = learn_labels
        self._fixed = fixed or Leaves(self._images[:0], self._labels[:0])

    def parameters(self) -> list[Tensor]:
        """Return the tensors that the optimizer moves."""
        return [self._images, self._labels] if self._learn_labels else [self._images]

    def decode(self) -> Leaves:
        """Return fresh leaves for one step, with no gradient yet."""
        pixels, labels = self._images.detach(), self._labels.detach()
        if len(self._fixed.pixels):
            pixels = torch.cat([self._fixed.pixels, pixels])
            labels = torch.cat([self._fixed.labels, labels])
        return Leaves(
            pixels.requires_grad_(), labels.requires_grad_(self._learn_labels)
        )

    def pull_back(self, leaves: Leaves) -> None:
        """Set the gradients of the parameters from those of the leaves."""
        count = len(self._fixed.pixels)
        for parameter, leaf in zip((self._images, self._labels), leaves, strict=True):
            parameter.grad = None if leaf.grad is None else leaf.grad[count:]

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that changes during a run."""
        return {"images": self._images, "labels": self._labels}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned, in place."""
        self._images.copy_(state["images"])
        self._labels.copy_(state["labels"])
