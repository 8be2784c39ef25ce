"""Real data: training images, a validation split and an unread test set."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from numbers import Real
from typing import Any, get_args

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.checks import check_image_size, one_of, truth, whole_number
from dd_plugins.data.checks import check_fit
from dd_plugins.data.class_names import as_names, checked_names, names_of_dataset
from dd_plugins.data.images import (
    Images,
    checked_images,
    checked_pair,
    checked_values,
    put_back,
    take,
)
from dd_plugins.data.items import Items, warn_if_random
from dd_plugins.data.pixels import Axes
from dd_plugins.data.preprocess import Preprocessing, Transform
from dd_plugins.data.reading import UnreadTestSet, images_of, values_have_no_test
from dd_plugins.data.streamed import ImageSource, chunks
from dd_plugins.data.subsets import stratified_split
from dd_plugins.data.whitening import why_not_whitened
from dd_plugins.errors import DataError, OptionError
from dd_plugins.networks.base import ImageShape
from dd_plugins.runtime.text import plain

__all__ = ["RealData"]

_VALIDATION_PART = 0.1
_LARGEST_VALIDATION = 5_000
_HASHED = 4_096  # images at a time, at most
_HELD_OUT = ("validation", "valid", "val")


@dataclass(frozen=True, eq=False)
class _Hashed:
    """Training images and their indices, with a hash computed once.

    Copies of real data that differ in other respects share it.
    """

    train: Images
    indices: Tensor

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for source in (*self.train, self.indices):
            for number, part in enumerate(chunks(source, _HASHED)):
                if number == 0:
                    digest.update(f"{part.dtype} {tuple(source.shape)}".encode())
                digest.update(part.cpu().contiguous().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False, repr=False)
class RealData:
    """Real images for training and validation, and an unread test set.

    Build one by :meth:`from_tensors`, :meth:`from_dataset`, :meth:`from_values` or a
    named data set.

    Attributes:
        name: the name of the data set.
        train: training images, without those held out.
        train_indices: int64, the index of each training image before the split.
        validation: images held out of the training data; may be empty.
        class_names: a name for each class.
        read_test: reads the test set; call it once, after all choices are made.
        preprocessing: the kind of the value space; FRePo's by default.
        mirror: whether mirrored images keep their class (not for digits).
        image_size: the size of the resized images, or None.
        transform: the map to the value space; None to fit one to the training images.
        unfit_to_whiten: whether images are standardised only because of their size;
            a run warns of this when it starts.
        validation_indices: int64, the index of each validation image before the split;
            None if they were given.
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
    unfit_to_whiten: bool = False
    validation_indices: Tensor | None = field(default=None, repr=False)
    _hashed: _Hashed | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Keep the hash of another copy, unless this one has other images.

        Raises:
            OptionError: the name is no text, or ``mirror`` no truth value.
        """
        if not isinstance(self.name, str):
            raise OptionError(f"name must be text, got {self.name!r}")
        object.__setattr__(self, "mirror", truth("mirror", self.mirror))
        kept, indices = self._hashed, self.train_indices
        if kept is None or kept.train is not self.train or kept.indices is not indices:
            object.__setattr__(self, "_hashed", _Hashed(self.train, indices))

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @property
    def image_shape(self) -> ImageShape:
        """Return channels, height and width."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    def __repr__(self) -> str:
        """Return the main properties of the data in a line."""
        size = "x".join(map(str, self.image_shape))
        return (
            f"{type(self).__name__}({plain(self.name)}: images of {size}, "
            f"{len(self.train.labels):,} to train, {len(self.validation.labels):,} to "
            f"validate, {self.num_classes:,} classes)"
        )

    @property
    def value_space(self) -> str:
        """Return the kind of the value space, with the hash of the map if given."""
        if self.transform is None:
            return self.preprocessing
        return f"{self.transform.kind} {self.transform.fingerprint}"

    @property
    def fingerprint(self) -> str:
        """Return a SHA-256 over training images, labels and indices, in hexadecimal."""
        assert self._hashed is not None
        return self._hashed.fingerprint

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
        validation: float | tuple[Any, Any] | None = None,
        channels: Axes | None = None,
    ) -> "RealData":
        """Build data from tensors or arrays, with a validation split if none is given.

        A part of each class, at most 5,000 images in all, becomes the validation
        split. It depends on the data alone, not on the seed of a run.

        Args:
            images: uint8, or float in [0, 1]: a tensor of shape ``(n, channels,
                height, width)``, an array of shape ``(n, height, width, channels)``, or
                either of shape ``(n, height, width)``.
            labels: integers of shape ``(n,)`` or ``(n, 1)``, from 0.
            test: test images and labels, or a function reading them.
            class_names: a name for each class; by default its number.
            name: the name of the data set in the artifact.
            preprocessing: ``"standardize"``, ``"zca"``, ``"pixel-zca"`` or
                ``"constant"``; by default ``"zca"`` for images of at most 4,800 values,
                such as 3x40x40, and ``"standardize"`` for larger ones: their whitening
                takes minutes, and its matrix hundreds of megabytes. Images of a side
                above 64 pixels are also standardised if they do not divide into equal
                sub-images (see :class:`~dd_plugins.data.preprocess.Transform`).
            mirror: whether mirrored images keep their class.
            image_size: the side of the images in pixels: the shorter side is resized to
                it, and the centre cropped; None for the images as they are.
            validation: the held-out fraction of each class, in [0, 1), by default a
                tenth; or validation images and labels, and then no image is held out.
            channels: the position of the channels, ``"first"`` or ``"last"``, if the
                sizes do not determine it (see
                :func:`~dd_plugins.data.pixels.channels_first`).

        Raises:
            OptionError: ``validation`` or ``image_size`` is out of its range; or
                ``channels``, ``name`` or ``mirror`` is something else.
            DataError: shapes, values, labels or class names do not fit.

        Example:
            >>> images = torch.rand(20, 1, 8, 8)
            >>> data = RealData.from_tensors(images, torch.arange(20) % 2)
            >>> data.num_classes, len(data.train.labels), len(data.validation.labels)
            (2, 18, 2)
        """
        image_size = check_image_size(image_size)
        return cls._split(
            checked_images(images, labels, channels, image_size),
            test=UnreadTestSet(test, channels, image_size),
            class_names=class_names,
            name=name,
            preprocessing=preprocessing,
            mirror=mirror,
            image_size=image_size,
            validation=_part_or_images(
                validation,
                lambda given: checked_pair(given, "validation", channels, image_size),
            ),
        )

    @classmethod
    def _split(
        cls,
        checked: Images,
        *,
        test: UnreadTestSet,
        class_names: Iterable[str] | None = None,
        name: str = "tensors",
        preprocessing: Preprocessing | None = None,
        mirror: bool = False,
        image_size: int | None = None,
        validation: float | Images | None = None,
    ) -> "RealData":
        names = checked_names(class_names, checked.labels)
        given, part = None, _VALIDATION_PART
        if isinstance(validation, Images):
            given, part = validation, 0.0
        elif validation is not None:
            part = validation
        if not isinstance(part, Real) or not 0 <= part < 1:
            raise OptionError(f"validation must be in [0, 1), got {part!r}")
        shape = checked.images.shape[1:]
        unfit = preprocessing is None and why_not_whitened(shape) is not None
        if preprocessing is None:
            preprocessing = "standardize" if unfit else "zca"
        one_of("preprocessing", preprocessing, get_args(Preprocessing))
        held_out, kept = stratified_split(checked.labels, part, _LARGEST_VALIDATION)
        if given is not None:
            found = tuple(given.images.shape[1:])
            largest = int(given.labels.max())
            check_fit("validation", found, largest, tuple(shape), len(names))
        return cls(
            name=name,
            train=take(checked, kept),
            train_indices=kept,
            validation=take(checked, held_out) if given is None else given,
            class_names=names,
            read_test=test.fitting(shape, len(names)),
            unfit_to_whiten=unfit,
            validation_indices=held_out if given is None else None,
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
        validation: float | Dataset[Any] | None = None,
        stream: bool | None = None,
        workers: int = 2,
        class_names: Iterable[str] | None = None,
        channels: Axes | None = None,
        image_size: int | None = None,
        **options: Any,
    ) -> "RealData":
        """Build data from a map-style dataset of ``(image, label)`` pairs.

        Args:
            dataset: the training images: tensors, PIL images or arrays, all of one size
                unless ``image_size`` is given, and the same at every reading. An item
                may be a mapping (see :class:`~dd_plugins.data.items.Items`).
            test: the test set, likewise; read only when it is needed, and on access if
                it does not fit in half of the memory.
            validation: the held-out fraction of each class, in [0, 1), by default a
                tenth; or validation images, likewise, and then no image is held out.
            stream: whether training and validation images stay in the dataset and are
                read on access; by default if they do not fit in half of the memory.
            workers: processes for reading ahead while streaming; 0 for none.
            class_names: a name for each class; by default the dataset's own
                (``dataset.classes``, or the names of a label in ``dataset.features``)
                if there is one for each class, else the numbers.
            channels: the position of the channels, if the sizes do not determine it.
            image_size: as for :meth:`from_tensors`.
            **options: as for :meth:`from_tensors`.

        Raises:
            DataError: an item is not a pair, or the images differ in size or dtype.
            OptionError: as for :meth:`from_tensors`.

        Warns:
            DDWarning: the training images are not the same at every reading.
        """
        image_size = check_image_size(image_size)
        workers = whole_number("workers", workers, least=0)
        read = partial(images_of, workers=workers, stream=stream)
        items = Items(dataset, channels, image_size)
        checked = read(items)
        warn_if_random(items, checked.images)
        if class_names is None:
            class_names = names_of_dataset(dataset, int(checked.labels.max()) + 1)
        return cls._split(
            checked,
            test=UnreadTestSet(test, channels, image_size, workers=workers),
            class_names=class_names,
            image_size=image_size,
            validation=_part_or_images(
                validation, lambda given: read(Items(given, channels, image_size))
            ),
            **options,
        )

    @classmethod
    def from_splits(cls, splits: Mapping[str, Any], **options: Any) -> "RealData":
        """Build data from map-style datasets, named by their splits.

        ``train`` is required. ``test`` is the test set. ``validation``, ``valid`` or
        ``val`` holds the validation images; without a test split it is the test set.
        What the splits lack may be an option.

        Args:
            splits: datasets by the names of their splits, such as the ``DatasetDict``
                of Hugging Face ``datasets``.
            **options: as for :meth:`from_dataset`.

        Raises:
            DataError: there is no training split, or a split does not fit.
            OptionError: test or validation images are given twice.
        """
        if "train" not in splits:
            raise DataError(
                "expected a split 'train', beside others if any, got "
                f"{', '.join(map(repr, splits)) or 'none'}"
            )
        others = [name for name in _HELD_OUT if name in splits]
        if "test" in splits:
            others.insert(0, "test")
        roles = dict(zip(("test", "validation"), others, strict=False))
        for role, split in roles.items():
            if options.get(role) is not None:
                raise OptionError(
                    f"the split {split!r} gives the {role} images, got {role!r} as an "
                    "option too; leave one of them out"
                )
            options[role] = splits[split]
        return cls.from_dataset(splits["train"], **options)

    @classmethod
    def from_values(
        cls,
        images: ImageSource | NDArray[Any],
        labels: Tensor | NDArray[Any] | Sequence[int],
        *,
        class_names: Iterable[str] | None = None,
        name: str = "values",
        mirror: bool = False,
    ) -> "RealData":
        """Build data from images already in the value space of a model.

        Their transform is the identity. All are training images: none is held out for
        validation, and there is no test set. A set distilled from them is in the same
        space, and its ``pixels()`` clips values to [0, 1].

        Args:
            images: floating, of any range, of shape ``(n, channels, height, width)``: a
                tensor, an array, or images read on access.
            labels: integers of shape ``(n,)``, from 0.
            class_names: a name for each class; by default its number, if there are no
                more classes than images. A class may have no image.
            name: the name of the data set in the artifact.
            mirror: whether mirrored images keep their class.

        Raises:
            DataError: shapes, values, labels or class names do not fit.

        Example:
            >>> images = torch.randn(6, 1, 8, 8)
            >>> data = RealData.from_values(images, torch.arange(6) % 2)
            >>> data.image_shape, data.num_classes
            ((1, 8, 8), 2)
        """
        checked = checked_values(images, labels)
        count, channels = checked.images.shape[:2]
        low, high = (int(label) for label in checked.labels.aminmax())
        if class_names is None and high >= count:
            raise DataError(
                f"labels go up to {high}, expected at most {count - 1} for {count} "
                "images; number the classes from 0 without gaps, or pass class_names"
            )
        names = as_names(range(high + 1) if class_names is None else class_names)
        if low < 0 or high >= len(names):
            raise DataError(
                f"labels must be from 0 to {len(names) - 1}, one for each class name; "
                f"got {low} to {high}"
            )
        return cls(
            name=name,
            train=checked,
            train_indices=torch.arange(count),
            validation=Images(
                torch.empty(0, *checked.images.shape[1:]), checked.labels[:0]
            ),
            class_names=names,
            read_test=values_have_no_test,
            mirror=mirror,
        ).with_transform(Transform.identity(channels))

    def check_test(self) -> None:
        """Refuse an unfit test set, as far as can be seen without reading it.

        Tensors and the first item of a dataset are checked; functions are not called.

        Raises:
            DataError: there is no test set, or it does not fit the training images.
        """
        if isinstance(self.read_test, UnreadTestSet):
            self.read_test.check()

    def undivided(self) -> "RealData":
        """Return the same data, with held-out images put back into training."""
        whole = put_back(
            self.train, self.train_indices, self.validation, self.validation_indices
        )
        if whole is None:
            return self
        return replace(
            self,
            train=whole,
            train_indices=torch.arange(len(whole.labels)),
            validation=take(whole, torch.arange(0)),
        )

    def with_preprocessing(self, preprocessing: Preprocessing) -> "RealData":
        """Return the same data with another preprocessing."""
        return replace(
            self,
            preprocessing=preprocessing,
            transform=None,
            unfit_to_whiten=False,
        )

    def prepared(
        self, preprocessing: Preprocessing | None, mirror: bool | None
    ) -> "RealData":
        """Return the data with the requested preprocessing and mirroring.

        Args:
            preprocessing: a :data:`~dd_plugins.data.preprocess.Preprocessing`; None
                for the data's own.
            mirror: whether mirrored images keep their class; None for the data's own
                choice.

        Raises:
            OptionError: there is no such preprocessing.
        """
        data = self
        if preprocessing is not None:
            one_of("preprocessing", preprocessing, get_args(Preprocessing))
            data = data.with_preprocessing(preprocessing)
        return data if mirror is None else replace(data, mirror=mirror)

    def with_transform(self, transform: Transform) -> "RealData":
        """Return the same data with this transform as its map to the value space.

        Raises:
            OptionError: it is for another number of channels.
        """
        if len(transform.mean) != self.image_shape[0]:
            raise OptionError(
                f"the transform must be for the {self.image_shape[0]} channels of the "
                f"images, got one for {len(transform.mean)}"
            )
        return replace(self, preprocessing=transform.kind, transform=transform)


def _part_or_images(
    validation: Any, read: Callable[[Any], Images]
) -> float | Images | None:
    """Return a fraction or None as it is, and validation images once they are read."""
    # Text is refused as a fraction.
    is_part = validation is None or isinstance(validation, str | Real)
    found: float | Images | None = validation if is_part else read(validation)
    return found
