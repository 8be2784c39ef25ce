"""The header of an artifact: everything about a set but its tensors.

docs/artifact-format.md describes the format.
"""

import json
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from typing import Annotated, Any

import pydantic
import torch
from torch import Tensor

from dd_plugins.data.preprocess import Preprocessing, Transform
from dd_plugins.errors import FileError, OptionError
from dd_plugins.run import RunOptions
from dd_plugins.runtime.device import Precision
from dd_plugins.runtime.text import shortened
from dd_plugins.spec import shared_spec
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.privacy_record import PrivacyRecord
from dd_plugins.synthetic.view_records import StrictRecord, TeacherRecord, ViewsRecord

__all__ = [
    "COMPACT_SINCE",
    "CONSTANT_SINCE",
    "DECODER_PREFIX",
    "DEEPEST_CONTEXT",
    "DIRECTIONS_SINCE",
    "FORMAT_VERSION",
    "IMPORTED",
    "SINCE",
    "STORED_PREFIX",
    "TEACHERS_SINCE",
    "TRANSFORM_PREFIX",
    "VIEW_LABELS",
    "Content",
    "ContextRecord",
    "DataRecord",
    "Header",
    "PrivacyRecord",
    "TeacherRecord",
    "ViewsRecord",
    "check_nesting",
    "current_header",
    "library_versions",
    "make_header",
]

IMPORTED = "imported"
"""The method in the headers of sets of other code."""

FORMAT_VERSION = 7
SINCE = {
    "initial_images": 2,
    "context": 2,
    "parametrization": 3,
    "stored_images": 3,
    "stored_values": 3,
    "learned": 3,
    "recipe": 3,
    "views": 3,
    "decoder_values": 5,
    "privacy": 6,
    "architectures": 7,
}
"""The first version of the format with each field of the header."""

DIRECTIONS_SINCE = 3
TEACHERS_SINCE = 4
COMPACT_SINCE = 5
CONSTANT_SINCE = 6
DEEPEST_CONTEXT = 200
"""The longest chain of contexts: a set's context, the context of that, and so on."""


Count = Annotated[int, pydantic.Field(ge=1, le=2**53)]
"""A positive number, exact as a float."""


_LONGEST_SPEC = 60  # characters of a spec or a name in a line

VIEW_LABELS = "view_labels"
"""The name of the tensor of the labels of views."""

TRANSFORM_PREFIX = "transform."
STORED_PREFIX = "stored."
DECODER_PREFIX = "decoder."


class DataRecord(StrictRecord):
    """The real data behind a set.

    Attributes:
        name: the name of the data set.
        fingerprint: SHA-256 over its training images and labels; empty in a private
            set, because it would confirm a correct guess of all images.
        train_images: the number of its training images.
        image_size: the side of the resized images in pixels; None if not resized.
    """

    name: str
    fingerprint: str
    train_images: int
    image_size: int | None = None


class ContextRecord(StrictRecord):
    """The existing set extended or refined by a new one.

    Attributes:
        refined: whether its images were learned further; they come first either way.
        header: the header of the existing set.
    """

    refined: bool
    header: "Header"


