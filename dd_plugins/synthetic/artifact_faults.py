"""Checks of an artifact against its format, beyond the hash."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from dd_plugins.data.whitening import COMPACT_TYPES
from dd_plugins.errors import OptionError
from dd_plugins.synthetic.header import (
    COMPACT_SINCE,
    CONSTANT_SINCE,
    DIRECTIONS_SINCE,
    SINCE,
    TEACHERS_SINCE,
    TRANSFORM_PREFIX,
    VIEW_LABELS,
    Content,
)
from dd_plugins.synthetic.views import get_views

__all__ = ["faults"]

_MOST_TEACHERS = 100
_OTHER_TYPES = {
    VIEW_LABELS: torch.float16,
    **{TRANSFORM_PREFIX + name: dtype for name, dtype in COMPACT_TYPES.items()},
}
"""The dtypes of tensors that are not float32."""


def faults(loaded: Content, tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield the faults of a set against the format of docs/artifact-format.md.

    Only the first fault counts, since a check may rely on the earlier ones. A file of
    other software can have a valid hash and still break the format.

    Args:
        loaded: the set, made of unchecked tensors.
        tensors: all tensors of its file.
    """
    header, images, labels = loaded.header, loaded.images, loaded.labels
    for name, tensor in tensors.items():
        wanted = _OTHER_TYPES.get(name, torch.float32)
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
        yield (
            f"expected {count} images and labels, as its header says, got images of "
            f"shape {tuple(images.shape)} and labels of shape {tuple(labels.shape)}"
        )
    if labels.shape != (count, classes):
        yield f"labels must have shape {(count, classes)}, have {tuple(labels.shape)}"
    outside = [label for label in header.initial_classes if not 0 <= label < classes]
    if outside:
        yield f"initial_classes must be from 0 to {classes - 1}, got {outside[0]}"
    indices = header.initial_indices
    if indices is not None and (len(indices) != count or min(indices) < 0):
        yield "header field initial_indices: must hold an index for each image"
    yield from _faults_of_budget(loaded)
    yield from _faults_of_views(loaded)
    yield from _faults_of_transform(loaded)
    known = loaded.tensors().keys()
    unknown = sorted(tensors.keys() - known)
    if unknown:
        yield f"expected only tensors of the format, got {unknown[0]}"


def _faults_of_budget(loaded: Content) -> Iterator[str]:
    """Yield differences between the header's budget and the tensors, where known."""
    header = loaded.header
    if header.format_version < SINCE["stored_values"]:
        return
    told = (header.stored_images, header.stored_values)
    if None in told:
        yield "header fields stored_images and stored_values: must be numbers from 1"
    told_of_decoder = header.format_version >= SINCE["decoder_values"]
    if told_of_decoder and header.decoder_values is None:
        yield "header field decoder_values: must be a number"
    constants = sum(each.numel() for each in loaded.decoder.values())
    if told_of_decoder and loaded.stored and header.decoder_values != constants:
        yield f"decoder_values must be {constants}, are {header.decoder_values}"
    if loaded.decoder and not loaded.stored:
        yield "tensors of a decoder need stored ones"
    kept = list(loaded.stored.values())
    if not kept and header.parametrization == "identity" and header.context is None:
        kept = [loaded.images]
    if kept:
        there = (len(kept[0]), sum(each.numel() for each in kept))
        if told != there:
            yield f"stored_images and stored_values must be {there}, are {told}"


def _faults_of_views(loaded: Content) -> Iterator[str]:
    """Yield the faults in the views and their labels."""
    record, labels = loaded.header.views, loaded.view_labels
    if record is None:
        if labels is not None:
            yield "view_labels needs header field views"
        return
    if loaded.header.label_kind != "probabilities":
        yield "views need labels that are probabilities"
    if len(record.further_teachers) >= _MOST_TEACHERS:
        yield f"views must have at most {_MOST_TEACHERS} teachers"
    if record.teacher is None and record.further_teachers:
        yield "header field views: further teachers need a first one"
    needs_newer = (
        (labels is not None and record.teacher is not None)
        or bool(record.further_teachers)
        or record.group is not None
        or any(each.seed for each in record.teachers)
    )
    if needs_newer and loaded.header.format_version < TEACHERS_SINCE:
        yield (
            f"views of several teachers, of groups, or with stored labels and a "
            f"teacher need format version {TEACHERS_SINCE}, got "
            f"{loaded.header.format_version}"
        )
    try:
        count = get_views(record.views).count
    except OptionError as error:
        yield f"header field views: {error}"
        return
    if labels is None and record.teacher is not None:
        return
    shape = (count, *loaded.labels.shape)
    if labels is None or labels.shape != shape:
        have = None if labels is None else tuple(labels.shape)
        yield f"view_labels must have shape {shape}, have {have}"
    elif labels.min() < 0 or labels.max() > 1:
        yield "view_labels must be probabilities, from 0 to 1"


def _kind(loaded: Content) -> str:
    """Return the kind of the value space, as named by the version of the file."""
    kind = loaded.transform.kind
    if kind == "constant" and loaded.header.format_version < CONSTANT_SINCE:
        return "standardize"  # older versions did not tell them apart
    return kind


def _faults_of_transform(loaded: Content) -> Iterator[str]:
    """Yield the faults in the map to the value space."""
    transform, header = loaded.transform, loaded.header
    channels, height, width = loaded.images.shape[1:]
    kind = _kind(loaded)
    if kind != header.value_space:
        yield (
            f"its value space is {header.value_space}, expected {kind} by its tensors"
        )
    stride = header.transform_stride
    if stride < 1 or height % stride or width % stride:
        yield (
            f"transform_stride must divide the {height}x{width} of the images, got "
            f"{stride}"
        )
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
        yield "tensors of a whitening need transform.centre"
    if True in parts and header.format_version < DIRECTIONS_SINCE:
        yield (
            f"transform.directions needs format version {DIRECTIONS_SINCE}, got "
            f"{header.format_version}"
        )
    if transform.compact is not None:
        shapes["diagonal"] = (channels, height // stride, width // stride)
        if header.format_version < COMPACT_SINCE:
            yield (
                f"a compact whitening needs format version {COMPACT_SINCE}, got "
                f"{header.format_version}"
            )
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
