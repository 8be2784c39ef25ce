"""Labels of views for training: stored, made by a teacher, or from classes."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.runtime.memory import fits_in_memory
from dd_plugins.runtime.text import size_text
from dd_plugins.synthetic.views import Views

__all__ = [
    "LabelView",
    "ViewLabels",
    "bytes_of_labels",
    "check_room_for_labels",
    "hard_labels",
]

LabelView = Callable[[Tensor, int], Tensor]
"""Maps all images of a set, and the number of a view, to the view's labels: float
``(n, classes)``."""

_MOST_REMEMBERED = 512 * 2**20  # bytes of labels
_LABEL_BYTES = 2  # a float16


def bytes_of_labels(views: int, images: int, classes: int) -> int:
    """Return how many bytes the stored labels of all views take.

    Example:
        >>> bytes_of_labels(views=300, images=50_000, classes=1_000) // 10**9
        30
    """
    return _LABEL_BYTES * views * images * classes


def check_room_for_labels(views: int, images: int, classes: int) -> None:
    """Refuse labels of all views that are too large for memory.

    Raises:
        OptionError: they are.
    """
    needed = bytes_of_labels(views, images, classes)
    if not fits_in_memory(3 * needed):  # once more to hash them, and to write them
        raise OptionError(
            f"the labels of {views:,} views of {images:,} images in {classes:,} "
            f"classes take {size_text(needed)}, more than there is room for; let "
            "the file name the teacher instead, or take fewer views"
        )


@dataclass(eq=False)
class ViewLabels:
    """Labels of views while networks are trained on a set.

    The labels of a view are computed for all images at once, and remembered if those of
    all views take at most half a gigabyte.

    Attributes:
        views: the views of the images.
        label: returns the labels of a view.
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
            number: the number of the view; the first view follows the last.
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
    """Return a function to label views by the classes of their images.

    Args:
        views: the views of the images.
        labels: one-hot, float ``(n, classes)``; mixed for mixed views.
    """

    def label(images: Tensor, number: int) -> Tensor:
        height, width = images.shape[-2:]
        everything = torch.arange(len(labels))
        return views.mixed_labels(labels, everything, number, (height, width))

    return label
