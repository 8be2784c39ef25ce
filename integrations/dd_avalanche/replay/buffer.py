"""A storage policy for Avalanche whose exemplars are distilled."""

import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.benchmarks.utils import AvalancheDataset, concat_datasets
from avalanche.training.storage_policy import ExemplarsBuffer
from torch import Tensor

import dd_plugins
from dd_avalanche.memory import DistilledMemory, untouched_randomness
from dd_avalanche.memory.options import check_seconds
from dd_avalanche.replay.items import ClassBuffer, as_dataset, augmented_copies
from dd_avalanche.replay.layout import (
    ExperienceContent,
    LabelledImages,
    Layout,
    content_of,
    read_images,
)
from dd_plugins.api import DDWarning, OptionError, generator_for, one_of, whole_number

__all__ = ["REPLAY_DISTILLER", "BufferLabels", "DistilledBuffer"]

BufferLabels = Literal["hard", "learned"]
"""The labels of a buffer's items: their classes, or the learned labels."""

REPLAY_DISTILLER = "herding(training_steps=0)"
"""The default choice of a buffer: the images nearest to the mean of their class.

With augmented copies they are as good as learned images of as many pixels, in a
tenth of the time (docs/benchmarks/continual.md)."""

_ITEMS = 640
"""Items of a small buffer, augmented copies included: ten batches of usual size."""


