"""Labels of views while a network is trained: stored, a teacher's, or the classes'."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dd_plugins.synthetic.views import Views

__all__ = ["LabelView", "ViewLabels", "hard_labels"]

LabelView = Callable[[Tensor, int], Tensor]
"""Maps all images of a set, and the number of a view, to the view's labels: float
``(n, classes)``."""

_MOST_REMEMBERED = 512 * 2**20  # bytes of labels that are given once and used again


@dataclass(eq=False)
class ViewLabels:
    """Labels of views while networks are trained on a set.

    The labels of a view are asked for once, for all images, and remembered as long as
    those of all views take at most half a gigabyte.

    Attributes:
        views: of the images.
        label: gives the labels of a view.
        mirror: whether crops may be flipped.
    """

    views: Views
    label: LabelView
    mirror: bool
    _remembered: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def of(self, images: Tensor, indices: Tensor, number: int) -> tuple[Tensor, Tensor]:
        """Return one view of some images, and its labels (float32).

        Args:
            images: all images of the set, ``(n, channels, height, width)``.
            indices: int64 ``(b,)``: the images to view.
            number: the number of the view; after the last view comes the first.
        """
        number %= self.views.count
        seen = self.views.look(images, indices, number, mirror=self.mirror)
        labels = self._labels(images, number)
        return seen, labels[indices.to(labels.device)].float().to(seen.device)

    def _labels(self, images: Tensor, number: int) -> Tensor:
        """Return the labels of a view of all images."""
        found = self._remembered.get(number)
        if found is None:
            found = self.label(images, number)
            if self.views.count * found.nbytes > _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[number] = found
        return found


def hard_labels(views: Views, labels: Tensor) -> LabelView:
    """Return a labeller of views by the classes of the images in them.

    Args:
        views: of the images.
        labels: one-hot, float ``(n, classes)``; mixed for mixed views.
    """

    def label(images: Tensor, number: int) -> Tensor:
        height, width = images.shape[-2:]
        everything = torch.arange(len(labels))
        return views.mixed_labels(labels, everything, number, (height, width))

    return label
