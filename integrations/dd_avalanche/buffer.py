"""A storage policy for Avalanche whose exemplars are distilled."""

from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    _make_taskaware_classification_dataset,
    as_classification_dataset,
    concat_datasets,
)
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor
from torch.utils.data import Dataset

import dd_plugins
from dd_avalanche.memory import DISTILLER, DistilledMemory, Stored, untouched_randomness
from dd_plugins.errors import DataError, OptionError

__all__ = ["BufferLabels", "DistilledBuffer"]

BufferLabels = Literal["hard", "learned"]
"""What the items of a buffer are labelled with: classes, or what was learned."""


class DistilledBuffer(ExemplarsBuffer):  # type: ignore[misc]
    """Exemplars that are learned, not chosen: any distiller of the library.

    Pass it to ``ReplayPlugin(mem_size, storage_policy=DistilledBuffer(mem_size))``.
    After each experience its images, as the benchmark's evaluation transform gives
    them, are distilled; the items of the buffer are in that same space, and pass
    through no transform again. The sub-experiences of an online stream are collected,
    and distilled together after the last of them.

    Neither the strategy's model nor a global random generator is touched.

    Args:
        max_size: images that it holds at most.
        distiller: a spec, or a distiller.
        labels: ``"hard"``: items are ``(image, class)``, as everything in Avalanche
            expects; ``"learned"``: the label is the vector that was learned, float32 of
            shape ``(num_classes,)``, for which the strategy needs
            :class:`~dd_avalanche.SoftTargets`.
        **options: those of :class:`~dd_avalanche.DistilledMemory`:
            ``images_per_class``, ``num_classes``, ``steps``, ``network``,
            ``initial_images``, ``context``, ``whitening``, ``store``, ``shrink``,
            ``mirror``, ``seed``, ``device``.

    Attributes:
        memory: what is stored.
        layout: of the items: that of the last experience's.

    Raises:
        OptionError: an option is out of its range.
        UnknownNameError: no plugin registers the distiller.
    """

    def __init__(
        self,
        max_size: int,
        distiller: "str | dd_plugins.AbstractDistiller[Any]" = DISTILLER,
        *,
        labels: BufferLabels = "hard",
        **options: Any,
    ) -> None:
        if labels not in get_args(BufferLabels):
            raise OptionError(
                f"labels must be one of {', '.join(get_args(BufferLabels))}, got "
                f"{labels!r}"
            )
        if labels == "learned" and options.get("num_classes") is None:
            raise OptionError(
                "learned labels need num_classes: the width of the model's output"
            )
        super().__init__(max_size)
        self.memory = DistilledMemory(max_size, distiller, **options)
        self.labels = labels
        self.layout = Layout()
        self._collected: list[tuple[Tensor, Tensor, Tensor]] = []

    def take(self, memory: DistilledMemory) -> None:
        """Take a memory that is filled already, in the place of the present one."""
        self.memory, self.max_size = memory, memory.size
        self._renew()

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Distil an experience, or collect a part of one.

        Args:
            agent_state: the strategy; not used.
            exp: the experience.

        Raises:
            DataError: its items are not images as tensors.
            OptionError: the memory has no room for its classes, or the stream does not
                tell where its experiences end.
        """
        del agent_state
        with untouched_randomness():  # an evaluation transform may draw
            self.layout = Layout.of(exp.dataset)
            part = _read(exp.dataset)
        if isinstance(exp, OnlineCLExperience):
            self._check_part(exp)
        elif self._collected:
            raise OptionError(
                f"a whole experience came after {self.parts} parts of an online one, "
                "whose last part was never seen"
            )
        self._collected.append(part)
        if isinstance(exp, OnlineCLExperience) and not self._is_last(exp):
            return
        images, labels, tasks = map(torch.cat, zip(*self._collected, strict=True))
        self._collected = []
        with self.memory.all_or_nothing():
            for task in sorted(set(tasks.tolist())):
                chosen = tasks == task
                self.memory.add(images[chosen], labels[chosen], task)
        self._renew()

    @property
    def parts(self) -> int:
        """The number of parts of an experience that wait for the last one."""
        return len(self._collected)

    def _check_part(self, exp: Any) -> None:
        """Refuse a part of which it cannot be told where it belongs."""
        if not exp.access_task_boundaries:
            raise OptionError(
                "an online stream must tell where its experiences end, so that they "
                "are distilled whole: split_online_stream(..., "
                "access_task_boundaries=True)"
            )
        if exp.is_first_subexp is not (not self._collected):
            raise OptionError(
                f"an experience of {exp.sub_stream_length} parts came after "
                f"{self.parts} parts of another: the buffer has to see all parts of an "
                "experience, in their order"
            )

    def _is_last(self, exp: Any) -> bool:
        """Tell whether a part is the last of its experience.

        Parts are counted as well: where an experience divides into parts without rest,
        Avalanche 0.6 marks none as the last.
        """
        counted = len(self._collected) == exp.sub_stream_length
        return bool(exp.is_last_subexp or counted)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Change the largest number of images; shrink what is stored, if need be.

        Args:
            strategy: not used.
            new_size: the number.

        Raises:
            OptionError: there are more classes than that.
        """
        del strategy
        self.memory.resize(new_size)
        self.max_size = new_size
        self._renew()

    def save(self, folder: str | Path) -> Path:
        """Write what is stored to a folder (see :meth:`DistilledMemory.save`)."""
        return self.memory.save(folder)

    def restore(self, folder: str | Path, like: Any) -> None:
        """Take up what :meth:`save` wrote.

        Args:
            folder: where.
            like: a data set of the benchmark, such as ``stream[0].dataset``: the items
                of the buffer get the same parts.

        Raises:
            FileError: there is no saved memory, or it is damaged.
            OptionError: it was written with other options.
        """
        self.memory.restore(folder)
        self._collected = []
        with untouched_randomness():
            self.layout = Layout.of(like)
        self._renew()

    def _renew(self) -> None:
        """Make the data set of what is stored."""
        memory = self.memory
        if not len(memory):
            self.buffer = concat_datasets([])
            return
        labels = None
        if self.labels == "learned":
            assert memory.num_classes is not None
            labels = memory.labels(memory.num_classes)
        elif self.layout.tensor_labels:
            labels = memory.hard_labels()
        dataset = _Items(
            list(memory.groups.values()), memory.hard_labels().tolist(), labels
        )
        tasks = memory.tasks().tolist() if self.layout.tasks else None
        self.buffer = _as_avalanche(dataset, tasks)


