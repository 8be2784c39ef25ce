"""DC and DSA: matching of gradients during a network's training."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import (
    AbstractDistiller,
    InitialImages,
    add_gradient,
    check_several_classes,
)
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.functional.augment import siamese_augmentation, siamese_parameters
from dd_plugins.functional.matching import gradient_distance
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, has_batch_norm
from dd_plugins.networks.dc_convnet import classic_network
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Leaves, Parameters

__all__ = ["DSA"]

_SHORT_RUN = 200  # networks; the paper takes 1,000
_LARGEST_INNER_BATCH = 256
_STATISTICS = 16  # real images of a class for the statistics of batch normalisation

# The paper's epochs of the network between two updates of the set, by images per class.
_INNER_EPOCHS = {1: 1, 10: 50, 20: 25, 30: 20, 40: 15, 50: 10}


@dataclass
class DSAState(AbstractState):
    """The network that is trained on the set."""

    network: FeatureNetwork

    def state_dict(self) -> dict[str, Any]:
        """Return the weights of the network."""
        return {"network": self.network.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the weights in place."""
        self.network.load_state_dict(state["network"])


@record
class DSA(AbstractDistiller[DSAState]):
    """Gradient matching: DSA, and with ``augment=False`` DC.

    For each class, the gradient of the loss on its synthetic images is pulled towards
    the gradient on a batch of real ones, both under the same augmentation. Between
    updates, the network is trained on the set; after ``updates_per_network`` updates a
    new one is drawn. Classes are matched one after another, so memory does not grow
    with their number.

    Args:
        augment: whether the network sees images under differentiable Siamese
            augmentation.
        real_batch_size: real images of each class in a step.
        learning_rate: learning rate of SGD on the pixels.
        momentum: momentum of SGD on the pixels, in [0, 1).
        updates_per_network: updates of the set with each network; by default the
            paper's, as many as images per class.
        inner_epochs: training epochs of the network on the set between two updates; by
            default the paper's, interpolated between its entries on logarithmic scales.
        network_learning_rate: learning rate of SGD on the network.

    Reference: Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR
    2021, arXiv 2006.05929; Zhao, Bilen, "Dataset Condensation with Differentiable
    Siamese Augmentation", ICML 2021, arXiv 2102.08259; and their released code.

    Differences: a run has 200 networks by default (1,000 there); any number of images
    per class (six numbers there); real batches are drawn without replacement until a
    class is used up (independently there); if several processes share a run, each
    matches its own part of a batch.
    """

    name = "dsa"

    augment: bool = True
    real_batch_size: PositiveInt = 256
    learning_rate: PositiveFloat = 0.1
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    updates_per_network: PositiveInt | None = None
    inner_epochs: NonNegativeInt | None = None
    network_learning_rate: PositiveFloat = 0.01

    def for_task(self, task: Task) -> Self:
        """Settle the lengths of the loops by the number of images per class.

        Raises:
            OptionError: there is one class.
        """
        check_several_classes(self.name, task)
        count = task.images_per_class
        known, epochs = np.log(list(_INNER_EPOCHS)), list(_INNER_EPOCHS.values())
        interpolated = np.exp(np.interp(np.log(count), known, np.log(epochs)))
        return replace(
            self,
            updates_per_network=self.updates_per_network or count,
            inner_epochs=(
                round(float(interpolated))
                if self.inner_epochs is None
                else self.inner_epochs
            ),
        )

    def default_steps(self, task: Task) -> int:
        """Return the number of steps of a short run."""
        return _SHORT_RUN * (self.updates_per_network or task.images_per_class)

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the paper's ConvNet; on a CPU a narrow one."""
        del task
        return classic_network(device)

    @property
    def initial_images(self) -> InitialImages:
        """DC starts from noise, DSA from real images."""
        return "real" if self.augment else "noise"

    def setup(self, run: Run, real: RealSampler) -> DSAState:
        """Return the first network."""
        return DSAState(run, _fresh_network(run, 0))

    def accumulate(
        self, state: DSAState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the distance between gradients, class by class."""
        run, network = state.run, state.network
        network.train()
        if has_batch_norm(network):
            _settle_statistics(run, network, real, step)
        classes = leaves.classes
        gradient = torch.zeros_like(leaves.pixels)
        loss = torch.zeros((), device=run.device)
        for label in real.classes:
            batch = real.class_batch(step, label, self.real_batch_size)
            pixels = leaves.pixels[classes == label].detach().requires_grad_()
            layers = run.generator(f"layers for class {label}", step)
            with run.autocast(), run.layers_drawing_from(layers):
                real_gradient = self._gradient(
                    run, network, batch.images, label, step, create_graph=False
                )
                syn_gradient = self._gradient(
                    run, network, pixels, label, step, create_graph=True
                )
            distance = gradient_distance(real_gradient, syn_gradient)
            (gradient[classes == label],) = torch.autograd.grad(distance, [pixels])
            loss += distance.detach()
        add_gradient(leaves.pixels, gradient)
        return {"loss": loss}

    def _gradient(
        self,
        run: Run,
        network: FeatureNetwork,
        images: Tensor,
        label: int,
        step: int,
        *,
        create_graph: bool,
    ) -> tuple[Tensor, ...]:
        """Return the gradient of the loss on images of a class, for each weight.

        Weights that the network does not train or does not use are left out.
        """
        if self.augment:
            generator = run.generator(f"augmentation of class {label}", step)
            parameters = siamese_parameters(generator, mirror=run.task.mirror)
            images = siamese_augmentation(images, parameters)
        targets = torch.full((len(images),), label, device=images.device)
        loss = F.cross_entropy(network(images).float(), targets)
        weights = [
            weight
            for weight in network.parameters()
            if weight.ndim > 1 and weight.requires_grad
        ]
        gradients = torch.autograd.grad(
            loss, weights, create_graph=create_graph, allow_unused=True
        )
        return tuple(each for each in gradients if each is not None)

    def advance(self, state: DSAState, leaves: Leaves, step: int) -> None:
        """Train the network on the set, or draw a new one after its last update."""
        assert self.updates_per_network is not None
        number, update = divmod(step + 1, self.updates_per_network)
        if update == 0:
            state.network = _fresh_network(state.run, number)
        else:
            self._train(state, leaves, step)

    def _train(self, state: DSAState, leaves: Leaves, step: int) -> None:
        """Train the network on the set for the inner epochs."""
        run, network = state.run, state.network
        network.train()
        generator = run.generator("inner training", step)
        layers = run.generator("layers of the inner training", step)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.network_learning_rate)
        pixels, classes = leaves.pixels.detach(), leaves.classes
        for chosen in self._inner_batches(len(pixels), generator):
            images = pixels[chosen]
            if self.augment:
                parameters = siamese_parameters(
                    generator, images=len(images), mirror=run.task.mirror
                )
                images = siamese_augmentation(images, parameters)
            with run.autocast(), run.layers_drawing_from(layers):
                logits = network(images)
            optimizer.zero_grad(set_to_none=True)
            loss = F.cross_entropy(logits.float(), classes[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def _inner_batches(
        self, images: int, generator: torch.Generator
    ) -> Iterator[Tensor]:
        for _ in range(self.inner_epochs or 0):
            order = torch.randperm(images, generator=generator)
            yield from torch.split(order, _LARGEST_INNER_BATCH)

    def images_in_graph(self, task: Task) -> int:
        """Return the images of a class: classes are matched one after another."""
        return max(task.class_counts)

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return SGD with momentum."""
        return torch.optim.SGD(
            parameters, lr=self.learning_rate, momentum=self.momentum
        )


def _fresh_network(run: Run, number: int) -> FeatureNetwork:
    return run.fresh_network(run.generator("matching network", number))


def _settle_statistics(
    run: Run, network: FeatureNetwork, real: RealSampler, step: int
) -> None:
    """Take the statistics of batch normalisation from real images, and freeze them."""
    batches = [
        real.class_batch(step, label, _STATISTICS, shared=True)
        for label in real.classes
    ]
    images = torch.cat([batch.images for batch in batches])
    layers = run.generator("layers for the statistics", step)
    with torch.no_grad(), run.autocast(), run.layers_drawing_from(layers):
        network(images)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.eval()
