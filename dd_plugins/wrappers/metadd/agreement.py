"""The losses of MetaDD on outputs of auxiliary networks, and their gradients."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dd_plugins.errors import OptionError, described
from dd_plugins.functional import alignment
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.networks.activation_maps import Outputs, observe
from dd_plugins.networks.base import FeatureNetwork, chunks_of
from dd_plugins.run import Run
from dd_plugins.synthetic.leaves import Leaves

__all__ = [
    "IMAGES_AT_ONCE",
    "Agreement",
    "Auxiliary",
    "FeatureStatistics",
    "Found",
    "Loss",
]

Loss = Literal[
    "paper",
    "variance",
    "overlap",
    "features",
    "real_features",
    "logit_variance",
    "feature_variance",
]
"""A loss that is small where architectures agree."""

IMAGES_AT_ONCE = 256
"""The most images in a graph. A CPU takes fewer."""


@dataclass(frozen=True)
class FeatureStatistics:
    """Statistics of the features of a frozen network on real data.

    Attributes:
        projection: the projection to the common space of all networks, ``(d, 128)``.
        means: the mean features of the real classes, ``(classes, d)``.
        present: bool ``(classes,)``: whether there are real images of the class.
        spread: the mean variance of a real feature within a class, 0-d.
    """

    projection: Tensor
    means: Tensor
    present: Tensor
    spread: Tensor


@dataclass(frozen=True)
class Auxiliary:
    """A network beside the run's own, applied to the synthetic images.

    Attributes:
        network: in evaluation mode; a frozen one is on the CPU while not in use.
        layer: the layer whose output gives its maps.
        known: statistics of its features; None for a network still in training.
    """

    network: FeatureNetwork
    layer: nn.Module
    known: FeatureStatistics | None = None

    def rest(self) -> None:
        """Move the network to the CPU, if it is frozen."""
        if self.known is not None:
            self.network.cpu()

    @property
    def statistics(self) -> FeatureStatistics:
        """The statistics of a frozen network."""
        assert self.known is not None
        return self.known


@dataclass(frozen=True)
class Found:
    """The result of an agreement at one step.

    Attributes:
        loss: the value of the loss, 0-d.
        gradient: the gradient on the pixels, of their shape.
        maps: the maps of each network, in [0, 1], ``(n, height, width)``.
    """

    loss: Tensor
    gradient: Tensor
    maps: list[Tensor]


@dataclass(frozen=True)
class Agreement:
    """A loss on the outputs of several networks, and its gradient on the pixels.

    The gradient is exact with one network on the device at a time, and on a CPU with
    the layers of a few images. First each network computes its outputs, without a
    graph. Then the loss is differentiated with respect to these outputs, and each
    network computes them again to pass its part back to the pixels.

    Attributes:
        loss: the name of the loss.
        augment: whether the networks see a random augmentation of the images.
        threshold: the smallest map value of a counted pixel.
        temperature: the temperature of the divergence in ``"paper"``.
        metric_loss: the loss of ``"features"``.
        miner: the miner of ``"features"``, or None.
        second_order: whether the weights of a map are differentiated too.
    """

    loss: Loss
    augment: bool
    threshold: float
    temperature: float
    metric_loss: str
    miner: str | None
    second_order: bool

    def found(
        self,
        run: Run,
        auxiliaries: Sequence[Auxiliary],
        teacher: nn.Module | None,
        leaves: Leaves,
        step: int,
    ) -> Found:
        """Return loss, gradient and maps at a step.

        Args:
            run: the run.
            auxiliaries: the networks.
            teacher: a network of the run's own architecture, on the device; needed for
                ``"paper"``.
            leaves: the set.
            step: the step of the run.
        """
        pixels = leaves.pixels.detach().requires_grad_()
        view = self.view(run, pixels, step)
        seen, classes = view.detach(), leaves.classes
        outputs = [self._outputs(run, each, seen, classes) for each in auxiliaries]
        loss = self.value(run, auxiliaries, teacher, outputs, seen, classes, step)
        torch.autograd.backward([loss])
        added = torch.zeros_like(seen)
        for auxiliary, own in zip(auxiliaries, outputs, strict=True):
            added += self._pulled_back(run, auxiliary, seen, classes, own)
        (gradient,) = torch.autograd.grad([view], [pixels], [added])
        leaves.clear_fixed(gradient)
        return Found(loss.detach(), gradient, [own.maps.detach() for own in outputs])

    def _outputs(
        self, run: Run, auxiliary: Auxiliary, view: Tensor, classes: Tensor
    ) -> Outputs:
        """Return the outputs of one network, as leaves of the loss."""
        network = auxiliary.network.to(run.device)
        parts = [
            observe(network, auxiliary.layer, *part, second_order=self.second_order)
            for part in _parts(view, classes)
        ]
        auxiliary.rest()
        whole = (torch.cat(each) for each in zip(*parts, strict=True))
        return Outputs(*(each.requires_grad_() for each in whole))

    def _pulled_back(
        self,
        run: Run,
        auxiliary: Auxiliary,
        view: Tensor,
        classes: Tensor,
        outputs: Outputs,
    ) -> Tensor:
        """Return one network's gradient on the view, from the gradients on its outputs.

        The loss may use some outputs only: the others have no gradient.
        """
        network = auxiliary.network.to(run.device)
        cotangents = {
            number: each.grad
            for number, each in enumerate(outputs)
            if each.grad is not None
        }
        found: list[Tensor] = []
        for part, labels, *given in _parts(view, classes, *cotangents.values()):
            images = part.detach().requires_grad_()
            again = observe(
                network,
                auxiliary.layer,
                images,
                labels,
                second_order=self.second_order,
            )
            wanted = [again[number] for number in cotangents]
            found += torch.autograd.grad(wanted, [images], given)
        auxiliary.rest()
        return torch.cat(found)

    def view(self, run: Run, pixels: Tensor, step: int) -> Tensor:
        """Return the images, or one random augmentation: the same for all networks."""
        if not self.augment:
            return pixels
        generator = run.own_generator("metadd augmentation", step)
        return random_augmentation(pixels, generator=generator, mirror=run.task.mirror)

    def value(
        self,
        run: Run,
        auxiliaries: Sequence[Auxiliary],
        teacher: nn.Module | None,
        seen: Sequence[Outputs],
        view: Tensor,
        classes: Tensor,
        step: int,
    ) -> Tensor:
        """Return the loss of the outputs of some networks for a view, 0-d."""
        maps = torch.stack([outputs.maps for outputs in seen])
        logits = torch.stack([outputs.logits for outputs in seen])
        loss: Tensor
        match self.loss:
            case "variance":
                loss = alignment.variance(maps)
            case "overlap":
                loss = alignment.map_overlap_loss(maps, self.threshold)
            case "logit_variance":
                loss = alignment.variance(logits)
            case "paper":
                assert teacher is not None
                with torch.no_grad():
                    own = torch.cat([teacher(part) for (part,) in _parts(view)])
                loss = (
                    alignment.agreement_with_labels(logits, classes)
                    + alignment.distillation_loss(logits, own, self.temperature)
                    + alignment.map_presence_loss(maps)
                    + alignment.variance(maps)
                )
            case "feature_variance":
                loss = alignment.variance(_projected(auxiliaries, seen))
            case "features":
                embeddings = _projected(auxiliaries, seen)
                images = torch.arange(len(classes), device=embeddings.device)
                flat, labels = embeddings.flatten(0, 1), images.repeat(len(seen))
                generator = run.own_generator("metadd metric loss", step)
                with run.layers_drawing_from(generator):
                    criterion, miner = self.metric()
                    pairs = None if miner is None else miner(flat, labels)
                    loss = criterion(flat, labels, pairs)
            case "real_features":
                loss = torch.stack(
                    [
                        _distance(outputs.features, classes, auxiliary.statistics)
                        for outputs, auxiliary in zip(seen, auxiliaries, strict=True)
                    ]
                ).mean()
        return loss

    def metric(self) -> tuple[Any, Any]:
        """Return a loss and a miner, or None for it, of pytorch-metric-learning.

        Raises:
            UnknownNameError: the package has no such class.
            OptionError: the package is missing, an option does not fit, or the loss
                learns, or remembers images.
        """
        from dd_plugins.wrappers.metric_learning import metric_learning

        miner = None if self.miner is None else metric_learning(self.miner)
        criterion = metric_learning(self.metric_loss)
        if [*criterion.parameters()] or hasattr(criterion, "embedding_memory"):
            raise OptionError(
                f"metadd: {self.metric_loss} has weights to learn, or a memory of "
                "images, and a loss is made anew at each step; expected one without"
            )
        return criterion, miner

    def check_metric(self) -> None:
        """Try the loss and the miner of ``"features"`` on a few features.

        Raises:
            UnknownNameError: as for :meth:`metric`.
            OptionError: as for :meth:`metric`, or one of them fails.
        """
        criterion, miner = self.metric()
        features = torch.eye(4, 3)
        labels = torch.tensor([0, 1, 0, 1])
        try:
            with torch.random.fork_rng(devices=[]):  # some losses draw
                criterion(features, labels, miner and miner(features, labels))
        except Exception as error:  # of a package: errors of any kind
            asked = " and ".join(filter(None, (self.metric_loss, self.miner)))
            raise OptionError(
                f"metadd: {asked} fails on features: {described(error)}"
            ) from error


def _parts(images: Tensor, *others: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the images computed at once, with their parts of other tensors."""
    sizes = [
        len(part)
        for chunk in chunks_of(images)
        for part in torch.split(chunk, IMAGES_AT_ONCE)
    ]
    yield from zip(
        *(torch.split(each, sizes) for each in (images, *others)), strict=True
    )


def _distance(features: Tensor, classes: Tensor, real: FeatureStatistics) -> Tensor:
    """Return the distance of class means from those of real images, in spreads."""
    known = real.present[classes]
    found = alignment.class_mean_distance(features[known], classes[known], real.means)
    return found / real.spread


def _projected(auxiliaries: Sequence[Auxiliary], seen: Sequence[Outputs]) -> Tensor:
    """Return the features of all networks in one space, ``(M, n, 128)``."""
    return torch.stack(
        [
            outputs.features
            @ auxiliary.statistics.projection
            / auxiliary.statistics.spread.sqrt()
            for outputs, auxiliary in zip(seen, auxiliaries, strict=True)
        ]
    )
