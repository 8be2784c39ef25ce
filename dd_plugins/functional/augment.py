"""Augmentation of image batches, with explicit parameters.

Parameters are sampled once, from a generator, and then applied, even to several
batches. Images are float of shape ``(n, channels, height, width)`` in any value space:
nothing is clipped.

:func:`random_augmentation` is the recipe of FRePo's evaluation (arXiv 2206.00719 and
its released code): one operation for the whole batch, drawn uniformly, with separate
parameters for each image.

:func:`siamese_parameters` and :func:`siamese_augmentation` are differentiable Siamese
augmentation (DSA): the same parameters for real and synthetic images.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from dd_plugins.functional.resample import Padding, resample

__all__ = [
    "Affine",
    "Colour",
    "Siamese",
    "apply_affine",
    "apply_colour",
    "crop_and_flip",
    "crop_sides",
    "cut_out",
    "flip",
    "random_augmentation",
    "siamese_augmentation",
    "siamese_parameters",
    "with_box",
]


_NARROWEST = 3 / 4  # width over height of a crop; its inverse for the widest


class Affine(NamedTuple):
    """A rotation, zoom and shift for each image, about its centre.

    Attributes:
        angle: rotation in radians, shape ``(n,)``.
        zoom: visible part of the side, shape ``(n,)``, or ``(n, 2)`` for ``(x, y)``;
            below 1 magnifies.
        shift: shift of the view in units of half a side, as ``(x, y)``, shape ``(n,
            2)``.
    """

    angle: Tensor
    zoom: Tensor
    shift: Tensor


class Colour(NamedTuple):
    """A change of colour for each image; each of shape ``(n,)``.

    Attributes:
        brightness: added to all values.
        contrast: factor about the mean of the image.
        saturation: factor about the mean of each pixel's channels.
    """

    brightness: Tensor
    contrast: Tensor
    saturation: Tensor


def flip(images: Tensor, flipped: Tensor) -> Tensor:
    """Flip, left to right, the images where ``flipped`` (bool, ``(n,)``) is set."""
    return torch.where(flipped[:, None, None, None], images.flip(-1), images)


def apply_affine(images: Tensor, affine: Affine, padding: Padding = "border") -> Tensor:
    """Resample each image bilinearly, under its own transform.

    Args:
        images: shape ``(n, channels, height, width)``.
        affine: one transform for each image.
        padding: pixels outside an image: the edge repeated, or zeros.
    """
    cosine, sine = affine.angle.cos(), affine.angle.sin()
    zoom = affine.zoom if affine.zoom.ndim == 2 else affine.zoom[:, None].expand(-1, 2)
    zoom_x, zoom_y = zoom.unbind(dim=1)
    aspect = images.shape[-1] / images.shape[-2]  # each axis has its own unit
    rows = [
        torch.stack([cosine * zoom_x, -sine * zoom_y / aspect, affine.shift[:, 0]], 1),
        torch.stack([sine * zoom_x * aspect, cosine * zoom_y, affine.shift[:, 1]], 1),
    ]
    matrix = torch.stack(rows, dim=1).to(images)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return resample(images, grid, padding)


def apply_colour(images: Tensor, colour: Colour) -> Tensor:
    """Change brightness, then saturation, then contrast of each image."""
    brightness, contrast, saturation = (
        value.to(images)[:, None, None, None] for value in colour
    )
    images = images + brightness
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * saturation
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return mean + (images - mean) * contrast


def cut_out(images: Tensor, corner: Tensor, size: int) -> Tensor:
    """Set a square to zero; ``corner`` is its ``(row, column)``, shape ``(n, 2)``."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device) - corner[:, :1].to(images.device)
    columns = torch.arange(width, device=images.device) - corner[:, 1:].to(
        images.device
    )
    in_rows, in_columns = (rows >= 0) & (rows < size), (columns >= 0) & (columns < size)
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(inside[:, None], 0.0)


def _random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    flipped = torch.rand(len(images), generator=generator) < 0.5
    return flip(images, flipped.to(images.device))


def _random_colour(images: Tensor, generator: torch.Generator) -> Tensor:
    amount = 0.25 * (2 * torch.rand(3, len(images), generator=generator) - 1)
    return apply_colour(images, Colour(amount[0], amount[1].exp(), amount[2].exp()))


