"""DistilledSet, the artifact: one safetensors file that explains itself.

The format stands in docs/artifact-format.md.
"""

import hashlib
import json
import math
import os
import platform
import re
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, Literal, Self

import numpy as np
import pydantic
import safetensors
import torch
from safetensors.torch import load_file, save
from torch import Tensor
from torch.utils.data import TensorDataset

from dd_plugins.errors import FileError, OptionError, UnknownNameError
from dd_plugins.files import check_writable, write_atomically
from dd_plugins.labels import LabelKind
from dd_plugins.parametrizations import decoded
from dd_plugins.preprocess import Preprocessing, Transform
from dd_plugins.run import Precision, RunOptions
from dd_plugins.text import plain
from dd_plugins.views import get_views

__all__ = [
    "ARTIFACT_NAME",
    "ContextRecord",
    "DistilledSet",
    "Header",
    "library_versions",
]

ARTIFACT_NAME = "distilled.safetensors"
"""The name of the artifact in the folder of a run."""

FORMAT_VERSION = 3
_SINCE = {
    "initial_images": 2,
    "context": 2,
    "parametrization": 3,
    "stored_images": 3,
    "stored_values": 3,
    "learned": 3,
    "recipe": 3,
    "views": 3,
}
"""The version of the format since which a field of the header is there."""

_DIRECTIONS_SINCE = 3
_METADATA_KEY = "dd_plugins"
_TRANSFORM_PREFIX = "transform."
_STORED_PREFIX = "stored."
_VIEW_LABELS = "view_labels"

DEEPEST_CONTEXT = 200
"""How deep contexts may be nested: that of a context's context, and so on."""

_NO_ARTIFACT = (
    f"not an artifact of dd-plugins; give the {ARTIFACT_NAME} that distill writes, or "
    "the run's folder"
)
_BEGINNINGS = {
    b"\x89HDF\r\n": "an HDF5 file",
    b"\x93NUMPY": "a NumPy array",
    b"\x89PNG\r\n": "a picture",
    b"\xff\xd8\xff": "a picture",
    b"GIF8": "a picture",
    b"\x80\x02": "a torch file of the old form, or another pickle",
    b"\x80\x03": "a pickle",
    b"\x80\x04": "a pickle",
    b"\x80\x05": "a pickle",
    b"\x1f\x8b": "a gzip archive",
    b"{": "a JSON file",
}
"""What a file is that begins so."""

_PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp"}
_LISTED = 1_000  # entries of a folder that are looked at to tell what it is


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(frozen=True, extra="forbid", strict=True)


class DataRecord(_Strict):
    """Which real data the set was distilled from.

    Attributes:
        name: the name by which the data set is found again.
        fingerprint: SHA-256 over its training images and labels.
        train_images: how many images it was distilled from.
        image_size: the side to which images were resized, or None.
    """

    name: str
    fingerprint: str
    train_images: int
    image_size: int | None = None


class ContextRecord(_Strict):
    """Beside which set a set was made, or of which it is a refinement.

    Attributes:
        refined: whether its images were learned further; they come first either way.
        header: its header.
    """

    refined: bool
    header: "Header"


class TeacherRecord(_Strict):
    """A network that was trained on the real data, by the key under which it is kept.

    Attributes:
        network: its spec.
        recipe: the spec of its training.
    """

    network: str
    recipe: str


class ViewsRecord(_Strict):
    """How the views of a set get their labels.

    Attributes:
        views: the spec of the views.
        temperature: of the labels.
        teacher: what gives them; None if the file holds them.
    """

    views: str
    temperature: float
    teacher: TeacherRecord | None = None


