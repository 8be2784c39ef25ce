"""The outputs of networks for real images, and what share of them is right."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from dd_plugins.data.images import Images
from dd_plugins.data.preprocess import Transform
from dd_plugins.networks.base import chunk_size
from dd_plugins.runtime.device import autocast

__all__ = [
    "accuracy",
    "fraction_correct",
    "mapped_batches",
    "predicted_classes",
    "real_outputs",
]

_TEST_BATCH = 1000  # real images on an accelerator at a time


def mapped_batches(
    data: Images,
    transform: Transform,
    device: torch.device,
    batch_size: int | None = None,
) -> Iterator[Tensor]:
    """Yield all real images in their order, mapped to the value space, in batches.

    Args:
        data: real images in [0, 1] or uint8; at least one.
        transform: maps the images to the value space.
        device: the device of the batches.
        batch_size: images in a batch; None for a number suited to the device.
    """
    transform = transform.to(device)
    size, count = batch_size, len(data.labels)
    if size is None:
        on_cpu = device.type == "cpu"
        size = max(2, chunk_size(data.images.shape)) if on_cpu else _TEST_BATCH
        while count > 1 and count % size == 1:  # statistics of a batch need two images
            size += 1
    for start in range(0, count, size):
        images = transform(data.images[start : start + size].to(device))
        yield images.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def real_outputs(
    network: Callable[[Tensor], Tensor],
    data: Images,
    transform: Transform,
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    batch_size: int | None = None,
) -> Tensor:
    """Return the outputs of a network for real images.

    Args:
        network: in evaluation mode; maps images in the value space to logits, or to
            features.
        data: real images in [0, 1] or uint8, and their labels; at least one.
        transform: maps the images to the value space.
        device: the device of the network.
        precision: dtype of computation.
        batch_size: images in a forward pass; None for a number suited to the device.

    Returns:
        float32 of shape ``(n, d)``, on the CPU.
    """
    found = []
    for images in mapped_batches(data, transform, device, batch_size):
        with autocast(device, precision):
            outputs = network(images)
        found.append(outputs.float().cpu())
    return torch.cat(found)


def accuracy(
    network: Callable[[Tensor], Tensor],
    data: Images,
    transform: Transform,
    *,
    device: torch.device,
    precision: torch.dtype = torch.float32,
    batch_size: int | None = None,
) -> float:
    """Return the fraction of real images classified correctly by a network.

    Args:
        network: in evaluation mode; maps images in the value space to logits.
        data: real images in [0, 1] or uint8, and their labels; at least one.
        transform: maps the images to the value space.
        device: the device of the network.
        precision: dtype of computation.
        batch_size: images in a forward pass; None for a number suited to the device.
    """
    logits = real_outputs(
        network,
        data,
        transform,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )
    return fraction_correct(predicted_classes(logits), data.labels)


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the class with the largest logit of each image, or -1 if it is not finite.

    It is not finite if the network has diverged. Logits of minus infinity, for classes
    that are ruled out, do not count.

    Args:
        logits: shape ``(n, classes)``.
    """
    largest, classes = logits.max(dim=1)
    return classes.where(largest.isfinite(), -1)


def fraction_correct(classes: Tensor, labels: Tensor) -> float:
    """Return the fraction of images whose predicted class is their own.

    Args:
        classes: from :func:`predicted_classes`, shape ``(n,)``.
        labels: integers of shape ``(n,)``, on any device.
    """
    return int((classes == labels.to(classes.device)).sum()) / len(classes)
