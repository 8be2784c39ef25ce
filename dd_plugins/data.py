"""Real data: named data sets, a validation split, and draws of real batches."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.errors import DataError, OptionError
from dd_plugins.networks.base import ImageShape
from dd_plugins.preprocess import Preprocessing, Transform
from dd_plugins.randomness import derive
from dd_plugins.streamed import (
    ImageSource,
    Items,
    StreamedImages,
    chunks,
    fits_in_memory,
    read_items,
)

__all__ = [
    "Batch",
    "DataOptions",
    "DatasetLoader",
    "Images",
    "RealData",
    "RealSampler",
    "balanced_subset",
    "class_members",
    "random_members",
    "sampler_of",
]

_SPLIT_SEED = 0  # splits belong to the data set, not to a run: runs stay comparable
_VALIDATION_PART = 0.1
_LARGEST_VALIDATION = 5_000
_HASHED = 4_096  # images at a time
_SURVEYED = 64  # images at a time
_FLOAT_BYTES = 4


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: uint8, or float32 in [0, 1], of shape ``(n, channels, height, width)``:
            a tensor, or images that are read when they are needed.
        labels: int64 of shape ``(n,)``.
    """

    images: ImageSource
    labels: Tensor


class Batch(NamedTuple):
    """A draw of real data in the value space of the model.

    Attributes:
        images: float32 of shape ``(b, channels, height, width)``.
        labels: int64 of shape ``(b,)``.
    """

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class DataOptions:
    """How a named data set is to be found.

    Attributes:
        argument: what stands after the colon of ``folder:PATH``, or None.
        root: the folder that holds data sets, or None.
        download: whether a missing data set may be downloaded to ``root``.
        image_size: side in pixels to which images are resized and cropped, or None.
    """

    argument: str | None = None
    root: Path | None = None
    download: bool = False
    image_size: int | None = None


class DatasetLoader(Protocol):
    """What ``dd_register_datasets`` registers: a function that makes real data."""

    def __call__(self, options: DataOptions) -> "RealData":
        """Load the data; the test set must be left for ``read_test``."""
        ...


