"""The student: gradients of its loss on batches of the synthetic set."""

from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from dd_plugins.functional.augment import siamese_augmentation, siamese_parameters
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.run import Run

__all__ = ["Student", "layers_mask"]


@dataclass(frozen=True, eq=False)
class Student:
    """The gradient of the student's loss, given the number of its step and its weights.

    It depends on these alone: each call redraws the same batch and augmentation for a
    step, and layers such as dropout draw the same.

    Attributes:
        run: the run.
        network: the architecture; its own weights are not used.
        pixels: the synthetic images, ``(n, channels, height, width)``.
        labels: one-hot or probabilities, ``(n, classes)``.
        batch_size: number of images in a step, at most n.
        augment: whether images are augmented as in DSA.
        step: the step of the run.
    """

    run: Run
    network: FeatureNetwork
    pixels: Tensor
    labels: Tensor
    batch_size: int
    augment: bool
    step: int

    def __call__(self, number: int, weights: Tensor, *, create_graph: bool) -> Tensor:
        """Return the gradient at a step, ``(parameters,)``.

        Args:
            number: number of the student's step, from 0.
            weights: float32 ``(parameters,)``, with gradients enabled.
            create_graph: whether the result can be differentiated.
        """
        chosen = self._chosen(number)
        images, labels = self.pixels[chosen], self.labels[chosen]
        if self.augment:
            parameters = siamese_parameters(
                self.run.own_generator(f"student's augmentation {number}", self.step),
                images=len(images),
                mirror=self.run.task.mirror,
            )
            images = siamese_augmentation(images, parameters)
        layers = self.run.own_generator(f"student's layers {number}", self.step)
        with self.run.autocast(), self.run.layers_drawing_from(layers):
            logits = functional_call(self.network, self._named(weights), (images,))
        loss = F.cross_entropy(logits.float(), labels)
        (gradient,) = torch.autograd.grad(loss, [weights], create_graph=create_graph)
        return gradient

    def weights(self) -> Tensor:
        """Return the network's own weights, flat, with gradients enabled."""
        flat = [each.detach().flatten() for each in self.network.parameters()]
        return torch.cat(flat).requires_grad_()

    def _chosen(self, number: int) -> Tensor:
        """Return the indices of a step: every image comes once before any repeats."""
        count = len(self.pixels)
        if self.batch_size == count:
            return torch.arange(count, device=self.pixels.device)
        steps = -(-count // self.batch_size)
        epoch, place = divmod(number, steps)
        generator = self.run.own_generator(f"student's order {epoch}", self.step)
        order = torch.randperm(count, generator=generator)
        start = place * self.batch_size
        return order[start : start + self.batch_size].to(self.pixels.device)

    def _named(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the weights by the names of the network's parameters.

        No gradient reaches those that the network does not train.
        """
        parts = torch.split(weights, self._sizes)
        named = zip(self.network.named_parameters(), parts, strict=True)
        return {
            name: (part if own.requires_grad else part.detach()).reshape(own.shape)
            for (name, own), part in named
        }

    @cached_property
    def _sizes(self) -> list[int]:
        return [parameter.numel() for parameter in self.network.parameters()]


def layers_mask(network: FeatureNetwork, share: float) -> Tensor | None:
    """Return a mask of the compared weights: those of the deepest layers.

    Args:
        network: the network; its modules with parameters of their own are the layers,
            in their order.
        share: fraction of the layers to compare, in (0, 1]; at least one is compared.

    Returns:
        float32 ``(parameters,)`` of 0 and 1, or None if all are compared.
    """
    named = list(network.named_parameters())
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name, _ in named))
    left_out = min(len(layers) - 1, round((1 - share) * len(layers)))
    if left_out == 0:
        return None
    shallow = set(layers[:left_out])
    return torch.cat(
        [
            torch.full_like(
                own.detach(), name.rpartition(".")[0] not in shallow
            ).flatten()
            for name, own in named
        ]
    )
