"""MTT: matching of the training trajectories of experts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from torch import Tensor

from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.base import (
    AbstractDistiller,
    add_gradient,
    check_several_classes,
)
from dd_plugins.distillers.mtt.experts import experts_obtained
from dd_plugins.distillers.mtt.settings import Settings, Window, paper_run, short_run
from dd_plugins.distillers.mtt.student import Student, layers_mask
from dd_plugins.distillers.state import AbstractState, Metrics, check_saved
from dd_plugins.errors import OptionError
from dd_plugins.functional.trajectory_matching import (
    match_in_constant_memory,
    match_unrolled,
)
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork, batch_statistics
from dd_plugins.networks.dc_convnet import classic_network
from dd_plugins.run import Run, Task
from dd_plugins.runtime.memory import graph_bytes, room_on
from dd_plugins.spec import record, refuse_without_effect
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.leaves import Leaves, Parameters
from dd_plugins.training.experts import expert_preprocessing, experts_of
from dd_plugins.training.obtaining import Missing
from dd_plugins.training.recipes import Recipe, classic_recipe, expert_recipe
from dd_plugins.training.trajectories import Snapshots, Trajectory, set_weights

__all__ = ["MTT"]

_SHORT_RUN = 300  # steps
_PAPER_RUN = 5_000
_SHORT_EXPERTS, _PAPER_EXPERTS = 4, 100
_SHORT_EVERY = 50  # steps between snapshots
_PAPER_EPOCHS = 50
_SHORT_EXPERT_RATE, _PAPER_EXPERT_RATE = 0.05, 0.01
_JUDGED = 500  # images that an expert classifies at once for the first labels
_EXPERT_BATCH = expert_recipe(1).batch_size
_THRESHOLD = 2.0
_STEP_SIZE = "log_step_size"
_LEAST_PROBABILITY = 1e-6
_GIGABYTE = 1e9
_BACKWARD = 2.5  # graphs of a step needed by its second derivative, measured
_MATCHES = {"constant": match_in_constant_memory, "unrolled": match_unrolled}


@dataclass
class MTTState(AbstractState):
    """The experts, and the changing tensors besides the set.

    Attributes:
        run: the run.
        network: the architecture as a module; its own weights are not used.
        experts: the snapshots of each expert; not saved.
        logits: float32 ``(n, classes)``: the experts' logits for the first images,
            added to learned labels. Zero until step 0.
        adopted: whether the logits are those of another run of the same set. Not saved.
        skipped: number of updates skipped so far; the mean over the processes at a
            save.
        mask: 1 for compared weights, 0 for others; None to compare all. Not saved.
    """

    network: FeatureNetwork
    experts: Sequence[Snapshots]
    logits: Tensor
    adopted: bool = False
    skipped: float = 0.0
    mask: Tensor | None = field(default=None, repr=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the logits, and how many updates were skipped."""
        return {"logits": self.logits, "skipped": self.skipped}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the logits, and how many updates were skipped.

        Raises:
            ValueError: the state has another form, or values that are not finite.
        """
        check_saved(state, self.state_dict())
        self.logits.copy_(state["logits"])
        self.skipped = state["skipped"]

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the state of the first process, with the mean of skipped updates."""
        skipped = sum(part["skipped"] for part in parts) / len(parts)
        return {**parts[0], "skipped": skipped}

    def adopt(self, own: AbstractState) -> None:
        """Take over the logits: one set has one label for each image."""
        assert isinstance(own, MTTState)
        self.logits, self.adopted = own.logits, True


