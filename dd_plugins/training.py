"""Training a network on a set of images: what on, and by which recipe."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dd_plugins.data import Images
from dd_plugins.distillers.base import LabelKind
from dd_plugins.errors import PluginError
from dd_plugins.functional.augment import (
    random_augmentation,
    siamese_augmentation,
    siamese_parameters,
)
from dd_plugins.functional.kernel_regression import half_squared_error
from dd_plugins.networks.base import (
    FeatureNetwork,
    chunk_size,
    features_in_chunks,
    has_batch_norm,
)
from dd_plugins.preprocess import Transform
from dd_plugins.run import autocast, exact_kernels
from dd_plugins.spec import Record, record
from dd_plugins.streamed import ImageSource

__all__ = [
    "DrawnImages",
    "Recipe",
    "TrainingSet",
    "Whitened",
    "accuracy",
    "label_loss",
    "part_right",
    "real_data_recipe",
    "real_outputs",
    "train_network",
]

_LAST_LEARNING_RATE = 0.01  # of the first, at the end of the cosine
_TEST_BATCH = 1000  # real images on an accelerator at a time


@dataclass(frozen=True)
class TrainingSet:
    """What a network is trained on.

    Attributes:
        images: float32 in the value space, ``(n, channels, height, width)``, or what
            gives some of them when it is indexed.
        labels: float32 ``(n, classes)``, of the kind ``label_kind``.
        label_kind: what the labels are; it picks the loss.
        mirror: whether mirroring is among the augmentations.
    """

    images: "Tensor | DrawnImages"
    labels: Tensor
    label_kind: LabelKind
    mirror: bool


class DrawnImages(Protocol):
    """Images that are made, in the value space, when they are drawn."""

    def __len__(self) -> int:
        """Return how many there are."""
        ...

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """Return some of them."""
        ...


@dataclass(frozen=True)
class Whitened:
    """Real images that are read, and mapped to the value space, when they are drawn."""

    source: ImageSource
    transform: Transform
    device: torch.device

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        return self._near(self.source[chosen].to(self.device))

    @cached_property
    def _near(self) -> Transform:
        return self.transform.to(self.device)


@record
class Recipe(Record):
    """How a network is trained; its spec is ``recipe(steps=..., learning_rate=...)``.

    Args:
        steps: training steps.
        learning_rate: the peak learning rate.
        batch_size: images of a step; all of them if there are fewer.
        warm_up: steps in which the learning rate rises linearly, at most half of all.
        optimizer: ``"adam"``; or ``"sgd"`` with momentum 0.9 and weight decay 5e-4.
        decay: ``"cosine"`` to a hundredth; or ``"halfway"``, to a tenth after half of
            the steps.
        augmentation: ``"frepo"`` (:func:`~dd_plugins.functional.augment.\
random_augmentation`) or ``"dsa"``, whose operations are stronger, either with
            parameters of its own for each image; or ``"none"``.
    """

    name = "recipe"

    steps: PositiveInt
    learning_rate: PositiveFloat = 1e-3
    batch_size: PositiveInt = 256
    warm_up: NonNegativeInt = 0
    optimizer: Literal["adam", "sgd"] = "adam"
    decay: Literal["cosine", "halfway"] = "cosine"
    augmentation: Literal["frepo", "dsa", "none"] = "frepo"

    def make_optimizer(
        self, parameters: Iterable[nn.Parameter]
    ) -> torch.optim.Optimizer:
        """Return the optimizer of a network."""
        if self.optimizer == "adam":
            return torch.optim.Adam(parameters, lr=self.learning_rate)
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=0.9, weight_decay=5e-4
        )

    def scale(self, step: int) -> float:
        """Return the learning rate at a step, in units of the peak."""
        warm_up = min(self.warm_up, self.steps // 2)
        if step < warm_up:
            return step / warm_up
        done = (step - warm_up) / (self.steps - warm_up)
        if self.decay == "halfway":
            return 1.0 if done < 0.5 else 0.1
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        return _LAST_LEARNING_RATE + (1 - _LAST_LEARNING_RATE) * cosine

    def augment(
        self, images: Tensor, generator: torch.Generator, mirror: bool
    ) -> Tensor:
        """Return images under one random operation; as they are under ``"none"``."""
        if self.augmentation == "none":
            return images
        if self.augmentation == "frepo":
            return random_augmentation(images, generator=generator, mirror=mirror)
        parameters = siamese_parameters(generator, images=len(images), mirror=mirror)
        return siamese_augmentation(images, parameters)


def real_data_recipe(steps: int) -> Recipe:
    """Return how networks are trained on all real images.

    Ten times the learning rate of the protocol for distilled sets; 1,000 steps are
    enough for digits to level off, and a short training for larger data sets.
    """
    return Recipe(steps=steps, learning_rate=3e-3, batch_size=128, warm_up=steps // 10)


@exact_kernels()
def train_network(
    network: FeatureNetwork,
    training_set: TrainingSet,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    precision: torch.dtype = torch.float32,
) -> FeatureNetwork:
    """Train a network on a set by a recipe.

    One augmentation for each batch; half the squared error for regression targets,
    cross-entropy for probabilities and classes.

    Args:
        network: changed in place, on the device of the set.
        training_set: what to train on.
        recipe: how.
        generator: a CPU generator for batches and augmentation.
        precision: dtype in which the network computes; weights stay float32.

    Returns:
        The network, in evaluation mode.

    Raises:
        PluginError: the network gives other logits than one for each class.
    """
    images, labels = training_set.images, training_set.labels
    optimizer = recipe.make_optimizer(network.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.scale)
    batches = _batches(len(images), recipe.batch_size, recipe.steps, generator)
    # In training mode BatchNorm lets an image's outputs depend on its neighbours.
    in_chunks = not has_batch_norm(network)
    network.train()
    for chosen in batches:
        everything = slice(None) if chosen is None else chosen
        batch_images, batch_labels = images[everything], labels[everything]
        augmented = recipe.augment(
            batch_images, generator, training_set.mirror
        ).contiguous(memory_format=torch.channels_last)
        with autocast(augmented.device, precision):
            if in_chunks:
                logits = network.head(features_in_chunks(network, augmented))
            else:
                logits = network(augmented)
        if logits.shape != batch_labels.shape:
            raise PluginError(
                f"{network.origin}: the head of a network must give logits of shape "
                f"{tuple(batch_labels.shape)}, got {tuple(logits.shape)}"
            )
        optimizer.zero_grad(set_to_none=True)
        loss = label_loss(logits.float(), batch_labels, training_set.label_kind)
        torch.autograd.backward(loss)
        optimizer.step()
        scheduler.step()
    return network.eval()


def _batches(
    count: int, size: int, steps: int, generator: torch.Generator
) -> Iterable[Tensor | None]:
    """Yield the indices of each batch, reshuffled every epoch; None for all images."""
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        if count <= size:
            yield None
            continue
        if len(order) < size:
            order = torch.randperm(count, generator=generator)
        yield order[:size]
        order = order[size:]


def label_loss(logits: Tensor, labels: Tensor, kind: LabelKind) -> Tensor:
    """Return the loss that fits a kind of labels, the mean over the images."""
    match kind:
        case "regression":
            return half_squared_error(logits, labels)
        case "probabilities":
            return F.cross_entropy(logits, labels)
        case "classes":
            return F.cross_entropy(logits, labels.argmax(dim=1))


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
    """Return what a network makes of real images.

    Args:
        network: in evaluation mode; maps images in the value space to logits, or to
            features.
        data: real images in [0, 1] or uint8, and their labels; one at least.
        transform: maps the images to the value space.
        device: where the network lives.
        precision: dtype in which it computes.
        batch_size: images that it is given at a time; None for what suits the device.

    Returns:
        float32 of shape ``(n, d)``, on the CPU.
    """
    found = []
    transform = transform.to(device)
    on_cpu = device.type == "cpu"
    size = batch_size or (chunk_size(data.images.shape) if on_cpu else _TEST_BATCH)
    for start in range(0, len(data.labels), size):
        images = transform(data.images[start : start + size].to(device))
        with autocast(device, precision):
            outputs = network(images.contiguous(memory_format=torch.channels_last))
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
    """Return the part of real images that a network classifies rightly, in [0, 1].

    Args:
        network: in evaluation mode; maps images in the value space to logits.
        data: as for :func:`real_outputs`; and so are the others.
        transform: maps the images to the value space.
        device: where the network lives.
        precision: dtype in which it computes.
        batch_size: images that it is given at a time; None for what suits the device.
    """
    logits = real_outputs(
        network,
        data,
        transform,
        device=device,
        precision=precision,
        batch_size=batch_size,
    )
    return part_right(logits, data.labels)


def part_right(logits: Tensor, labels: Tensor) -> float:
    """Return the part of images whose greatest logit is that of their class.

    Args:
        logits: shape ``(n, classes)``.
        labels: integers of shape ``(n,)``, on any device.
    """
    correct = logits.argmax(dim=1) == labels.to(logits.device)
    return int(correct.sum()) / len(correct)
