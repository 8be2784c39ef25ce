"""A storage policy for Avalanche whose exemplars are distilled."""

import operator
from collections.abc import Sequence
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
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor
from torch.utils.data import Dataset

import dd_plugins
from dd_avalanche.memory import DISTILLER, DistilledMemory, Stored, untouched_randomness
from dd_plugins.api import DataError, OptionError

__all__ = ["BufferLabels", "DistilledBuffer"]

BufferLabels = Literal["hard", "learned"]
"""What the items of a buffer are labelled with: classes, or what was learned."""

_TASKS = "targets_task_labels"  # as Avalanche calls the attribute


class DistilledBuffer(ExemplarsBuffer):  # type: ignore[misc]
    """Exemplars that are learned, not chosen: any distiller of the library.

    Pass it to ``ReplayPlugin(mem_size, storage_policy=DistilledBuffer(mem_size))``.
    After each experience its images, as the benchmark's evaluation transform gives
    them, are distilled; the items of the buffer are in that same space, and pass
    through no transform again. The sub-experiences of an online stream are collected,
    and distilled together after the last of them. Experiences without images are passed
    over. While an experience is distilled, its images are in memory at most three times
    in float32; with ``whitening`` more often.

    The items have the parts that those of the benchmark have: an image, a class as a
    number or a tensor, and a task label where theirs have one.

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
        buffer_groups: a buffer for each class, as ``ClassBalancedBuffer`` has them.

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
        self.buffer_groups: dict[int, ExemplarsBuffer] = {}
        self._collected: list[_Part] = []
        self._filled_at: tuple[int, ...] | None = None

    @property
    def buffer_datasets(self) -> list[AvalancheDataset]:
        """The items of each class: the data sets of ``buffer_groups``."""
        return [group.buffer for group in self.buffer_groups.values()]

    def take(self, memory: DistilledMemory) -> None:
        """Take a memory that is filled already, in the place of the present one."""
        self.memory, self.max_size = memory, memory.size
        self._renew()

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Distil an experience, or collect a part of one.

        Of a strategy's plugins several may share a buffer: it takes an experience once.

        Args:
            agent_state: the strategy: its clock tells one training from the next.
            exp: the experience.

        Raises:
            DataError: its items are not pairs of an image as a tensor and a class, with
                a task label or without.
            OptionError: the memory has no room for its classes, or the stream does not
                tell where its experiences end.
        """
        self.fill(agent_state, exp)

    def fill(self, agent_state: Any, exp: Any, *, mixed: bool = True) -> None:
        """Do what :meth:`post_adapt` does.

        Args:
            agent_state: the strategy.
            exp: the experience.
            mixed: whether items of the buffer will stand in a batch beside those of the
                benchmark, and must have no fewer parts.
        """
        clock = getattr(agent_state, "clock", None)
        moment = None
        if clock is not None:
            moment = id(clock), clock.train_exp_counter, id(exp)
        if moment is not None and moment == self._filled_at:
            return
        part = _read(exp.dataset, mixed=mixed)
        if isinstance(exp, OnlineCLExperience):
            self._check_part(exp)
        elif self._collected:
            raise OptionError(
                f"a whole experience came after {self.parts} parts of an online one, "
                "whose last part was never seen"
            )
        self._collected.append(part)
        del part  # else it would stay in memory
        if not isinstance(exp, OnlineCLExperience) or self._is_last(exp):
            collected, self._collected = self._collected, []
            self._add(collected)
        self._filled_at = moment

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Distil the images of a data set, as if they were an experience.

        A stream without experiences, of which nothing tells where they end, can be
        distilled so: as many of its images at a time as shall be distilled together.

        Args:
            new_data: a data set of Avalanche.
            strategy: not used.

        Raises:
            DataError: as for :meth:`post_adapt`.
            OptionError: the memory has no room for its classes.
        """
        del strategy
        self._add([_read(new_data, mixed=True)])

    def _add(self, collected: "list[_Part]") -> None:
        """Distil what was collected; the list is emptied."""
        collected[:] = [part for part in collected if len(part.labels)]
        if not collected:
            return
        self.layout = collected[-1].layout
        images, labels, tasks = collected[0][:3]
        if len(collected) > 1:
            images = torch.cat([part.images for part in collected])
            labels = torch.cat([part.labels for part in collected])
            tasks = torch.cat([part.tasks for part in collected])
        collected.clear()
        found = sorted(set(tasks.tolist()))
        with self.memory.all_or_nothing():
            for task in found:
                chosen = tasks == task
                own = images if len(found) == 1 else images[chosen]
                self.memory.add(own, labels[chosen], task)
        self._renew()

    @property
    def parts(self) -> int:
        """The number of parts of an experience that wait for the last one."""
        return len(self._collected)

    def _check_part(self, exp: Any) -> None:
        """Refuse a part of which it cannot be told where it belongs."""
        if not exp.access_task_boundaries:
            raise OptionError(
                "this online stream does not tell where its experiences end, and they "
                "are distilled whole; if it has any, split it with "
                "access_task_boundaries=True; if not, pass update_from_dataset() as "
                "many images at a time as shall be distilled together"
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
        """Take up what :meth:`save` wrote; its size as well, if it was resized.

        Args:
            folder: where.
            like: a data set of the benchmark, such as ``stream[0].dataset``: the items
                of the buffer get the same parts.

        Raises:
            FileError: there is no saved memory, or it is damaged.
            OptionError: it was written with other options.
        """
        self.memory.restore(folder)
        self.max_size = self.memory.size
        self._collected, self._filled_at = [], None
        with untouched_randomness():
            self.layout = Layout.of(like)
        self._renew()

    def _renew(self) -> None:
        """Make the data sets of what is stored."""
        memory = self.memory
        self.buffer_groups = {}
        if not len(memory):
            self.buffer = concat_datasets([])
            return
        labels = None
        if self.labels == "learned":
            assert memory.num_classes is not None
            labels = memory.labels(memory.num_classes)
        elif self.layout.label is not None:
            shape, dtype = self.layout.label
            labels = memory.hard_labels().to(dtype).reshape(-1, *shape)
        classes = memory.hard_labels().tolist()
        dataset = _Items(
            list(memory.groups.values()), classes, labels, self.layout.dtype
        )
        self.buffer = self._as_avalanche(dataset, memory.tasks().tolist())
        for label in dict.fromkeys(classes):
            places = [place for place, each in enumerate(classes) if each == label]
            self.buffer_groups[label] = _Group(self.buffer.subset(places))

    def _as_avalanche(self, dataset: "_Items", tasks: list[int]) -> AvalancheDataset:
        """Return items as Avalanche's data set; with task labels, or without."""
        if self.layout.tasks == "none":
            return as_classification_dataset(dataset)
        made = _make_taskaware_classification_dataset(
            dataset, targets=dataset.targets, task_labels=tasks
        )
        inside = self.layout.tasks == "in items"
        attribute = _TaskLabels(tasks, _TASKS, use_in_getitem=inside)
        return made.update_data_attribute(_TASKS, attribute)


