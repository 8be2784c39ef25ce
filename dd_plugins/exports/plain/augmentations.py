"""The augmentations of recipes in plain torch: one operation for a batch.

Its amount differs from image to image.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop", "dsa", "frepo"]


def frepo(images: Tensor, mirror: bool) -> Tensor:
    """Apply one operation, drawn for the batch, with an amount for each image."""
    height, width = images.shape[-2:]
    amount = 2 * torch.rand(3, len(images), device=images.device) - 1
    angle, zoom, shift = 0 * amount[0], 0 * amount[:2] + 1, 0 * amount[:2]
    operation = int(torch.randint(6 if mirror else 5, ()))
    if operation == 0:
        return recoloured(images, amount[0] / 4, *(amount[1:] / 4).exp())
    if operation == 1:
        size = max(1, min(height, width) // 4)
        top = (amount[0] + 1) / 2 * (height - size + 1)
        left = (amount[1] + 1) / 2 * (width - size + 1)
        return cut_out(images, top.long(), left.long(), size)
    if operation == 2:
        zoom = zoom * 0.8 ** amount[0]
        shift = amount[1:] * (zoom - 1).abs()
    elif operation == 3:
        shift = amount[:2] / 4
    elif operation == 4:
        angle = math.radians(15) * amount[0]
    else:
        return flipped(images, amount[0] < 0)
    return resampled(images, angle, zoom, shift, "border")


def dsa(images: Tensor, mirror: bool) -> Tensor:
    """Apply one operation, drawn for the batch, with an amount for each image."""
    height, width = images.shape[-2:]
    draw = torch.rand(3, len(images), device=images.device)
    angle, zoom, shift = 0 * draw[0], 0 * draw[:2] + 1, 0 * draw[:2]
    operation = int(torch.randint(6 if mirror else 5, ()))
    if operation == 0:
        return recoloured(images, draw[0] - 0.5, 0.5 + draw[2], 2 * draw[1])
    if operation == 1:
        size = int(min(height, width) / 2 + 0.5)
        top = (draw[0] * (height + 1 - size % 2)).long() - size // 2
        left = (draw[1] * (width + 1 - size % 2)).long() - size // 2
        return cut_out(images, top, left, size)
    if operation == 2:  # whole pixels
        sides = draw.new_tensor([[width], [height]])
        reach = (sides / 8 + 0.5).floor()
        shift = 2 * ((draw[:2] * (2 * reach + 1)).floor() - reach) / sides
    elif operation == 3:
        zoom = 1 / 1.2 + draw[:2] * (1.2 - 1 / 1.2)
    elif operation == 4:
        angle = math.radians(15) * (2 * draw[0] - 1)
    else:
        return flipped(images, draw[0] < 0.5)
    return resampled(images, angle, zoom, shift, "zeros")


def crop(images: Tensor, mirror: bool) -> Tensor:
    """Shift each image by up to an eighth of its side, and flip half of them."""
    height, width = images.shape[-2:]
    down, across = max(1, height // 8), max(1, width // 8)
    padded = F.pad(images, (across, across, down, down))
    tops = torch.randint(2 * down + 1, (len(images),)).tolist()
    lefts = torch.randint(2 * across + 1, (len(images),)).tolist()
    places = zip(padded, tops, lefts, strict=True)
    moved = [each[:, i : i + height, j : j + width] for each, i, j in places]
    return flipped(torch.stack(moved), (torch.rand(len(images)) < 0.5) & mirror)


def flipped(images: Tensor, chosen: Tensor) -> Tensor:
    """Flip the chosen images, left to right."""
    chosen = chosen.to(images.device)[:, None, None, None]
    return torch.where(chosen, images.flip(-1), images)


def recoloured(
    images: Tensor, brightness: Tensor, contrast: Tensor, saturation: Tensor
) -> Tensor:
    """Change the brightness, then the saturation, then the contrast of each image."""
    images = images + brightness[:, None, None, None]
    for axes, factor in (((1,), saturation), ((1, 2, 3), contrast)):
        mean = images.mean(axes, keepdim=True)
        images = mean + (images - mean) * factor[:, None, None, None]
    return images


def resampled(
    images: Tensor, angle: Tensor, zoom: Tensor, shift: Tensor, padding: str
) -> Tensor:
    """Rotate, zoom and shift each image; shifts are in half sides, across and down."""
    ratio = images.shape[-1] / images.shape[-2]
    sine, cosine = angle.sin(), angle.cos()
    across = torch.stack([cosine * zoom[0], -sine * zoom[1] / ratio, shift[0]])
    down = torch.stack([sine * zoom[0] * ratio, cosine * zoom[1], shift[1]])
    matrix = torch.stack([across, down]).permute(2, 0, 1)
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode=padding, align_corners=False)


def cut_out(images: Tensor, top: Tensor, left: Tensor, size: int) -> Tensor:
    """Set a square of each image to zero."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device)[:, None] - top[:, None, None]
    columns = torch.arange(width, device=images.device) - left[:, None, None]
    inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
    return images.masked_fill(inside[:, None], 0.0)
