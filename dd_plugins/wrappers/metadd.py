"""MetaDD: images on which several architectures agree."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor, nn

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import add_gradient
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.errors import OptionError
from dd_plugins.functional import alignment
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.networks.activation_maps import Outputs, map_layer, meta_ratio, observe
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, features_in_chunks
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.networks.vgg import VGG11
from dd_plugins.run import Run, Task
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.spec import record
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.training.kept_networks import STAGES, TrainedNetwork
from dd_plugins.training.recipes import real_data_recipe
from dd_plugins.wrappers.base import AbstractWrapper, WrappedState

__all__ = ["MetaDD"]

_EPSILON = 1e-12
_PROJECTED = 128  # dimensions of the space in which features are compared
_UNDER_ONE_OPERATION = 4  # real images that share one augmentation
_MEASURED = 256  # real images of a class whose features make its mean

Variant = Literal[
    "paper",
    "variance",
    "overlap",
    "features",
    "real_features",
    "logit_variance",
    "feature_variance",
]


@dataclass
class _Auxiliary:
    """A frozen network, and statistics of its features.

    Attributes:
        network: trained on the real data; on the CPU while it is not used.
        layer: the layer whose output gives its maps.
        projection: of its features to the common space, ``(d, 128)``.
        means: the mean features of the real classes, ``(classes, d)``.
        spread: the mean variance of a real feature within a class, 0-d.
    """

    network: FeatureNetwork
    layer: nn.Module
    projection: Tensor
    means: Tensor
    spread: Tensor


@dataclass
class MetaDDState(WrappedState):
    """The base's state, and the frozen auxiliary networks."""

    auxiliaries: list[list[_Auxiliary]]  # by architecture, and stage of training
    teacher: FeatureNetwork | None


