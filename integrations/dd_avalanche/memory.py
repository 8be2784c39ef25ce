"""A memory of distilled images: what it holds, how it grows and shrinks.

Nothing here needs Avalanche; :mod:`dd_avalanche.buffer` makes a storage policy of it.
"""

import hashlib
import json
import math
import random
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

import dd_plugins
from dd_plugins.api import (
    DataError,
    DistilledSet,
    FileError,
    Header,
    Images,
    ImageSource,
    Items,
    LabelKind,
    OptionError,
    StreamedImages,
    Transform,
    load_tensors,
    save_tensors,
    what_differs,
)

__all__ = [
    "DISTILLER",
    "INITIAL_IMAGES",
    "MEMORY_NAME",
    "NETWORK",
    "STEPS",
    "Context",
    "DistilledMemory",
    "Group",
    "Shrink",
    "Store",
    "Stored",
    "spread_labels",
    "untouched_randomness",
]

DISTILLER = "dm(real_batch_size=64)"
"""The distiller that fills a memory, if nobody says: what measured best."""

NETWORK = "conv(width=32)"
"""On which images are distilled, if nobody says: where that was measured."""

INITIAL_IMAGES = "herding(training_steps=0)"
"""What new images begin as, if nobody says: the most typical ones, by their pixels."""

STEPS = 100
"""Steps of a distillation, if nobody says."""

MEMORY_NAME = "memory.safetensors"
"""The name of the file that a saved memory is restored from."""

Context = Literal["none", "fixed", "refined"]
"""What the stored images are while new ones are distilled: unseen, seen, or learned."""

Store = Literal["float32", "uint8"]
"""How images are stored."""

Shrink = Literal["truncate", "distil"]
"""How the images of a class become fewer."""

_FORMAT_VERSION = 2  # from 2 on a file has a hash over all that it holds
_METADATA_KEY = "dd_avalanche"
_LEVELS = 255
_READ = 256  # images that are gathered at a time


class Group(NamedTuple):
    """Images that are stored together: a class of a task.

    Attributes:
        task: the task label; 0 where a benchmark has none.
        label: the class.
    """

    task: int
    label: int


@dataclass(frozen=True, eq=False)
class Stored:
    """The stored images of one group.

    Attributes:
        pixels: float32 of shape ``(n, channels, height, width)`` in the value space of
            the model; or uint8, of which ``low + step * pixels`` is that.
        labels: float32 of shape ``(n, k)``, as the distiller learned them.
        columns: the k classes that the labels speak of.
        label_kind: what the labels are.
        seen: how many real images the group has had: those that these stand for.
        low: float32 of shape ``(n, 1, 1, 1)``; None for float32 pixels.
        step: likewise.
    """

    pixels: Tensor
    labels: Tensor
    columns: tuple[int, ...]
    label_kind: LabelKind
    seen: int
    low: Tensor | None = None
    step: Tensor | None = None

    @classmethod
    def of(cls, images: Tensor, store: Store, **fields: Any) -> "Stored":
        """Store images: as they are, or rounded to 256 levels for each image."""
        exact = cls(images.contiguous(), **fields)
        return exact if store == "float32" else exact.rounded()

    def rounded(self) -> "Stored":
        """Return the same with 256 levels for each image."""
        images = self.images
        low = images.amin(dim=(1, 2, 3), keepdim=True)
        step = (images.amax(dim=(1, 2, 3), keepdim=True) - low) / _LEVELS
        step = torch.where(step > 0, step, torch.ones_like(step))
        levels = ((images - low) / step).round().clamp(0, _LEVELS).to(torch.uint8)
        return replace(self, pixels=levels.contiguous(), low=low, step=step)

    @property
    def images(self) -> Tensor:
        """The images in the value space of the model, float32."""
        if self.low is None or self.step is None:
            return self.pixels
        return self.low + self.step * self.pixels

    def image(self, place: int) -> Tensor:
        """Return one image in the value space of the model, float32."""
        if self.low is None or self.step is None:
            return self.pixels[place].clone()  # transforms may work in place
        return self.low[place] + self.step[place] * self.pixels[place]

    @property
    def image_bytes(self) -> int:
        """Bytes of pixels, and of what rounding needs."""
        tensors = [self.pixels, self.low, self.step]
        return sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def num_bytes(self) -> int:
        """Bytes of images, and of labels that are learned."""
        of_labels = 0 if self.label_kind == "classes" else self.labels.nbytes
        return self.image_bytes + of_labels

    def first(self, count: int) -> "Stored":
        """Return the first images alone."""
        return replace(
            self,
            pixels=self.pixels[:count].clone(),  # else all of them stay in memory
            labels=self.labels[:count].clone(),
            low=None if self.low is None else self.low[:count].clone(),
            step=None if self.step is None else self.step[:count].clone(),
        )

    def tensors(self) -> dict[str, Tensor | None]:
        """Return the tensors by their names."""
        return {
            "pixels": self.pixels,
            "labels": self.labels,
            "low": self.low,
            "step": self.step,
        }

    def __len__(self) -> int:
        return len(self.pixels)


