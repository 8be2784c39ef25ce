"""Training a network on a set of images, by a recipe."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dd_plugins.data.preprocess import Transform
from dd_plugins.data.streamed import ImageSource
from dd_plugins.errors import PluginError
from dd_plugins.networks.base import (
    FeatureNetwork,
    features_in_chunks,
    has_batch_norm,
    set_norm_momentum,
)
from dd_plugins.runtime.device import autocast, exact_kernels
from dd_plugins.runtime.randomness import generator_for, seeded_globally
from dd_plugins.synthetic.labels import (
    LABEL_KINDS,
    LabelKind,
    as_probabilities,
    one_hot,
)
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.view_labels import ViewLabels

__all__ = [
    "DrawnImages",
    "RealLabels",
    "TrainingSet",
    "Whitened",
    "seconds_of_training",
    "train_network",
    "training_steps_of",
]

# Enough steps for a mean: on a shared machine a short step seldom waits, but long.
_TIMED_STEPS = 3
_TIMED_SECONDS = 0.25


@dataclass(frozen=True)
class TrainingSet:
    """Training images and their labels.

    Attributes:
        images: float32 in the value space, ``(n, channels, height, width)``, or an
            object returning such images when indexed.
        labels: float32 ``(n, classes)``, of the kind ``label_kind``, or an object
            returning such labels when indexed.
        label_kind: the kind of labels; it picks the loss.
        mirror: whether augmentations may flip images.
        views: labels of the images' views, in place of ``labels`` and augmentation;
            None if there are no views. With views the images must be a tensor.
    """

    images: "Tensor | DrawnImages"
    labels: "Tensor | RealLabels"
    label_kind: LabelKind
    mirror: bool
    views: ViewLabels | None = None


class DrawnImages(Protocol):
    """Images in the value space, made on access."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """Return some of the images."""
        ...


@dataclass(frozen=True)
class Whitened:
    """Real images, read and mapped to the value space on access."""

    source: ImageSource
    transform: Transform
    device: torch.device

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        return self._transform_on_device(self.source[chosen].to(self.device))

    @cached_property
    def _transform_on_device(self) -> Transform:
        return self.transform.to(self.device)


@dataclass(frozen=True)
class RealLabels:
    """Labels of real images, made on access: a large data set has many for long rows.

    Attributes:
        classes: int64 of shape ``(n,)``.
        num_classes: the number of classes.
        kind: the kind of the labels.
        device: the device of the labels.
    """

    classes: Tensor
    num_classes: int
    kind: LabelKind
    device: torch.device

    def __getitem__(self, chosen: Tensor | slice) -> Tensor:
        """Return the labels of some images, float32 ``(n, classes)``."""
        targets = LABEL_KINDS[self.kind].targets(self.classes[chosen], self.num_classes)
        return targets.to(self.device)


@exact_kernels()
def train_network(
    network: FeatureNetwork,
    training_set: TrainingSet,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    precision: torch.dtype = torch.float32,
    on_step: Callable[[int], None] | None = None,
) -> FeatureNetwork:
    """Train a network on a set by a recipe.

    The kind of labels determines the loss
    (:data:`~dd_plugins.synthetic.labels.LABEL_KINDS`).

    Args:
        network: changed in place, on the device of the set.
        training_set: images and labels.
        recipe: how to train.
        generator: a CPU generator for batches, augmentation and layers such as dropout.
        precision: dtype in which the network computes; weights stay float32.
        on_step: called with the number of steps done, after each step.

    Returns:
        The network, in evaluation mode.

    Raises:
        PluginError: the network does not give one logit for each class.
    """
    steps = training_steps_of(
        network, training_set, recipe, generator=generator, precision=precision
    )
    for done in steps:
        if on_step is not None:
            on_step(done)
    return network.eval()


def seconds_of_training(
    network: FeatureNetwork,
    training_set: TrainingSet,
    recipe: Recipe,
    *,
    precision: torch.dtype = torch.float32,
) -> float:
    """Estimate the seconds of training a network, by timing a few steps.

    Args:
        network: changed by these steps, and useless afterwards.
        training_set: images and labels.
        recipe: how to train.
        precision: dtype of computation.
    """
    device = next(network.parameters()).device
    ends = [time.perf_counter()]
    for done in training_steps_of(
        network,
        training_set,
        recipe,
        generator=torch.Generator(),
        precision=precision,
    ):
        if device.type == "cuda":  # a step is only under way there
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())
        if done >= _TIMED_STEPS and ends[-1] - ends[1] >= _TIMED_SECONDS:
            break
    # The first step of a network allocates memory: later ones are faster.
    timed = ends if len(ends) == 2 else ends[1:]
    return recipe.steps_done * (timed[-1] - timed[0]) / (len(timed) - 1)


def training_steps_of(
    network: FeatureNetwork,
    training_set: TrainingSet,
    recipe: Recipe,
    *,
    generator: torch.Generator,
    precision: torch.dtype = torch.float32,
) -> Iterator[int]:
    """Train a network step by step; see :func:`train_network`.

    Yields:
        The number of steps done, after each step. The network has its weights after
        this step; averaged weights replace them when the iteration ends.
    """
    images, views = training_set.images, training_set.views
    kind, labels = _labels_for_loss(training_set, recipe)
    optimizer = recipe.make_optimizer(network.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, recipe.scale)
    batches = _batches(len(images), recipe.batch_size, recipe.steps_done, generator)
    if recipe.norm_momentum is not None:
        set_norm_momentum(network, recipe.norm_momentum)
    mean = None
    if recipe.average:  # torch's begins with the weights after the first step
        decay = get_ema_multi_avg_fn(recipe.average)  # type: ignore[no-untyped-call]
        mean = AveragedModel(network, multi_avg_fn=decay, use_buffers=True)
    # In training mode BatchNorm lets an image's outputs depend on its neighbours.
    in_chunks = not has_batch_norm(network)
    layers = _seed_of_layers(generator)
    network.train()
    for step, chosen in enumerate(batches):
        everything = slice(None) if chosen is None else chosen
        batch_images, batch_labels = images[everything], labels[everything]
        if views is None:
            augmented = recipe.augment(batch_images, generator, training_set.mirror)
        else:
            indices = torch.arange(len(images)) if chosen is None else chosen
            epoch = step // max(1, len(images) // len(indices))
            assert isinstance(images, Tensor)
            augmented, batch_labels = views.of(images, indices, epoch)
        augmented, batch_labels = recipe.mixed(augmented, batch_labels, generator)
        augmented = augmented.contiguous(memory_format=torch.channels_last)
        drawn = generator_for(layers, "layers of a training", step)
        device = augmented.device
        with autocast(device, precision), seeded_globally(drawn, device):
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
        loss = _loss(logits.float(), batch_labels, kind, recipe)
        torch.autograd.backward(loss)
        optimizer.step()
        scheduler.step()
        if mean is not None:
            mean.update_parameters(network)
        yield step + 1
    if mean is not None:
        network.load_state_dict(mean.module.state_dict())


def _labels_for_loss(
    training_set: TrainingSet, recipe: Recipe
) -> tuple[LabelKind, "Tensor | RealLabels"]:
    """Return the kind of labels that a recipe trains on, and the labels."""
    kind, labels = training_set.label_kind, training_set.labels
    if kind == "regression" and recipe.loss == "cross-entropy":
        return "probabilities", as_probabilities(labels[:])
    if kind != "classes" or recipe.mix == "none":
        return kind, labels
    if isinstance(labels, Tensor):  # a mixed image has shares of two classes
        labels = one_hot(labels.argmax(dim=1), labels.shape[1])
    return "probabilities", labels


def _seed_of_layers(generator: torch.Generator) -> int:
    """Return a seed for the layers' draws; the generator itself stays as it is."""
    copy = torch.Generator()
    copy.set_state(generator.get_state())
    return int(torch.randint(2**62, (), generator=copy))


def _loss(logits: Tensor, labels: Tensor, kind: LabelKind, recipe: Recipe) -> Tensor:
    """Return the loss of a batch by a recipe."""
    loss, temperature = LABEL_KINDS[kind].loss, recipe.temperature
    if temperature == 1:
        return loss(logits, labels)
    scale = temperature**2 if recipe.scale_loss else 1.0
    return scale * loss(logits / temperature, labels)


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
