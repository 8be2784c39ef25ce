"""Real data: named data sets, a validation split, and draws of real batches."""

import hashlib
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sized
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset

from dd_plugins.errors import DataError, OptionError
from dd_plugins.networks.base import ImageShape
from dd_plugins.preprocess import Preprocessing
from dd_plugins.randomness import derive

__all__ = [
    "Batch",
    "DataOptions",
    "DatasetLoader",
    "Images",
    "RealData",
    "RealSampler",
    "balanced_subset",
]

_SPLIT_SEED = 0  # splits belong to the data set, not to a run: runs stay comparable
_VALIDATION_PART = 0.1
_LARGEST_VALIDATION = 5_000


class Images(NamedTuple):
    """Labelled images.

    Attributes:
        images: uint8, or float32 in [0, 1], of shape ``(n, channels, height, width)``.
        labels: int64 of shape ``(n,)``.
    """

    images: Tensor
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
    """Real images: training and validation in memory, the test set not read yet.

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

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> ImageShape:
        """Return channels, height and width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprint(self) -> str:
        """Return a SHA-256 over the training images and labels, in hexadecimal."""
        digest = hashlib.sha256()
        for tensor in (*self.train, self.train_indices):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().numpy().data)
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
    ) -> "RealData":
        """Check tensors and cut a validation split from them.

        A tenth of each class, at most 5,000 images in all, becomes the validation
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

        Raises:
            DataError: shapes, values, labels or class names do not fit.

        Example:
            >>> images = torch.rand(20, 1, 8, 8)
            >>> data = RealData.from_tensors(images, torch.arange(20) % 2)
            >>> data.num_classes, len(data.train.labels), len(data.validation.labels)
            (2, 18, 2)
        """
        checked = _checked(images, labels)
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
            checked.labels, _VALIDATION_PART, _LARGEST_VALIDATION
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
        cls, dataset: Dataset[Any], *, test: Dataset[Any] | None = None, **options: Any
    ) -> "RealData":
        """Read a map-style dataset of ``(image, label)`` pairs into memory.

        Args:
            dataset: images are tensors, PIL images or arrays, all of one size.
            test: the test set, likewise; read only when it is needed.
            **options: as for :meth:`from_tensors`.

        Raises:
            DataError: an item is not a pair, or the images differ in size.
        """

        def read_test() -> Images:
            if test is None:
                raise _no_test_set()
            return _read_dataset(test)

        images, labels = _read_dataset(dataset)
        return cls.from_tensors(images, labels, test=read_test, **options)

    def with_preprocessing(self, preprocessing: Preprocessing) -> "RealData":
        """Return the same data, to be preprocessed in another way."""
        return replace(self, preprocessing=preprocessing)


class RealSampler:
    """Draws of real images, in the value space of the model.

    Batches are drawn without replacement, epoch after epoch. A draw is a function of
    the seed and the step alone. Where several processes share a run, a batch is dealt
    out to them: each gets every ``ranks``-th image of it.

    Args:
        images: float32 of shape ``(n, channels, height, width)``, transformed already.
        labels: int64 of shape ``(n,)``.
        seed: the seed of the run.
        device: where batches are put.
        rank: the number of this process.
        ranks: the number of processes.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        seed: int,
        device: torch.device,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self._rank, self._ranks = rank, ranks
        self._images = _near(images, device)
        self._labels = labels.to(self._images.device)
        self._device = device
        self._members = [
            (labels == label).nonzero().flatten()
            for label in range(int(labels.max()) + 1)
        ]

        @lru_cache(maxsize=4)
        def order(purpose: str, epoch: int, size: int) -> Tensor:
            return torch.randperm(size, generator=derive(seed, purpose, epoch))

        self._order = order

    def batch(self, step: int, size: int) -> Batch:
        """Draw ``size`` images of any class; all of them if there are fewer."""
        return self._draw("batch", step, size, torch.arange(len(self._labels)))

    def class_batch(self, step: int, label: int, size: int) -> Batch:
        """Draw ``size`` images of one class; all of them if there are fewer."""
        return self._draw(f"batch of class {label}", step, size, self._members[label])

    def _draw(self, purpose: str, step: int, size: int, members: Tensor) -> Batch:
        total = len(members)
        if size >= total:
            picked = members
        else:
            epoch, offset = divmod(step * size, total)
            order = self._order(purpose, epoch, total)[offset : offset + size]
            if len(order) < size:
                rest = self._order(purpose, epoch + 1, total)[: size - len(order)]
                order = torch.cat([order, rest])
            picked = members[order]
        picked = picked[self._rank :: self._ranks].to(self._images.device)
        images = self._images[picked].to(self._device)
        return Batch(
            images.contiguous(memory_format=torch.channels_last),
            self._labels[picked].to(self._device),
        )


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
    chosen = []
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero().flatten()
        if len(members) < images_per_class:
            raise OptionError(
                f"{images_per_class} images per class asked for, but class {label} has "
                f"only {len(members)} training images; choose at most {len(members)}"
            )
        order = torch.randperm(len(members), generator=generator)
        chosen.append(members[order[:images_per_class]])
    return torch.cat(chosen)


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
    if images.dtype != torch.uint8:
        if not images.is_floating_point():
            raise DataError(f"images must be uint8 or floating, got {images.dtype}")
        images = images.float()
        bad = (~torch.isfinite(images).flatten(1).all(dim=1)).nonzero().flatten()
        if len(bad):
            raise DataError(
                f"{len(bad)} image(s) hold values that are not finite, the first is "
                f"number {int(bad[0])}; remove or mend them"
            )
        low, high = images.aminmax()
        if low < 0 or high > 1:
            raise DataError(
                f"floating images must be in [0, 1], got [{float(low):g}, "
                f"{float(high):g}]; scale them, or pass uint8"
            )
    return Images(images.cpu(), labels.cpu())


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
    return Images(data.images[indices], data.labels[indices])


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


def _read_dataset(dataset: Dataset[Any]) -> Images:
    """Read every ``(image, label)`` pair of a map-style dataset."""
    if isinstance(dataset, IterableDataset) or not isinstance(dataset, Sized):
        raise DataError(
            "expected a map-style dataset with a length; collect a stream first"
        )
    images, labels, shapes = [], [], Counter[tuple[int, ...]]()
    for index in range(len(dataset)):
        try:
            image, label = dataset[index]
            tensor = _as_image(image, index)
            labels.append(torch.tensor(operator.index(label), dtype=torch.int64))
        except (TypeError, ValueError, KeyError, RuntimeError) as error:
            raise DataError(
                f"item {index} is not an (image, label) pair with an integer label: "
                f"{' '.join(str(error).split())}"
            ) from error
        shapes[tuple(tensor.shape)] += 1
        images.append(tensor)
    if len(shapes) > 1:
        raise mixed_sizes(shapes)
    if not images:
        raise DataError("the dataset is empty")
    return Images(torch.stack(images), torch.stack(labels))


def _as_image(image: Any, index: int) -> Tensor:
    """Return ``(channels, height, width)`` from a tensor, a PIL image or an array."""
    if isinstance(image, Tensor):
        tensor = image
    else:
        # PIL images and arrays put channels last.
        if getattr(image, "mode", None) in (
            "1",
            "P",
        ):  # a bitmap, or numbers of colours
            image = image.convert("L" if image.mode == "1" else "RGB")
        array = torch.from_numpy(np.array(image))
        tensor = array[None] if array.ndim == 2 else array.movedim(-1, 0)
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3:
        shape = tuple(tensor.shape)
        raise ValueError(f"image {index} has shape {shape}, expected 3 axes")
    return tensor


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