def spread_labels(
    labels: Tensor,
    columns: Sequence[int],
    label_kind: LabelKind,
    classes: Sequence[int],
) -> Tensor:
    """Let labels that speak of some classes speak of others.

    Regression targets are centred: what is ``1 - 1/k`` and ``-1/k`` among k classes is
    ``1 - 1/m`` and ``-1/m`` among m. Probabilities and scores of further classes are 0.
    What was said of classes that are not among the m is left out.

    Args:
        labels: float of shape ``(n, k)``.
        columns: the k classes they speak of.
        label_kind: what they are.
        classes: the m classes that they are to speak of.

    Returns:
        float32 of shape ``(n, m)``.
    """
    few, many = len(columns), len(classes)
    spread = torch.zeros(len(labels), many, device=labels.device)
    if label_kind == "regression":
        spread -= 1 / many
        labels = labels + (1 / few - 1 / many)
    kept = [place for place, column in enumerate(columns) if column in classes]
    places = [classes.index(columns[place]) for place in kept]
    spread[:, places] = labels[:, kept].float()
    return spread


@dataclass
class DistilledMemory:
    """A memory of distilled images, filled one experience after the other.

    Images are in the value space of the model, whatever that is: nothing is normalised
    that was not before, and nothing twice.

    A class that comes again is distilled anew, from its new images and from copies of
    its stored ones, as many as the real images that these stand for. A core set keeps
    its first images and chooses of the new ones, in that proportion.

    There may be nothing to tell the first class of a task from. Core sets, and ``dm``,
    which matches each class alone, need no other one; other distillers do.

    Nothing is copied of the images of an experience, but for ``whitening``: they are
    gathered as they are drawn. Copies of stored images are references as well.

    Args:
        size: images that it holds at most.
        distiller: a spec, or a distiller; core sets (``random``, ``herding``,
            ``kmeans``) among them.
        num_classes: classes of the whole stream, if that is known: regression labels
            then speak of all of them from the start, as in FRePo's protocol.
        images_per_class: images of each class; by default as many as there is room for:
            ``size`` divided by the classes seen so far, rounded down; the remainder
            stays free.
        steps: of each distillation; None for the distiller's choice. More fit the
            images to the few classes of an experience, and to no others
            (docs/integrations/avalanche.md). A core set takes none.
        network: on which images are distilled: a spec; None for the distiller's choice.
        initial_images: what new images begin as (see :func:`dd_plugins.distill`); None
            for the distiller's choice.
        context: what the stored images of a task are while those of new classes are
            distilled: ``"none"`` or False: out of sight, as the papers have it;
            ``"fixed"`` or True: beside the new ones, which are learned to work together
            with them, and standing for their classes among the targets; ``"refined"``:
            the same, and learned further themselves. Methods that match each class by
            itself (``dm``, ``dsa``) make little or nothing of it.
        whitening: the space in which images are distilled: ``"none"`` for that of the
            model, ``"experience"`` for ZCA of it, fitted to the images of the
            experience; or images of public data, float of shape ``(n, channels, height,
            width)`` in the space of the model, to which ZCA is fitted. What is stored
            is in the space of the model always.
        store: ``"float32"``, or ``"uint8"`` for a quarter of the bytes: 256 levels for
            each image.
        shrink: how the images of a class become fewer when room is needed: the first of
            them stay (``"truncate"``), or fewer are distilled from them (``"distil"``).
        mirror: whether a mirror image is still of its class.
        seed: from which the seed of each distillation is derived.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...

    Attributes:
        groups: what is stored, by task and class, in the order of appearance.
        experiences: distillations so far: one for each task of an experience, and with
            ``shrink="distil"`` one each time that room is made.
        seconds: spent on distilling.
    """

    size: int
    distiller: str | dd_plugins.AbstractDistiller[Any] = DISTILLER
    images_per_class: int | None = None
    num_classes: int | None = None
    steps: int | None = STEPS
    network: str | None = NETWORK
    initial_images: str | None = INITIAL_IMAGES
    context: Context | bool = "none"
    whitening: Literal["none", "experience"] | Tensor = "none"
    store: Store = "float32"
    shrink: Shrink = "truncate"
    mirror: bool = False
    seed: int = 0
    device: str = "auto"
    groups: dict[Group, Stored] = field(default_factory=dict, init=False, repr=False)
    experiences: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    _header: Header | None = field(default=None, init=False, repr=False)
    _made_size: int = field(default=0, init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse what is out of its range."""
        for name in ("size", "images_per_class", "steps", "num_classes"):
            if getattr(self, name) is not None:
                _check_number(name, getattr(self, name))
        if isinstance(self.context, bool):
            self.context = "fixed" if self.context else "none"
        choices = {"context": Context, "store": Store, "shrink": Shrink}
        for name, kind in choices.items():
            known = get_args(kind)
            if getattr(self, name) not in known:
                raise OptionError(
                    f"{name} must be one of {', '.join(known)}, got "
                    f"{getattr(self, name)!r}"
                )
        if not isinstance(self.whitening, Tensor) and self.whitening not in (
            "none",
            "experience",
        ):
            raise OptionError(
                "whitening must be 'none', 'experience' or a tensor of public images, "
                f"got {self.whitening!r}"
            )
        if isinstance(self.distiller, str):
            self.distiller = dd_plugins.get_distiller(self.distiller)
        self._made_size = self.size

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))

    @property
    def num_bytes(self) -> int:
        """Bytes of everything that is stored."""
        return sum(stored.num_bytes for stored in self.groups.values())

    @property
    def image_bytes(self) -> int:
        """Bytes of what is stored, without labels."""
        return sum(stored.image_bytes for stored in self.groups.values())

    @property
    def label_kind(self) -> LabelKind:
        """What the learned labels are."""
        return self._method.label_kind

    @property
    def _method(self) -> dd_plugins.AbstractDistiller[Any]:
        assert not isinstance(self.distiller, str)
        return self.distiller

    def classes(self, task: int) -> list[int]:
        """Return the classes of a task that are stored, sorted."""
        return sorted(group.label for group in self.groups if group.task == task)

    def images(self) -> Tensor:
        """Return all images, group by group."""
        return torch.cat([stored.images for stored in self.groups.values()])

    def tasks(self) -> Tensor:
        """Return the task of each image, int64."""
        return self._repeated("task")

    def hard_labels(self) -> Tensor:
        """Return the class of each image, int64."""
        return self._repeated("label")

    def _repeated(self, name: Literal["task", "label"]) -> Tensor:
        counts = torch.tensor([len(stored) for stored in self.groups.values()])
        values = torch.tensor([getattr(group, name) for group in self.groups])
        return values.repeat_interleave(counts)

    def labels(self, num_classes: int) -> Tensor:
        """Return the learned labels of all images, float32 ``(n, num_classes)``."""
        everything = range(num_classes)
        return self._labels(list(self.groups), everything)

    def add(self, images: Tensor, labels: Tensor, task: int = 0) -> None:
        """Distil the images of an experience into the memory.

        Args:
            images: float of shape ``(n, channels, height, width)``, in the value space
                of the model.
            labels: integers of shape ``(n,)``: their classes.
            task: their task.

        Raises:
            OptionError: the memory is smaller than the number of classes; or nothing
                stands beside the images of one class alone, and the distiller needs
                another one.
            DataError: images cannot be used.
        """
        images, labels = self._checked(images, labels)
        new = sorted(set(labels.tolist()))
        wanted = self._room(len({*self.groups, *(Group(task, c) for c in new)}))
        counts = {c: int((labels == c).sum()) for c in new}
        before = {c: self.groups[Group(task, c)].seen for c in self.classes(task)}
        # Of a class that returns stored images are there as well.
        room = {c: min(wanted, n + before.get(c, 0)) for c, n in counts.items()}
        short = {c: count for c, count in room.items() if count < wanted}
        if short:
            warnings.warn(
                f"{wanted} images of each class asked for, but there are only "
                + ", ".join(f"{count} of class {c}" for c, count in short.items()),
                stacklevel=2,
            )
        # A chosen image must not be chosen twice, so there are no copies to choose.
        chooses = not self._method.moves_images
        again = [] if chooses else sorted(set(before) & set(new))
        others = sorted(set(before) - set(new))
        beside = [] if self.context == "none" else others
        # One class needs others to be told from, if they are stored images.
        told_from = others if len(new) == 1 else beside
        columns = sorted({*new, *told_from})
        if len(columns) < 2 and not self._method.classes_apart:
            raise OptionError(
                f"class {new[0]} stands alone, and nothing is stored beside it to tell "
                f"it from; {self.distiller!r} needs another one: let a stream begin "
                "with two classes or more, or take dm or a core set such as herding"
            )
        with self.all_or_nothing():
            self._make_room(wanted)
            pool = _Pool(images, labels)
            for c in (*again, *told_from):
                # As many copies as images were seen, and as a run chooses at least.
                stored = self.groups[Group(task, c)]
                pool.add(stored.images, c, max(stored.seen, len(stored), wanted))
            # A run makes as many of each class: few images are there several times.
            for c, count in counts.items():
                if count + (before.get(c, 0) if c in again else 0) < wanted:
                    pool.add(images[labels == c], c, wanted - count)
            made = self._distil(
                pool, columns, wanted, beside=[Group(task, c) for c in beside]
            )
            learned = columns if self.context == "refined" else new
            for c in learned:
                group, seen = Group(task, c), before.get(c, 0) + counts.get(c, 0)
                stored = self._stored(made, c, seen)
                if chooses and counts.get(c, wanted) < wanted:  # all of them are chosen
                    stored = self._as_they_are(images[labels == c], stored)
                if chooses and c in before:
                    stored = self._mixed(self.groups[group], stored, wanted)
                self.groups[group] = stored.first(room.get(c, wanted))

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Leave the memory as it was if what is done within it fails."""
        before = dict(self.groups), self.experiences, self._header, self.size
        try:
            yield
        except BaseException:
            self.groups, self.experiences, self._header, self.size = before
            raise

    def _as_they_are(self, images: Tensor, chosen: Stored) -> Stored:
        """Return images with the labels of others of their class."""
        return Stored.of(
            images,
            self.store,
            labels=chosen.labels[: len(images)],
            columns=chosen.columns,
            label_kind=chosen.label_kind,
            seen=chosen.seen,
        )

    def _mixed(self, old: Stored, new: Stored, wanted: int) -> Stored:
        """Return stored images and new ones, in proportion to what they stand for."""
        share = round(wanted * old.seen / new.seen)
        kept = min(len(old), max(share, wanted - len(new)))
        images = torch.cat([old.images[:kept], new.images[: wanted - kept]])
        labels = new.labels[:1].expand(len(images), -1).contiguous()
        return self._as_they_are(images, replace(new, labels=labels))

    def resize(self, size: int) -> None:
        """Change how many images it holds at most; shrink what is stored, if need be.

        Raises:
            OptionError: there are more classes than that.
        """
        _check_number("size", size)
        with self.all_or_nothing():
            self.size = size
            if self.groups:
                self._make_room(self._room(len(self.groups)))

    def _checked(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if images.ndim != 4 or len(images) == 0:
            raise DataError(
                "the images of an experience must have shape (n, channels, height, "
                f"width), n from 1; got {tuple(images.shape)}"
            )
        if not all(math.isfinite(value) for value in images.aminmax()):
            raise DataError(
                "the images of an experience hold values that are not finite"
            )
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or (self.num_classes is not None and high >= self.num_classes):
            raise DataError(
                f"the classes of an experience go from {low} to {high}; expected 0 to "
                f"{'any' if self.num_classes is None else self.num_classes - 1}"
            )
        whitening = self.whitening
        if isinstance(whitening, Tensor) and whitening.shape[1:] != images.shape[1:]:
            raise DataError(
                f"the images of this experience are {tuple(images.shape[1:])}, the "
                f"public ones {tuple(whitening.shape[1:])}"
            )
        if self.groups:
            held = next(iter(self.groups.values())).pixels.shape[1:]
            if images.shape[1:] != held:
                raise DataError(
                    f"the images of this experience are {tuple(images.shape[1:])}, "
                    f"those before were {tuple(held)}"
                )
        return images.detach().float().cpu(), labels.detach().long().cpu()

    def _room(self, groups: int) -> int:
        """Return how many images each of so many groups may have.

        Raises:
            OptionError: the memory is too small.
        """
        wanted = self.images_per_class or self.size // groups
        if wanted * groups > self.size or wanted < 1:
            least = groups * (self.images_per_class or 1)
            raise OptionError(
                f"a memory of {self.size} images has no room for {groups} classes"
                + (f" of {wanted} images each" if self.images_per_class else "")
                + f"; make it {least} or larger"
            )
        return wanted

    def _columns(self, present: Sequence[int]) -> list[int]:
        """Return the classes that labels speak of: those present first, then others.

        Regression targets speak of all classes of the stream, if their number is known.
        """
        if self.num_classes is None or self.label_kind != "regression":
            return list(present)
        return [*present, *(c for c in range(self.num_classes) if c not in present)]

    def _make_room(self, wanted: int) -> None:
        """Leave at most so many images in each group."""
        if self.shrink == "distil":
            self._distil_to(wanted)
        for group, stored in self.groups.items():
            if len(stored) > wanted:
                self.groups[group] = stored.first(wanted)

    def _distil_to(self, wanted: int) -> None:
        """Distil the groups of each task that have more images to so many."""
        for task in sorted({group.task for group in self.groups}):
            held = [
                group
                for group, stored in self.groups.items()
                if group.task == task and len(stored) > wanted
            ]
            if len(held) < 2:
                continue  # one class alone is cut
            columns = sorted(group.label for group in held)
            images = torch.cat([self.groups[group].images for group in held])
            labels = torch.cat(
                [torch.full((len(self.groups[g]),), g.label) for g in held]
            )
            made = self._distil(_Pool(images, labels), columns, wanted)
            for group in held:
                seen = self.groups[group].seen
                self.groups[group] = self._stored(made, group.label, seen)

    def _distil(
        self,
        pool: "_Pool",
        columns: Sequence[int],
        images_per_class: int,
        *,
        beside: Sequence[Group] = (),
    ) -> "_Made":
        """Distil images; return what was made, in the space of the model.

        Args:
            pool: the images and their classes, in the space of the model.
            columns: all classes there are, sorted.
            images_per_class: for each class that is not beside.
            beside: groups that are the context.
        """
        started = time.perf_counter()
        unit = pool.unit = _UnitRange.of(pool.parts)
        transform = unit.to_values
        images: ImageSource = _Gathered(pool, pool.numbers)
        if isinstance(self.whitening, Tensor) or self.whitening == "experience":
            if isinstance(self.whitening, Tensor):
                fitted: ImageSource = unit.to_unit(self.whitening.float())
            else:
                fitted = _Gathered(
                    pool, torch.arange(len(pool.parts[0])), clamped=False
                )
            transform = Transform.fit(fitted, "zca")
            images = images[:]  # else each draw would be whitened anew
        places = torch.zeros(max(columns) + 1, dtype=torch.int64)
        places[list(columns)] = torch.arange(len(columns))
        columns = self._columns(columns)
        data = dd_plugins.RealData(
            name="experience",
            train=Images(images, places[pool.labels]),
            train_indices=torch.arange(len(pool.labels)),
            validation=Images(torch.empty(0, *images.shape[1:]), places[:0]),
            class_names=tuple(_names(columns)),
            read_test=_no_test_set,
            mirror=self.mirror,
        ).with_transform(transform)
        scale = _label_scale(self._method, len(columns))
        context = None
        if beside:
            held = torch.cat([self.groups[group].images for group in beside])
            context = self._as_set(
                transform(unit.to_unit(held)),
                self._labels(beside, columns) * scale,
                transform,
                columns,
                beside,
            )
        chosen = not self._method.moves_images
        with untouched_randomness():
            distilled = dd_plugins.distill(
                data,
                self._method,
                images_per_class=images_per_class,
                steps=None if chosen else self.steps,
                seed=self.seed * 100_003 + self.experiences,
                network=self.network,
                initial_images=None if chosen else self.initial_images,
                context=context,
                refine_context=self.context == "refined" and context is not None,
                device=self.device,
            )
        self._header = distilled.header
        made = _Made(
            unit.from_unit(transform.invert(distilled.images)),
            distilled.labels / scale,
            torch.tensor(distilled.header.initial_classes),
            tuple(columns),
        )
        self.experiences += 1
        self.seconds += time.perf_counter() - started
        return made

    def _as_set(
        self,
        images: Tensor,
        labels: Tensor,
        transform: Transform,
        columns: Sequence[int],
        groups: Sequence[Group],
    ) -> DistilledSet:
        """Return images of some groups as a set of the classes ``columns``."""
        assert self._header is not None
        header = self._header.model_copy(
            update={
                "value_space": transform.kind,
                "transform_stride": transform.stride,
                "class_names": _names(columns),
                "initial_classes": [
                    columns.index(group.label)
                    for group in groups
                    for _ in range(len(self.groups[group]))
                ],
                "initial_indices": None,
                "context": None,  # of several experiences: it has no single history
            }
        )
        return DistilledSet(images, labels, transform, header)

    def _labels(self, groups: Sequence[Group], columns: Sequence[int]) -> Tensor:
        """Return the learned labels of some groups, over the classes ``columns``."""
        held = [self.groups[group] for group in groups]
        return torch.cat(
            [
                spread_labels(stored.labels, stored.columns, stored.label_kind, columns)
                for stored in held
            ]
        )

    def _stored(self, made: "_Made", label: int, seen: int) -> Stored:
        chosen = made.classes == made.columns.index(label)
        return Stored.of(
            made.images[chosen],
            self.store,
            labels=made.labels[chosen].contiguous(),
            columns=made.columns,
            label_kind=self.label_kind,
            seen=seen,
        )

    def rounded(self) -> "DistilledMemory":
        """Return a memory of the same images with 256 levels each."""
        rounded = replace(self, store="uint8")
        for group, stored in self.groups.items():
            rounded.groups[group] = stored.rounded()
        rounded.experiences, rounded.seconds = self.experiences, self.seconds
        rounded._header = self._header
        return rounded

    def distilled_set(self, task: int = 0) -> DistilledSet:
        """Return what is stored of a task as an artifact, to show, export or save.

        Its pixels are scaled so that the smallest and the largest value are 0 and 1.

        Raises:
            OptionError: nothing is stored of that task.
        """
        columns = self.classes(task)
        if not columns:
            raise OptionError(f"nothing is stored of task {task}")
        groups = [Group(task, column) for column in columns]
        columns = self._columns(columns)
        images = torch.cat([self.groups[group].images for group in groups])
        to_values = _UnitRange.of([images]).to_values
        return self._as_set(
            images, self._labels(groups, columns), to_values, columns, groups
        )

    def save(self, folder: str | Path) -> Path:
        """Write the memory to a folder; return the file it is restored from.

        ``memory.safetensors`` is what :meth:`restore` reads. Beside it stands an
        artifact for each task, ``task-0.safetensors`` and so on, for ``dd-plugins
        show``, ``info`` and ``export``.

        Raises:
            FileError: a file cannot be written; a memory saved there before is kept.
        """
        target = Path(folder)
        tensors: dict[str, Tensor] = {}
        described = []
        for number, (group, stored) in enumerate(self.groups.items()):
            for name, tensor in stored.tensors().items():
                if tensor is not None:
                    tensors[f"{number}.{name}"] = tensor
            described.append(
                {
                    "task": group.task,
                    "label": group.label,
                    "columns": stored.columns,
                    "label_kind": stored.label_kind,
                    "seen": stored.seen,
                }
            )
        state = {
            "format_version": _FORMAT_VERSION,
            "configuration": self._configuration(),
            "size": self.size,
            "experiences": self.experiences,
            "seconds": self.seconds,
            "header": self._header and self._header.model_dump(),
            "groups": described,
        }
        for task in sorted({group.task for group in self.groups}):
            self.distilled_set(task).save(target / f"task-{task}.safetensors")
        return save_tensors(
            target / MEMORY_NAME, tensors, {_METADATA_KEY: json.dumps(state)}
        )

    def restore(self, folder: str | Path) -> None:
        """Take up what :meth:`save` wrote; nothing changes if that cannot be done.

        A memory that was resized before it was saved has that size again.

        Raises:
            FileError: the file is missing, damaged or foreign.
            OptionError: the memory that wrote it had other options.
        """
        file = Path(folder) / MEMORY_NAME
        state, tensors = _read(file)
        try:
            held = state["configuration"]
            size = state["size"]
            _check_number("size", size)
            own = self._configuration()
            if (
                self.size == size
            ):  # as it was when it was saved, if not when it was made
                own["size"] = held["size"]
            differing = what_differs(held, own)
            if differing:
                raise OptionError(f"{file} was written with other options: {differing}")
            groups = {}
            for number, about in enumerate(state["groups"]):
                parts = {
                    name: tensors.get(f"{number}.{name}") for name in ("low", "step")
                }
                groups[Group(about["task"], about["label"])] = Stored(
                    pixels=tensors[f"{number}.pixels"],
                    labels=tensors[f"{number}.labels"],
                    columns=tuple(about["columns"]),
                    label_kind=about["label_kind"],
                    seen=about["seen"],
                    **parts,
                )
            experiences = int(state["experiences"])
            seconds = float(state["seconds"])
            header = state["header"] and Header.model_validate(state["header"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, OptionError):
                raise
            raise FileError(
                f"{file} is damaged: {type(error).__name__}: {error}"
            ) from error
        self.groups, self.size = groups, size
        self._made_size = held["size"]
        self.experiences, self.seconds = experiences, seconds
        self._header = header

    def _configuration(self) -> dict[str, Any]:
        """Return what must be the same where a memory is restored."""
        return {
            "distiller": repr(self.distiller),
            "size": self._made_size,
            "num_classes": self.num_classes,
            "images_per_class": self.images_per_class,
            "steps": self.steps,
            "network": self.network,
            "initial_images": self.initial_images,
            "context": self.context,
            "whitening": (
                self.whitening
                if isinstance(self.whitening, str)
                else f"public images {_digest(self.whitening)}"
            ),
            "store": self.store,
            "shrink": self.shrink,
            "mirror": self.mirror,
            "seed": self.seed,
        }


def _no_test_set() -> Images:
    raise DataError("an experience has no test set")


class _Pool(Dataset[tuple[Tensor, int]]):
    """The images of a distillation, of which some stand there several times.

    They are gathered when they are asked for: a copy is a number, and takes no room.

    Args:
        images: those of the experience, in the space of the model.
        labels: their classes.

    Attributes:
        parts: these images, and further ones.
        numbers: int64, one for each image that stands there, among those of all parts.
        labels: int64, its class.
        unit: the map to [0, 1].
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.parts = [images]
        self.numbers = torch.arange(len(images))
        self.labels = labels
        self.unit = _UnitRange(0.0, 1.0, images.shape[1])

    def add(self, images: Tensor, label: int, count: int) -> None:
        """Add so many copies of images of a class, taken in turn."""
        copies = torch.arange(count) % len(images) + len(self)
        self.parts.append(images)
        self.numbers = torch.cat([self.numbers, copies])
        self.labels = torch.cat([self.labels, torch.full((count,), label)])

    def gathered(self, numbers: Tensor) -> Tensor:
        """Return images by their numbers, mapped to [0, 1], float32."""
        result = torch.empty(len(numbers), *self.parts[0].shape[1:])
        for start in range(0, len(numbers), _READ):
            wanted = numbers[start : start + _READ]
            found = result[start : start + _READ]
            first = 0
            for part in self.parts:
                here = (wanted >= first) & (wanted < first + len(part))
                found[here] = part[wanted[here] - first]
                first += len(part)
        return result.sub_(self.unit.low).div_(self.unit.scale)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return self.gathered(torch.tensor([number]))[0], 0


class _Gathered(StreamedImages):
    """Images of a pool: what a tensor of them would give, without its room."""

    def __init__(self, pool: _Pool, numbers: Tensor, *, clamped: bool = True) -> None:
        super().__init__(Items(pool), pool.parts[0].shape[1:], numbers, workers=0)
        self._pool, self._places, self._clamped = pool, numbers, clamped

    def __getitem__(self, chosen: slice | Tensor) -> Tensor:
        images = self._pool.gathered(self._places[chosen])
        return images.clamp_(0, 1) if self._clamped else images

    def select(self, chosen: Tensor) -> "_Gathered":
        """Return some of the images, without gathering them."""
        return _Gathered(self._pool, self._places[chosen], clamped=self._clamped)

    def batches(self, draws: Iterable[Tensor]) -> Iterator[Tensor]:
        """Gather batch after batch."""
        for draw in draws:
            yield self[draw]


class _Made(NamedTuple):
    """What a distillation made, in the space of the model; its class by column."""

    images: Tensor
    labels: Tensor
    classes: Tensor
    columns: tuple[int, ...]


@dataclass(frozen=True)
class _UnitRange:
    """The map between values of any range and [0, 1], where real data live."""

    low: float
    scale: float
    channels: int

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> "_UnitRange":
        """Return the map that takes all values of these images to [0, 1]."""
        low = min(float(images.min()) for images in parts)
        high = max(float(images.max()) for images in parts)
        return cls(low, (high - low) or 1.0, parts[0].shape[1])

    def to_unit(self, values: Tensor) -> Tensor:
        return (values - self.low) / self.scale

    def from_unit(self, values: Tensor) -> Tensor:
        return self.low + self.scale * values

    @property
    def to_values(self) -> Transform:
        """The map from [0, 1] to the values, as a transform."""
        return Transform(
            torch.full((self.channels,), -self.low / self.scale),
            torch.full((self.channels,), 1 / self.scale),
        )


def _check_number(name: str, value: Any) -> None:
    if not isinstance(value, int) or value < 1:
        raise OptionError(f"{name} must be a whole number from 1, got {value!r}")


def _digest(tensor: Tensor) -> str:
    content = tensor.cpu().contiguous().float().numpy().tobytes()
    return hashlib.sha256(content).hexdigest()


def _names(columns: Sequence[int]) -> list[str]:
    return [f"class {column}" for column in columns]


def _label_scale(method: dd_plugins.AbstractDistiller[Any], classes: int) -> float:
    """Return how much larger a method's labels are than those of centred targets.

    FRePo divides labels by ``sqrt(classes / 10)``: those of an experience of two
    classes are five times as long as those of ten. In a memory all have one length.
    """
    if method.label_kind != "regression":
        return 1.0
    first = method.initial_labels(torch.zeros(1, dtype=torch.int64), classes)
    return float(first[0, 0]) / (1 - 1 / classes)


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Leave the global generators of torch, NumPy and Python as they are.

    No distiller of the library draws from them; a stranger's may.
    """
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the tensors of a saved memory.

    Raises:
        FileError: the file is missing, damaged, foreign or of a newer version.
    """
    if not file.is_file():
        raise FileError(f"{file} does not exist; expected a saved memory")
    advice = f"remove {file.parent}, and fill the memory anew"
    tensors, described = load_tensors(
        file, what="a memory of dd_avalanche", advice=advice
    )
    try:
        state = json.loads(described[_METADATA_KEY])
        version = int(state["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{file} is not a memory of dd_avalanche ({type(error).__name__}); {advice}"
        ) from error
    if version != _FORMAT_VERSION:
        raise FileError(
            f"{file} has format version {version}, this dd_avalanche reads "
            f"{_FORMAT_VERSION}; upgrade dd-plugins, or {advice}"
        )
    return state, tensors