class _Group(ExemplarsBuffer):  # type: ignore[misc]
    """The items of one class, to be read."""

    def __init__(self, items: AvalancheDataset) -> None:
        super().__init__(len(items))
        self.buffer = items

    def resize(self, strategy: Any, new_size: int) -> None:
        """Refuse it.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            "a class of a distilled buffer has no size of its own; resize the buffer"
        )


class _TaskLabels(DataAttribute):  # type: ignore[misc]
    """Task labels that stand before those of any data set.

    Avalanche 0.6 cannot put a list of labels before the constant one of an experience.
    """

    def subset(self, indices: Any) -> "_TaskLabels":
        return _TaskLabels(
            self.data.subset(indices), self.name, use_in_getitem=self.use_in_getitem
        )

    def concat(self, other: DataAttribute) -> "_TaskLabels":
        return _TaskLabels(
            [*self.data, *other.data], self.name, use_in_getitem=self.use_in_getitem
        )


class Layout(NamedTuple):
    """Of what parts the items of a data set are: those of a buffer must be the same.

    Attributes:
        tasks: whether the third part is a task label, as in ``nc_benchmark``; or the
            data set has task labels that are not in its items; or there are none.
        label: shape and dtype of a class that is a tensor; None for a number.
        dtype: of the images.
    """

    tasks: Literal["none", "in items", "beside"] = "none"
    label: "tuple[tuple[int, ...], torch.dtype] | None" = None
    dtype: torch.dtype = torch.float32

    @classmethod
    def of(cls, dataset: Any) -> "Layout":
        """Return the layout of a data set of Avalanche; of an empty one a plain one.

        Raises:
            DataError: an item is not an image as a tensor and a class.
        """
        items = dataset.eval()
        if not len(items):
            return cls()
        return cls.of_item(dataset, items[0], mixed=False)

    @classmethod
    def of_item(cls, dataset: Any, item: Any, *, mixed: bool) -> "Layout":
        """Return the layout of a data set by an item of it.

        Raises:
            DataError: the item is not an image as a tensor and a class; or has further
                parts than that and a task label, and is to be mixed with others.
        """
        image, label, *further = _parts(item)
        _check_image(image)
        _as_class(label)
        attribute = getattr(dataset, _TASKS, None)
        inside = bool(getattr(attribute, "use_in_getitem", False))
        if mixed and len(further) > inside:
            raise DataError(
                f"the items of the experience have {2 + len(further)} parts, and what "
                "is distilled has an image, a class and perhaps Avalanche's task label;"
                " leave the others out (use_in_getitem=False of a data attribute), or "
                "replay by DistilledReplayPlugin, which mixes no items"
            )
        tasks: Any = "none"
        if attribute is not None:
            tasks = "in items" if inside else "beside"
        tensor = isinstance(label, Tensor)
        about = (tuple(label.shape), label.dtype) if tensor else None
        return cls(tasks, about, image.dtype)


class _Items(Dataset[tuple[Tensor, "int | Tensor"]]):
    """The stored images with their labels, in the space of the model."""

    def __init__(
        self,
        groups: list[Stored],
        targets: list[int],
        labels: Tensor | None,
        dtype: torch.dtype,
    ) -> None:
        self.targets = targets
        self._places = [
            (stored, place) for stored in groups for place in range(len(stored))
        ]
        self._labels = labels
        self._dtype = dtype

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> "tuple[Tensor, int | Tensor]":
        stored, place = self._places[index]
        label: int | Tensor = self.targets[index]
        if self._labels is not None:
            label = self._labels[index].clone()  # transforms may work in place
        return stored.image(place).to(self._dtype), label


class _Part(NamedTuple):
    """An experience, or a part of one, that was read."""

    images: Tensor
    labels: Tensor
    tasks: Tensor
    layout: Layout


def _read(dataset: Any, *, mixed: bool) -> _Part:
    """Read a data set under its evaluation transform.

    Args:
        dataset: of Avalanche; it may be empty.
        mixed: whether its items will stand in a batch beside those of a buffer.

    Raises:
        DataError: an item is not an image as a tensor and a class, or they differ.
    """
    items = dataset.eval()
    count = len(items)
    images, labels = torch.empty(count, 0, 0, 0), torch.zeros(count, dtype=torch.int64)
    layout = Layout()
    with untouched_randomness():  # an evaluation transform may draw
        for index in range(count):
            item = items[index]
            image, label, *_ = _parts(item)
            if index == 0:
                layout = Layout.of_item(dataset, item, mixed=mixed)
                images = torch.empty(count, *image.shape)
            _check_image(image)
            if image.shape != images.shape[1:]:
                raise DataError(
                    "the images of the experience differ in shape: "
                    f"{sorted({tuple(images.shape[1:]), tuple(image.shape)})}; its "
                    "evaluation transform has to resize them"
                )
            images[index] = image
            labels[index] = _as_class(label)
    tasks = getattr(dataset, _TASKS, None)
    numbers = [0] * count if tasks is None else [int(task) for task in tasks]
    return _Part(images, labels, torch.tensor(numbers, dtype=torch.int64), layout)


def _parts(item: Any) -> Sequence[Any]:
    """Return the parts of an item: an image, a class, and perhaps others.

    Raises:
        DataError: it has no such parts.
    """
    if isinstance(item, tuple | list) and len(item) >= 2:
        return item
    kind = type(item).__name__
    if isinstance(item, dict):
        kind = f"dictionaries with {', '.join(map(repr, list(item)[:5]))}"
    elif isinstance(item, tuple | list):
        kind = f"sequences of {len(item)} part(s)"
    raise DataError(
        f"the experience gives items as {kind}; expected (image, class); let its data "
        "set return tuples"
    )


def _check_image(image: Any) -> None:
    """Refuse what is no image.

    Raises:
        DataError: it is not a float tensor of three axes.
    """
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


def _as_class(label: Any) -> int:
    """Return a label as the number of a class.

    Raises:
        DataError: it is none.
    """
    shape = tuple(getattr(label, "shape", ()))
    if shape not in ((), (1,)):
        raise DataError(
            f"the experience labels images with vectors of shape {shape}, expected "
            "classes"
        )
    try:
        value = label.item() if hasattr(label, "item") else label
        return operator.index(value)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the experience labels images with {label!r}, expected whole numbers; "
            "number its classes from 0"
        ) from error