def _random_crop(images: Tensor, generator: torch.Generator) -> Tensor:
    draws = torch.rand(3, len(images), generator=generator)
    zoom = torch.exp(math.log(0.8) + draws[0] * math.log(1.25 / 0.8))
    # The view moves by up to half the difference between its size and the image's.
    shift = (2 * draws[1:] - 1).mT * (zoom - 1).abs()[:, None]
    return apply_affine(images, Affine(torch.zeros_like(zoom), zoom, shift))


def _random_translation(images: Tensor, generator: torch.Generator) -> Tensor:
    shift = 0.25 * (2 * torch.rand(len(images), 2, generator=generator) - 1)
    zeros = torch.zeros(len(images))
    return apply_affine(images, Affine(zeros, zeros + 1, shift))


def _random_rotation(images: Tensor, generator: torch.Generator) -> Tensor:
    degrees = 15 * (2 * torch.rand(len(images), generator=generator) - 1)
    zeros = torch.zeros(len(images))
    shift = torch.zeros(len(images), 2)
    return apply_affine(images, Affine(degrees.deg2rad(), zeros + 1, shift))


def _random_cut_out(images: Tensor, generator: torch.Generator) -> Tensor:
    height, width = images.shape[-2:]
    size = max(1, (min(height, width) // 4))
    room = torch.tensor([height - size + 1, width - size + 1])
    corner = (torch.rand(len(images), 2, generator=generator) * room).long()
    return cut_out(images, corner, size)


_Operation = Callable[[Tensor, torch.Generator], Tensor]
_OPERATIONS: tuple[_Operation, ...] = (
    _random_colour,
    _random_crop,
    _random_translation,
    _random_rotation,
    _random_cut_out,
)


def random_augmentation(
    images: Tensor, *, generator: torch.Generator, mirror: bool = True
) -> Tensor:
    """Apply one operation, drawn uniformly, to the whole batch.

    The operations and their ranges: colour (brightness ±0.25, contrast and saturation
    by a factor exp(±0.25)), crop (a view of 0.8 to 1.25 of the side, beyond the image
    padded by its edge), translation (an eighth of the side), rotation (15 degrees),
    cut-out (a square of a quarter of the side), flip.

    Args:
        images: float of shape ``(n, channels, height, width)``.
        generator: a CPU generator.
        mirror: whether a flip is among the operations; wrong for digits.

    Example:
        >>> images = torch.zeros(4, 1, 8, 8)
        >>> random_augmentation(images, generator=torch.Generator()).shape
        torch.Size([4, 1, 8, 8])
    """
    operations = (*_OPERATIONS, _random_flip) if mirror else _OPERATIONS
    choice = int(torch.randint(len(operations), (), generator=generator))
    return operations[choice](images, generator)


def crop_and_flip(
    images: Tensor, *, generator: torch.Generator, mirror: bool = True
) -> Tensor:
    """Shift each image by up to an eighth of its side, and flip half of them.

    Pixels from outside an image are zero. It is the augmentation of networks for small
    images: 4 pixels of 32 (He et al., arXiv 1512.03385, section 4.2).

    Args:
        images: float of shape ``(n, channels, height, width)``.
        generator: a CPU generator.
        mirror: whether images may be flipped; wrong for digits.
    """
    count, _, height, width = images.shape
    across, down = max(1, width // 8), max(1, height // 8)
    draws = torch.rand(2, count, generator=generator)
    rows = (draws[0] * (2 * down + 1)).long().to(images.device)
    columns = (draws[1] * (2 * across + 1)).long().to(images.device)
    padded = F.pad(images, (across, across, down, down))
    rows = rows[:, None] + torch.arange(height, device=images.device)
    columns = columns[:, None] + torch.arange(width, device=images.device)
    each = torch.arange(count, device=images.device)[:, None, None]
    # Indexing puts channels last.
    shifted = padded.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    moved = shifted.permute(0, 3, 1, 2)
    return _random_flip(moved, generator) if mirror else moved


def crop_sides(area: float, shape: float) -> tuple[float, float]:
    """Return the height and width of a crop, as parts of those of its image.

    A large crop has nearly the shape of the image: a narrower one would be longer than
    the image, and lose area where it is cut.

    Args:
        area: area of the crop, in (0, 1] of the image.
        shape: its shape, from narrow (0) to wide (1); width by height from 3/4 to 4/3
            of the image's.
    """
    widest = -math.log(max(_NARROWEST, area))
    ratio = math.exp((2 * shape - 1) * widest)
    return math.sqrt(area / ratio), math.sqrt(area * ratio)


def with_box(
    images: Tensor, others: Tensor, share: float, centre: Sequence[float]
) -> tuple[Tensor, float]:
    """Return images with a box of others in them (CutMix), and the share kept.

    Args:
        images: shape ``(n, channels, height, width)``.
        others: the images to take the box from, of the same shape.
        share: share of each image to keep, in [0, 1]; a box cut by the edge keeps more.
        centre: row and column of the box's centre, in [0, 1] of height and width.
    """
    height, width = images.shape[-2:]
    side = math.sqrt(1 - share)
    (top, bottom), (left, right) = (
        (
            max(0, round(size * (middle - side / 2))),
            min(size, round(size * (middle + side / 2))),
        )
        for size, middle in zip((height, width), centre, strict=True)
    )
    mixed = images.clone()
    mixed[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    box = max(0, bottom - top) * max(0, right - left)
    return mixed, 1 - box / (height * width)


_SiameseOperation = Literal["colour", "crop", "cut_out", "flip", "scale", "rotation"]


class Siamese(NamedTuple):
    """The parameters of one differentiable Siamese augmentation.

    Attributes:
        operation: its name.
        draws: numbers in [0, 1) that determine its parameters, of shape ``(3, n)``;
            all images share them if ``n`` is 1.
    """

    operation: _SiameseOperation
    draws: Tensor


def siamese_parameters(
    generator: torch.Generator, *, images: int = 1, mirror: bool = True
) -> Siamese:
    """Draw an operation uniformly, and its parameters.

    Args:
        generator: a CPU generator.
        images: the number of images; 1 for parameters shared by all images.
        mirror: whether a flip is among the operations; wrong for digits.
    """
    operations = [
        operation
        for operation in get_args(_SiameseOperation)
        if mirror or operation != "flip"
    ]
    choice = int(torch.randint(len(operations), (), generator=generator))
    return Siamese(operations[choice], torch.rand(3, images, generator=generator))


def siamese_augmentation(images: Tensor, parameters: Siamese) -> Tensor:
    """Apply differentiable Siamese augmentation.

    The operations and their ranges: colour (brightness ±0.5, saturation by a factor 0
    to 2, contrast by 0.5 to 1.5), crop (a shift by up to an eighth of the side),
    cut-out (a square of half the side), flip, scale (each axis by 1/1.2 to 1.2),
    rotation (±15 degrees). Pixels from outside the image are zero.

    Args:
        images: float of shape ``(n, channels, height, width)``, in any value space.
        parameters: from :func:`siamese_parameters`; differentiable in the images.

    Reference: Zhao, Bilen, "Dataset Condensation with Differentiable Siamese
    Augmentation", ICML 2021, arXiv 2102.08259, and its released code: the strategy
    ``color_crop_cutout_flip_scale_rotate``, one operation at a time.

    Example:
        >>> parameters = siamese_parameters(torch.Generator().manual_seed(0))
        >>> siamese_augmentation(torch.zeros(4, 1, 8, 8), parameters).shape
        torch.Size([4, 1, 8, 8])
    """
    count, _, height, width = images.shape
    first, second, third = parameters.draws.expand(3, count)
    zeros, no_shift = torch.zeros(count), torch.zeros(count, 2)
    sides = torch.tensor([width, height])
    match parameters.operation:
        case "colour":
            return apply_colour(images, Colour(first - 0.5, third + 0.5, 2 * second))
        case "crop":
            reach = (sides / 8 + 0.5).floor()
            draws = torch.stack([first, second], dim=1)
            pixels = (draws * (2 * reach + 1)).floor() - reach
            affine = Affine(zeros, zeros + 1, 2 * pixels / sides)
            return apply_affine(images, affine, "zeros")
        case "cut_out":
            size = int(min(height, width) / 2 + 0.5)
            room = torch.tensor([height, width]) + 1 - size % 2
            centre = (torch.stack([first, second], dim=1) * room).long()
            return cut_out(images, centre - size // 2, size)
        case "flip":
            return flip(images, (first < 0.5).to(images.device))
        case "scale":
            draws = torch.stack([first, second], dim=1)
            zoom = 1 / 1.2 + draws * (1.2 - 1 / 1.2)
            return apply_affine(images, Affine(zeros, zoom, no_shift), "zeros")
        case "rotation":
            angle = (2 * first - 1) * math.radians(15)
            return apply_affine(images, Affine(angle, zeros + 1, no_shift), "zeros")
