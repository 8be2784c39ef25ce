"""Reading images: from a file, a PIL image, an array or a tensor to pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from dd_plugins.errors import DataError

__all__ = [
    "BACKGROUND",
    "Axes",
    "channels_first",
    "open_image",
    "pixels_of",
    "resized",
    "size_of",
    "where_channels_are",
]

BACKGROUND = "white"
"""The colour on which transparent images are composited."""

Axes = Literal["first", "last"]
"""Where the channels of an image stand among its axes."""

_CHANNELS = (1, 3, 4)  # the usual numbers: grey, colour, colour with alpha
_16_BITS = 65535
_MOST_PIXELS = 178_956_970  # Pillow's own limit: it refuses larger images
_MOST_PIXELS_RESIZED = 2**30  # three bytes each while the image is reduced
_RESIZED = 1_024  # images at a time


@contextmanager
def open_image(file: Path, *, resized: bool) -> Iterator[Image.Image]:
    """Open an image file; refuse one of too many pixels before reading them.

    Args:
        file: the file.
        resized: whether the image will be resized; then it may be larger.

    Raises:
        DataError: the image has too many pixels; the caller puts the name of the file
            before the message.
        OSError: the file cannot be read; Pillow raises other errors too if it is
            damaged.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # the files are the user's own: our limits apply
    try:
        with Image.open(file) as image:
            width, height = image.size
            most = _MOST_PIXELS_RESIZED if resized else _MOST_PIXELS
            if width * height > most:
                advice = "shrink it" if resized else "shrink it, say by --image-size,"
                raise DataError(
                    f"has {width}x{height} pixels, expected at most {most:,}; "
                    f"{advice} or remove it"
                )
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def pixels_of(
    image: Image.Image, *, channels: Literal[3] | None = None, size: int | None = None
) -> Tensor:
    """Return the pixels of a PIL image of any mode.

    The EXIF orientation is applied. Transparent images are composited on white.
    Palettes, CMYK and other colour spaces become RGB. 16-bit pixels are scaled to 8
    bits (65535 becomes 255); floating pixels stay as they are.

    Args:
        image: the image.
        channels: 3 to expand grey images to colour; by default they keep 1 channel.
        size: the side of the image in pixels: the shorter side is resized to it, and
            the centre cropped; None for the image as it is.

    Returns:
        uint8, or float32 for a floating image, of shape ``(channels, height, width)``.

    Raises:
        DataError: the pixels are 32-bit integers, whose range is not known.
    """
    is_pgm = image.format == "PPM"  # Pillow opens its 16 bits in a 32-bit mode
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and is_pgm):
        image = _of_8_bits(image)
    image = _without_palette(image)
    if size is not None:
        from torchvision.transforms.v2 import functional as transforms

        image = transforms.center_crop(
            transforms.resize(image, [size], antialias=True), [size] * 2
        )
    array = torch.from_numpy(np.array(image))
    pixels = array[None] if array.ndim == 2 else array.movedim(-1, 0)
    if channels is not None and len(pixels) != channels:
        pixels = pixels.expand(channels, -1, -1)
    return pixels.contiguous()


def resized(images: Tensor, size: int | None) -> Tensor:
    """Resize the shorter side of images to ``size``, and crop the centre.

    Args:
        images: uint8, or floating in [0, 1], of shape ``(n, channels, height, width)``.
        size: the side in pixels, at least 1; None for the images as they are.

    Returns:
        Images of the same dtype, of shape ``(n, channels, size, size)``; downsampling
        is antialiased. Values stay in [0, 1] if all were there.
    """
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    from torchvision.transforms.v2 import functional as transforms

    found = []
    for part in torch.split(images, _RESIZED):
        small = transforms.center_crop(
            transforms.resize(part, [size], antialias=True), [size] * 2
        )
        if part.is_floating_point():  # rounding makes 1 a little larger
            low, high = part.aminmax()
            small = small.clamp(low.clamp(max=0), high.clamp(min=1))
        found.append(small)
    return torch.cat(found)


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit image scaled to 8 bits, rounded."""
    wide = np.asarray(image.convert("I"), dtype=np.int64)
    narrow = (wide * 255 + _16_BITS // 2) // _16_BITS
    return Image.fromarray(narrow.astype(np.uint8))


def _without_palette(image: Image.Image) -> Image.Image:
    """Return the image in mode L, RGB or F, with white behind transparent parts."""
    mode = image.mode
    if mode == "I":
        raise DataError(
            f"has pixels of 32-bit integers (mode {mode!r}), expected 8 or 16 bits, "
            "whose range is clear; save it with 8 or 16 bits"
        )
    if mode in ("La", "RGBa"):  # colours multiplied by their opacity
        image = image.convert(mode.upper())
    if image.has_transparency_data:
        image = image.convert("RGBA")
        grey = mode in ("1", "L", "LA", "La")
        canvas = Image.new("RGBA", image.size, BACKGROUND)
        return Image.alpha_composite(canvas, image).convert("L" if grey else "RGB")
    if mode in ("1", "L"):
        return image.convert("L")
    if mode in ("F", "RGB"):
        return image
    return image.convert("RGB")


def size_of(file: Path) -> tuple[int, int]:
    """Return the height and width of an upright image, from its file header alone."""
    with Image.open(file) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        # Pillow has already swapped the sides of a TIFF file.
        turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
    return (width, height) if turned else (height, width)


def channels_first(image: Any, axes: Axes | None = None) -> Tensor:
    """Return a PIL image, an array or a tensor as ``(channels, height, width)``.

    Tensors have their channels first, arrays last. An array has them first if only its
    first axis is of size 1, 3 or 4.

    Args:
        image: a PIL image; or an array or a tensor of two or three axes.
        axes: the position of the channels, if the sizes do not determine it.

    Raises:
        DataError: it has neither two nor three axes, or its sizes do not determine the
            position of the channels, or they contradict the rule for tensors.
    """
    if isinstance(image, Image.Image):
        return pixels_of(image)
    is_tensor = isinstance(image, Tensor)
    tensor = image if is_tensor else torch.from_numpy(np.array(image))
    if tensor.ndim == 2:
        tensor = tensor[None]
    if tensor.ndim != 3:
        raise DataError(f"has shape {tuple(tensor.shape)}, expected 3 axes")
    where = axes or where_channels_are(tuple(tensor.shape), is_tensor=is_tensor)
    tensor = tensor.movedim(-1, 0) if where == "last" else tensor
    # Images are kept in memory as float32, so other floating dtypes become it here.
    return tensor.float() if tensor.is_floating_point() else tensor


def where_channels_are(
    shape: tuple[int, ...], *, is_tensor: bool, axis: int = 0
) -> Axes:
    """Return the position of the channels in an image of three axes.

    Args:
        shape: the shape of the image.
        is_tensor: whether it is a tensor, and no array.
        axis: the axis to which an error advises to move the channels; 1 if the image is
            one of many in a tensor.

    Raises:
        DataError: a tensor seems to have its channels last, or neither the first nor
            the last axis of an array is of size 1, 3 or 4.
    """
    first, last = shape[0] in _CHANNELS, shape[-1] in _CHANNELS
    if is_tensor:
        if last and not first and shape[0] > shape[-1]:
            raise DataError(
                f"is a tensor of shape {shape}, expected (channels, height, width); "
                f"use movedim(-1, {axis}), or pass channels='last'"
            )
        return "first"
    if not first and not last:
        raise DataError(
            f"is an array of shape {shape}, expected 1, 3 or 4 channels in its first "
            "or last axis; pass channels='first' or 'last'"
        )
    return "last" if last else "first"
