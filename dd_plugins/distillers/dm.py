"""DM: the mean features of random networks are matched, class by class."""

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import AbstractDistiller, add_gradient
from dd_plugins.distillers.state import Metrics, NoState
from dd_plugins.functional.augment import siamese_augmentation, siamese_parameters
from dd_plugins.functional.matching import mean_feature_distance
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    features_in_chunks,
    has_batch_norm,
)
from dd_plugins.networks.dc_convnet import classic_network
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Leaves, Parameters

__all__ = ["DM"]

_SHORT_RUN = 1_000  # steps; the paper takes 20,000


@record
class DM(AbstractDistiller[NoState]):
    """Distribution matching: the cheapest method that learns pixels.

    At every step an untrained network is drawn. For each class, the mean features of
    the synthetic images are pulled towards those of a batch of real ones, both under
    the same augmentation.

    Classes are matched one after another, so memory does not grow with their number;
    but a network with batch normalisation sees all classes at once, as in the original.

    Args:
        real_batch_size: real images of each class in a step.
        learning_rate: learning rate of SGD on the pixels; the paper takes 10 for 100
            images per class and more.
        momentum: momentum of SGD on the pixels, in [0, 1).
        augment: whether the network sees images under differentiable Siamese
            augmentation.

    Reference: Zhao, Bilen, "Dataset Condensation with Distribution Matching", WACV
    2023, arXiv 2110.04181, algorithm 1, and its released code.

    Differences: a run has 1,000 steps by default (20,000 there); real batches are drawn
    without replacement until a class is used up (independently there); if several
    processes share a run, each matches the mean of its own part of a batch.
    """

    name = "dm"

    real_batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 1.0
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    augment: bool = True

    @property
    def classes_apart(self) -> bool:
        """Each class is matched alone, unless the network has BatchNorm."""
        return True

    def default_steps(self, task: Task) -> int:
        """Return the number of steps of a short run."""
        del task
        return _SHORT_RUN

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the paper's ConvNet; on a CPU a narrow one."""
        del task
        return classic_network(device)

    def accumulate(
        self, state: NoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the distance between mean features, class by class."""
        run = state.run
        network = run.fresh_network(run.generator("matching network", step))
        network.requires_grad_(False)
        together = has_batch_norm(network)
        classes = leaves.classes
        labels = real.classes
        groups = [labels] if together else [[label] for label in labels]
        gradient = torch.zeros_like(leaves.pixels)
        loss = torch.zeros((), device=run.device)
        for group in groups:
            reals, synthetics = [], []
            for label in group:
                batch = real.class_batch(step, label, self.real_batch_size)
                pixels = leaves.pixels[classes == label].detach().requires_grad_()
                reals.append(self._view(run, batch.images, step, label))
                synthetics.append((pixels, self._view(run, pixels, step, label)))
            layers = run.generator(f"layers for class {group[0]}", step)
            with run.autocast(), run.layers_drawing_from(layers):
                with torch.no_grad():
                    real_features = _features(network, reals, together)
                views = [view for _, view in synthetics]
                syn_features = _features(network, views, together)
            distances = [
                mean_feature_distance(one.float(), other.float())
                for one, other in zip(real_features, syn_features, strict=True)
            ]
            distance = torch.stack(distances).sum()
            parts = torch.autograd.grad(distance, [pixels for pixels, _ in synthetics])
            for label, part in zip(group, parts, strict=True):
                gradient[classes == label] = part
            loss += distance.detach()
        add_gradient(leaves.pixels, gradient)
        return {"loss": loss}

    def _view(self, run: Run, images: Tensor, step: int, label: int) -> Tensor:
        """Augment images of a class; real and synthetic ones in the same way."""
        if not self.augment:
            return images
        generator = run.generator(f"augmentation of class {label}", step)
        parameters = siamese_parameters(generator, mirror=run.task.mirror)
        return siamese_augmentation(images, parameters)

    def images_in_graph(self, task: Task) -> int:
        """Return the images of a class, or all images if BatchNorm joins them."""
        return task.synthetic_images if task.batch_norm else max(task.class_counts)

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum
        )


def _features(
    network: FeatureNetwork, views: list[Tensor], together: bool
) -> list[Tensor]:
    """Return the features of several batches, in one pass or batch by batch."""
    if together:
        features = network.features(torch.cat(views))
        return list(torch.split(features, [len(view) for view in views]))
    return [features_in_chunks(network, view) for view in views]
