"""MetaDD: images on which several architectures agree."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal, Self, cast, get_args

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import add_gradient
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.errors import OptionError
from dd_plugins.networks.activation_maps import meta_ratio
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.networks.vgg import VGG11
from dd_plugins.run import Run, Task
from dd_plugins.runtime.processes import average
from dd_plugins.spec import record, refuse_without_effect
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.training.default_steps import STAGES
from dd_plugins.wrappers.base import AbstractWrapper, WrappedState
from dd_plugins.wrappers.metadd.agreement import (
    IMAGES_AT_ONCE,
    Agreement,
    Auxiliary,
    Loss,
)
from dd_plugins.wrappers.metadd.auxiliaries import (
    EPSILON,
    LARGEST_BATCH,
    FrozenState,
    LearningAuxiliaries,
    LearningState,
    check_maps,
    frozen_auxiliary,
    trained_networks,
)
from dd_plugins.wrappers.metadd.members import (
    MembersState,
    add_balanced,
    member_of,
)

__all__ = ["MetaDD"]

Variant = Literal["gradients", Loss]
# Losses of one network alone, and those that need no statistics of real features.
_OF_ONE = ("gradients", "real_features")
_OF_LEARNING = ("paper", "variance", "overlap", "logit_variance")
# Options of auxiliary networks: unused by "gradients".
_OF_LOOKING = (
    *("weight", "augment", "threshold", "temperature", "metric_loss", "miner"),
    *("auxiliaries", "stages", "seeds", "second_order"),
)

# Options of some variants alone.
_OF_VARIANTS = (
    (("metric_loss", "miner"), ("features",)),
    (("temperature",), ("paper",)),
    (("second_order",), ("paper", "variance", "overlap")),
)


@dataclass(frozen=True)
class _Pace:
    """How strongly and how often a variant is applied, by default.

    Attributes:
        rho: the weight.
        every: steps from one application to the next.
        first_half: whether it is applied in the first half of the run too.
    """

    rho: float
    every: int
    first_half: bool


_FEWEST = 5  # applications in a run, by default
_AGREEMENT = _Pace(4.0, 16, first_half=False)
_GRADIENTS = _Pace(1.0, 1, first_half=True)


@record
class MetaDD(AbstractWrapper):
    """Sets that serve architectures they were not distilled with.

    With ``variant="gradients"`` the base itself runs under several architectures at
    once. Each has a run of its own: for FRePo, a pool of its own, trained on the set.
    The pixel gradient under each is scaled, class by class, to the length of the
    gradient under the run's own architecture, and all are averaged. Gradients of labels
    are averaged likewise.

    All other variants apply auxiliary networks of different architectures to the
    images. The loss draws their class activation maps, logits or features together. Its
    gradient is scaled in units of the length of the base's, and added to it, so one
    weight serves bases of any scale. Under torchrun both lengths are those of gradients
    averaged over the processes.

    Args:
        base: any distiller.
        networks: the other architectures; two or more, unless the variant is
            ``"gradients"`` or ``"real_features"``.
        variant: ``"gradients"``, or the loss on auxiliary networks. ``"variance"``: the
            variance of the maps over the architectures. ``"overlap"``: one minus the
            soft overlap of the maps. ``"paper"``: the reconstruction of the paper's
            whole loss (cross-entropy, divergence from the distilling architecture,
            presence and variance of maps, each of weight one). ``"features"``:
            projected penultimate features, by a loss of pytorch-metric-learning; the
            same image under two architectures is a positive pair. ``"real_features"``:
            the distance of a class's mean features from those of the real class, in
            units of the spread of real features. ``"logit_variance"``,
            ``"feature_variance"``: controls without maps.
        rho: the weight. For ``"gradients"``, the weight of an added architecture
            relative to the run's own; by default 1. Otherwise the length of the added
            gradient in units of the base's, by default 4; ignored if ``weight`` is
            given.
        weight: a plain factor in place of ``rho``; the paper's is 1. This option and
            all from ``augment`` on are refused for ``"gradients"``.
        every: steps from one application to the next; by default 1 for ``"gradients"``,
            otherwise 16, or fewer in a short run, for five applications.
        start: the first step with an application; by default 0 for ``"gradients"``,
            otherwise half of the steps: the base has settled by then, and the
            distilling architecture loses nothing.
        drawn: the number of architectures at each application. For ``"gradients"`` they
            take turns, by default one at a time; otherwise they are drawn at random, by
            default all.
        augment: whether the networks see a random augmentation of the images. The base
            of ``"gradients"`` has its own.
        threshold: the smallest map value of a counted pixel, in (0, 1).
        temperature: the temperature of the divergence in ``"paper"``.
        metric_loss: for ``"features"``, a loss of pytorch-metric-learning with its
            options, such as ``"TripletMarginLoss(margin=0.1)"``; distances and reducers
            are options of it, such as ``distance=CosineSimilarity()``.
        miner: for ``"features"``, a miner of pytorch-metric-learning, or None.
        auxiliaries: ``"frozen"`` networks are trained once on the real data, and kept.
            ``"learning"`` ones are trained on the set during the run, like FRePo's
            pool; for losses without statistics of real features.
        stages: the numbers of training steps of frozen networks. Each architecture has
            a network for each number, and one is drawn at each application.
        seeds: the number of networks of each architecture and stage; one is drawn at
            each application.
        second_order: whether the weights of a map are differentiated with respect to
            the image too.

    Raises:
        OptionError: at ``setup``, if no network shapes the base's set and the variant
            is ``"gradients"``.

    References: Zhao et al., "MetaDD", arXiv 2410.05103; no code was released. For
    ``"gradients"``: HMDC (ECCV 2024).

    Differences: the direction of the divergence, ``L_pos`` and the weights (one each)
    are our reading, since the paper leaves them open. The scale by ``rho``, and every
    variant but ``"paper"`` and ``"variance"``, are ours.
    """

    name = "metadd"

    networks: Annotated[tuple[AbstractNetwork, ...], Field(min_length=1)] = (
        VGG11(width=16),
        DCConvNet(width=32),
    )
    variant: Variant = "paper"
    rho: NonNegativeFloat | None = None
    weight: NonNegativeFloat | None = None
    every: PositiveInt | None = None
    start: NonNegativeInt | None = None
    drawn: PositiveInt | None = None
    augment: bool = True
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    temperature: PositiveFloat = 1.0
    metric_loss: str = "NTXentLoss(temperature=0.1)"
    miner: str | None = None
    auxiliaries: Literal["frozen", "learning"] = "frozen"
    stages: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = STAGES
    seeds: PositiveInt = 1
    second_order: bool = False

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        """Refuse comparing an architecture with itself, and options without effect."""
        if self.drawn is not None and self.drawn > len(self.networks):
            raise ValueError(
                f"drawn must be at most {len(self.networks)}, the number of networks, "
                f"got {self.drawn}"
            )
        looking = self.drawn or len(self.networks)
        if looking < 2 and self.variant not in _OF_ONE:
            raise ValueError(
                f"variant={self.variant!r} compares architectures with each other: "
                f"expected at least two networks that look at once, got {looking}"
            )
        specs = [repr(network) for network in self.networks]
        if len(set(specs)) < len(specs):
            raise ValueError(
                f"networks must differ, each named once, got {', '.join(specs)}"
            )
        if self.variant == "gradients":
            why = "variant='gradients' has no networks that look at the images"
            refuse_without_effect(self, _OF_LOOKING, why)
        for options, variants in _OF_VARIANTS:
            if self.variant not in variants:
                why = f"variant={self.variant!r} has no use for it"
                refuse_without_effect(self, options, why)
        if self.auxiliaries == "learning" and self.variant not in _OF_LEARNING:
            raise ValueError(
                f"auxiliaries='learning' is for the variants {', '.join(_OF_LEARNING)},"
                f" got variant={self.variant!r}"
            )
        if self.auxiliaries == "learning":
            why = "auxiliaries='learning' are trained on the set alone"
            refuse_without_effect(self, ["stages"], why)
        return self

    @property
    def _pace(self) -> _Pace:
        return _GRADIENTS if self.variant == "gradients" else _AGREEMENT

    def for_task(self, task: Task) -> Self:
        """Settle the pace, and the base's options.

        Raises:
            OptionError: the other networks would never take part, or the base moves no
                image.
        """
        self.check_base_moves_images()
        steps = task.steps or self.default_steps(task)
        start = 0 if self._pace.first_half else steps // 2
        if self.start is not None:
            start = self.start
        if start >= steps:
            raise OptionError(
                f"metadd: start must be below the {steps} steps of the run, got "
                f"{start}: other networks would never take part"
            )
        apart = max(1, (steps - start) // _FEWEST)
        every = self.every or min(self._pace.every, apart)
        return replace(super().for_task(task), rho=self._rho, every=every, start=start)

    def images_in_graph(self, task: Task) -> int:
        """Return the most images in a graph: of the base, or of the other networks."""
        more = 0
        if self.auxiliaries == "learning":
            more = LARGEST_BATCH
        elif self.variant != "gradients":
            more = IMAGES_AT_ONCE
        images = task.synthetic_images
        return max(super().images_in_graph(task), min(more, images))

    @property
    def _rho(self) -> float:
        return self._pace.rho if self.rho is None else self.rho

    @property
    def _every(self) -> int:
        return self._pace.every if self.every is None else self.every

    @property
    def architectures(self) -> tuple[AbstractNetwork, ...]:
        """The further architectures of the base, and the other networks."""
        return (*super().architectures, *self.networks)

    @property
    def uses_network(self) -> bool:
        """Whether the run's network shapes the set; always so in the paper's loss."""
        return super().uses_network or self.variant == "paper"

    @property
    def classes_apart(self) -> bool:
        """Always False: other networks, or a common scale, join the classes."""
        return False

    @cached_property
    def _agreement(self) -> Agreement:
        assert self.variant in get_args(Loss)
        return Agreement(
            cast(Loss, self.variant),
            self.augment,
            self.threshold,
            self.temperature,
            self.metric_loss,
            self.miner,
            self.second_order,
        )

    def setup(self, run: Run, real: RealSampler) -> WrappedState:
        """Set up the base's state, and load or train the other networks."""
        if self.variant == "gradients":
            return self._with_members(run, real)
        if self.variant == "features":
            self._agreement.check_metric()  # a wrong one is refused before training
        for network in self.networks:
            check_maps(network, run)
        if self.auxiliaries == "frozen":
            return self._with_frozen(run, real)
        has_teacher = self.variant == "paper"
        teachers = [run.network.for_evaluation()] if has_teacher else []
        learning = LearningAuxiliaries.of(run, [*teachers, *self.networks], self.seeds)
        return LearningState(run, self.base.setup(run, real), learning, has_teacher)

    def _with_members(self, run: Run, real: RealSampler) -> MembersState:
        """Return the base's state under each architecture."""
        if not super().uses_network:
            raise OptionError(
                f"metadd: variant='gradients' runs its base under several networks, "
                f"but none shapes the set of {self.base!r}"
            )
        turns = Counter(
            number
            for step in range(run.steps)
            if self._is_applied(step)
            for number in self._in_turn(step)
        )
        members = [
            member_of(self.base, network, number, run, real, steps=turns[number])
            for number, network in enumerate(self.networks)
        ]
        return MembersState(run, self.base.setup(run, real), members)

    def _with_frozen(self, run: Run, real: RealSampler) -> FrozenState:
        wanted = [
            (network, stage, seed)
            for network in self.networks
            for stage in self.stages
            for seed in range(self.seeds)
        ]
        if self.variant == "paper":
            wanted.append((run.network.for_evaluation(), max(self.stages), 0))
        teacher, each = None, len(self.stages) * self.seeds
        frozen: list[list[Auxiliary]] = [[] for _ in self.networks]
        for place, module in enumerate(trained_networks(wanted, run, real)):
            number = place // each
            if number == len(self.networks):
                teacher = module
            else:
                found = frozen_auxiliary(
                    module, number, run, real, augment=self.augment
                )
                frozen[number].append(found)
        return FrozenState(run, self.base.setup(run, real), frozen, teacher)

    def inner(self, state: AbstractState) -> AbstractState:
        """Return the base's state."""
        assert isinstance(state, WrappedState)
        return state.base

    def adjust(
        self, state: AbstractState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradients under other architectures, or of their agreement."""
        assert leaves.pixels.grad is not None
        if not self._is_applied(step):
            return {}
        if isinstance(state, MembersState):
            copies = [
                state.members[number].gradient(self.base, state.base, leaves, real)
                for number in self._in_turn(step)
            ]
            add_balanced(leaves, copies, self._rho)
            return {}
        assert isinstance(state, FrozenState | LearningState)
        auxiliaries, teacher = state.chosen(self._picks(state.run, step))
        found = self._agreement.found(state.run, auxiliaries, teacher, leaves, step)
        leaves.clear_fixed(leaves.pixels.grad)
        scale = self._scale(leaves.pixels.grad, found.gradient)
        add_gradient(leaves.pixels, scale * found.gradient)
        metrics = {"meta_loss": found.loss}
        if len(found.maps) > 1:  # of one network there is nothing to compare
            ratio = meta_ratio(torch.stack(found.maps), self.threshold)
            metrics["meta_ratio"] = ratio.mean()
        return metrics

    def advance(self, state: AbstractState, leaves: Leaves, step: int) -> None:
        """Advance the base, under all architectures of this step."""
        super().advance(state, leaves, step)
        if isinstance(state, LearningState):
            state.learning.learn(
                leaves.pixels,
                self.base.labels(state.base, leaves),
                self.label_kind,
                step,
                augment=self.augment,
            )
        elif isinstance(state, MembersState) and self._is_applied(step):
            for number in self._in_turn(step):
                state.members[number].advance(self.base, leaves)

    def _is_applied(self, step: int) -> bool:
        """Return whether other networks take part in a step."""
        assert self.start is not None  # settled for the task
        return step >= self.start and (step - self.start) % self._every == 0

    def _in_turn(self, step: int) -> list[int]:
        """Return the numbers of the architectures whose turn it is at a step."""
        assert self.start is not None
        each = self.drawn or 1
        first = (step - self.start) // self._every * each
        return [(first + more) % len(self.networks) for more in range(each)]

    def _picks(self, run: Run, step: int) -> list[tuple[int, int]]:
        """Return the architectures drawn for a step, and a network of each."""
        generator = run.own_generator("metadd networks", step)
        order = torch.randperm(len(self.networks), generator=generator).tolist()
        drawn = sorted(order[: self.drawn])
        choices = len(self.stages) * self.seeds
        picks = torch.randint(choices, (len(drawn),), generator=generator).tolist()
        return list(zip(drawn, picks, strict=True))

    def _scale(self, base: Tensor, added: Tensor) -> float:
        """Return the factor of the added gradient."""
        if self.weight is not None:
            return self.weight
        base, added = average([base, added])
        return self._rho * float(base.norm()) / (float(added.norm()) + EPSILON)
