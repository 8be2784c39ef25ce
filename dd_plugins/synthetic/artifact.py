"""DistilledSet, the artifact: one self-describing safetensors file.

docs/artifact-format.md describes the format.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import pydantic
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import TensorDataset

from dd_plugins.checks import whole_number
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.real import RealData
from dd_plugins.errors import FileError, OptionError, UnknownNameError, one_line
from dd_plugins.runtime.files import write_atomically
from dd_plugins.runtime.text import plain
from dd_plugins.spec import parse, read
from dd_plugins.synthetic.artifact_faults import faults
from dd_plugins.synthetic.artifact_files import (
    ARTIFACT_NAME,
    WHAT_TO_GIVE,
    artifact_file,
    foreign_kind,
    warn_of_suffix,
)
from dd_plugins.synthetic.given_tensors import Space, content_of_tensors
from dd_plugins.synthetic.header import (
    DECODER_PREFIX,
    DEEPEST_CONTEXT,
    FORMAT_VERSION,
    SINCE,
    STORED_PREFIX,
    TRANSFORM_PREFIX,
    VIEW_LABELS,
    Content,
    Header,
    check_nesting,
)
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.parametrizations.base import AbstractReadable
from dd_plugins.synthetic.parametrizations.packed import Packed
from dd_plugins.synthetic.parametrizations.spectral import Spectral

__all__ = [
    "ARTIFACT_NAME",
    "DistilledSet",
    "Header",
    "artifact_file",
    "as_set",
]

_METADATA_KEY = "dd_plugins"
_READABLE: tuple[type[AbstractReadable], ...] = (Packed, Spectral)


@dataclass(frozen=True, eq=False, repr=False)
class DistilledSet(Content):
    """A distilled data set, with everything needed to use it correctly.

    Attributes:
        images: float32 of shape ``(n, channels, height, width)``, in the value space of
            the model (see :attr:`transform`); not clipped.
        labels: float32 of shape ``(n, classes)``, of the kind in the header.
        transform: maps images in [0, 1] to the value space and back.
        header: the origin and the properties of the set.
        stored: the tensors of the encoded images, by name, if the file holds them in
            place of the images; otherwise empty.
        view_labels: float16 ``(views, n, classes)``, the labels of the images' views;
            None if there are no views, or a teacher labels them.
        decoder: further tensors for decoding ``stored``, by name.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", steps=2)
        >>> distilled.pixels().shape
        torch.Size([10, 1, 8, 8])
    """

    @classmethod
    def from_tensors(
        cls,
        images: "Tensor | NDArray[Any]",
        labels: "Tensor | NDArray[Any]",
        data: RealData,
        *,
        space: Space = "pixels",
        label_kind: LabelKind | None = None,
        factor: int = 1,
        method: str = "unknown",
        network: str | None = None,
        recipe: str | None = None,
    ) -> Self:
        """Make a set from tensors made by other code.

        Args:
            images: uint8 or floating, of shape ``(n, channels, height, width)``, or
                with channels last.
            labels: classes, integers of shape ``(n,)``; or a score for each class,
                floating of shape ``(n, classes)``.
            data: the real data behind the set.
            space: the value space of the images. ``"pixels"``: in [0, 1], or uint8;
                ``(mean, standard deviation)``, each with a number for each channel:
                pixels standardised with these; a
                :data:`~dd_plugins.data.preprocess.Preprocessing`: a value space fitted
                to the training images of ``data``. ``"zca"`` is FRePo's,
                ``"pixel-zca"`` that of MTT, TESLA and DATM with ``--zca``.
            label_kind: the kind of labels given as scores. By default they must be
                probabilities.
            factor: the number of smaller images along each side of an image, as packed
                by IDC; 1 for images without packing.
            method: the name of the method, for the header.
            network: the spec of the network for the set; by default FRePo's for
                regression targets, else DC's.
            recipe: the spec of the recipe for training networks on it; by default the
                recipe of its kind of labels.

        Raises:
            DataError: shapes, values or classes do not fit the data.
            OptionError: an option is out of its range.

        Warns:
            DDWarning: the values are implausible for images in this space.

        Example:
            >>> import dd_plugins
            >>> data = dd_plugins.get_dataset("digits")
            >>> given = DistilledSet.from_tensors(
            ...     torch.rand(20, 1, 8, 8), torch.arange(20) % 10, data
            ... )
            >>> len(given), given.header.label_kind
            (20, 'classes')
        """
        found = content_of_tensors(
            images,
            labels,
            data,
            space=space,
            label_kind=label_kind,
            method=method,
            network=network,
            recipe=recipe,
        )
        if whole_number("factor", factor, least=1) > 1:
            found = _unpacked(found, Packed(factor=factor))
        return cls(
            found.images, found.labels, found.transform, found.header, found.stored
        )

    @property
    def budget(self) -> int:
        """The number of stored values in units of a real image, rounded, at least 1."""
        values = self.header.stored_values
        if values is None:
            return len(self)
        return max(1, round(values / math.prod(self.images.shape[1:])))

    def _repr_html_(self) -> str:
        """Return the images and the line of :meth:`__repr__`, for notebooks."""
        from dd_plugins.synthetic.pictures import grid_page

        return grid_page(self)

    def as_stored(self) -> "DistilledSet":
        """Return a set of the images as stored in the file, for display.

        It is this set itself, if the images are stored without encoding.

        Raises:
            OptionError: the stored tensors are not images.
        """
        if not self.stored:
            return self
        (stored,) = self.stored.values()
        count = len(stored)
        if stored.ndim != 4 or stored.shape[1:] != self.images.shape[1:]:
            shape = ", ".join(map(str, self.images.shape[1:]))
            raise OptionError(
                f"expected stored images of shape (n, {shape}), got a tensor of shape "
                f"{tuple(stored.shape)}; show the decoded images"
            )
        each = len(self) // count
        classes = self.header.initial_classes[::each]
        header = self.header.of_pixels(classes, stored.numel())
        images = self.transform.from_standardised(stored)
        return DistilledSet(images, self.labels[::each], self.transform, header)

    def preprocess(self, images: Tensor) -> Tensor:
        """Map real images to the value space of a model trained on this set.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.

        Returns:
            float32 of the same shape.

        Raises:
            OptionError: the images differ from the set's in shape, or their dtype or
                values are not as above.
        """
        if images.shape[1:] != self.images.shape[1:]:
            shape = ", ".join(map(str, self.images.shape[1:]))
            raise OptionError(
                f"images must have shape (n, {shape}), got {tuple(images.shape)}"
            )
        if images.dtype != torch.uint8 and images.numel():
            low, high = images.aminmax()
            if not images.is_floating_point() or not (low >= 0 and high <= 1):
                raise OptionError(
                    f"images must be uint8, or floating in [0, 1]; got {images.dtype} "
                    f"in [{float(low):g}, {float(high):g}]"
                )
        return self.transform(images)

    def as_dataset(self, space: Literal["model", "pixels"] = "model") -> TensorDataset:
        """Return a torch Dataset of ``(image, label)``.

        Args:
            space: ``"model"`` for images in the value space, ``"pixels"`` for [0, 1].

        Raises:
            OptionError: the space is neither.
        """
        if space not in ("model", "pixels"):
            raise OptionError(f"space must be 'model' or 'pixels', got {space!r}")
        images = self.images if space == "model" else self.pixels()
        return TensorDataset(images, self.labels)

    def __len__(self) -> int:
        return len(self.images)

    def save(self, path: str | Path) -> Path:
        """Write the file atomically, and return its path.

        Raises:
            FileError: the file cannot be written; an existing one stays as it was.
            OptionError: contexts are nested too deep.

        Warns:
            DDWarning: the suffix is that of another kind of file, such as ``.pt``.
        """
        check_nesting(self.header)
        warn_of_suffix(Path(path))
        tensors = self.tensors()
        header = self.header.model_copy(update={"content_hash": self.content_hash()})
        metadata = {_METADATA_KEY: header.text()}
        content = save(tensors, metadata=metadata)
        return write_atomically(Path(path), lambda file: file.write(content))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an artifact, and check it.

        Args:
            path: the file, or the folder of its run.

        Raises:
            FileError: the file is missing, damaged, of another kind or a newer version.
        """
        file = artifact_file(path)
        header = cls.read_header(file)
        try:
            tensors = load_file(file)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise _damaged(file, str(error)) from error
        try:
            transform = Transform.from_tensors(
                _with_prefix(tensors, TRANSFORM_PREFIX), header.transform_stride
            )
            stored = _with_prefix(tensors, STORED_PREFIX)
            decoder = _with_prefix(tensors, DECODER_PREFIX)
            images = None
            if stored:
                images = _decoded(file, header, stored, decoder, transform)
            if images is None:
                images = tensors["images"]
            loaded = cls(
                images,
                tensors["labels"],
                transform,
                header,
                stored,
                tensors.get(VIEW_LABELS),
                decoder,
            )
        except KeyError as error:
            raise _damaged(file, f"expected a tensor {error}, found none") from error
        except FileError:
            raise
        except ValueError as error:
            raise _damaged(file, f"its whitening: {error}") from error
        fault = next(faults(loaded, tensors), None)
        if fault:
            raise _damaged(file, fault)
        found = loaded.content_hash()
        if found != header.content_hash:
            raise _damaged(
                file,
                f"expected content with the hash {header.content_hash[:12]}... of its "
                f"header, got {found[:12]}...",
            )
        return loaded

    @staticmethod
    def read_header(path: str | Path) -> Header:
        """Read the header of an artifact, without loading tensors.

        Raises:
            FileError: the file is missing, damaged, of another kind or a newer version.
        """
        file = artifact_file(path)
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata: Mapping[str, str] = opened.metadata() or {}
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            foreign = foreign_kind(file)
            if foreign:
                raise FileError(
                    f"{file}: expected an artifact of dd-plugins, got {foreign}; "
                    f"{WHAT_TO_GIVE}"
                ) from error
            raise FileError(
                f"{file}: expected an artifact of dd-plugins, got another or a damaged "
                f"file: {one_line(error)}"
            ) from error
        if _METADATA_KEY not in metadata:
            raise FileError(
                f"{file}: expected an artifact of dd-plugins, got another safetensors "
                f"file; {WHAT_TO_GIVE}"
            )
        try:
            fields = json.loads(metadata[_METADATA_KEY])
            written = int(fields["format_version"])
        except (
            ValueError,
            KeyError,
            TypeError,
            OverflowError,
            RecursionError,
        ) as error:
            raise _damaged(
                file,
                "its header must be JSON with a format_version, got text that is not",
            ) from error
        if written > FORMAT_VERSION:
            raise FileError(
                f"{file} has format version {written}, this dd-plugins reads at most "
                f"{FORMAT_VERSION}; upgrade dd-plugins"
            )
        newer = [name for name in fields if SINCE.get(name, 0) > written]
        if newer:
            raise _damaged(
                file,
                f"header field {newer[0]} needs format version {SINCE[newer[0]]}, "
                f"got {written}",
            )
        try:
            header = Header.model_validate(fields)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise _damaged(file, f"header field {where}: {first['msg']}") from error
        if header.nesting > DEEPEST_CONTEXT:
            raise _damaged(
                file,
                f"contexts must be nested at most {DEEPEST_CONTEXT} deep, got "
                f"{header.nesting}",
            )
        return header

    def content_hash(self) -> str:
        """Return a SHA-256 over tensors and header, in hexadecimal."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
        digest.update(json.dumps(self.header.fields(), sort_keys=True).encode())
        return digest.hexdigest()


def _with_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names have a prefix, by their names without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _unpacked(given: Content, packed: Packed) -> Content:
    """Return the content of a packed set, from images given as grids."""
    transform, each = given.transform, packed.images_per_stored
    channels, height, width = given.images.shape[1:]
    packed.values_per_stored((channels, height, width), given.labels.shape[1])
    stored = {"grids": transform.to_standardised(given.images).contiguous()}
    classes = [label for label in given.header.initial_classes for _ in range(each)]
    header = given.header.model_copy(
        update={"parametrization": repr(packed), "initial_classes": classes}
    )
    images = packed.read(stored, {}, transform)
    labels = given.labels.repeat_interleave(each, dim=0)
    return Content(images, labels, transform, header, stored)


def _decoded(
    file: Path,
    header: Header,
    stored: Mapping[str, Tensor],
    decoder: Mapping[str, Tensor],
    transform: Transform,
) -> Tensor:
    """Decode the images of a file.

    Raises:
        FileError: the tensors do not match the header.
    """
    since = SINCE["parametrization"]
    if header.format_version < since:
        raise _damaged(
            file,
            f"stored tensors need format version {since}, got {header.format_version}",
        )
    spec, images = header.parametrization, len(header.initial_classes)
    try:
        readers = {each.name: each for each in _READABLE}
        if decoder and header.format_version < SINCE["decoder_values"]:
            raise ValueError(
                f"tensors of a decoder need format version {SINCE['decoder_values']}, "
                f"got {header.format_version}"
            )
        name = parse(spec).name
        if name not in readers:
            raise OptionError(f"expected {' or '.join(readers)}, got {name}")
        reader = read(readers[name], spec, name)
        first = next(iter(stored.values()))
        count = len(first) if first.ndim else 0
        decoded = count * reader.images_per_stored
        if decoded != images:
            raise ValueError(
                f"{count} stored images decode to {decoded}, expected {images}"
            )
        return reader.read(stored, decoder, transform)
    except (OptionError, UnknownNameError, ValueError, RuntimeError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, fault: str) -> FileError:
    """Return the error for a file violating the format."""
    what = " ".join(fault.split())
    return FileError(f"{file} is damaged: {plain(what)[:300]}")


def as_set(given: "DistilledSet | str | os.PathLike[str]") -> DistilledSet:
    """Return a set as given, or load it from a path.

    Raises:
        OptionError: the argument is neither a set nor a path.
        FileError: the artifact cannot be read.
    """
    if isinstance(given, DistilledSet):
        return given
    if not isinstance(given, str | os.PathLike):
        raise OptionError(
            "expected a distilled set, or the path of an artifact or of a run's "
            f"folder, got {type(given).__name__}"
        )
    return DistilledSet.load(Path(given))