class Header(StrictRecord):
    """The header of an artifact: everything about it but its tensors.

    Attributes:
        format_version: version of the file format.
        label_kind: ``"regression"``, ``"probabilities"`` or ``"classes"``.
        value_space: the space of the images: ``"standardize"``, ``"zca"``,
            ``"pixel-zca"`` or ``"constant"``.
        transform_stride: interleaving of the whitening (see ``Transform``).
        class_names: one for each class.
        initial_classes: the class of each image at the start.
        initial_indices: the index of each image's initial real image in the training
            data as loaded (before the validation split); None for a set initialised
            otherwise.
        initial_images: the kind of the initial images outside a context: ``"real"``,
            ``"noise"``, ``"public"`` or the spec of a coreset; None if all images
            belong to a context, and in files of format version 1.
        mirror: whether a mirrored image keeps its class.
        distiller: the spec of the distiller, with every option not at its default.
        options: every option of the distiller, as written in a spec.
        network: the spec of the network for distillation.
        evaluation_network: the spec of the network for evaluation.
        architectures: the names of all architectures with networks in the run, in any
            role; None in files of older versions.
        precision: dtype of the features during distillation.
        steps: the number of steps done.
        seed: the seed of the run.
        recipe: the spec of the recipe for training networks on the set; None for the
            usual recipe of its kind of labels, as in files of older versions.
        parametrization: the spec of the parametrization of the images.
        stored_images: the number of stored images; one may hold several images of the
            set. None in files of older versions, since these store all images.
        stored_values: the number of values of the stored images; None likewise.
        decoder_values: the number of further values for decoding, such as a
            generator's; None in files of older versions.
        learned: the final values of further learned tensors, by name.
        privacy: the guarantee of differential privacy; None if there is none.
        views: how the views of the images get their labels; None if there are only the
            labels of the images.
        dataset: the real data.
        context: the existing set extended or refined by this one; None without one.
        versions: the versions of Python, of the libraries, and of the distributions of
            distillers, wrappers and networks behind the set.
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
    architectures: list[str] | None = None
    precision: str
    steps: int
    seed: int
    recipe: str | None = None
    parametrization: str = "identity"
    stored_images: Count | None = None
    stored_values: Count | None = None
    decoder_values: Annotated[int, pydantic.Field(ge=0, le=2**53)] | None = None
    learned: dict[str, list[float]] = pydantic.Field(default_factory=dict)
    views: ViewsRecord | None = None
    privacy: PrivacyRecord | None = None
    dataset: DataRecord
    context: ContextRecord | None = None
    versions: dict[str, str]
    content_hash: str = ""

    def fields(self) -> dict[str, Any]:
        """Return the fields for the format version, without the content hash."""
        newer = {name for name, since in SINCE.items() if self.format_version < since}
        found = self.model_dump(exclude={"content_hash", *newer})
        held = found.get("context")
        while held is not None:  # headers of contexts take the same version
            header = held["header"]
            for name in newer & header.keys():
                del header[name]
            held = header.get("context")
        return found

    @property
    def run(self) -> RunOptions:
        """Return the options of a run to make such a set.

        Images of a context do not count. The network leaves open the options that
        distillation and evaluation chose differently, so a repeated run chooses both
        again.
        """
        new, stored = self._new_images()
        counts = {
            label: max(1, number * stored // len(new))
            for label, number in Counter(new).items()
        }
        per_class = tuple(
            counts.get(label, 1) for label in range(len(self.class_names))
        )
        unequal = len(set(counts.values())) > 1
        precision: Precision = "bfloat16" if self.precision == "bfloat16" else "float32"
        return RunOptions(
            distiller=self.distiller,
            images_per_class=per_class if unequal else max(per_class),
            steps=self.steps or None,
            seed=self.seed,
            network=shared_spec(self.network, self.evaluation_network),
            initial_images=self.initial_images,
            parametrization=self.parametrization,
            preprocessing=self.value_space,
            mirror=self.mirror,
            precision=precision,
            refine_context=self.context is not None and self.context.refined,
        )

    def _new_images(self) -> tuple[list[int], int]:
        """Return the class of each image outside a context, and their stored number."""
        classes = self.initial_classes
        stored = self.stored_images or len(classes)
        if self.context is None:
            return classes, stored
        held = self.context.header
        count = len(held.initial_classes)
        stored -= count if self.context.refined else held.stored_images or count
        return classes[count:], stored

    def of_pixels(self, initial_classes: list[int], values: int) -> "Header":
        """Return the header for other images, stored without encoding.

        Args:
            initial_classes: the class of each image.
            values: the number of values of all images.
        """
        return self.model_copy(
            update={
                "initial_classes": initial_classes,
                "initial_indices": None,
                "parametrization": "identity",
                "stored_images": len(initial_classes),
                "stored_values": values,
                "decoder_values": 0,
                "recipe": None,  # it was for another number of images
                "learned": {},
                "views": None,
            }
        )

    @property
    def is_imported(self) -> bool:
        """Whether other code made the set."""
        return self.distiller.startswith(f"{IMPORTED}(")

    @property
    def lineage(self) -> "list[Header]":
        """Return this header, then those of the nested contexts, newest first."""
        found = [self]
        while found[-1].context is not None:
            found.append(found[-1].context.header)
        return found

    @property
    def nesting(self) -> int:
        """Return the depth of nested contexts: 0 for a set without one."""
        return len(self.lineage) - 1

    def text(self) -> str:
        """Return the header as JSON, for the format version."""
        return json.dumps(self.fields() | {"content_hash": self.content_hash})


@dataclass(frozen=True, eq=False, repr=False)
class Content:
    """The content of an artifact (see :class:`~dd_plugins.DistilledSet`)."""

    images: Tensor
    labels: Tensor
    transform: Transform
    header: Header
    stored: Mapping[str, Tensor] = field(default_factory=dict)
    view_labels: Tensor | None = None
    decoder: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes."""
        return tuple(self.header.class_names)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.header.class_names)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, height and width of the images."""
        return tuple(self.images.shape[1:])

    def __repr__(self) -> str:
        """Return the main properties of the set in one line."""
        header = self.header
        size = "x".join(map(str, self.image_shape))
        return (
            f"{type(self).__name__}({len(self.images):,} images of {size}, "
            f"{self.num_classes:,} classes, {header.label_kind} as labels, "
            f"{shortened(header.distiller, _LONGEST_SPEC)} on "
            f"{shortened(header.dataset.name, _LONGEST_SPEC)})"
        )

    def pixels(self) -> Tensor:
        """Return the images as pixels: float32 in [0, 1], clipped.

        Raises:
            FileError: the whitening matrix, made by other software, is singular.
        """
        try:
            return self.transform.invert(self.images).clamp(0, 1)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise FileError(
                "the set's whitening matrix must be invertible, got a singular one: "
                "there is no way back to pixels"
            ) from error

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors for the file of this set, by name, on the CPU."""
        named = {STORED_PREFIX + name: each for name, each in self.stored.items()}
        named |= {DECODER_PREFIX + name: each for name, each in self.decoder.items()}
        if not self.stored:
            named["images"] = self.images
        named["labels"] = self.labels
        if self.view_labels is not None:
            named[VIEW_LABELS] = self.view_labels
        for name, tensor in self.transform.tensors().items():
            named[TRANSFORM_PREFIX + name] = tensor
        return {name: tensor.cpu().contiguous() for name, tensor in named.items()}