@record
class MetaDD(AbstractWrapper):
    """Architecture-invariant features: the loss is small where architectures agree.

    Auxiliary networks of different architectures are trained once on the real data and
    frozen. The loss draws together where they look on a synthetic image (class
    activation maps), or their logits or features of it. Its gradient is added to the
    base's and scaled in units of the base's length, so one weight serves bases of any
    scale.

    The gradient is exact with one auxiliary network on the device at a time. First each
    network looks, without a graph. Then the loss is differentiated with respect to
    their outputs, and each network carries its part back to the pixels. The loss of
    ``"real_features"`` is a sum over the networks, so each looks only once.

    Args:
        base: any distiller.
        networks: the auxiliary networks, of different architectures; two or more
            unless the variant is ``"real_features"``.
        variant: the loss. ``"variance"``: the variance of the maps over the
            architectures. ``"overlap"``: one minus the soft overlap of the maps.
            ``"paper"``: the reconstruction of the paper's whole loss (cross-entropy,
            divergence from the distilling architecture, presence and variance of maps,
            each of weight one). ``"features"``: projected penultimate features, by a
            loss of pytorch-metric-learning; the same image under two architectures is
            the positive pair. ``"real_features"``: the mean features of a class's
            images, pulled towards those of the real class, in units of their own
            spread. ``"logit_variance"``, ``"feature_variance"``: controls without maps.
        rho: length of the added gradient in units of the base's gradient; ignored if
            ``weight`` is given.
        weight: a plain factor in place of ``rho``; the paper's is 1.
        every: steps from one application to the next.
        start: the first step at which it is applied; by default half of the steps: the
            base has settled by then, and the distilling architecture loses nothing.
        drawn: the number of architectures to look at the images each time, drawn at
            random; by default all of them.
        augment: whether the networks look at a random augmentation of the images.
        threshold: the smallest value of a map at which a pixel counts, in (0, 1).
        temperature: of the divergence in ``"paper"``.
        metric_loss: of ``"features"``: a loss of pytorch-metric-learning with its
            options, such as ``"TripletMarginLoss(margin=0.1)"``; distances and reducers
            are options of it, such as ``distance=CosineSimilarity()``.
        miner: of ``"features"``: a miner of pytorch-metric-learning, or None.
        stages: training steps of the auxiliary networks. With several stages each
            architecture has a network for each, and one of them is drawn each time.
        second_order: whether the weights of a map are differentiated with respect to
            the image too.

    Reference: Zhao et al., "MetaDD", arXiv 2410.05103; no code was released.

    Differences: the direction of the divergence, ``L_pos`` and the weights (one each)
    are our reading, for the paper leaves them open. The scale by ``rho``, and every
    variant but ``"paper"`` and ``"variance"``, are ours.
    """

    name = "metadd"

    networks: Annotated[tuple[AbstractNetwork, ...], Field(min_length=1)] = (
        VGG11(width=16),
        DCConvNet(width=32),
    )
    variant: Variant = "paper"
    rho: NonNegativeFloat = 4.0
    weight: NonNegativeFloat | None = None
    every: PositiveInt = 16
    start: NonNegativeInt | None = None
    drawn: PositiveInt | None = None
    augment: bool = True
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    temperature: PositiveFloat = 1.0
    metric_loss: str = "NTXentLoss(temperature=0.1)"
    miner: str | None = None
    stages: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = STAGES
    second_order: bool = False

    @model_validator(mode="after")
    def _compares_architectures(self) -> Self:
        """Refuse to compare one architecture with itself."""
        if self.drawn is not None and self.drawn > len(self.networks):
            raise ValueError(
                f"drawn must be at most {len(self.networks)}, the number of networks, "
                f"got {self.drawn}"
            )
        looking = self.drawn or len(self.networks)
        if looking < 2 and self.variant != "real_features":
            raise ValueError(
                f"variant={self.variant!r} compares architectures with each other: "
                f"expected at least two networks that look at once, got {looking}"
            )
        return self

    def for_task(self, task: Task) -> Self:
        """Settle the start, and the base's options."""
        settled = super().for_task(task)
        if settled.start is not None:
            return settled
        return replace(settled, start=(task.steps or self.default_steps(task)) // 2)

    @property
    def architectures(self) -> tuple[AbstractNetwork, ...]:
        """The base's, and the auxiliary networks."""
        return (*super().architectures, *self.networks)

    @property
    def uses_network(self) -> bool:
        """The paper's loss needs one of the run's architecture, whatever the base."""
        return super().uses_network or self.variant == "paper"

    def setup(self, run: Run, real: RealSampler) -> MetaDDState:
        """Train or find the auxiliary networks, and set up the base's state."""
        if self.variant == "features":
            self._metric_loss()  # a wrong spec is refused before networks are trained
        teacher = None
        if self.variant == "paper":
            architecture = run.network.for_evaluation()
            teacher = self._trained(architecture, max(self.stages), run, real)
        return MetaDDState(
            run,
            self.base.setup(run, real),
            [
                [
                    self._auxiliary(number, network, stage, run, real)
                    for stage in self.stages
                ]
                for number, network in enumerate(self.networks)
            ],
            teacher,
        )

    def inner(self, state: AbstractState) -> AbstractState:
        """Return the base's state."""
        assert isinstance(state, MetaDDState)
        return state.base

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the disagreement of the architectures."""
        del real
        assert isinstance(state, MetaDDState)
        assert leaves.pixels.grad is not None
        assert self.start is not None  # settled for the task
        if step < self.start or (step - self.start) % self.every:
            return {}
        classes = leaves.classes
        auxiliaries = self._draw(state, step)
        separable = self.variant == "real_features"
        look = self._look_apart if separable else self._look_together
        loss, gradient, maps = look(state, auxiliaries, leaves, classes, step)
        add_gradient(
            leaves.pixels, self._scale(leaves.pixels.grad, gradient) * gradient
        )
        metrics = {"meta_loss": loss.detach()}
        if len(maps) > 1:  # of one network there is nothing to compare
            ratio = meta_ratio(torch.stack(maps), self.threshold)
            metrics["meta_ratio"] = ratio.mean()
        return metrics

    def _look_apart(
        self,
        state: MetaDDState,
        auxiliaries: list[_Auxiliary],
        leaves: Leaves,
        classes: Tensor,
        step: int,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return loss, gradient and maps where the loss is a sum over the networks."""
        gradient, loss = torch.zeros_like(leaves.pixels), leaves.pixels.new_zeros(())
        maps = []
        for auxiliary in auxiliaries:
            pixels = leaves.pixels.detach().requires_grad_()
            view = self._view(state.run, pixels, step)
            outputs = self._observe(state.run, auxiliary, view, classes)
            part = self._loss(state, [auxiliary], [outputs], leaves, classes, step)
            (added,) = torch.autograd.grad(part / len(auxiliaries), [pixels])
            gradient += added
            loss += part.detach() / len(auxiliaries)
            maps.append(outputs.maps.detach())
            auxiliary.network.cpu()
        return loss, gradient, maps

    def _look_together(
        self,
        state: MetaDDState,
        auxiliaries: list[_Auxiliary],
        leaves: Leaves,
        classes: Tensor,
        step: int,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return loss, gradient and maps of a loss over all networks' outputs."""
        seen = []
        for auxiliary in auxiliaries:
            pixels = self._view(state.run, leaves.pixels.detach(), step)
            seen.append(self._observe(state.run, auxiliary, pixels, classes))
        # No graph spans the networks: only one of them is on the device at a time. So
        # their outputs are leaves of the loss, and each looks again to carry its part.
        leaves_of_loss = [
            Outputs(*(output.requires_grad_() for output in outputs))
            for outputs in seen
        ]
        loss = self._loss(state, auxiliaries, leaves_of_loss, leaves, classes, step)
        flat = [output for outputs in leaves_of_loss for output in outputs]
        cotangents = torch.autograd.grad(loss, flat, allow_unused=True)
        gradient = torch.zeros_like(leaves.pixels)
        for number, auxiliary in enumerate(auxiliaries):
            gradient += self._pull_back(
                state.run,
                auxiliary,
                leaves,
                classes,
                step,
                cotangents[3 * number :][:3],  # maps, features and logits
            )
        return loss, gradient, [outputs.maps.detach() for outputs in seen]

    def _draw(self, state: MetaDDState, step: int) -> list[_Auxiliary]:
        """Return the networks for this step, one of each drawn architecture."""
        generator = state.run.own_generator("metadd networks", step)
        order = torch.randperm(len(state.auxiliaries), generator=generator).tolist()
        chosen = sorted(order[: self.drawn])
        stages = torch.randint(
            len(self.stages), (len(chosen),), generator=generator
        ).tolist()
        return [
            state.auxiliaries[number][stage]
            for number, stage in zip(chosen, stages, strict=True)
        ]

    def _scale(self, base: Tensor, added: Tensor) -> float:
        """Return the factor of the added gradient."""
        if self.weight is not None:
            return self.weight
        return self.rho * float(base.norm()) / (float(added.norm()) + _EPSILON)

    def _pull_back(
        self,
        run: Run,
        auxiliary: _Auxiliary,
        leaves: Leaves,
        classes: Tensor,
        step: int,
        cotangents: Sequence[Tensor | None],
    ) -> Tensor:
        """Carry the gradient on the outputs of one network back to the pixels."""
        pixels = leaves.pixels.detach().requires_grad_()
        view = self._view(run, pixels, step)
        outputs = self._observe(run, auxiliary, view, classes)
        used = [
            (output, cotangent)
            for output, cotangent in zip(outputs, cotangents, strict=True)
            if cotangent is not None
        ]
        (gradient,) = torch.autograd.grad(
            [output for output, _ in used], [pixels], [given for _, given in used]
        )
        auxiliary.network.cpu()
        return gradient

    def _observe(
        self, run: Run, auxiliary: _Auxiliary, view: Tensor, classes: Tensor
    ) -> Outputs:
        """Let one network look; it is on the device only for this time."""
        network = auxiliary.network.to(run.device)
        outputs = observe(
            network, auxiliary.layer, view, classes, second_order=self.second_order
        )
        if not view.requires_grad:
            network.cpu()  # else the graph still needs it on the device
        return outputs

    def _view(self, run: Run, pixels: Tensor, step: int) -> Tensor:
        """Return the images, or one random augmentation: the same for all networks."""
        if not self.augment:
            return pixels
        generator = run.own_generator("metadd augmentation", step)
        return random_augmentation(pixels, generator=generator, mirror=run.task.mirror)

    def _real_view(self, run: Run, images: Tensor, label: int) -> Tensor:
        """Return real images of a class, a few under each of many augmentations.

        One random augmentation applies one operation to a whole batch. Their features
        are averaged, so the mean must be over many operations.
        """
        if not self.augment:
            return images
        generator = run.generator("metadd real augmentation", label)
        return torch.cat(
            [
                random_augmentation(part, generator=generator, mirror=run.task.mirror)
                for part in torch.split(images, _UNDER_ONE_OPERATION)
            ]
        )

    def _loss(
        self,
        state: MetaDDState,
        auxiliaries: list[_Auxiliary],
        seen: list[Outputs],
        leaves: Leaves,
        classes: Tensor,
        step: int,
    ) -> Tensor:
        maps = torch.stack([outputs.maps for outputs in seen])
        logits = torch.stack([outputs.logits for outputs in seen])
        loss: Tensor
        match self.variant:
            case "variance":
                loss = alignment.variance(maps)
            case "overlap":
                loss = alignment.map_overlap_loss(maps, self.threshold)
            case "logit_variance":
                loss = alignment.variance(logits)
            case "paper":
                assert state.teacher is not None
                view = self._view(state.run, leaves.pixels.detach(), step)
                with torch.no_grad():
                    teacher = state.teacher(view)
                loss = (
                    alignment.agreement_with_labels(logits, classes)
                    + alignment.distillation_loss(logits, teacher, self.temperature)
                    + alignment.map_presence_loss(maps)
                    + alignment.variance(maps)
                )
            case "feature_variance":
                loss = alignment.variance(self._projected(auxiliaries, seen))
            case "features":
                embeddings = self._projected(auxiliaries, seen)
                images = torch.arange(len(classes), device=embeddings.device)
                criterion, miner = self._metric_loss()
                flat, labels = embeddings.flatten(0, 1), images.repeat(len(seen))
                pairs = None if miner is None else miner(flat, labels)
                loss = criterion(flat, labels, pairs)
            case "real_features":
                loss = torch.stack(
                    [
                        alignment.class_mean_distance(
                            outputs.features, classes, auxiliary.means
                        )
                        / auxiliary.spread
                        for outputs, auxiliary in zip(seen, auxiliaries, strict=True)
                    ]
                ).mean()
        return loss

    def _projected(self, auxiliaries: list[_Auxiliary], seen: list[Outputs]) -> Tensor:
        """Return the features of all networks in one space, ``(M, n, 128)``."""
        return torch.stack(
            [
                outputs.features @ auxiliary.projection / auxiliary.spread.sqrt()
                for outputs, auxiliary in zip(seen, auxiliaries, strict=True)
            ]
        )

    def _metric_loss(self) -> tuple[Any, Any]:
        """Return the loss and the miner, or None, of pytorch-metric-learning."""
        from dd_plugins.wrappers.metric_learning import metric_learning

        miner = None if self.miner is None else metric_learning(self.miner)
        return metric_learning(self.metric_loss), miner

    def _auxiliary(
        self,
        number: int,
        network: AbstractNetwork,
        stage: int,
        run: Run,
        real: RealSampler,
    ) -> _Auxiliary:
        """Train or find one network, and measure the real data with it."""
        fresh = network.build(
            run.task.image_shape,
            run.task.num_classes,
            generator=run.generator("auxiliary shape"),
        )
        try:  # an architecture without maps is refused before it is trained
            map_layer(fresh, run.task.image_shape)
        except OptionError as error:
            raise OptionError(f"metadd: {network!r} cannot be used: {error}") from error
        module = self._trained(network, stage, run, real)
        layer = map_layer(module.cpu(), run.task.image_shape)
        module.to(run.device)
        means, variances = [], []
        for label in range(run.task.num_classes):
            images = real.class_batch(0, label, _MEASURED).images
            with torch.no_grad():
                view = self._real_view(run, images, label)
                features = features_in_chunks(module, view).float()
            means.append(features.mean(dim=0))
            variances.append(features.var(dim=0, correction=0).mean())
        size = len(means[0])
        generator = run.generator("metadd projection", number)
        projection = torch.randn(size, _PROJECTED, generator=generator)
        return _Auxiliary(
            module.cpu(),
            layer,
            projection.to(run.device) / _PROJECTED**0.5,
            torch.stack(means),
            torch.stack(variances).mean() + _EPSILON,
        )

    def _trained(
        self, network: AbstractNetwork, stage: int, run: Run, real: RealSampler
    ) -> FeatureNetwork:
        recipe = real_data_recipe(stage)
        return TrainedNetwork(network, recipe).obtain(run, real, cache_folder())
