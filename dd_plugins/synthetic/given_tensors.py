"""Tensors made by other code, as the content of an artifact."""

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from dd_plugins.checks import one_of
from dd_plugins.data.preprocess import Preprocessing, Transform, to_unit_range
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, DDWarning, OptionError
from dd_plugins.run import RunOptions
from dd_plugins.spec import parse
from dd_plugins.synthetic.header import IMPORTED, Content, DataRecord, make_header
from dd_plugins.synthetic.labels import LabelKind, one_hot

__all__ = ["Space", "content_of_tensors"]

Space = Preprocessing | Literal["pixels"] | tuple[Sequence[float], Sequence[float]]
"""The space of images: pixels in [0, 1], pixels standardised by a mean and a standard
deviation for each channel, or a value space."""

_USUAL_NETWORKS: Mapping[LabelKind, str] = {
    "regression": "conv(normalization='none')",
    "probabilities": "dc_convnet",
    "classes": "dc_convnet",
}
"""The networks of the papers with such labels."""

_FARTHEST = 4  # times the usual deviation, or a fraction: implausible beyond
_COMPARED = 1_000  # real images
_SUM_OF_PROBABILITIES = 1e-3  # the tolerance of their sum


def content_of_tensors(
    images: Any,
    labels: Any,
    data: RealData,
    *,
    space: Space,
    label_kind: LabelKind | None,
    method: str,
    network: str | None,
    recipe: str | None,
) -> Content:
    """Return the content of an artifact made from given tensors.

    Arguments and errors are those of
    :meth:`~dd_plugins.DistilledSet.from_tensors`.
    """
    for spec in (network, recipe):
        if spec is not None:
            parse(spec)  # raises now if it is malformed
    given = _channels_first(_floating(images, data), data)
    as_pixels = isinstance(space, str) and space == "pixels"
    if not as_pixels and getattr(images, "dtype", None) in (torch.uint8, np.uint8):
        raise OptionError(
            f"images of uint8 are pixels: expected space 'pixels', got {space!r}"
        )
    kind, targets, classes = _labels(labels, label_kind, data.num_classes)
    if len(given) != len(targets):
        raise DataError(
            f"expected a label for each image, got {len(given)} images and "
            f"{len(targets)} labels"
        )
    transform = _transform(space, data)
    values = given
    if as_pixels:
        low, high = (float(value) for value in given.aminmax())
        if low < 0 or high > 1:
            raise DataError(
                f"pixels must be in [0, 1], got values from {low:g} to {high:g}; if "
                "the images are standardised or whitened, say so by space"
            )
        values = transform(given)
    if as_pixels or not _looks_like_pixels(given, transform, data):
        _check_plausible(values, transform, data)
    header = make_header(
        {},
        transform,
        RunOptions(mirror=data.mirror, precision="float32"),
        label_kind=kind,
        class_names=list(data.class_names),
        initial_classes=classes.tolist(),
        initial_indices=None,
        initial_images="unknown",
        stored_images=len(given),
        stored_values=given.numel(),
        decoder_values=0,
        distiller=f"{IMPORTED}(method={method!r})",
        options={"method": repr(method)},
        network=network or _USUAL_NETWORKS[kind],
        evaluation_network=network or _USUAL_NETWORKS[kind],
        recipe=recipe,
        steps=0,
        dataset=DataRecord(
            name=data.name,
            fingerprint=data.fingerprint,
            train_images=len(data.train.labels),
            image_size=data.image_size,
        ),
    )
    return Content(values.contiguous(), targets, transform, header)


