"""Labels per view: a teacher's labels of crops that can be made again."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, features_in_chunks
from dd_plugins.synthetic.views import Views
from dd_plugins.training.recipes import Recipe

__all__ = ["Teacher", "ViewLabels"]

_LABELLED = 256  # views that a teacher labels at a time


@dataclass(frozen=True, eq=False)
class Teacher:
    """A network that labels the views of a set.

    Attributes:
        module: in evaluation mode.
        views: of the images.
        temperature: the divisor of its logits before the softmax.
        network: the architecture; with ``recipe`` the key of a kept network
            (:class:`~dd_plugins.training.kept_networks.TrainedNetwork`), by which it
            is found again when a network is trained on the set. None if the labels are
            to be stored.
        recipe: how it was trained on the real data; None likewise.
    """

    module: FeatureNetwork
    views: Views
    temperature: float = 1.0
    network: AbstractNetwork | None = None
    recipe: Recipe | None = None

    @torch.no_grad()
    def label(self, images: Tensor) -> Tensor:
        """Return float16 probabilities ``(b, classes)`` of images."""
        parts = [
            self.module.head(features_in_chunks(self.module, part)).float()
            for part in torch.split(images, _LABELLED)
        ]
        return (torch.cat(parts) / self.temperature).softmax(dim=1).half()

    def all_labels(self, images: Tensor, *, mirror: bool) -> Tensor:
        """Return the labels of all views: float16 ``(count, n, classes)``."""
        indices = torch.arange(len(images))
        return torch.stack(
            [
                self.label(self.views.look(images, indices, number, mirror=mirror))
                for number in range(self.views.count)
            ]
        )


@dataclass(frozen=True, eq=False)
class ViewLabels:
    """Labels of views while a network is trained: stored ones, or a teacher's.

    Attributes:
        views: of the images.
        stored: float16 ``(count, n, classes)``; None if a teacher gives them.
        label: the teacher; None if they are stored.
        mirror: whether crops may be flipped.
    """

    views: Views
    stored: Tensor | None
    label: Callable[[Tensor], Tensor] | None
    mirror: bool

    def of(self, images: Tensor, indices: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return one view of some images, and its labels (float32).

        Args:
            images: of the set, ``(b, channels, height, width)``.
            indices: int64 ``(b,)``: their indices in the set.
            number: the number of the view; after the last view comes the first.
        """
        number %= self.views.count
        seen = self.views.look(images, indices, number, mirror=self.mirror)
        if self.stored is not None:
            return seen, self.stored[number, indices].float()
        assert self.label is not None
        return seen, self.label(seen).float()