class Layout(NamedTuple):
    """Of what parts the items of a data set are: those of a buffer must be the same.

    Attributes:
        tasks: whether the third is a task label, as in ``nc_benchmark``.
        tensor_labels: whether the class is a tensor, not a number.
    """

    tasks: bool = False
    tensor_labels: bool = False

    @classmethod
    def of(cls, dataset: Any) -> "Layout":
        """Return the layout of a data set of Avalanche."""
        tasks = hasattr(dataset, "targets_task_labels")
        items = dataset.eval()
        return cls(tasks, len(items) > 0 and isinstance(items[0][1], Tensor))


class _Items(Dataset[tuple[Tensor, "int | Tensor"]]):
    """The stored images with their labels, in the space of the model."""

    def __init__(
        self, groups: list[Stored], targets: list[int], labels: Tensor | None
    ) -> None:
        self.targets = targets
        self._places = [
            (stored, place) for stored in groups for place in range(len(stored))
        ]
        self._labels = labels

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> "tuple[Tensor, int | Tensor]":
        stored, place = self._places[index]
        label = self.targets[index] if self._labels is None else self._labels[index]
        return stored.image(place), label


def _as_avalanche(dataset: _Items, tasks: list[int] | None) -> AvalancheDataset:
    """Return items as Avalanche's data set; with task labels, or without."""
    if tasks is None:
        return as_classification_dataset(dataset)
    return _make_taskaware_classification_dataset(
        dataset, targets=dataset.targets, task_labels=tasks
    )


def _read(dataset: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Return images, classes and tasks of a data set under its evaluation transform.

    Raises:
        DataError: an item is not an image as a tensor and a class.
    """
    items = dataset.eval()
    images, labels = [], []
    for index in range(len(items)):
        image, label, *_ = items[index]
        if not isinstance(image, Tensor) or not image.is_floating_point():
            kind = image.dtype if isinstance(image, Tensor) else type(image).__name__
            raise DataError(
                f"the experience gives images as {kind}; its benchmark needs an "
                "evaluation transform that ends in a float tensor, such as ToTensor()"
            )
        if image.ndim != 3:
            raise DataError(
                "the experience gives images of shape "
                f"{tuple(image.shape)}, expected (channels, height, width)"
            )
        if torch.as_tensor(label).numel() != 1:
            raise DataError(
                "the experience labels images with vectors of shape "
                f"{tuple(torch.as_tensor(label).shape)}, expected classes"
            )
        images.append(image)
        labels.append(int(label))
    if not images:
        raise DataError("the experience has no images")
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        raise DataError(
            f"the images of the experience differ in shape: {sorted(shapes)[:3]}; its "
            "evaluation transform has to resize them"
        )
    tasks = getattr(dataset, "targets_task_labels", None)
    return (
        torch.stack(images),
        torch.tensor(labels),
        torch.zeros(len(labels), dtype=torch.int64)
        if tasks is None
        else torch.tensor(list(tasks)),
    )
