"""Teachers: networks trained on real data, whose outputs label views of a set."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial, reduce

import torch
from torch import Tensor, nn

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import batch_statistics, has_batch_norm
from dd_plugins.runtime.device import exact_kernels
from dd_plugins.synthetic.view_records import TeacherRecord, ViewsRecord
from dd_plugins.synthetic.views import Views
from dd_plugins.training.view_labels import ViewLabels

__all__ = ["Teacher", "check_labelling"]

_LABELLED = 256  # views labelled at a time


def check_labelling(temperature: float, group: int | None) -> None:
    """Refuse options of a teacher's labels (see :class:`Teacher`).

    Raises:
        OptionError: the temperature or the group is out of its range.
    """
    if not temperature > 0:
        raise OptionError(f"a teacher's temperature must be above 0, got {temperature}")
    if group is not None and group < 2:
        raise OptionError(
            "a teacher's group must have at least 2 images, whose statistics "
            f"BatchNorm takes, got {group}"
        )


@dataclass(frozen=True, eq=False)
class Teacher:
    """Networks labelling the views of a set by the mean of their logits.

    The labels of a view are a function of all images of the set and the number of the
    view, so labels made during training equal stored ones, bit for bit on one machine.

    Attributes:
        modules: maps of images in the value space to logits ``(n, classes)``, in
            evaluation mode; one is used at a time.
        views: the views of the images.
        temperature: the divisor of the logits before the softmax, above 0.
        group: the approximate number of images, at least 2, sharing BatchNorm
            statistics during labelling (SRe2L's released code for CIFAR-100;
            "batch-specific" labels in CV-DD); None for the statistics of the real data.
            Groups are drawn at random for each view, by the seed of the views.
        kept: the record of each module kept in a file
            (:meth:`~dd_plugins.training.kept_networks.TrainedNetwork.record`), to find
            it again when a network is trained on the set. Empty if the modules are not
            kept: their labels are stored then.
        stored: whether the labels of all views are stored beside these records.
    """

    modules: Sequence[nn.Module]
    views: Views
    temperature: float = 1.0
    group: int | None = None
    kept: tuple[TeacherRecord, ...] = ()
    stored: bool = False

    def __post_init__(self) -> None:
        """Check the options of the labels.

        Raises:
            OptionError: the temperature or the group is out of its range.
        """
        check_labelling(self.temperature, self.group)

    @property
    def stores_labels(self) -> bool:
        """Whether the labels of all views are stored with the set."""
        return self.stored or not self.kept

    @torch.no_grad()
    @exact_kernels()  # as while a network is trained
    def label(self, images: Tensor, number: int, *, mirror: bool) -> Tensor:
        """Return the labels of one view of all images of a set.

        Args:
            images: in the value space, ``(n, channels, height, width)``.
            number: the view's number.
            mirror: whether crops may be flipped.

        Returns:
            Probabilities, float16 ``(n, classes)``.

        Raises:
            OptionError: a group is given for a module without BatchNorm.
        """
        logits = (  # of one module at a time
            self._logits(module, images, number, mirror) for module in self.modules
        )
        mean = reduce(torch.add, logits) / len(self.modules)
        return (mean / self.temperature).softmax(dim=1).half()

    def all_labels(self, images: Tensor, *, mirror: bool) -> Tensor:
        """Return the labels of all views: float16 ``(count, n, classes)``."""
        numbers = range(self.views.count)
        return torch.stack(
            [self.label(images, number, mirror=mirror) for number in numbers]
        )

    def view_labels(self, *, mirror: bool) -> ViewLabels:
        """Return the labels of views for training networks on a set."""
        return ViewLabels(self.views, partial(self.label, mirror=mirror), mirror)

    def record(self) -> ViewsRecord:
        """Return the record of the views and their labels for a header."""
        return ViewsRecord(
            views=repr(self.views),
            temperature=self.temperature,
            teacher=self.kept[0] if self.kept else None,
            further_teachers=list(self.kept[1:]),
            group=self.group,
        )

    def _logits(
        self, module: nn.Module, images: Tensor, number: int, mirror: bool
    ) -> Tensor:
        """Return the logits of a view of all images: float32 ``(n, classes)``."""
        if self.group is not None and not has_batch_norm(module):
            raise OptionError(
                "a teacher without BatchNorm has no statistics of groups to take; "
                "leave the group out"
            )
        groups = list(self._groups(len(images), number))
        logits = []
        in_groups = nullcontext() if self.group is None else batch_statistics(module)
        with in_groups:
            for indices in groups:
                seen = self.views.look(images, indices, number, mirror=mirror)
                seen = seen.contiguous(memory_format=torch.channels_last)
                logits.append(module(seen).float())
        in_order = torch.cat(groups).argsort()
        return torch.cat(logits)[in_order]

    def _groups(self, count: int, number: int) -> Iterator[Tensor]:
        """Yield the indices of each group of images."""
        if self.group is None:
            yield from torch.split(torch.arange(count), _LABELLED)
            return
        order = self.views.order(count, number)
        yield from order.tensor_split(max(1, count // self.group))