class Header(_Strict):
    """The header of an artifact: everything about it but its tensors.

    Attributes:
        format_version: version of the file format.
        label_kind: ``"regression"``, ``"probabilities"`` or ``"classes"``.
        value_space: ``"standardize"`` or ``"zca"``: what the pixels are in.
        transform_stride: interleaving of the whitening (see ``Transform``).
        class_names: one for each class.
        initial_classes: the class that each image began as.
        initial_indices: which training image each began as, by its place in the
            training data as the data set is loaded (before the validation split); None
            for a set that did not begin as real images of its data set.
        initial_images: what the images that no context brought began as: ``"real"``,
            ``"noise"`` or the spec of a core set; None if a context brought all, and in
            files of format version 1.
        mirror: whether a mirror image is still of its class.
        distiller: the spec, with every option that is not at its default.
        options: every option of the distiller, as its spec writes it.
        network: the spec of the network on which the set was distilled.
        evaluation_network: the spec of the network that fits it for evaluation.
        precision: dtype of the features while distilling.
        steps: steps done.
        seed: the seed of the run.
        recipe: the spec of the recipe by which networks are trained on the set; None in
            files of older versions: that of the kind of labels.
        parametrization: the spec of what was learned in place of pixels.
        stored_images: how many images are stored, each of which may hold several; None
            in files of older versions: all images.
        stored_values: of how many values the stored images are; likewise.
        learned: the last values of what else was learned, by name.
        views: how the views of the images get their labels; None if the labels of the
            images are all there is.
        dataset: which real data.
        context: the set beside which this one was made; None if there was none.
        versions: of Python, of the libraries that made it, and of the distributions
            whose distillers, wrappers and networks did.
        content_hash: SHA-256 over tensors and header (without this field).
    """

    format_version: int
    label_kind: LabelKind
    value_space: Preprocessing
    transform_stride: int
    class_names: list[str]
    initial_classes: list[int]
    initial_indices: list[int] | None
    initial_images: str | None = None
    mirror: bool
    distiller: str
    options: dict[str, str]
    network: str
    evaluation_network: str
    precision: str
    steps: int
    seed: int
    recipe: str | None = None
    parametrization: str = "identity"
    stored_images: int | None = None
    stored_values: int | None = None
    learned: dict[str, list[float]] = {}
    views: ViewsRecord | None = None
    dataset: DataRecord
    context: ContextRecord | None = None
    versions: dict[str, str]
    content_hash: str = ""

    def fields(self) -> dict[str, Any]:
        """Return what its version of the format holds, without the content hash."""
        newer = {name for name, since in _SINCE.items() if self.format_version < since}
        return self.model_dump(exclude={"content_hash", *newer})

    @property
    def run(self) -> RunOptions:
        """Return what a run is asked for that makes such a set."""
        per_class = max(Counter(self.initial_classes).values())
        stored = self.stored_images or len(self.initial_classes)
        precision: Precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        return RunOptions(
            distiller=self.distiller,
            images_per_class=max(1, per_class * stored // len(self.initial_classes)),
            steps=self.steps or None,
            seed=self.seed,
            network=self.network,
            initial_images=self.initial_images,
            parametrization=self.parametrization,
            preprocessing=self.value_space,
            mirror=self.mirror,
            precision=precision,
            refine_context=self.context is not None and self.context.refined,
        )

    @property
    def nesting(self) -> int:
        """Return how deep contexts are nested: 0 for a set that has none."""
        depth, context = 0, self.context
        while context is not None:
            depth, context = depth + 1, context.header.context
        return depth

    def text(self) -> str:
        """Return the JSON that a file of its version holds."""
        return json.dumps(self.fields() | {"content_hash": self.content_hash})


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """A distilled data set, and all that is needed to use it rightly.

    Attributes:
        images: float32 of shape ``(n, channels, height, width)``, in the value space of
            the model (see :attr:`transform`); not clipped.
        labels: float32 of shape ``(n, classes)``, of the kind in the header.
        transform: maps images in [0, 1] to the value space and back.
        header: where the set comes from and what it is.
        stored: what the images are decoded from, by name, if the file holds that in
            place of images; else empty.
        view_labels: float16 ``(views, n, classes)``, the labels of the images' views;
            None if there are none, or a teacher gives them.

    Example:
        >>> import dd_plugins
        >>> distilled = dd_plugins.distill("digits", steps=2)
        >>> distilled.pixels().shape
        torch.Size([10, 1, 8, 8])
    """

    images: Tensor
    labels: Tensor
    transform: Transform
    header: Header
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    view_labels: Tensor | None = None

    def pixels(self) -> Tensor:
        """Return the images as a person sees them: float32 in [0, 1], clipped.

        Raises:
            FileError: the whitening of a foreign artifact cannot be undone.
        """
        try:
            return self.transform.invert(self.images).clamp(0, 1)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise FileError(
                "the set's whitening matrix is singular: there is no way back to pixels"
            ) from error

    @property
    def budget(self) -> int:
        """How many real images hold as many values as this set stores, 1 at least."""
        values = self.header.stored_values
        if values is None:
            return len(self)
        return max(1, round(values / math.prod(self.images.shape[1:])))

    def as_stored(self) -> "DistilledSet":
        """Return the images as the file stores them, as a set: to look at them.

        The set itself, if its images are stored as they are.

        Raises:
            OptionError: what is stored are no images.
        """
        if not self.stored:
            return self
        (stored,) = self.stored.values()
        count = len(stored)
        if stored.ndim != 4 or stored.shape[1:] != self.images.shape[1:]:
            raise OptionError("what is stored are no images; show the decoded ones")
        each = len(self) // count
        header = self.header.model_copy(
            update={
                "initial_classes": self.header.initial_classes[::each],
                "initial_indices": None,
                "parametrization": "identity",
            }
        )
        images = self.transform.whitened(stored)
        return DistilledSet(images, self.labels[::each], self.transform, header)

    def preprocess(self, images: Tensor) -> Tensor:
        """Map real images to the value space of a model trained on this set.

        Args:
            images: uint8, or float in [0, 1], of shape ``(n, channels, height,
                width)``.

        Returns:
            float32 of the same shape.

        Raises:
            OptionError: the images have another shape than the set's, or values that
                are not those of images.
        """
        if images.shape[1:] != self.images.shape[1:]:
            shape = ", ".join(map(str, self.images.shape[1:]))
            raise OptionError(
                f"images must have shape (n, {shape}), got {tuple(images.shape)}"
            )
        if images.dtype != torch.uint8:
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
        """Write the file, atomically, and return its path.

        Raises:
            FileError: the file cannot be written; an older one of that name stays.
            OptionError: contexts are nested too deep.
        """
        check_nesting(self.header)
        tensors = self._tensors()
        header = self.header.model_copy(update={"content_hash": self.content_hash()})
        metadata = {_METADATA_KEY: header.text()}
        content = save(tensors, metadata=metadata)
        return write_atomically(Path(path), lambda file: file.write(content))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read an artifact, and check it.

        Args:
            path: the file, or the folder of a run that holds it.

        Raises:
            FileError: the file is missing, damaged, foreign or of a newer version.
        """
        file = artifact_file(path)
        header = cls.read_header(file)
        try:
            tensors = load_file(file)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise _damaged(file, str(error)) from error
        try:
            transform = Transform.from_tensors(
                {
                    name.removeprefix(_TRANSFORM_PREFIX): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(_TRANSFORM_PREFIX)
                },
                header.transform_stride,
            )
            stored = {
                name.removeprefix(_STORED_PREFIX): tensor
                for name, tensor in tensors.items()
                if name.startswith(_STORED_PREFIX)
            }
            images = _decoded(file, header, stored, transform) if stored else None
            if images is None:
                images = tensors["images"]
            loaded = cls(
                images,
                tensors["labels"],
                transform,
                header,
                stored,
                tensors.get(_VIEW_LABELS),
            )
        except KeyError as error:
            raise _damaged(file, f"it has no tensor {error}") from error
        fault = next(_faults(loaded, tensors), None)
        if fault:
            raise _damaged(file, fault)
        if loaded.content_hash() != header.content_hash:
            raise _damaged(file, "its content does not have the hash in its header")
        return loaded

    @staticmethod
    def read_header(path: str | Path) -> Header:
        """Read the header of an artifact, without loading tensors.

        Raises:
            FileError: the file is missing, damaged, foreign or of a newer version.
        """
        file = artifact_file(path)
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                metadata: Mapping[str, str] = opened.metadata() or {}
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            foreign = _foreign(file)
            if foreign:
                raise FileError(f"{file} is {foreign}, {_NO_ARTIFACT}") from error
            raise FileError(
                f"{file} is not an artifact of dd-plugins, or it is damaged: "
                f"{_one_line(error)}"
            ) from error
        if _METADATA_KEY not in metadata:
            raise FileError(f"{file} is a safetensors file, but {_NO_ARTIFACT}")
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
            raise _damaged(file, "its header is unreadable") from error
        if written > FORMAT_VERSION:
            raise FileError(
                f"{file} has format version {written}, this dd-plugins reads up to "
                f"{FORMAT_VERSION}; upgrade dd-plugins"
            )
        newer = [name for name in fields if _SINCE.get(name, 0) > written]
        if newer:
            raise _damaged(file, f"version {written} has no header field {newer[0]}")
        try:
            header = Header.model_validate(fields)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise _damaged(file, f"header field {where}: {first['msg']}") from error
        if header.nesting > DEEPEST_CONTEXT:
            raise _damaged(
                file,
                f"contexts are nested {header.nesting} deep, {DEEPEST_CONTEXT} at most",
            )
        return header

    def content_hash(self) -> str:
        """Return a SHA-256 over tensors and header, in hexadecimal."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self._tensors().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.numpy().data)
        digest.update(json.dumps(self.header.fields(), sort_keys=True).encode())
        return digest.hexdigest()

    def _tensors(self) -> dict[str, Tensor]:
        named = {_STORED_PREFIX + name: each for name, each in self.stored.items()}
        if not named:
            named["images"] = self.images
        named["labels"] = self.labels
        if self.view_labels is not None:
            named[_VIEW_LABELS] = self.view_labels
        for name, tensor in self.transform.tensors().items():
            named[_TRANSFORM_PREFIX + name] = tensor
        return {name: tensor.cpu().contiguous() for name, tensor in named.items()}


def _decoded(
    file: Path, header: Header, stored: Mapping[str, Tensor], transform: Transform
) -> Tensor:
    """Return the images of a file that holds them in encoded form.

    Raises:
        FileError: it does not hold what its header says.
    """
    if header.format_version < _SINCE["parametrization"]:
        raise _damaged(file, f"version {header.format_version} has no stored tensors")
    try:
        return decoded(
            header.parametrization, stored, transform, len(header.initial_classes)
        )
    except (OptionError, UnknownNameError, ValueError, RuntimeError) as error:
        raise _damaged(file, str(error)) from error


def _damaged(file: Path, fault: str) -> FileError:
    """Return the error for a file that is not as the format says."""
    what = " ".join(fault.split())
    return FileError(f"{file} is damaged: {plain(what)[:300]}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _faults(loaded: DistilledSet, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield in what a set is not as the format's page says; only the first counts.

    Whoever writes a file by other means, or on purpose, can give it a right hash.

    Args:
        loaded: the set, made of tensors that nobody has looked at.
        tensors: all tensors of its file.
    """
    header, images, labels = loaded.header, loaded.images, loaded.labels
    for name, tensor in tensors.items():
        wanted = torch.float16 if name == _VIEW_LABELS else torch.float32
        if tensor.dtype != wanted:
            yield f"tensor {name} must be {str(wanted)[6:]}, is {str(tensor.dtype)[6:]}"
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            yield f"tensor {name} holds values that are not finite"
    count, classes = len(header.initial_classes), len(header.class_names)
    if images.ndim != 4 or 0 in images.shape:
        yield (
            "images must have shape (n, channels, height, width), none of them 0, "
            f"have {tuple(images.shape)}"
        )
    if len(images) != count or labels.shape[:1] != (count,):
        yield "not as many images as its header says"
    if labels.shape != (count, classes):
        yield f"labels must have shape {(count, classes)}, have {tuple(labels.shape)}"
    outside = [label for label in header.initial_classes if not 0 <= label < classes]
    if outside:
        yield f"class {outside[0]} is none of its {classes} classes"
    places = header.initial_indices
    if places is not None and (len(places) != count or min(places) < 0):
        yield "header field initial_indices: must hold a place for each image"
    yield from _faults_of_views(loaded)
    yield from _faults_of_transform(loaded)
    known = loaded._tensors().keys()
    unknown = sorted(tensors.keys() - known)
    if unknown:
        yield f"it has a tensor {unknown[0]}, which the format has not"


def _faults_of_views(loaded: DistilledSet) -> Iterator[str]:
    """Yield in what labels of views are not as the format's page says."""
    record, labels = loaded.header.views, loaded.view_labels
    if record is None or record.teacher is not None:
        if labels is not None:
            yield "labels of views, which its header does not tell of"
        return
    try:
        count = get_views(record.views).count
    except OptionError as error:
        yield f"header field views: {error}"
        return
    shape = (count, *loaded.labels.shape)
    if labels is None or labels.shape != shape:
        have = None if labels is None else tuple(labels.shape)
        yield f"view_labels must have shape {shape}, have {have}"


def _faults_of_transform(loaded: DistilledSet) -> Iterator[str]:
    """Yield in what the map to the value space does not fit the images."""
    transform, header = loaded.transform, loaded.header
    channels, height, width = loaded.images.shape[1:]
    if transform.kind != header.value_space:
        yield (
            f"its value space is {header.value_space}, its tensors are those of "
            f"{transform.kind}"
        )
    stride = header.transform_stride
    if stride < 1 or height % stride or width % stride:
        yield f"transform_stride {stride} does not divide {height}x{width} images"
    size = channels * height * width // stride**2
    rank = 0 if transform.scales is None else transform.scales.numel()
    shapes = {
        "mean": (channels,),
        "deviation": (channels,),
        "centre": (size,),
        "whitening": (size, size),
        "directions": (rank, size),
        "scales": (rank,),
    }
    whole = transform.whitening is not None
    parts = {transform.directions is not None, transform.scales is not None}
    if transform.centre is not None and parts != {not whole}:
        yield "zca needs transform.whitening, or transform.directions and scales"
    if transform.centre is None and (whole or parts != {False}):
        yield "tensors of a whitening without transform.centre"
    if True in parts and header.format_version < _DIRECTIONS_SINCE:
        yield f"version {header.format_version} has no transform.directions"
    for name, tensor in transform.tensors().items():
        wanted = shapes.get(name)
        if wanted is not None and tensor.shape != wanted:
            yield f"transform.{name} must have shape {wanted}, has " + str(
                tuple(tensor.shape)
            )
    if not (transform.deviation > 0).all():
        yield "transform.deviation must be above 0 for every channel"
    if transform.scales is not None and not (transform.scales > 0).all():
        yield "transform.scales must be above 0"
    matrix = transform.whitening
    if matrix is not None and not torch.allclose(
        matrix, matrix.mT, rtol=0, atol=1e-3 * float(matrix.abs().max())
    ):
        yield "transform.whitening must be symmetric"


def check_nesting(header: Header, *, more: int = 0) -> None:
    """Refuse a set whose contexts are nested too deep to be written.

    Args:
        header: of the set.
        more: how much deeper a set will be that has it for a context.

    Raises:
        OptionError: it is too deep; the message says how to begin anew.
    """
    if header.nesting + more > DEEPEST_CONTEXT:
        raise OptionError(
            f"contexts would be nested {header.nesting + more} deep, "
            f"{DEEPEST_CONTEXT} at most: each set remembers the one that it was made "
            "beside; forget those of the context by dataclasses.replace(context, "
            "header=context.header.model_copy(update={'context': None}))"
        )


def as_set(given: "DistilledSet | str | os.PathLike[str]") -> DistilledSet:
    """Return a set, loaded if a path is given.

    Raises:
        OptionError: it is neither a set nor a path.
        FileError: the artifact cannot be read.
    """
    if isinstance(given, DistilledSet):
        return given
    if not isinstance(given, str | os.PathLike):
        raise OptionError(
            "a distilled set, or the path of an artifact or of a run's folder, was "
            f"expected, got {type(given).__name__}"
        )
    return DistilledSet.load(Path(given))


def artifact_file(path: str | Path) -> Path:
    """Return the file that a path means: itself, or the artifact in a run's folder.

    Raises:
        FileError: there is no such file.
    """
    file = Path(path)
    try:
        # Path.is_dir tells of no refusal, and of names that no file can have.
        there = file.stat()
        held = (file / ARTIFACT_NAME).is_file() if file.is_dir() else None
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileError(
            f"{file} does not exist; expected an artifact or a run's folder"
        ) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise FileError(f"cannot read {plain(str(file))}: {reason}") from error
    if held:
        return file / ARTIFACT_NAME
    if held is not None:
        if _holds_pictures(file):
            raise FileError(
                f"{file} is a folder of images, not of a run; distil it first: "
                f"dd-plugins distill --dataset 'folder:{file}'"
            )
        raise FileError(
            f"{file} holds no {ARTIFACT_NAME}; distil first, or finish the run "
            "with --resume"
        )
    if not stat.S_ISREG(there.st_mode):
        raise FileError(f"{file} is no file; expected an artifact or a run's folder")
    return file


def _foreign(file: Path) -> str | None:
    """Return what a file is that is no safetensors file, if it can be told."""
    try:
        with file.open("rb") as opened:
            beginning = opened.read(16)
        if beginning.startswith(b"PK"):
            with zipfile.ZipFile(file) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return "a torch file (.pt)"
            if any(name.endswith(".npy") for name in names):
                return "a NumPy archive (.npz)"
            return "a zip archive"
    except (OSError, ValueError, zipfile.BadZipFile):
        return None
    return next(
        (what for start, what in _BEGINNINGS.items() if beginning.startswith(start)),
        None,
    )


def _holds_pictures(folder: Path) -> bool:
    """Tell whether a folder, or one in it, holds pictures and no files of a run."""
    if any((folder / name).exists() for name in ("checkpoint.pt", "metrics.jsonl")):
        return False
    try:
        entries = list(islice(folder.iterdir(), _LISTED))
        for inner in entries[:10]:
            if inner.is_dir():
                entries += islice(inner.iterdir(), 10)
    except OSError:
        return False
    return any(entry.suffix.lower() in _PICTURES for entry in entries)


def make_header(
    plugin_versions: dict[str, str],
    transform: Transform,
    run: RunOptions,
    **fields: Any,
) -> Header:
    """Return a header of the current format, with the versions of this process.

    Args:
        plugin_versions: of the distributions whose classes made the set.
        transform: the map to the value space.
        run: its options, complete.
        **fields: the other fields; those that are given here go before.
    """
    asked = {
        name: value
        for name, value in run.arguments().items()
        if name in Header.model_fields
    }
    about = {
        "format_version": FORMAT_VERSION,
        "versions": library_versions() | plugin_versions,
        "value_space": transform.kind,
        "transform_stride": transform.stride,
    }
    return Header(**asked | about | fields)


def library_versions() -> dict[str, str]:
    """Return the versions that an artifact records."""
    libraries = ("dd-plugins", "torch", "torchvision", "numpy", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in libraries},
    }


_version = cache(version)  # reads a file


def export(distilled: DistilledSet, form: str, out: str | Path) -> Path:
    """Write a set in a form that needs no dd-plugins to read.

    Args:
        distilled: the set.
        form: ``"folder"`` for PNG files in a folder for each class, with
            ``labels.json``; ``"npz"`` for a NumPy archive; ``"pt"`` for a torch file
            that loads with ``weights_only=True``.
        out: the file, or the folder, to write.

    Returns:
        The path written.

    Raises:
        OptionError: the form is unknown, or what is to be written exists already.
        FileError: the file cannot be written.
    """
    path = Path(out)
    if form in ("npz", "pt"):
        if os.path.lexists(path):
            raise OptionError(f"{path} exists; choose another name")
        check_writable(path)
    match form:
        case "folder":
            return _export_folder(distilled, path)
        case "npz":
            arrays = {
                name: np.asarray(value) for name, value in _exported(distilled).items()
            }
            return write_atomically(path, partial(_save_arrays, arrays=arrays))
        case "pt":
            return write_atomically(
                path, lambda file: torch.save(_exported(distilled), file)
            )
    raise OptionError(f"form {form!r}: expected 'folder', 'npz' or 'pt'")


def _save_arrays(file: BinaryIO, arrays: dict[str, np.ndarray[Any, Any]]) -> None:
    np.savez(file, allow_pickle=False, **arrays)


def _exported(distilled: DistilledSet) -> dict[str, Any]:
    """Return what stands in an ``npz`` or ``pt`` file."""
    header = distilled.header
    return {
        "pixels": distilled.pixels(),
        "images": distilled.images,
        "labels": distilled.labels,
        "classes": torch.tensor(header.initial_classes),
        "class_names": list(header.class_names),
        "header": header.text(),
        **{
            f"transform_{name}": tensor
            for name, tensor in distilled.transform.tensors().items()
        },
    }


def _export_folder(distilled: DistilledSet, folder: Path) -> Path:
    from torchvision.transforms.v2.functional import to_pil_image

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder} exists and is not an empty folder; choose another")
    channels = distilled.images.shape[1]
    if channels not in (1, 3):
        raise OptionError(f"PNG files hold 1 or 3 channels, not {channels}; use 'npz'")
    header = distilled.header
    rows = []
    for index, pixels in enumerate(distilled.pixels()):
        name = header.class_names[header.initial_classes[index]]
        safe = re.sub(r"[^\w.-]+", "_", name)[:60]
        relative = (
            Path(f"{header.initial_classes[index]:03d}-{safe}") / f"{index:05d}.png"
        )
        image = to_pil_image(pixels)
        write_atomically(folder / relative, partial(image.save, format="PNG"))
        rows.append({"file": str(relative), "label": distilled.labels[index].tolist()})
    described = {
        "label_kind": header.label_kind,
        "class_names": header.class_names,
        "images": rows,
    }
    text = json.dumps(described, indent=1)
    write_atomically(folder / "labels.json", lambda file: file.write(text.encode()))
    return folder