@record
class MTT(AbstractDistiller[MTTState]):
    """Matching of training trajectories: MTT, TESLA and DATM.

    Experts are networks trained on the real data, with snapshots of their weights at
    regular steps. A student starts at a snapshot of an expert, takes a few steps on the
    synthetic set, and should arrive where the expert is some snapshots later. The
    student's step size is learned with the images. Missing experts are trained before
    the first step; ``dd-plugins train-experts`` trains them beforehand.

    If several processes share a run, each matches a snapshot of its own, and their
    gradients are averaged; the processes share out the training of missing experts.

    The preset and the size of the set settle all options not given.

    Args:
        preset: ``"fast"`` for runs of minutes on a CPU; ``"paper"`` for the published
            settings: 100 experts of 50 epochs, 5,000 steps.
        experts: number of experts; their seeds are 0, 1, 2, ..., whatever the seed of
            the run.
        expert: recipe for training an expert; by default SGD at 0.05 without momentum,
            for as long as its snapshots are needed (by the paper's preset at 0.01, for
            at least 50 epochs).
        snapshot_steps: training steps from one snapshot to the next; by default 50, or
            an epoch by the paper's preset.
        way_points: number of stored snapshots of an expert, at least 2; between two of
            them each tensor moves on a straight line. By default all are stored.
        missing_experts: ``"train"`` or ``"refuse"``, if an expert is missing.
        student_steps: number N of the student's steps.
        target_distance: number M of snapshots from a student's start to its target.
        difficulty: the snapshots at which students start, ``window(first, last)``; a
            window with ``grows_to`` and ``steps`` grows, as in DATM.
        batch_size: synthetic images in a student's step; by default the preset's number
            for the size of the set, or all.
        augment: whether students see images under DSA's augmentation; experts do by
            default.
        match_layers: fraction of the layers with compared weights, in (0, 1], from the
            head down; shallow layers are left out (PAD, arXiv 2408.03360).
        memory: ``"constant"`` holds the graph of one step and ignores the dependence of
            later weights on earlier images (TESLA); ``"unrolled"`` is exact, and its
            memory grows with N.
        learning_rate: learning rate of SGD on the images.
        momentum: momentum of SGD on the images and on the step size, in [0, 1).
        step_size: step size of the student at the start of the run.
        step_size_learning_rate: learning rate of SGD on the step size, as the papers
            give it. The logarithm of the step size is learned, so the step size stays
            positive; the rate is scaled to make the first updates equal the published
            ones.
        learn_labels: whether labels are learned with the images. They start as the mean
            logits of the experts that classify an image correctly (DATM).
        label_learning_rate: learning rate of SGD on learned labels.
        label_momentum: momentum of SGD on learned labels, in [0, 1).
        threshold: largest loss of an update; updates with a larger one are skipped: the
            gradient is zero. By default 2, or none by the paper's preset.

    References: Cazenavette et al., "Dataset Distillation by Matching Training
    Trajectories" (MTT), CVPR 2022, arXiv 2203.11932; Cui et al., "Scaling Up Dataset
    Distillation to ImageNet-1K with Constant Memory" (TESLA), ICML 2023, arXiv
    2211.10586; Guo et al., "Towards Lossless Dataset Distillation via
    Difficulty-Aligned Trajectory Matching" (DATM), ICLR 2024, arXiv 2310.05773.

    Differences: the step size cannot become negative, as it can there; the result is
    the set of the last step (the best on test images there); an expert's epochs leave
    out the last partial batch; first images may be misclassified by an expert (DATM
    chooses correctly classified ones); a skipped update still moves by momentum. By the
    paper's preset too, memory is constant and colour images are whitened, whatever the
    set.
    """

    name = "mtt"
    parts: ClassVar = {"expert": (Recipe,), "difficulty": (Window,)}

    preset: Literal["fast", "paper"] = "fast"
    experts: PositiveInt | None = None
    expert: Recipe | None = None
    snapshot_steps: PositiveInt | None = None
    way_points: Annotated[int, Field(ge=2)] | None = None
    missing_experts: Missing = "train"
    student_steps: PositiveInt | None = None
    target_distance: PositiveInt | None = None
    difficulty: Window | None = None
    batch_size: PositiveInt | None = None
    augment: bool = True
    match_layers: Annotated[float, Field(gt=0, le=1)] = 1.0
    memory: Literal["constant", "unrolled"] = "constant"
    learning_rate: PositiveFloat | None = None
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.5
    step_size: PositiveFloat | None = None
    step_size_learning_rate: NonNegativeFloat | None = None
    learn_labels: bool = False
    label_learning_rate: PositiveFloat = 2.0
    label_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    threshold: PositiveFloat | None = None

    @model_validator(mode="after")
    def _options_agree(self) -> Self:
        """Refuse options of learned labels where labels are not learned."""
        if not self.learn_labels:
            options = ("label_learning_rate", "label_momentum")
            refuse_without_effect(self, options, "labels stay without learn_labels")
        return self

    def for_task(self, task: Task) -> Self:
        """Settle the options by the preset and the size of the set.

        Raises:
            OptionError: there is one class.
        """
        check_several_classes(self.name, task)
        is_paper = self.preset == "paper"
        usual = paper_run(task) if is_paper else short_run(task)
        settled = {
            name: getattr(usual, name)
            for name in vars(usual)
            if getattr(self, name) is None
        }
        count = _PAPER_EXPERTS if is_paper else _SHORT_EXPERTS
        if self.threshold is None and not is_paper:
            settled["threshold"] = _THRESHOLD
        return replace(self, experts=self.experts or count, **settled)

    @property
    def _settings(self) -> Settings:
        """The options settled by :meth:`for_task`."""
        names = [each.name for each in fields(Settings)]
        return Settings(**{name: getattr(self, name) for name in names})

    def default_steps(self, task: Task) -> int:
        """Return 300 steps, or 5,000 by the paper's preset."""
        del task
        return _PAPER_RUN if self.preset == "paper" else _SHORT_RUN

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the paper's ConvNet; on a CPU a narrow one."""
        del task
        return classic_network(device)

    def preprocessing(self, task: Task) -> Preprocessing | None:
        """Whiten colour images as MTT does; else the data's own space."""
        return expert_preprocessing(task.image_shape)

    @property
    def label_kind(self) -> LabelKind:
        """Labels are classes, or probabilities if they are learned."""
        return "probabilities" if self.learn_labels else "classes"

    @property
    def learns_labels(self) -> bool:
        """Whether labels are moved by the optimizer."""
        return self.learn_labels

    def recipe(self, task: Task, images: int, learned: Mapping[str, Tensor]) -> Recipe:
        """Return the classic protocol, with the learned step size as its rate."""
        del task
        rate = math.exp(float(learned[_STEP_SIZE]))
        return replace(classic_recipe(images), learning_rate=rate)

    def learnables(self, run: Run) -> dict[str, Tensor]:
        """Return the logarithm of the student's step size."""
        del run
        return {_STEP_SIZE: torch.tensor(math.log(self._settings.step_size))}

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return one-hot labels; or zeros, as offsets from the experts' logits."""
        if self.learn_labels:
            return torch.zeros(len(labels), num_classes)
        return super().initial_labels(labels, num_classes)

    def setup(self, run: Run, real: RealSampler) -> MTTState:
        """Return the experts, trained now if they are missing.

        Raises:
            OptionError: experts are missing, and ``missing_experts`` is ``"refuse"``;
                or some student has no target; or a step does not fit into memory.
            FileError: the file of an expert is damaged or is not what its name says.
            RunError: the weights of an expert became infinite or NaN.
        """
        network = run.fresh_network(run.generator("student")).train()
        trajectories = self._trajectories(run, real)
        self._check_targets(trajectories[0])
        self._check_memory(run, network)
        experts = experts_obtained(trajectories, run, real, self.missing_experts)
        shape = (run.task.synthetic_images, run.task.num_classes)
        logits = torch.zeros(shape, device=run.device)
        mask = layers_mask(network, self.match_layers)
        return MTTState(run, network, experts, logits, mask=mask)

    def _trajectories(self, run: Run, real: RealSampler) -> list[Trajectory]:
        """Return the trajectories of the experts, whether trained or not."""
        assert self.experts is not None
        every, least, rate = _SHORT_EVERY, 0, _SHORT_EXPERT_RATE
        if self.preset == "paper":
            every = max(1, len(real.labels) // _EXPERT_BATCH)  # an epoch
            least, rate = _PAPER_EPOCHS * every, _PAPER_EXPERT_RATE
        every = self.snapshot_steps or every
        needed = self._last_target * every
        recipe = self.expert or expert_recipe(max(needed, least), rate)
        return experts_of(
            run.network, recipe, self.experts, every=every, way_points=self.way_points
        )

    @property
    def _last_target(self) -> int:
        """The last snapshot that a student is compared with."""
        return self._settings.difficulty.latest + self._settings.target_distance

    def _check_targets(self, trajectory: Trajectory) -> None:
        """Refuse a window whose last student has no target."""
        if self._last_target > len(trajectory.steps) - 1:
            settings = self._settings
            raise OptionError(
                f"mtt: experts need at least {self._last_target * trajectory.every} "
                "training steps for students that start up to snapshot "
                f"{settings.difficulty.latest} and are compared "
                f"{settings.target_distance} later, got {trajectory.training_steps}"
            )

    def _check_memory(self, run: Run, network: FeatureNetwork) -> None:
        """Refuse a step too large for memory, with the estimate."""
        steps, task = self._settings.student_steps, run.task
        count = min(self.batch_size or task.synthetic_images, task.synthetic_images)
        images = torch.zeros(count, *task.image_shape, device=run.device)
        labels = torch.zeros(count, task.num_classes, device=run.device)
        student = Student(
            run, network, images.requires_grad_(), labels, count, self.augment, 0
        )
        weights = student.weights()
        room = room_on(run.device)
        graph = graph_bytes(lambda: student(0, weights, create_graph=True))
        held, advice = 1, "take smaller batches (batch_size), or fewer student_steps"
        if self.memory == "unrolled":
            held = steps
            advice = "take memory='constant', smaller batches, or fewer student_steps"
        needed = (held + _BACKWARD) * graph + steps * weights.nbytes
        if needed > room:
            raise OptionError(
                f"mtt: {steps} steps of the student need about "
                f"{needed / _GIGABYTE:.3g} GB with memory={self.memory!r}, more than "
                f"there is room for; {advice}"
            )

    def accumulate(
        self, state: MTTState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the distance between student and expert."""
        del real
        run, settings = state.run, self._settings
        if self.learn_labels and step == 0 and not state.adopted:
            state.logits.copy_(self._first_logits(state, leaves))
        generator = run.own_generator("expert and start", step)
        expert = _drawn(0, len(state.experts) - 1, generator)
        first = _drawn(*settings.difficulty.at(step), generator)
        snapshots = state.experts[expert]
        pixels = leaves.pixels.detach().requires_grad_()
        labels = leaves.labels.detach()
        if self.learn_labels:
            labels = _probabilities(state, labels).requires_grad_()
        student = Student(
            run,
            state.network,
            pixels,
            labels,
            min(self.batch_size or len(pixels), len(pixels)),
            self.augment,
            step,
        )
        step_size = leaves.others[_STEP_SIZE].detach().exp()
        found = _MATCHES[self.memory](
            student,
            snapshots[first].to(run.device),
            snapshots[first + settings.target_distance].to(run.device),
            step_size=step_size,
            steps=settings.student_steps,
            inputs=[pixels, labels] if self.learn_labels else [pixels],
            mask=state.mask,
        )
        # The engine refuses a loss that is not finite.
        loss = float(found.loss)
        skip = self.threshold is not None and self.threshold < loss < math.inf
        state.skipped += skip

        def gradient(tensor: Tensor) -> Tensor:
            return torch.zeros_like(tensor) if skip else tensor

        add_gradient(leaves.pixels, gradient(found.by_inputs[0]))
        if self.learn_labels:
            through = _through_softmax(labels.detach(), found.by_inputs[1])
            add_gradient(leaves.labels, gradient(through))
        # By the chain rule, since the logarithm of the step size is learned.
        by_logarithm = found.by_step_size * step_size
        add_gradient(leaves.others[_STEP_SIZE], gradient(by_logarithm))
        skipped = torch.tensor(state.skipped, device=run.device)
        return {"loss": found.loss, "step_size": step_size, "skipped": skipped}

    def labels(self, state: MTTState, leaves: Leaves) -> Tensor:
        """Return the labels; learned labels as probabilities."""
        if not self.learn_labels:
            return leaves.labels
        return _probabilities(state, leaves.labels.detach())

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return SGD with momentum, with a separate rate for each kind of tensor."""
        settings = self._settings
        groups: list[dict[str, Any]] = [
            {"params": list(parameters.images), "lr": settings.learning_rate},
            {
                "params": list(parameters.others.values()),
                "lr": settings.step_size_learning_rate / settings.step_size**2,
            },
        ]
        if parameters.labels:
            groups.append(
                {
                    "params": list(parameters.labels),
                    "lr": self.label_learning_rate,
                    "momentum": self.label_momentum,
                }
            )
        return torch.optim.SGD(groups, momentum=self.momentum)

    @torch.no_grad()
    def _first_logits(self, state: MTTState, leaves: Leaves) -> Tensor:
        """Return the first logits of the labels, to which the leaves are added.

        They are the mean logits of the experts that classify an image correctly, or of
        all experts if none does. The first leaves are 0. For an image of a context, the
        softmax of the sum is its own label.

        An expert classifies at most 500 images at once, taken at equal distances from
        the set: BatchNorm takes their statistics, so they must be of all classes.

        Returns:
            float32 of shape ``(n, classes)``.
        """
        run, images = state.run, leaves.pixels.detach()
        parts = math.ceil(len(images) / _JUDGED)
        module = run.fresh_network(run.generator("student")).eval()
        stacked = images.new_empty(len(state.experts), *leaves.labels.shape)
        for logits, snapshots in zip(stacked, state.experts, strict=True):
            set_weights(module, snapshots[len(snapshots) - 1].to(run.device))
            # A snapshot has no running statistics.
            with run.autocast(), batch_statistics(module):
                for part in range(parts):
                    logits[part::parts] = module(images[part::parts])
        right = (stacked.argmax(dim=2) == leaves.classes).float()
        right = torch.where(right.sum(dim=0) > 0, right, torch.ones_like(right))
        mean = (right[:, :, None] * stacked).sum(dim=0) / right.sum(dim=0)[:, None]
        held = run.task.context_images
        labels = leaves.labels.detach()[:held]
        mean[:held] = labels.clamp(min=_LEAST_PROBABILITY).log() - labels
        return mean


def _probabilities(state: MTTState, labels: Tensor) -> Tensor:
    """Return learned labels as probabilities."""
    return F.softmax(state.logits + labels, dim=1)


def _through_softmax(probabilities: Tensor, gradient: Tensor) -> Tensor:
    """Return the gradient by logits, from that by their softmax."""
    mean = (probabilities * gradient).sum(dim=1, keepdim=True)
    return probabilities * (gradient - mean)


def _drawn(first: int, last: int, generator: torch.Generator) -> int:
    """Return a whole number from ``first`` to ``last``, drawn uniformly."""
    return int(torch.randint(first, last + 1, (), generator=generator))
