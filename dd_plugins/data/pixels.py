"""The one reader of images: from a file, PIL image, array or tensor to pixels."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from dd_plugins.errors import DataError, OptionError

__all__ = [
    "BACKGROUND",
    "Axes",
    "channels_first",
    "check_image_size",
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

_CHANNELS = (1, 3, 4)  # that an image usually has: grey, colour, colour and alpha
_16_BITS = 65535
_MOST_PIXELS = 178_956_970  # Pillow's own limit, beyond which it refuses
_MOST_PIXELS_RESIZED = 2**30  # three bytes each while the image is made smaller
_RESIZED = 1_024  # images at a time


@contextmanager
def open_image(file: Path, *, resized: bool) -> Iterator[Image.Image]:
    """Open an image file; refuse one of too many pixels before they are read.

    Args:
        file: the file.
        resized: whether the image will be reduced; then it may be larger.

    Raises:
        DataError: the image has too many pixels; the caller names the file before the
            message.
        OSError: the file cannot be read; Pillow raises other errors too if it is
            damaged.
    """
    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # a folder is the user's own: the limits are ours
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
        channels: 3 for colour in any case; by default 1 for grey images.
        size: the resized shorter side in pixels, before the centre is cropped; None for
            the image as it is.

    Returns:
        uint8, or float32 of a floating image, of shape ``(channels, height, width)``.

    Raises:
        DataError: the pixels are 32-bit integers, whose range is not known.
    """
    from torchvision.transforms.v2 import functional as transforms

    is_pgm = image.format == "PPM"  # Pillow opens its 16 bits in the mode of 32
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16") or (image.mode == "I" and is_pgm):
        image = _of_8_bits(image)
    image = _without_palette(image)
    if size is not None:
        image = transforms.center_crop(
            transforms.resize(image, [size], antialias=True), [size] * 2
        )
    array = torch.from_numpy(np.array(image))
    pixels = array[None] if array.ndim == 2 else array.movedim(-1, 0)
    if channels is not None and len(pixels) != channels:
        pixels = pixels.expand(channels, -1, -1)
    return pixels.contiguous()


def resized(images: Tensor, size: int | None) -> Tensor:
    """Return images whose shorter side is ``size``, cropped to their centre.

    Args:
        images: uint8, or floating in [0, 1], of shape ``(n, channels, height, width)``.
        size: side in pixels, at least 1; None for the images as they are.

    Returns:
        The same dtype, of shape ``(n, channels, size, size)``; downsampling smooths.

    Raises:
        OptionError: the size is below 1.
    """
    from torchvision.transforms.v2 import functional as transforms

    check_image_size(size)
    if size is None or tuple(images.shape[2:]) == (size, size):
        return images
    return torch.cat(
        [
            transforms.center_crop(
                transforms.resize(part, [size], antialias=True), [size] * 2
            )
            for part in torch.split(images, _RESIZED)
        ]
    )


def check_image_size(size: int | None) -> None:
    """Refuse a size to which images cannot be resized.

    Raises:
        OptionError: it is below 1.
    """
    if size is not None and size < 1:
        raise OptionError(f"image_size must be at least 1 pixel, got {size}")


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits scaled to 8, rounded."""
    wide = np.asarray(image.convert("I"), dtype=np.int64)
    narrow = (wide * 255 + _16_BITS // 2) // _16_BITS
    return Image.fromarray(narrow.astype(np.uint8))


def _without_palette(image: Image.Image) -> Image.Image:
    """Return the image in mode L, RGB or F, upon white where it is transparent."""
    mode = image.mode
    if mode == "I":
        raise DataError(
            f"has pixels of 32-bit integers (mode {mode!r}), expected 8 or 16 bits, "
            "whose range is clear; save it with 8 or 16 bits"
        )
    if mode in ("La", "RGBa"):  # colours that are multiplied by their opacity
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
    """Return height and width of an image file as it is read, from its header alone."""
    with Image.open(file) as image:
        width, height = image.size
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        # Pillow has already swapped the sides of a TIFF file.
        turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
    return (width, height) if turned else (height, width)


def channels_first(image: Any, axes: Axes | None = None) -> Tensor:
    """Return ``(channels, height, width)`` from a PIL image, an array or a tensor.

    Channels of tensors are first and those of arrays last, unless the sizes say
    otherwise: an array whose first axis alone is 1, 3 or 4 has them there.

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


def where_channels_are(shape: tuple[int, ...], *, is_tensor: bool) -> Axes:
    """Return where the channels stand in an image of this shape, of three axes.

    Raises:
        DataError: a tensor seems to have its channels last, or an array has 1, 3 or 4
            of them neither first nor last.
    """
    first, last = shape[0] in _CHANNELS, shape[-1] in _CHANNELS
    if is_tensor:
        if last and not first and shape[0] > shape[-1]:
            raise DataError(
                f"is a tensor of shape {shape}, expected (channels, height, width); "
                "use movedim(-1, 0), or pass channels='last'"
            )
        return "first"
    if not first and not last:
        raise DataError(
            f"is an array of shape {shape}, expected 1, 3 or 4 channels in its first "
            "or last axis; pass channels='first' or 'last'"
        )
    return "last" if last else "first"
