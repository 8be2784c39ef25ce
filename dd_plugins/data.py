"""Real data: named data sets, a validation split, and draws of real batches."""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from dd_plugins.errors import DataError, OptionError
from dd_plugins.networks.base import ImageShape
from dd_plugins.pixels import Axes, where_channels_are
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
    "DataOptions",
    "DatasetLoader",
    "Images",
    "RealData",
    "balanced_subset",
    "class_members",
    "random_members",
]

_SPLIT_SEED = 0  # splits belong to the data set, not to a run: runs stay comparable
_VALIDATION_PART = 0.1
_LARGEST_VALIDATION = 5_000
_HASHED = 4_096  # images at a time
_SURVEYED = 64  # images at a time
_FLOAT_BYTES = 4
_MOST_WHITENED = 4_800  # values of an image: whitened by default up to 3x40x40


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: uint8, or float32 in [0, 1], of shape ``(n, channels, height, width)``:
            a tensor, or images that are read when they are needed.
        labels: int64 of shape ``(n,)``.
    """

    images: ImageSource
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

    Build one by :meth:`from_tensors`, :meth:`from_dataset`, :meth:`from_values` or a
    named data set.

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
        too_large_to_whiten: whether images are standardised for their size alone; a run
            says so when it begins.
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
    too_large_to_whiten: bool = False

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
        images: Tensor | NDArray[Any],
        labels: Tensor | NDArray[Any] | Sequence[int],
        *,
        test: tuple[Any, Any] | Callable[[], Images] | None = None,
        class_names: Iterable[str] | None = None,
        name: str = "tensors",
        preprocessing: Preprocessing | None = None,
        mirror: bool = False,
        image_size: int | None = None,
        validation: float = _VALIDATION_PART,
        channels: Axes | None = None,
    ) -> "RealData":
        """Check tensors and cut a validation split from them.

        A part of each class, at most 5,000 images in all, becomes the validation
        split. It depends on the data alone, not on the seed of a run.

        Args:
            images: uint8, or float in [0, 1]: a tensor of shape ``(n, channels,
                height, width)``, an array of shape ``(n, height, width, channels)``, or
                either of shape ``(n, height, width)``.
            labels: integers of shape ``(n,)`` or ``(n, 1)``, from 0.
            test: test images and labels, or a function that reads them.
            class_names: one for each class; by default the numbers.
            name: under which the artifact remembers the data set.
            preprocessing: ``"zca"`` or ``"standardize"``; by default ``"zca"`` for
                images of at most 4,800 values, such as 3x40x40. Whitening of larger
                ones takes minutes, and its matrix hundreds of megabytes.
            mirror: whether a mirror image is still of its class.
            image_size: the size to which the images were resized, for the record.
            validation: the part of each class that is held out, in [0, 1).
            channels: where the channels stand, ``"first"`` or ``"last"``, if the sizes
                do not tell (see :func:`~dd_plugins.pixels.channels_first`).

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
            _checked(images, labels, channels),
            test=_TestReader(test, channels),
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
        test: "_TestReader",
        class_names: Iterable[str] | None = None,
        name: str = "tensors",
        preprocessing: Preprocessing | None = None,
        mirror: bool = False,
        image_size: int | None = None,
        validation: float = _VALIDATION_PART,
    ) -> "RealData":
        if isinstance(class_names, str):
            raise DataError(
                f"class_names is one string, {class_names!r}; pass a list of names"
            )
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
        shape = checked.images.shape[1:]
        too_large = preprocessing is None and shape.numel() > _MOST_WHITENED
        if preprocessing is None:
            preprocessing = "standardize" if too_large else "zca"
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
            read_test=test.fitting(shape, len(names)),
            too_large_to_whiten=too_large,
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
        class_names: Iterable[str] | None = None,
        channels: Axes | None = None,
        **options: Any,
    ) -> "RealData":
        """Take a map-style dataset of ``(image, label)`` pairs.

        Args:
            dataset: images are tensors, PIL images or arrays, all of one size; the
                same at every reading. An item may be a mapping (see
                :class:`~dd_plugins.streamed.Items`).
            test: the test set, likewise; read only when it is needed.
            stream: whether the images stay in the dataset and are read when they are
                needed; by default if half of the memory would not hold them.
            workers: processes that read ahead while streaming; 0 for none.
            class_names: one for each class; by default those that the dataset names
                (``dataset.classes``) if there are as many, else the numbers.
            channels: where the channels stand, if the sizes do not tell.
            **options: as for :meth:`from_tensors`.

        Raises:
            DataError: an item is not a pair, or the images differ in size.
        """
        items = Items(dataset, channels)
        if stream or (stream is None and not has_room(items)):
            checked = _survey(items, workers)
        else:
            checked = _checked(*read_dataset(items), "first")
        if class_names is None:
            class_names = _class_names(dataset, int(checked.labels.max()) + 1)
        return cls._split(
            checked,
            test=_TestReader(test, channels),
            class_names=class_names,
            **options,
        )

    @classmethod
    def from_values(
        cls,
        images: ImageSource,
        labels: Tensor,
        *,
        class_names: Iterable[str] | None = None,
        name: str = "values",
        mirror: bool = False,
    ) -> "RealData":
        """Take images that are in the value space of a model already.

        Their transform is the identity. Each is a training image: no validation images
        are held out, and there is no test set. A set that is distilled from them is in
        the same space, and its ``pixels()`` clip what lies outside [0, 1].

        Args:
            images: floating, of any range, of shape ``(n, channels, height, width)``: a
                tensor, or images that are read when they are needed.
            labels: integers of shape ``(n,)``, from 0.
            class_names: one for each class, by default the numbers; a class may have no
                image.
            name: under which the artifact remembers the data set.
            mirror: whether a flipped image is still of its class.

        Raises:
            DataError: shapes, values, labels or class names do not fit.

        Example:
            >>> images = torch.randn(6, 1, 8, 8)
            >>> data = RealData.from_values(images, torch.arange(6) % 2)
            >>> data.image_shape, data.num_classes
            ((1, 8, 8), 2)
        """
        if len(images.shape) != 4 or 0 in images.shape:
            raise DataError(
                "images must have shape (n, channels, height, width), none of them 0; "
                f"got {tuple(images.shape)}"
            )
        if labels.is_floating_point() or labels.shape != images.shape[:1]:
            raise DataError(
                f"labels must be integers of shape ({len(images)},), one for each "
                f"image; got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        for number, part in enumerate(chunks(images, _SURVEYED)):
            if not part.is_floating_point():
                raise DataError(
                    f"images in a value space must be floating, got {part.dtype}; pass "
                    "plain images to from_tensors"
                )
            _check_finite(part, number * _SURVEYED)
        low, high = (int(label) for label in labels.aminmax())
        known = range(high + 1) if class_names is None else class_names
        names = tuple(map(str, known))
        if low < 0 or high >= len(names):
            raise DataError(
                f"labels must be from 0 to {len(names) - 1}, one for each class name; "
                f"got {low} to {high}"
            )
        if isinstance(images, Tensor):
            images = images.detach().float().cpu()
        return cls(
            name=name,
            train=Images(images, labels.long().cpu()),
            train_indices=torch.arange(len(images)),
            validation=Images(torch.empty(0, *images.shape[1:]), labels[:0].long()),
            class_names=names,
            read_test=_values_have_no_test,
            mirror=mirror,
        ).with_transform(Transform.identity(images.shape[1]))

    def check_test(self) -> None:
        """Refuse a test set that cannot serve, as far as this shows without reading it.

        Tensors, and the first item of a dataset, are looked at; functions are not
        called.

        Raises:
            DataError: there is no test set, or it does not fit the training images.
        """
        if isinstance(self.read_test, _TestReader):
            self.read_test.check()

    def with_preprocessing(self, preprocessing: Preprocessing) -> "RealData":
        """Return the same data, to be preprocessed in another way."""
        return replace(
            self,
            preprocessing=preprocessing,
            transform=None,
            too_large_to_whiten=False,
        )

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


def _checked(images: Any, labels: Any, channels: Axes | None = None) -> Images:
    """Return images and labels in their working dtypes, or say what is wrong."""
    is_tensor = isinstance(images, Tensor)
    images, labels = _as_tensor(images, "images"), _as_tensor(labels, "labels")
    if images.ndim == 3:  # grey, without an axis for it
        images, channels = images[:, None], "first"
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            "images must have shape (n, channels, height, width), none of them 0; "
            f"got {tuple(images.shape)}"
        )
    try:
        where = channels or where_channels_are(
            tuple(images.shape[1:]), is_tensor=is_tensor
        )
    except DataError as error:
        raise DataError(
            f"each image {str(error).replace('(-1, 0)', '(-1, 1)')}"
        ) from error
    images = images.movedim(-1, 1).contiguous() if where == "last" else images
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2 and len(labels) == len(images):
        raise DataError(
            f"labels must have shape ({len(images)},), got {tuple(labels.shape)}: one "
            "label an image is expected, and multi-label data are not supported"
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


def _as_tensor(values: Any, what: str) -> Tensor:
    """Return a tensor of what a person holds: a tensor, an array, a list of numbers."""
    try:
        if not isinstance(values, Tensor | np.ndarray | list | tuple):
            raise TypeError(f"a {type(values).__name__}")
        return (
            torch.as_tensor(np.array(values))
            if not isinstance(values, Tensor)
            else values
        )
    except (TypeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{what} must be a tensor or an array of numbers, got {reason}"
        ) from error


def _class_names(dataset: Any, classes: int) -> list[str] | None:
    """Return the names that a dataset has for its classes, if there are as many."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or len(names) != classes:
        return None
    return list(map(str, names)) if all(map(_is_name, names)) else None


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name.isprintable()


def _check_values(images: Tensor, first: int = 0) -> None:
    """Refuse images that are neither uint8 nor finite and in [0, 1].

    Args:
        images: of any dtype.
        first: the number of the first of them.
    """
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise DataError(
            f"images must be uint8 or floating, got {images.dtype}; divide them by the "
            "largest value that a pixel can have"
        )
    _check_finite(images, first)
    low, high = images.aminmax()
    if low < 0 or high > 1:
        raise DataError(
            f"floating images must be in [0, 1], got [{float(low):g}, "
            f"{float(high):g}]; scale them, or pass uint8"
        )


def _check_finite(images: Tensor, first: int) -> None:
    bad = (~torch.isfinite(images).flatten(1).all(dim=1)).nonzero().flatten()
    if len(bad):
        raise DataError(
            f"{len(bad)} image(s) hold values that are not finite, the first is "
            f"number {first + int(bad[0])}; remove or mend them"
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


@dataclass(frozen=True)
class _TestReader:
    """Reads a test set when it is called, and tells before whether it can serve.

    Attributes:
        test: images and labels, a dataset, a function that reads them, or None.
        channels: where the channels of images stand, if it is stated.
        shape: that of the training images.
        num_classes: their classes.
    """

    test: Any
    channels: Axes | None = None
    shape: tuple[int, ...] = ()
    num_classes: int = 0

    def fitting(self, shape: torch.Size, num_classes: int) -> "_TestReader":
        """Return the reader of a test set for such training data; check tensors now."""
        reader = replace(self, shape=tuple(shape), num_classes=num_classes)
        if isinstance(self.test, tuple):
            reader()
        return reader

    def __call__(self) -> Images:
        match self.test:
            case None:
                raise _no_test_set()
            case (images, labels):
                checked = _checked(images, labels, self.channels)
            case _ if self._is_function():
                images, labels = self.test()
                checked = _checked(images, labels, self.channels)
            case _:
                images, labels = read_dataset(Items(self.test, self.channels))
                checked = _checked(images, labels, "first")
        self._check_fit(tuple(checked.images.shape[1:]), int(checked.labels.max()))
        return checked

    def _is_function(self) -> bool:
        return callable(self.test) and not hasattr(self.test, "__getitem__")

    def check(self) -> None:
        """Find what can be known to be wrong before the test set is read."""
        if self.test is None:
            raise _no_test_set()
        if isinstance(self.test, tuple) or self._is_function():
            return
        if isinstance(self.test, HasSizes):
            self.test.check_sizes((self.shape[1], self.shape[2]))
        image, label = Items(self.test, self.channels)[0]
        self._check_fit(tuple(image.shape), label)

    def _check_fit(self, shape: tuple[int, ...], label: int) -> None:
        if shape != tuple(self.shape):
            raise DataError(f"test images are {shape}, training images {self.shape}")
        if label >= self.num_classes:
            raise DataError(
                f"test labels go up to {label}, but the training data has "
                f"{self.num_classes} classes; number them alike, from 0"
            )


@runtime_checkable
class HasSizes(Protocol):
    """A dataset that knows the sizes of its images without reading them."""

    def check_sizes(self, size: tuple[int, int]) -> None:
        """Refuse images that have not this height and width.

        Raises:
            DataError: there are some.
        """
        ...


def _values_have_no_test() -> Images:
    raise DataError("images given by their values have no test set")


def _no_test_set() -> DataError:
    return DataError("this data has no test set; pass test=... where it is built")


def read_dataset(items: Items) -> tuple[Tensor, Tensor]:
    """Read every ``(image, label)`` pair into memory.

    Raises:
        DataError: an item is not such a pair, or the images differ in size.
    """
    images, labels, shapes = [], [], Counter[tuple[int, ...]]()
    for index in range(len(items)):
        image, label = items[index]
        shapes[tuple(image.shape)] += 1
        if len(shapes) > 1:
            raise mixed_sizes(shapes)
        images.append(image)
        labels.append(label)
        if image.dtype != images[0].dtype:
            raise _mixed_dtypes(images[0].dtype, image.dtype, index)
    return torch.stack(images), torch.tensor(labels, dtype=torch.int64)


def _mixed_dtypes(one: torch.dtype, other: torch.dtype, number: int) -> DataError:
    return DataError(
        f"image number {number} is of {other}, those before it of {one}; convert all "
        "to one"
    )


def _survey(items: Items, workers: int) -> Images:
    """Check every pair of a map-style dataset once; leave the images where they are."""
    numbers = torch.arange(len(items))
    labels: list[int] = []
    shapes = Counter[tuple[int, ...]]()
    dtype = items[0][0].dtype
    parts = (part.tolist() for part in torch.split(numbers, _SURVEYED))
    for batch in read_items(items, parts, workers):
        first = len(labels)
        labels += [label for _, label in batch]
        shapes.update(tuple(image.shape) for image, _ in batch)
        if len(shapes) > 1:
            raise mixed_sizes(shapes)
        for place, (image, _) in enumerate(batch):
            if image.dtype != dtype:
                raise _mixed_dtypes(dtype, image.dtype, first + place)
        _check_values(torch.stack([image for image, _ in batch]), first)
    (shape,) = shapes
    images = StreamedImages(items, shape, numbers, workers=workers)
    return Images(images, torch.tensor(labels, dtype=torch.int64))


def has_room(items: Items) -> bool:
    """Tell whether memory has room for a dataset's images, as bytes and whitened."""
    image, _ = items[0]
    return fits_in_memory(len(items) * (image.nbytes + _FLOAT_BYTES * image.numel()))


def mixed_sizes(shapes: Counter[tuple[int, ...]]) -> DataError:
    """Return the error for images of several sizes, the commonest first."""
    listed = ", ".join(f"{shape} x{count}" for shape, count in shapes.most_common(4))
    sizes, channels = {shape[1:] for shape in shapes}, {shape[0] for shape in shapes}
    if len(sizes) == 1:
        numbers = " and ".join(map(str, sorted(channels)))
        return DataError(
            f"images of {numbers} channels (channels, height, width): {listed}; "
            "convert all to RGB, or all to grey"
        )
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