def _tensor_of(name: str, given: Any) -> Tensor:
    """Return a plain tensor of numbers on the CPU.

    Raises:
        DataError: the value is no tensor or array, or not a dense one.
    """
    try:
        tensor: Tensor = torch.as_tensor(given).detach().cpu()
    except (TypeError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{name} must be a tensor or an array: {error}") from error
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        raise DataError(f"{name} must be a dense tensor, got another kind")
    return tensor


def _floating(given: Any, data: RealData) -> Tensor:
    """Return images as float32 on the CPU; uint8 becomes [0, 1].

    Raises:
        DataError: the value is no tensor of numbers, or some are not finite, or an
            image has another number of values than one of the data.
    """
    tensor = _tensor_of("images", given)
    if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
        raise DataError(f"images must be floating or uint8, got {tensor.dtype}")
    values = math.prod(tensor.shape[1:])
    if tensor.ndim != 4 or values != math.prod(data.image_shape):
        raise _wrong_shape(tensor, data)
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise DataError("images must hold their values, got a tensor that repeats them")
    found = to_unit_range(tensor)
    if not torch.isfinite(found).all():
        raise DataError("images must have finite values, got NaN or infinity")
    return found


def _wrong_shape(images: Tensor, data: RealData) -> DataError:
    channels, height, width = data.image_shape
    return DataError(
        f"images must have shape (n, {channels}, {height}, {width}), as those of "
        f"{data.name}, or channels last; got {tuple(images.shape)}"
    )


def _channels_first(images: Tensor, data: RealData) -> Tensor:
    """Return images channels first, of the shape of the data's images.

    Raises:
        DataError: the images have another shape.
    """
    channels, height, width = data.image_shape
    if images.ndim == 4 and len(images):
        if images.shape[1:] == (channels, height, width):
            return images
        if images.shape[1:] == (height, width, channels):
            return images.permute(0, 3, 1, 2)
    raise _wrong_shape(images, data)


def _labels(
    labels: Any, kind: LabelKind | None, num_classes: int
) -> tuple[LabelKind, Tensor, Tensor]:
    """Return the kind of labels, labels of shape ``(n, classes)``, and the classes.

    Raises:
        DataError: the labels have another shape, are not finite, or name classes
            outside the data.
        OptionError: the kind is unknown, or the labels are not of this kind.
    """
    found = _tensor_of("labels", labels)
    if kind is not None:
        one_of("label_kind", kind, get_args(LabelKind))
    if not found.is_floating_point() or found.ndim == 1:
        classes = found.long()
        if classes.ndim != 1 or not torch.equal(classes.to(found.dtype), found):
            raise DataError(
                f"classes must be whole numbers of shape (n,), got {found.dtype} of "
                f"shape {tuple(found.shape)}"
            )
        outside = classes[(classes < 0) | (classes >= num_classes)]
        if len(outside):
            raise DataError(
                f"classes must be from 0 to {num_classes - 1}, got {int(outside[0])}"
            )
        if kind not in (None, "classes"):
            raise OptionError(f"label_kind {kind!r} needs scores, got classes")
        return "classes", one_hot(classes, num_classes), classes
    scores = found.float()
    if scores.ndim != 2 or scores.shape[1] != num_classes:
        raise DataError(
            f"labels must have shape (n,) or (n, {num_classes}), got "
            f"{tuple(scores.shape)}"
        )
    if not torch.isfinite(scores).all():
        raise DataError("labels must have finite values, got NaN or infinity")
    classes = scores.argmax(dim=1)
    if kind == "classes":
        return kind, one_hot(classes, num_classes), classes
    if kind in (None, "probabilities"):
        off = (scores.sum(dim=1) - 1).abs().max()
        if scores.min() < 0 or off > _SUM_OF_PROBABILITIES:
            raise OptionError(
                "label_kind must be 'regression' for scores that were fitted by "
                "squared error, and scores that are no probabilities must be passed "
                "as logits.softmax(dim=1); got other scores"
            )
        kind = "probabilities"
    return kind, scores, classes


def _transform(space: Space, data: RealData) -> Transform:
    """Return the map to the value space of the set.

    Raises:
        OptionError: there is no such space, or it does not fit the channels.
    """
    if isinstance(space, str):
        if space not in ("pixels", *get_args(Preprocessing)):
            raise OptionError(
                f"space must be pixels, {', '.join(get_args(Preprocessing))}, or a "
                f"mean and a deviation for each channel, got {space!r}"
            )
        kind: Any = "standardize" if space == "pixels" else space
        return Transform.fit(data.train.images, kind)
    try:
        mean, deviation = (torch.as_tensor(each).float().flatten() for each in space)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"space must be a name, or a mean and a deviation, got {space!r}"
        ) from error
    channels = data.image_shape[0]
    usable = bool((deviation > 0).all())
    usable = usable and bool(torch.isfinite(torch.cat([mean, deviation])).all())
    if not len(mean) == len(deviation) == channels or not usable:
        raise OptionError(
            f"a finite mean and a positive deviation are needed for each of "
            f"{channels} channels, got {space!r}"
        )
    return Transform(mean, deviation)


def _looks_like_pixels(values: Tensor, transform: Transform, data: RealData) -> bool:
    """Warn if values of another space are all in [0, 1], as those of pixels."""
    low, high = (float(value) for value in values.aminmax())
    real = transform(data.train.images[:_COMPARED])
    own_low, own_high = (float(value) for value in real.aminmax())
    if low < 0 or high > 1 or (own_low >= 0 and own_high <= 1):
        return False
    warnings.warn(
        f"the images have values from {low:.2f} to {high:.2f}, as pixels have; in this "
        f"value space real images go from {own_low:.2f} to {own_high:.2f}: is the "
        "space 'pixels'? In a wrong one networks learn nothing",
        DDWarning,
        stacklevel=4,
    )
    return True


def _check_plausible(values: Tensor, transform: Transform, data: RealData) -> None:
    """Warn if values are implausible for images in this space."""
    real = transform(data.train.images[:_COMPARED])
    own, expected = float(values.std(correction=0)), float(real.std(correction=0))
    shift = abs(float(values.mean() - real.mean())) / max(expected, 1e-9)
    ratio = own / max(expected, 1e-9)
    if not 1 / _FARTHEST < ratio < _FARTHEST or shift > 1:
        warnings.warn(
            f"in this value space real images have mean {float(real.mean()):.2f} and "
            f"deviation {expected:.2f}, those given {float(values.mean()):.2f} and "
            f"{own:.2f}: is the space right? In a wrong one networks learn nothing",
            DDWarning,
            stacklevel=4,
        )