class DistilledBuffer(ExemplarsBuffer):  # type: ignore[misc]
    """A buffer of exemplars, learned or chosen by any distiller of the library.

    By default it chooses the most typical images of each class. Distillers such as
    ``"dm(real_batch_size=64)"`` learn images.

    Pass it to ``ReplayPlugin(mem_size, storage_policy=DistilledBuffer(mem_size))``.
    Both numbers must be equal: otherwise Avalanche fails with an empty AssertionError.
    After each experience the buffer distils the experience's images under the
    benchmark's evaluation transform. The items of the buffer are in the same space, and
    are not transformed again. The sub-experiences of an online stream are collected,
    and distilled together after the last of them. Experiences without images are
    skipped. During a distillation, memory holds at most three copies of the
    experience's images in float32, or more with ``whitening``.

    The items of a small buffer include augmented copies of its images: they fill a
    batch, and keep a network from memorising a few images. Copies are not stored, but
    recomputed when the buffer has changed.

    The items have the same parts as those of the benchmark: an image, a class as a
    number or a tensor, and a task label where theirs have one.

    Neither the strategy's model nor a global random generator is touched.

    Args:
        max_size: the largest number of images, or of rooms for four packed ones.
        distiller: a spec, or a distiller.
        labels: ``"hard"``: items are ``(image, class)``, as everything in Avalanche
            expects; ``"learned"``: the label is the learned vector, float32 of shape
            ``(num_classes,)``; the strategy then needs
            :class:`~dd_avalanche.SoftTargets`. By default labels are hard, until a
            ``SoftTargets`` is made for the buffer.
        augmented_copies: further items made from each stored image, each by one
            operation of :func:`~dd_plugins.api.random_augmentation`, with flips if
            ``mirror`` is set. By default as many as fit into 640 items in all: none
            from 321 images on.
        seconds: the time limit of a distillation in seconds, the timing of its steps
            included; None for no limit (``most_seconds`` of the memory).
        **options: those of :class:`~dd_avalanche.DistilledMemory`:
            ``images_per_class``, ``num_classes``, ``steps``, ``network``,
            ``initial_images``, ``context``, ``whitening``, ``store``, ``shrink``,
            ``mirror``, ``seed``, ``device``.

    Attributes:
        memory: the stored images.
        layout: the layout of the items, from the last experience.
        buffer_groups: a buffer for each class, as ``ClassBalancedBuffer`` has them.
        taken: the classes and the number of images of each experience, or part of one,
            since the buffer was made or restored.

    Raises:
        OptionError: an option is out of its range.
        UnknownNameError: no plugin registers the distiller.
    """

    def __init__(
        self,
        max_size: int,
        distiller: "str | dd_plugins.AbstractDistiller[Any]" = REPLAY_DISTILLER,
        *,
        labels: BufferLabels | None = None,
        augmented_copies: int | None = None,
        seconds: float | None = None,
        **options: Any,
    ) -> None:
        if labels is not None:
            one_of("labels", labels, get_args(BufferLabels))
        if augmented_copies is not None:
            augmented_copies = whole_number(
                "augmented_copies", augmented_copies, least=0
            )
        super().__init__(max_size)
        if seconds is not None:
            check_seconds("seconds", seconds)
            options["most_seconds"] = seconds
        self.memory = DistilledMemory(max_size, distiller, **options)
        self.labels: BufferLabels = labels or "hard"
        self._labels_open = labels is None
        if labels == "learned":
            self.need_num_classes()
        self.augmented_copies = augmented_copies
        self.layout = Layout()
        self.buffer_groups: dict[int, ExemplarsBuffer] = {}
        self.taken: list[ExperienceContent] = []
        self._collected: list[LabelledImages] = []
        self._filled_at: tuple[int, ...] | None = None

    def need_num_classes(self) -> None:
        """Refuse learned labels of unknown width.

        Raises:
            OptionError: the memory was made without ``num_classes``.
        """
        if self.memory.num_classes is None:
            raise OptionError(
                "learned labels need num_classes, the width of the model's output, got "
                "None"
            )

    def prefer_learned_labels(self) -> None:
        """Use learned labels, unless the buffer was made with a choice of labels.

        Raises:
            OptionError: the memory was made without ``num_classes``.
        """
        if self._labels_open:
            self.need_num_classes()
            self.labels = "learned"
            self._renew()

    @property
    def buffer_datasets(self) -> list[AvalancheDataset]:
        """The items of each class: the data sets of ``buffer_groups``."""
        return [group.buffer for group in self.buffer_groups.values()]

    def take(self, memory: DistilledMemory) -> None:
        """Replace the memory by a filled one."""
        self.memory, self.max_size = memory, memory.size
        self._renew()

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        """Distil an experience, or collect a part of one.

        Several plugins of a strategy may share a buffer: it takes each experience once.

        Args:
            agent_state: the strategy; its clock distinguishes one training from the
                next.
            exp: the experience.

        Raises:
            DataError: an item is not an image tensor and a class, with or without a
                task label.
            OptionError: the memory has no room for the classes, or the stream does not
                mark the ends of its experiences; or labels are learned, and those of
                the current data are no vectors.
        """
        self.fill(agent_state, exp)

    def fill(self, agent_state: Any, exp: Any, *, mixed: bool = True) -> None:
        """Distil an experience as :meth:`post_adapt` does, or collect a part of one.

        Args:
            agent_state: the strategy.
            exp: the experience.
            mixed: whether batches will mix items of the buffer and of the benchmark;
                both must then have the same parts.
        """
        # Plugins that share the buffer fill it during the same training, and the clock
        # stands still between them. Training on an experience again makes it new.
        clock = getattr(agent_state, "clock", None)
        moment = None
        if clock is not None:
            moment = id(clock), clock.train_exp_counter, id(exp)
        if moment is not None and moment == self._filled_at:
            return
        if mixed and self.labels == "learned":
            _check_targets(agent_state)
        content = content_of(exp.dataset)
        self._tell_untaken_classes(agent_state, content.classes)
        part = read_images(exp.dataset, mixed=mixed)
        if isinstance(exp, OnlineCLExperience):
            self._check_part(exp)
        elif self._collected:
            raise OptionError(
                f"expected the next part of an online experience after {self.parts} "
                "parts, got a whole experience; pass all parts up to the last one"
            )
        self._collected.append(part)
        del part  # else its images would stay in memory with the joined ones
        if not isinstance(exp, OnlineCLExperience) or self._is_last(exp):
            collected, self._collected = self._collected, []
            self._add(collected)
        self.taken.append(content)
        self._filled_at = moment

    def update_from_dataset(self, new_data: Any, strategy: Any = None) -> None:
        """Distil the images of a data set, as if they were an experience.

        Use it for a stream without marked ends of experiences: pass the images to
        distil together.

        Args:
            new_data: a data set of Avalanche.
            strategy: not used.

        Raises:
            DataError: as for :meth:`post_adapt`.
            OptionError: the memory has no room for its classes.
        """
        del strategy
        self._add([read_images(new_data, mixed=True)])

    def _add(self, collected: list[LabelledImages]) -> None:
        """Distil the collected images; the list is emptied."""
        collected[:] = [part for part in collected if len(part.labels)]
        if not collected:
            return
        self.layout = collected[-1].layout
        images, labels, tasks = collected[0][:3]
        if len(collected) > 1:
            images = torch.cat([part.images for part in collected])
            labels = torch.cat([part.labels for part in collected])
            tasks = torch.cat([part.tasks for part in collected])
        collected.clear()  # frees the parts: the joined images are enough
        found = sorted(set(tasks.tolist()))
        with self.memory.all_or_nothing():
            for task in found:
                chosen = tasks == task
                own = images if len(found) == 1 else images[chosen]
                self.memory.add(own, labels[chosen], task)
        self._renew()

    def _tell_untaken_classes(self, agent_state: Any, given: list[int]) -> None:
        """Warn of classes of the current data that the buffer never gets."""
        current = getattr(agent_state, "adapted_dataset", None)
        if current is None:
            return
        taken = {*given, *(key.label for key in self.memory.groups)}
        taken.update(*(each.classes for each in self.taken))
        missing = sorted({*content_of(current).classes} - taken)
        if missing:
            warnings.warn(
                f"the strategy trains on classes {', '.join(map(str, missing[:10]))} "
                "that are in no experience given to the buffer, which holds no images "
                "of them; JointTraining gives its first experience only",
                DDWarning,
                stacklevel=2,
            )

    @property
    def parts(self) -> int:
        """The number of collected parts of an unfinished experience."""
        return len(self._collected)

    def _check_part(self, exp: Any) -> None:
        """Refuse a part out of order.

        Raises:
            OptionError: the stream does not mark the ends of experiences, or another
                experience is unfinished.
        """
        if not exp.access_task_boundaries:
            raise OptionError(
                "an online stream must tell where its experiences end, because they "
                "are distilled whole, got access_task_boundaries="
                f"{exp.access_task_boundaries}; split it with "
                "access_task_boundaries=True, or, if it has no experiences, pass "
                "update_from_dataset() the images to distil together"
            )
        if exp.is_first_subexp is not (not self._collected):
            raise OptionError(
                "the buffer must see all parts of an experience in their order, got a "
                f"part of an experience of {exp.sub_stream_length} parts after "
                f"{self.parts} parts of another"
            )

    def _is_last(self, exp: Any) -> bool:
        """Return whether a part is the last of its experience.

        Parts are counted as well: if an experience divides into parts without a
        remainder, Avalanche 0.6 marks none as the last.
        """
        counted = len(self._collected) == exp.sub_stream_length
        return bool(exp.is_last_subexp or counted)

    def resize(self, strategy: Any, new_size: int) -> None:
        """Change the largest number of images; shrink the stored classes to fit.

        Args:
            strategy: not used.
            new_size: the new largest number of images.

        Raises:
            OptionError: the number is too small for the stored classes.
        """
        del strategy
        self.memory.resize(new_size)
        self.max_size = new_size
        self._renew()

    def save(self, folder: str | Path) -> Path:
        """Write the stored images to a folder (see :meth:`DistilledMemory.save`)."""
        return self.memory.save(folder)

    def restore(self, folder: str | Path, like: Any) -> None:
        """Restore a buffer saved by :meth:`save`, with its size if it was resized.

        Args:
            folder: the folder of the saved memory.
            like: a data set of the benchmark, such as ``stream[0].dataset``: the items
                of the buffer get the same parts.

        Raises:
            FileError: there is no saved memory, or it is damaged.
            OptionError: it was written with other options.
        """
        self.memory.restore(folder)
        self.max_size = self.memory.size
        self.taken, self._collected, self._filled_at = [], [], None
        with untouched_randomness():
            self.layout = Layout.of(like)
        self._renew()

    def _renew(self) -> None:
        """Rebuild the data sets of the stored images."""
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
        copies = self._copies()
        self.buffer = as_dataset(memory, labels, self.layout, copies)
        classes = memory.hard_labels().tolist() * (1 + len(copies))
        for label in dict.fromkeys(classes):
            indices = [index for index, each in enumerate(classes) if each == label]
            self.buffer_groups[label] = ClassBuffer(self.buffer.subset(indices))

    def _copies(self) -> list[Tensor]:
        """Return augmented copies of the stored images, determined by the seed."""
        memory = self.memory
        count = self.augmented_copies
        if count is None:
            count = max(0, _ITEMS // len(memory) - 1)
        generator = generator_for(memory.seed, "buffer copies", memory.experiences)
        return augmented_copies(memory, count, generator)


def _check_targets(agent_state: Any) -> None:
    """Refuse current data labelled by classes: learned labels are vectors.

    Raises:
        OptionError: the data set of a strategy has such labels.
    """
    current = getattr(agent_state, "adapted_dataset", None)
    if current is None or not len(current):
        return
    with untouched_randomness():  # an evaluation transform may draw
        label = current.eval()[0][1]
    if not isinstance(label, Tensor) or not label.is_floating_point():
        raise OptionError(
            "a buffer of learned labels needs vectors as labels of the current data, "
            f"got {label!r}; give the strategy the plugin SoftTargets(buffer), or "
            "replay by DistilledReplayPlugin"
        )