@dataclass(frozen=True, eq=False)
class RealData:
    """Real images for training and validation, and a test set that is not read yet.

    Build one by :meth:`from_tensors`, :meth:`from_dataset` or a named data set.

    Attributes:
        name: the name by which the data set is found again.
        train: training images, without those held out.
        train_indices: int64, the place of each training image before the split.
        validation: images held out of the training data; may be empty.
        class_names: one for each class.
        read_test: reads the test set; call it once, when everything is chosen.
        preprocessing: what FRePo does with this kind of images.
        mirror: whether a mirror image is still of its class (not for digits).
        image_size: the size to which images were resized, or None.
        transform: the map to the value space, if it is given: then none is fitted to
            the training images.
    """

    name: str
    train: Images
    train_indices: Tensor
    validation: Images
    class_names: tuple[str, ...]
    read_test: Callable[[], Images] = field(repr=False)
    preprocessing: Preprocessing = "zca"
    mirror: bool = False
    image_size: int | None = None
    transform: Transform | None = field(default=None, repr=False)

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> ImageShape:
        """Return channels, height and width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def value_space(self) -> str:
        """Return what the images are mapped to: the kind, or the map by its content."""
        if self.transform is None:
            return self.preprocessing
        return f"{self.transform.kind} {self.transform.fingerprint}"

    @cached_property
    def fingerprint(self) -> str:
        """Return a SHA-256 over the training images and labels, in hexadecimal."""
        digest = hashlib.sha256()
        for source in (*self.train, self.train_indices):
            for number, part in enumerate(chunks(source, _HASHED)):
                if number == 0:
                    digest.update(f"{part.dtype} {tuple(source.shape)}".encode())
                digest.update(part.cpu().contiguous().numpy().data)
        return digest.hexdigest()

    @classmethod
    def from_tensors(
        cls,
        images: Tensor,
        labels: Tensor,
        *,
        test: tuple[Tensor, Tensor] | Callable[[], Images] | None = None,
        class_names: Iterable[str] | None = None,
        name: str = "tensors",
        preprocessing: Preprocessing = "zca",
        mirror: bool = False,
        image_size: int | None = None,
        validation: float = _VALIDATION_PART,
    ) -> "RealData":
        """Check tensors and cut a validation split from them.

        A part of each class, at most 5,000 images in all, becomes the validation
        split. It depends on the data alone, not on the seed of a run.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.
            labels: integers of shape ``(n,)``, from 0.
            test: test images and labels, or a function that reads them.
            class_names: one for each class; by default the numbers.
            name: under which the artifact remembers the data set.
            preprocessing: ``"zca"`` or ``"standardize"``.
            mirror: whether a mirror image is still of its class.
            image_size: the size to which the images were resized, for the record.
            validation: the part of each class that is held out, in [0, 1).

        Raises:
            OptionError: that part is out of its range.
            DataError: shapes, values, labels or class names do not fit.

        Example:
            >>> images = torch.rand(20, 1, 8, 8)
            >>> data = RealData.from_tensors(images, torch.arange(20) % 2)
            >>> data.num_classes, len(data.train.labels), len(data.validation.labels)
            (2, 18, 2)
        """
        return cls._split(
            _checked(images, labels),
            test=test,
            class_names=class_names,
            name=name,
            preprocessing=preprocessing,
            mirror=mirror,
            image_size=image_size,
            validation=validation,
        )

    @classmethod
    def _split(
        cls,
        checked: Images,
        *,
        test: tuple[Tensor, Tensor] | Callable[[], Images] | None = None,
        class_names: Iterable[str] | None = None,
        name: str = "tensors",
        preprocessing: Preprocessing = "zca",
        mirror: bool = False,
        image_size: int | None = None,
        validation: float = _VALIDATION_PART,
    ) -> "RealData":
        if not 0 <= validation < 1:
            raise OptionError(f"validation must be in [0, 1), got {validation}")
        classes = int(checked.labels.max()) + 1
        if classes > len(checked.labels):
            raise DataError(
                f"labels go up to {classes - 1}, but there are only "
                f"{len(checked.labels)} images; number the classes from 0 without gaps"
            )
        names = tuple(map(str, range(classes) if class_names is None else class_names))
        if classes > len(names):
            raise DataError(
                f"labels go up to {classes - 1}, but there are {len(names)} class names"
            )
        for name_of_class in names:
            if not name_of_class.isprintable():
                raise DataError(f"class name {name_of_class!r} is not printable text")
        if preprocessing not in get_args(Preprocessing):
            raise DataError(
                f"preprocessing must be one of {', '.join(get_args(Preprocessing))}, "
                f"got {preprocessing!r}"
            )
        counts = torch.bincount(checked.labels, minlength=len(names))
        if not bool(counts.all()):
            empty = [names[index] for index in (counts == 0).nonzero().flatten()]
            raise DataError(
                f"no training image of class {', '.join(map(repr, empty[:5]))}; "
                "remove the class or number the labels without gaps"
            )
        if len(names) < 2:
            raise DataError(f"{len(names)} class found, at least 2 are needed")
        held_out, kept = _stratified_split(
            checked.labels, validation, _LARGEST_VALIDATION
        )
        return cls(
            name=name,
            train=_take(checked, kept),
            train_indices=kept,
            validation=_take(checked, held_out),
            class_names=names,
            read_test=_test_reader(test, checked.images.shape[1:], len(names)),
            preprocessing=preprocessing,
            mirror=mirror,
            image_size=image_size,
        )

    @classmethod
    def from_dataset(
        cls,
        dataset: Dataset[Any],
        *,
        test: Dataset[Any] | None = None,
        stream: bool | None = None,
        workers: int = 2,
        **options: Any,
    ) -> "RealData":
        """Take a map-style dataset of ``(image, label)`` pairs.

        Args:
            dataset: images are tensors, PIL images or arrays, all of one size; the
                same at every reading.
            test: the test set, likewise; read only when it is needed.
            stream: whether the images stay in the dataset and are read when they are
                needed; by default if half of the memory would not hold them.
            workers: processes that read ahead while streaming; 0 for none.
            **options: as for :meth:`from_tensors`.

        Raises:
            DataError: an item is not a pair, or the images differ in size.
        """

        def read_test() -> Images:
            if test is None:
                raise _no_test_set()
            return Images(*read_dataset(test))

        if stream or (stream is None and not has_room(dataset)):
            return cls._split(_survey(dataset, workers), test=read_test, **options)
        images, labels = read_dataset(dataset)
        return cls.from_tensors(images, labels, test=read_test, **options)

    def with_preprocessing(self, preprocessing: Preprocessing) -> "RealData":
        """Return the same data, to be preprocessed in another way."""
        return replace(self, preprocessing=preprocessing, transform=None)

    def with_transform(self, transform: Transform) -> "RealData":
        """Return the same data, to be mapped to the value space by this transform.

        Raises:
            OptionError: it is for images of other channels.
        """
        if len(transform.mean) != self.image_shape[0]:
            raise OptionError(
                f"the transform is for {len(transform.mean)} channels, the images have "
                f"{self.image_shape[0]}"
            )
        return replace(self, preprocessing=transform.kind, transform=transform)


class RealSampler:
    """Draws of real images, in the value space of the model.

    Batches are drawn without replacement, epoch after epoch. A draw is a function of
    the seed and the step alone. Where several processes share a run, a batch is dealt
    out to them: each gets every ``ranks``-th image of it.

    Args:
        images: of shape ``(n, channels, height, width)``, any floating dtype or uint8.
        labels: int64 of shape ``(n,)``.
        seed: the seed of the run.
        device: where batches are put.
        transform: maps a batch to the value space; None if the images are in it.
        content: names what is drawn from: the data's fingerprint and its
            preprocessing. What is made from the images alone may be kept under it.
        rank: the number of this process.
        ranks: the number of processes.
    """

    def __init__(
        self,
        images: ImageSource,
        labels: Tensor,
        *,
        seed: int,
        device: torch.device,
        transform: Transform | None = None,
        content: str | None = None,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.content = content
        self._rank, self._ranks = rank, ranks
        self._images = images
        if isinstance(images, Tensor):
            self._images = _near(images, device)
        self._labels = labels.to(device)
        self._device = device
        self._transform = None if transform is None else transform.to(device)
        self._stream: _Stream | None = None
        self._members = class_members(labels)

        @lru_cache(maxsize=4)
        def order(purpose: str, epoch: int, size: int) -> Tensor:
            return torch.randperm(size, generator=derive(seed, purpose, epoch))

        self._order = order

    @property
    def labels(self) -> Tensor:
        """The labels of all images, int64 on the CPU."""
        return self._labels.cpu()

    def read(self, places: Tensor) -> Batch:
        """Return the images at these places, in whatever process."""
        near = places.to(self._device)
        images = self._images
        on_device = isinstance(images, Tensor) and images.device == near.device
        return self._batch(images[near if on_device else places], near)

    def close(self) -> None:
        """End the processes that read ahead, if there are any."""
        self._stream = None  # what holds them

    def batch(self, step: int, size: int) -> Batch:
        """Draw ``size`` images of any class; all of them if there are fewer."""
        everything = torch.arange(len(self._labels))
        if isinstance(self._images, StreamedImages):
            return self._read_ahead(step, size, everything)
        return self._draw("batch", step, size, everything)

    def class_batch(self, step: int, label: int, size: int) -> Batch:
        """Draw ``size`` images of one class; all of them if there are fewer."""
        return self._draw(f"batch of class {label}", step, size, self._members[label])

    def _draw(self, purpose: str, step: int, size: int, members: Tensor) -> Batch:
        return self.read(self._picked(purpose, step, size, members))

    def _read_ahead(self, step: int, size: int, members: Tensor) -> Batch:
        """Draw from a stream of batches, which workers read ahead step by step."""
        assert isinstance(self._images, StreamedImages)
        picked = partial(self._picked, "batch", size=size, members=members)
        if self._stream is None or self._stream.coming != (step, size):
            draws = (picked(later) for later in itertools.count(step))
            self._stream = _Stream(self._images.batches(draws), (step, size))
        images = next(self._stream.batches)
        self._stream.coming = (step + 1, size)
        return self._batch(images, picked(step).to(self._device))

    def _picked(self, purpose: str, step: int, size: int, members: Tensor) -> Tensor:
        """Return the places of this process's images of a draw.

        Raises:
            OptionError: there is not an image for each process.
        """
        total = len(members)
        if min(size, total) < self._ranks:
            raise OptionError(
                f"{min(size, total)} real image(s) cannot be dealt out to "
                f"{self._ranks} processes; draw more, or use fewer processes"
            )
        if size >= total:
            picked = members
        else:
            epoch, offset = divmod(step * size, total)
            order = self._order(purpose, epoch, total)[offset : offset + size]
            if len(order) < size:
                rest = self._order(purpose, epoch + 1, total)[: size - len(order)]
                order = torch.cat([order, rest])
            picked = members[order]
        return picked[self._rank :: self._ranks]

    def _batch(self, images: Tensor, places: Tensor) -> Batch:
        images = images.to(self._device)
        if images.is_floating_point():
            images = images.float()
        if self._transform is not None:
            images = self._transform(images)
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            self._labels[places],
        )


def sampler_of(
    data: RealData,
    *,
    seed: int,
    device: torch.device,
    precision: torch.dtype,
    rank: int = 0,
    ranks: int = 1,
    transform: Transform | None = None,
) -> tuple[Transform, RealSampler]:
    """Return the map to the value space, and draws of training images.

    The map is fitted to them, unless it is given, or the data bring their own.

    The images are kept in the value space, in the precision in which networks see them,
    if memory has room; else they are mapped when they are drawn.
    """
    images: ImageSource = data.train.images
    whole = transform or data.transform or Transform.fit(images, data.preprocessing)
    later: Transform | None = whole
    if isinstance(images, Tensor) and fits_in_memory(_FLOAT_BYTES * images.numel()):
        images, later = whole.to(device)(images, dtype=precision), None
    sampler = RealSampler(
        images,
        data.train.labels,
        seed=seed,
        device=device,
        transform=later,
        content=f"{data.fingerprint} {data.value_space}",
        rank=rank,
        ranks=ranks,
    )
    return whole, sampler


@dataclass
class _Stream:
    """Batches that are read ahead, and the step and size of the one that comes."""

    batches: Iterator[Tensor]
    coming: tuple[int, int]


def _near(images: Tensor, device: torch.device) -> Tensor:
    """Return images on a GPU if half of its free memory holds them, else as they are.

    So nothing but indices travels to the GPU at each step.
    """
    if device.type != "cuda":
        return images
    free, _ = torch.cuda.mem_get_info(device)
    return images.to(device) if images.nbytes <= free // 2 else images


def balanced_subset(
    labels: Tensor, images_per_class: int, generator: torch.Generator
) -> Tensor:
    """Draw the indices of ``images_per_class`` random images of each class, by class.

    Raises:
        OptionError: a class is smaller than that.
    """
    members = class_members(labels, images_per_class)
    return random_members(members, [images_per_class] * len(members), generator)


def random_members(
    members: list[Tensor], counts: list[int], generator: torch.Generator
) -> Tensor:
    """Draw so many random places of each class, or all of it if there are fewer.

    Args:
        members: the places of each class's images, from :func:`class_members`.
        counts: one for each class.
        generator: of the draws.
    """
    chosen = []
    for places, count in zip(members, counts, strict=True):
        order = torch.randperm(len(places), generator=generator)
        chosen.append(places[order[:count]])
    return torch.cat(chosen)


def class_members(labels: Tensor, least: int = 0) -> list[Tensor]:
    """Return the places of each class's images.

    Raises:
        OptionError: a class has fewer than ``least``.
    """
    found = [
        (labels == label).nonzero().flatten() for label in range(int(labels.max()) + 1)
    ]
    smallest = min(range(len(found)), key=lambda label: len(found[label]))
    if len(found[smallest]) < least:
        raise OptionError(
            f"{least} images per class asked for, but class {smallest} has only "
            f"{len(found[smallest])} training images beside those held out for "
            f"validation; choose at most {len(found[smallest])}"
        )
    return found


def _checked(images: Tensor, labels: Tensor) -> Images:
    """Return images and labels in their working dtypes, or say what is wrong."""
    if not isinstance(images, Tensor) or not isinstance(labels, Tensor):
        raise DataError(
            "images and labels must be tensors, got "
            f"{type(images).__name__} and {type(labels).__name__}; use torch.as_tensor"
        )
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            "images must have shape (n, channels, height, width), none of them 0; "
            f"got {tuple(images.shape)}"
        )
    if labels.shape != images.shape[:1]:
        raise DataError(
            f"labels must have shape ({len(images)},), one for each image; "
            f"got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() or labels.is_complex():
        raise DataError(f"labels must be integers, got {labels.dtype}")
    images, labels = images.detach(), labels.long()
    if labels.min() < 0:
        raise DataError(f"labels must not be negative, got {int(labels.min())}")
    _check_values(images)
    if images.dtype != torch.uint8:
        images = images.float()
    return Images(images.cpu(), labels.cpu())


def _check_values(images: Tensor, first: int = 0) -> None:
    """Refuse images that are neither uint8 nor finite and in [0, 1].

    Args:
        images: of any dtype.
        first: the number of the first of them.
    """
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise DataError(f"images must be uint8 or floating, got {images.dtype}")
    bad = (~torch.isfinite(images).flatten(1).all(dim=1)).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"{len(bad)} image(s) hold values that are not finite, the first is "
            f"number {first + int(bad[0])}; remove or mend them"
        )
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise DataError(
            f"floating images must be in [0, 1], got [{float(low):g}, "
            f"{float(high):g}]; scale them, or pass uint8"
        )


def _stratified_split(labels: Tensor, part: float, most: int) -> tuple[Tensor, Tensor]:
    """Return the indices held out and those kept, in order.

    scikit-learn's stratified split refuses classes of one member; here they are kept.
    """
    part = min(part, most / len(labels))
    held_out = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        generator = derive(_SPLIT_SEED, "validation split", label)
        order = torch.randperm(len(members), generator=generator)
        held_out.append(members[order[: int(part * len(members))]])
    mask = torch.zeros(len(labels), dtype=torch.bool)
    mask[torch.cat(held_out)] = True
    return mask.nonzero().flatten(), (~mask).nonzero().flatten()


def _take(data: Images, indices: Tensor) -> Images:
    images = data.images
    chosen = images[indices] if isinstance(images, Tensor) else images.select(indices)
    return Images(chosen, data.labels[indices])


def _test_reader(
    test: tuple[Tensor, Tensor] | Callable[[], Images] | None,
    shape: torch.Size,
    num_classes: int,
) -> Callable[[], Images]:
    """Return a function that reads the test set and checks that it fits."""

    def read() -> Images:
        if test is None:
            raise _no_test_set()
        checked = _checked(*(test() if callable(test) else test))
        if checked.images.shape[1:] != shape:
            raise DataError(
                f"test images are {tuple(checked.images.shape[1:])}, training images "
                f"{tuple(shape)}"
            )
        if checked.labels.max() >= num_classes:
            raise DataError(
                f"test labels go up to {int(checked.labels.max())}, but the training "
                f"data has {num_classes} classes"
            )
        return checked

    return read


def _no_test_set() -> DataError:
    return DataError("this data has no test set; pass test=... where it is built")


def read_dataset(dataset: Dataset[Any]) -> tuple[Tensor, Tensor]:
    """Read every ``(image, label)`` pair of a map-style dataset into memory."""
    items = Items(dataset)
    images, labels, shapes = [], [], Counter[tuple[int, ...]]()
    for index in range(len(items)):
        image, label = items[index]
        shapes[tuple(image.shape)] += 1
        images.append(image)
        labels.append(label)
    if len(shapes) > 1:
        raise mixed_sizes(shapes)
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def _survey(dataset: Dataset[Any], workers: int) -> Images:
    """Check every pair of a map-style dataset once; leave the images where they are."""
    items = Items(dataset)
    numbers = torch.arange(len(items))
    labels: list[int] = []
    shapes = Counter[tuple[int, ...]]()
    parts = (part.tolist() for part in torch.split(numbers, _SURVEYED))
    for batch in read_items(items, parts, workers):
        first = len(labels)
        labels += [label for _, label in batch]
        shapes.update(tuple(image.shape) for image, _ in batch)
        if len(shapes) > 1:
            raise mixed_sizes(shapes)
        _check_values(torch.stack([image for image, _ in batch]), first)
    (shape,) = shapes
    images = StreamedImages(items, shape, numbers, workers=workers)
    return Images(images, torch.tensor(labels, dtype=torch.int64))


def has_room(dataset: Dataset[Any]) -> bool:
    """Tell whether memory has room for a dataset's images, as bytes and whitened."""
    items = Items(dataset)
    image, _ = items[0]
    return fits_in_memory(len(items) * (image.nbytes + _FLOAT_BYTES * image.numel()))


def mixed_sizes(shapes: Counter[tuple[int, ...]]) -> DataError:
    """Return the error for images of several sizes, the commonest first."""
    listed = ", ".join(f"{shape} x{count}" for shape, count in shapes.most_common(4))
    return DataError(
        f"images of {len(shapes)} sizes (channels, height, width): {listed}; "
        "resize them to one, for a folder by --image-size"
    )


DATASET_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")
"""What a data set may be called."""


def split_name(name: str) -> tuple[str, str | None]:
    """Split ``"folder:PATH"`` into the registered name and its argument.

    Raises:
        OptionError: the name is not of that form.
    """
    registered, colon, argument = name.partition(":")
    if not DATASET_NAME.fullmatch(registered) or (colon and not argument):
        raise OptionError(
            f"data set {name!r}: expected a name such as 'cifar10' or 'folder:PATH'"
        )
    return registered, argument or None