def check_nesting(header: Header, *, more: int = 0) -> None:
    """Refuse a set with contexts nested too deep for a file.

    Args:
        header: the header of the set.
        more: levels added by a set extending it.

    Raises:
        OptionError: they are nested too deep; the message tells how to drop older ones.
    """
    if header.nesting + more > DEEPEST_CONTEXT:
        raise OptionError(
            f"contexts must be nested at most {DEEPEST_CONTEXT} deep, got "
            f"{header.nesting + more}: each set remembers its context; forget those "
            "of the context by dataclasses.replace(context, "
            "header=context.header.model_copy(update={'context': None}))"
        )


def make_header(
    plugin_versions: dict[str, str],
    transform: Transform,
    run: RunOptions,
    **fields: Any,
) -> Header:
    """Return a header of the current format, with the versions of this process.

    Args:
        plugin_versions: versions of the distributions whose classes made the set.
        transform: the map to the value space.
        run: the complete options of the run.
        **fields: the other fields; they override those of ``run`` and this process.
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


def current_header(content: Content) -> Header:
    """Return the header of a set for a file of the current format.

    The fields that a file of an older version may lack are filled in.
    """
    header = content.header
    fields = {
        "format_version": FORMAT_VERSION,
        "value_space": content.transform.kind,
        "stored_images": header.stored_images or len(content.images),
        "stored_values": header.stored_values or content.images.numel(),
        "decoder_values": header.decoder_values or 0,
    }
    return header.model_copy(update=fields)


def library_versions() -> dict[str, str]:
    """Return the versions of Python and the libraries, for a header."""
    libraries = ("dd-plugins", "torch", "torchvision", "numpy", "safetensors")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in libraries},
    }


_version = cache(version)  # reads a file
