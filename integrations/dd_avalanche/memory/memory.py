"""A memory of distilled images: experiences fill it, and it shrinks on demand."""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dd_avalanche.memory.distilling import (
    Distillate,
    as_distilled_set,
    distil,
    unit_range,
)
from dd_avalanche.memory.growing import Addition, checked_experience
from dd_avalanche.memory.options import MemoryOptions
from dd_avalanche.memory.pool import ImagePool
from dd_avalanche.memory.saved import (
    MEMORY_NAME,
    MemoryState,
    read_state,
    write_state,
)
from dd_avalanche.memory.stored import ImageGroups, TaskClass
from dd_plugins.api import (
    DDWarning,
    DistilledSet,
    Header,
    OptionError,
    what_differs,
    whole_number,
)

__all__ = ["DistilledMemory"]

_SEED_STRIDE = 100_003  # a prime: seeds of two memories seldom coincide


@dataclass
class DistilledMemory(MemoryOptions):
    """A memory of distilled images, filled one experience at a time.

    Images are in the value space of the model: the memory does not normalise them.

    A returning class is distilled again, from its new images and from copies of its
    stored ones: as many copies as it had real images before. A coreset keeps its first
    images and chooses the others from the new ones, in this proportion.

    A task may start with a single class if the distiller learns each class separately,
    as ``dm`` does with a network without BatchNorm, ``random``, and ``herding`` and
    ``kmeans`` with ``training_steps=0``. Other distillers refuse it.

    The images of an experience are gathered as they are drawn; only ``whitening``
    copies them. Copies of stored images are references too.

    Args:
        size: the largest number of stored images.
        distiller: a spec or a distiller, coresets (``random``, ``herding``,
            ``kmeans``) included.
        num_classes: the number of classes of the whole stream, if known: regression
            labels then score all of them from the start, as in FRePo's protocol. Those
            of a private distiller score the classes of its experience, as it would
            learn images of all others too.
        images_per_class: the number of images of each class; by default ``size``
            divided by the number of classes so far, rounded down; the remainder stays
            free. ``"proportional"`` divides the room in proportion to the real images
            of each class so far, with at least one of each.
        steps: the steps of each distillation; None for the distiller's choice. More
            steps fit the images to the few classes of an experience, and to no others
            (docs/integrations/avalanche.md). A coreset takes none.
        most_seconds: the time limit of a distillation, in seconds; None for no limit.
            Some steps are timed first. If ``steps`` would take too long, fewer are
            made, but at least one. The images then depend on the machine.
        network: the network for distillation: a spec, or a function that returns a
            fresh torch module (see :func:`~dd_plugins.api.get_network`), so images are
            learned with the model they will train; None for the distiller's choice. A
            saved memory knows a function by its qualified name alone.
        initial_images: the starting point of new images (see
            :func:`dd_plugins.distill`); None for the distiller's choice. By default
            herded ones (``"herding(training_steps=0)"``); the distiller's choice if it
            is private, because these are real images.
        context: the role of a task's stored images when new classes are distilled.
            ``"none"`` or False: no role, as in the papers. ``"fixed"`` or True: they
            join the new images, and copies of them join the real ones, so the new
            images are learned to fit them. ``"refined"``: the same, and they are
            learned further themselves. Methods matching each class by itself (``dm``,
            ``dsa``) gain little or nothing from a context.
        whitening: the space of the distillation: ``"none"`` for the model's space,
            ``"experience"`` for its ZCA-whitened form, fitted to the images of the
            experience; or images of public data, float of shape ``(n, channels, height,
            width)`` in the space of the model, for fitting ZCA. Stored images are
            always in the space of the model.
        store: ``"float32"``, or ``"uint8"`` for a quarter of the bytes: 256 levels for
            each image. ``"packed"`` and ``"packed-uint8"`` hold four images of half the
            size in the room of one: ``size`` and ``images_per_class`` count these
            rooms. Real images chosen by a coreset are scaled down. Packing and a
            context exclude each other.
        shrink: how to reduce the images of a class when room is needed: keep the first
            of them (``"truncate"``), or distil fewer from them (``"distil"``).
        mirror: whether a flipped image keeps its class.
        seed: the seed from which the seed of each distillation is derived.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Attributes:
        groups: the stored images, by task and class, in the order of appearance.
        experiences: distillations so far: one for each task of an experience, and with
            ``shrink="distil"`` one for each task whose images are reduced.
        seconds: seconds spent on distilling.
    """

    groups: ImageGroups = field(default_factory=ImageGroups, init=False, repr=False)
    experiences: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    _header: Header | None = field(default=None, init=False, repr=False)
    _made_size: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse options out of their range."""
        super().__post_init__()
        self._made_size = self.size

    def __len__(self) -> int:
        return self.groups.num_images

    @property
    def num_bytes(self) -> int:
        """Bytes of the stored images, and of learned labels."""
        return self.groups.num_bytes

    @property
    def image_bytes(self) -> int:
        """Bytes of the stored images, without labels."""
        return self.groups.image_bytes

    def classes(self, task: int) -> list[int]:
        """Return the stored classes of a task, sorted."""
        return self.groups.classes(task)

    def images(self) -> Tensor:
        """Return all images, group by group."""
        return self.groups.images()

    def tasks(self) -> Tensor:
        """Return the task of each image, int64."""
        return self.groups.each("task")

    def hard_labels(self) -> Tensor:
        """Return the class of each image, int64."""
        return self.groups.each("label")

    def labels(self, num_classes: int) -> Tensor:
        """Return the learned labels of all images, float32 ``(n, num_classes)``."""
        return self.groups.labels(range(num_classes))

    def add(self, images: Any, labels: Any, task: int = 0) -> None:
        """Distil the images of an experience into the memory.

        Args:
            images: a tensor or an array, float of shape ``(n, channels, height,
                width)``, in the value space of the model.
            labels: their classes: integers of shape ``(n,)`` or ``(n, 1)``, a tensor,
                an array or a list.
            task: their task.

        Raises:
            OptionError: the memory is smaller than the number of classes; or the images
                are of one class, nothing else is stored of the task, and the distiller
                cannot learn one class alone; or the task is no whole number.
            DataError: the images or labels cannot be used.
        """
        task = whole_number("task", task)
        images, labels = checked_experience(images, labels, self.groups, self)
        addition = Addition.of(labels, task, self.groups, self)
        shortage = addition.shortage()
        if shortage is not None:
            warnings.warn(shortage, DDWarning, stacklevel=2)
        channels, height, width = images.shape[1:]
        addition.check((channels, height, width))
        # Images are cut before the distillation. If it fails, they must come back.
        with self.all_or_nothing():
            # Room is made before the pool: images that are cut must not be in it.
            self._make_room(addition.room)
            made = self._distil(
                addition.pool(images, labels, self.groups),
                addition.present,
                [addition.room_of(label) for label in addition.present],
                context=[TaskClass(task, label) for label in addition.beside],
            )
            for label in addition.learned:
                key = TaskClass(task, label)
                old = self.groups.get(key)
                self.groups[key] = addition.result(label, made, images, labels, old)

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Restore the memory if the body of the with statement fails."""
        groups = ImageGroups(self.groups)
        before = self.experiences, self._header, self.size
        try:
            yield
        except BaseException:
            self.groups = groups
            self.experiences, self._header, self.size = before
            raise

    def resize(self, size: int) -> None:
        """Change the largest number of images; shrink the stored classes to fit.

        Raises:
            OptionError: the number is too small for the stored classes.
        """
        size = whole_number("size", size, least=1)
        with self.all_or_nothing():
            self.size = size
            if self.groups:
                seen = {key: stored.seen for key, stored in self.groups.items()}
                self._make_room(self.room(seen))

    def _make_room(self, room: Mapping[TaskClass, int]) -> None:
        """Leave at most this many images in each group."""
        if self.shrink == "distil":
            self._distil_to(room)
        for key, stored in self.groups.items():
            if stored.count > room[key]:
                self.groups[key] = stored.first(room[key])

    def _distil_to(self, room: Mapping[TaskClass, int]) -> None:
        """Distil the groups with more images than there is room for, task by task."""
        for task in self.groups.tasks():
            large = self.groups.only(
                key
                for key, stored in self.groups.items()
                if key.task == task and stored.count > room[key]
            )
            if len(large) < 2:
                continue  # one class alone is cut: many distillers cannot distil it
            pool = ImagePool(large.images(), large.each("label"))
            present = large.classes(task)
            counts = [room[TaskClass(task, label)] for label in present]
            made = self._distil(pool, present, counts)
            for key, stored in large.items():
                self.groups[key] = made.of_class(key.label, stored.seen, self)

    def _distil(
        self,
        pool: ImagePool,
        present: Sequence[int],
        counts: Sequence[int],
        *,
        context: Sequence[TaskClass] = (),
    ) -> Distillate:
        """Distil images, and count the distillations: each has its own seed."""
        started = time.perf_counter()
        made = distil(
            pool,
            present,
            counts,
            options=self,
            seed=self.seed * _SEED_STRIDE + self.experiences,
            context=self.groups.only(context),
            last=self._header,
        )
        self._header = made.header
        self.experiences += 1
        self.seconds += time.perf_counter() - started
        return made

    def copied(self) -> "DistilledMemory":
        """Return a memory in the same state; a change of one leaves the other alone."""
        other = copy(self)
        other.groups = ImageGroups(self.groups)  # stored images never change in place
        return other

    def rounded(self) -> "DistilledMemory":
        """Return a memory of the same images with 256 levels each."""
        rounded = self.copied()
        rounded.store = "packed-uint8" if self.packing > 1 else "uint8"
        for key, stored in self.groups.items():
            rounded.groups[key] = stored.rounded()
        return rounded

    def distilled_set(self, task: int = 0) -> DistilledSet:
        """Return the stored images of a task as an artifact, to show, export or save.

        Its pixels are scaled so that the smallest and the largest value are 0 and 1.

        Raises:
            OptionError: nothing is stored of the task.
        """
        present = self.classes(task)
        if not present:
            raise OptionError(
                f"expected a task of which images are stored, got task {task}; known "
                f"tasks: {', '.join(map(str, self.groups.tasks())) or 'none'}"
            )
        assert self._header is not None
        groups = self.groups.only(TaskClass(task, label) for label in present)
        images = groups.images()
        return as_distilled_set(
            groups,
            images,
            unit_range(images),
            self.label_classes(present),
            self._header,
        )

    def save(self, folder: str | Path) -> Path:
        """Write the memory to a folder; return the file for restoring it.

        :meth:`restore` reads ``memory.safetensors``. Next to it is an artifact for each
        task, ``task-0.safetensors`` and so on, for ``dd-plugins show``, ``info`` and
        ``export``.

        Raises:
            FileError: a file cannot be written. If it is ``memory.safetensors``, a
                memory saved there before is kept, with its artifacts.
        """
        target = Path(folder)
        state = MemoryState(
            self.configuration(self._made_size),
            self.size,
            self.experiences,
            self.seconds,
            self._header,
            self.groups,
        )
        file = write_state(target / MEMORY_NAME, state)
        own = {
            self.distilled_set(task).save(target / f"task-{task}.safetensors")
            for task in self.groups.tasks()
        }
        for other in target.glob("task-*.safetensors"):  # of a memory saved before
            if other not in own and other.stem.removeprefix("task-").isdecimal():
                other.unlink()
        return file

    def restore(self, folder: str | Path) -> None:
        """Restore a memory saved by :meth:`save`; nothing changes on failure.

        A memory resized before it was saved gets this size again.

        Raises:
            FileError: the file is missing, damaged or foreign.
            OptionError: the saved memory had other options.
        """
        file = Path(folder) / MEMORY_NAME
        state = read_state(file)
        # A resized memory was saved with two sizes. It may be restored into a memory of
        # its original size, or of its size when it was saved.
        resized = self.size == state.size
        own = self.configuration(state.made_size if resized else self._made_size)
        differing = what_differs(state.configuration, own)
        if differing:
            raise OptionError(
                f"{file}: expected a memory with the options of the saved one, got "
                f"others: {differing}"
            )
        self.groups, self.size = state.groups, state.size
        self._made_size = state.made_size
        self.experiences, self.seconds = state.experiences, state.seconds
        self._header = state.header
