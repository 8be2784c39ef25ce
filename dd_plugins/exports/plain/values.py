"""The map of real images to the value space of a set, in plain torch."""

from collections.abc import Mapping

from torch import Tensor

__all__ = ["standardised", "whitened"]


def standardised(images: Tensor, export: Mapping[str, Tensor]) -> Tensor:
    """Standardise images in [0, 1] by the mean and deviation of each channel."""
    mean, deviation = export["transform_mean"], export["transform_deviation"]
    return (images - mean[:, None, None]) / deviation[:, None, None]


def whitened(images: Tensor, export: Mapping[str, Tensor], stride: int) -> Tensor:
    """Standardise images, and whiten their sub-images of every stride-th pixel."""
    n, channels, height, width = images.shape
    values = standardised(images, export)
    parts = values.view(n, channels, height // stride, stride, width // stride, stride)
    parts = parts.permute(0, 3, 5, 1, 2, 4)
    flat = parts.flatten(3) - export["transform_centre"]
    if "transform_whitening" in export:
        flat = flat @ export["transform_whitening"]
    else:  # only these directions are scaled
        directions = export["transform_directions"]
        along = (flat @ directions.T) * (export["transform_scales"] - 1)
        flat = flat + along @ directions
    return flat.view(parts.shape).permute(0, 3, 4, 1, 5, 2).reshape(images.shape)
