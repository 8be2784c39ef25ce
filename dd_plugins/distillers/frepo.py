"""FRePo: neural feature regression with a pool of online models."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Annotated, Any, Literal, NamedTuple, Protocol, Self

import torch
from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
)
from torch import Tensor
from torch.func import functional_call
from torch.profiler import record_function

from dd_plugins.captured import Captured
from dd_plugins.distillers.base import (
    AbstractDistiller,
    AbstractState,
    Metrics,
    add_gradient,
    check_saved,
)
from dd_plugins.errors import OptionError
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.functional.kernel_regression import (
    calibrated_cross_entropy,
    centred_targets,
    half_squared_error,
    margin_loss,
    ridge_regression,
    ridge_regression_ex,
)
from dd_plugins.labels import LabelKind
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    features_in_chunks,
)
from dd_plugins.networks.conv import Conv
from dd_plugins.optimizers import LAMB
from dd_plugins.run import Run, Task
from dd_plugins.sampler import RealSampler
from dd_plugins.spec import record
from dd_plugins.synthetic import Leaves, Parameters

__all__ = ["FRePo"]

_LARGEST_ONLINE_BATCH = 1000

Loss = Literal["squared-error", "cross-entropy"]
"""What the regression's predictions are judged by."""


@dataclass(frozen=True)
class _Settings:
    """The options that a preset settles; these are the paper's."""

    pool_size: int = 10
    max_online_updates: int = 100
    real_batch_size: int = 1024
    updates_per_batch: int = 1
    online_steps: int = 1
    learning_rate: float = 3e-4
    last_learning_rate: float = 0.1
    online_learning_rate: float = 3e-4
    augment: bool = False
    augmented_copies: int = 0
    ridge: float = 1e-6
    loss: Loss = "squared-error"


@dataclass(frozen=True)
class _Recipe:
    """What FRePo does with a data set when nobody says.

    Attributes:
        steps: steps of a short run, minutes on a CPU; the paper takes 500,000.
        settings: the options of a short run.
        flip_up_to: images per class up to which mirrored copies help; 0 for never.
        network: the architecture; None for the paper's, narrower on a CPU.
    """

    steps: int
    settings: _Settings
    flip_up_to: float
    network: AbstractNetwork | None = None

    def settings_for(self, images: int) -> _Settings:
        """Return the options of a short run for so many images in all."""
        copies = next((each for most, each in _COPIES if images <= most), 0)
        return replace(self.settings, augmented_copies=copies)


_PAPER = _Settings()
_PAPER_STEPS = 500_000
# With augmented copies, which a network that is trained on them does not fit exactly.
_RIDGE_OF_COPIES = 1e-2
# Augmented copies of a short run for up to so many images in all: measured for 10, 100
# and 500, and costly for many.
_COPIES = ((50, 7), (200, 3), (500, 1))
# Steps from which on the paper's learning rate is taken: our guess, nothing between
# 1,000 and 500,000 steps was measured.
_LONG_RUN = 50_000

# The data-set-dependent defaults. ``flip`` is the released code's; the rest was
# measured for digits, mnist, fashion-mnist and cifar10 and carried over to their
# neighbours: docs/benchmarks/defaults.md and frepo.md. Up to 500 images, augmented
# copies gain two to five points at one image a class, up to two at ten and fifty.
# Above, augmentation of one view is for colour images alone, where it gains one to two
# points; grey ones lose two to five.
_DIGITS = _Settings(learning_rate=1e-2, loss="cross-entropy")
_GREY = replace(_DIGITS, real_batch_size=256)
_COLOUR = replace(_GREY, learning_rate=5e-3, augment=True, online_learning_rate=1e-3)
_RECIPES = {
    "digits": _Recipe(500, _DIGITS, 0, network=Conv(width=32, depth=2)),
    "mnist": _Recipe(800, _GREY, 0),
    "fashion-mnist": _Recipe(800, _GREY, 0),
    "cifar10": _Recipe(800, _COLOUR, math.inf),
    "cifar100": _Recipe(800, _COLOUR, 1),
}
_ON_CPU = Conv(width=32)  # a sixteenth of the work of the paper's width of 128


def _recipe(task: Task) -> _Recipe:
    if task.dataset in _RECIPES:
        return _RECIPES[task.dataset]
    flip_up_to = 10 if task.mirror else 0
    if task.image_shape[0] == 3:
        return _Recipe(800, _COLOUR, flip_up_to)
    settings = replace(_GREY, learning_rate=5e-3)
    return _Recipe(800, settings, flip_up_to)


@dataclass
class _OnlineModel:
    """One model of the pool, with its optimizer and the updates it has seen."""

    network: FeatureNetwork
    optimizer: torch.optim.Adam
    updates: int

    def overwrite(self, other: "_OnlineModel") -> None:
        """Take over all that training changes: weights, statistics and moments."""
        pairs = list(zip(self.tensors(), other.tensors(), strict=True))
        with torch.no_grad():
            for dtype in {own.dtype for own, _ in pairs}:  # those of one dtype at once
                alike = [pair for pair in pairs if pair[0].dtype == dtype]
                torch._foreach_copy_(
                    [own for own, _ in alike], [given for _, given in alike]
                )

    def tensors(self) -> list[Tensor]:
        """Return all that training changes, always in the same order."""
        moments = self.optimizer.state.values()
        return [
            *self.network.parameters(),
            *self.network.buffers(),
            *(tensor for each in moments for tensor in each.values()),
        ]


class _MetaGradient(NamedTuple):
    """What a step adds to the gradients of the set, and its figures.

    ``failed`` tells that the regression was not possible, and the rest means nothing.
    """

    view: Tensor
    labels: Tensor
    loss: Tensor
    margin_loss: Tensor
    batch_accuracy: Tensor
    failed: Tensor


def _take_turns(run: Run) -> bool:
    """Tell whether models of one architecture share a bench."""
    return run.device.type == "cuda"


class _Bench:
    """Where models of one architecture are computed with.

    On a CPU each model has a bench of its own. On a GPU they take turns at one, for
    whose tensors the kernels are recorded: those of a model are copied there and, once
    it is trained, back.

    Args:
        frepo: the distiller.
        run: the run.
        model: whose tensors are the bench's.
    """

    def __init__(self, frepo: "FRePo", run: Run, model: _OnlineModel) -> None:
        self.model = self.held = model
        network = model.network
        self._features = Captured(partial(_real_features, run, network))
        gradient = partial(_meta_gradient, frepo, run, network)
        self._gradient = Captured(partial(gradient, ridge_regression_ex))
        self._careful_gradient = partial(gradient, _regression_or_error)
        self._training = Captured(partial(_train, run, model), model.tensors)

    def hold(self, model: _OnlineModel) -> Self:
        """Take a model to the bench."""
        if self.held is not model:
            self.model.overwrite(model)
            self.held = model
        return self

    def features(self, images: Tensor) -> Tensor:
        """Return the features of real images."""
        with record_function("frepo: real features"):
            (features,) = self._features(images)
        return features

    def gradient(
        self, view: Tensor, labels: Tensor, features: Tensor, targets: Tensor
    ) -> _MetaGradient:
        """Return the gradient of the regression error, and of the margin loss.

        Raises:
            RunError: the kernel is singular with any ridge.
        """
        inputs = (view, labels, features, targets)
        found = _MetaGradient(*self._gradient(*inputs))
        if found.failed:  # rare: once more, with a ridge that grows
            found = _MetaGradient(*self._careful_gradient(*inputs))
        return found

    def train(self, view: Tensor, labels: Tensor) -> None:
        """Train the model that is held by one step."""
        self._training(view, labels)
        if self.held is not self.model:
            self.held.overwrite(self.model)
        self.held.updates += 1


def _real_features(run: Run, network: FeatureNetwork, images: Tensor) -> tuple[Tensor]:
    """Return the features of real images, which take no gradient."""
    with torch.no_grad():
        return (_features(run, network, images),)


def _meta_gradient(
    frepo: "FRePo",
    run: Run,
    network: FeatureNetwork,
    regression: "_Regression",
    view: Tensor,
    labels: Tensor,
    features: Tensor,
    targets: Tensor,
) -> tuple[Tensor, ...]:
    """Return the fields of :class:`_MetaGradient`."""
    view = view.detach().requires_grad_()
    labels = labels.detach().requires_grad_(frepo.learn_labels)
    with record_function("frepo: synthetic forward"):
        syn_features = _features(run, network, frepo.mirrored(view))
    # The two halves of the graph are walked one after the other: from the loss to the
    # features and labels, and from the features to the view.
    inner = syn_features.detach().requires_grad_()
    with record_function("frepo: regression"):
        predictions, failed = regression(
            inner,
            frepo.labels_of_support(labels, inner),
            features,
            ridge=frepo.settled_ridge,
        )
        loss = frepo.loss_of(predictions, targets)
        margin = margin_loss(labels)
        if frepo.learn_labels:
            gradient, labels_gradient = torch.autograd.grad(
                loss + margin, [inner, labels]
            )
        else:
            (gradient,) = torch.autograd.grad(loss, [inner])
            labels_gradient = torch.zeros_like(labels)
    with record_function("frepo: synthetic backward"):
        (view_gradient,) = torch.autograd.grad(syn_features, [view], gradient)
    right = predictions.argmax(dim=1) == targets.argmax(dim=1)
    return _MetaGradient(
        view_gradient,
        labels_gradient,
        loss.detach(),
        margin.detach(),
        right.float().mean(),
        failed,
    )


def _train(
    run: Run, model: _OnlineModel, view: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """Train a model on the synthetic set by one step."""
    network, optimizer = model.network, model.optimizer
    network.train()
    # Of the weights fresh leaves are differentiated: torch ties a leaf to the stream in
    # which it was first used, and a recording has a stream of its own.
    leaves = {
        name: parameter.detach().requires_grad_()
        for name, parameter in network.named_parameters()
    }
    with run.autocast():
        outputs = functional_call(network, leaves, (view,))
    loss = half_squared_error(outputs.float(), labels)
    gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    for parameter, gradient in zip(network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)  # now: the whole pool waits
    return ()


def _features(run: Run, network: FeatureNetwork, images: Tensor) -> Tensor:
    """Return the features of images.

    BatchNorm is in evaluation mode: its statistics come from the synthetic batches of
    the online steps, for the real features as well.
    """
    with run.autocast():
        return features_in_chunks(network.eval(), images)


def _augmented(run: Run, images: Tensor, generator: torch.Generator) -> Tensor:
    """Return images under one random operation."""
    view = random_augmentation(images, generator=generator, mirror=run.task.mirror)
    return view.contiguous(memory_format=torch.channels_last)


class _Regression(Protocol):
    """Kernel regression that tells whether it failed."""

    def __call__(
        self,
        syn_features: Tensor,
        syn_targets: Tensor,
        features: Tensor,
        *,
        ridge: float,
    ) -> tuple[Tensor, Tensor]:
        """Return predictions, and whether they mean nothing."""


def _regression_or_error(
    syn_features: Tensor, syn_targets: Tensor, features: Tensor, *, ridge: float
) -> tuple[Tensor, Tensor]:
    """Predict with a ridge that grows where it must, or raise."""
    predictions = ridge_regression(syn_features, syn_targets, features, ridge=ridge)
    return predictions, torch.tensor(False)


@dataclass
class _Visit:
    """What a visit to a model computes once: a real batch's features and targets."""

    number: int
    features: Tensor
    targets: Tensor


@dataclass
class FRePoState(AbstractState):
    """The pool of online models: those that this process owns, by their slot."""

    pool: dict[int, _OnlineModel]
    # Not saved, but functions of the rest:
    visit: _Visit | None = None
    # By architecture on a GPU, else by slot:
    benches: dict[int, _Bench] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moments and update counts of every model."""
        return {
            "pool": {
                slot: {
                    "network": model.network.state_dict(),
                    "optimizer": model.optimizer.state_dict(),
                    "updates": model.updates,
                }
                for slot, model in self.pool.items()
            }
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every model in place.

        Raises:
            ValueError: a model is missing, or of another form.
        """
        own = self.state_dict()["pool"]
        if not own.keys() <= state["pool"].keys():
            raise ValueError(f"the pool is {list(state['pool'])}, expected {list(own)}")
        for slot, model in self.pool.items():
            saved = state["pool"][slot]
            check_saved(saved, own[slot], f"pool.{slot}")
            if saved["updates"] < 0:
                raise ValueError(f"pool.{slot}.updates is negative")
            model.network.load_state_dict(saved["network"])
            model.optimizer.load_state_dict(saved["optimizer"])
            model.updates = saved["updates"]
        self.visit = None
        self.benches.clear()

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Put the pool together from the models of all processes."""
        models = {slot: model for part in parts for slot, model in part["pool"].items()}
        return {"pool": dict(sorted(models.items()))}


@record
class FRePo(AbstractDistiller[FRePoState]):
    """Neural feature regression with pooling: the core distiller.

    One model of a pool gives features; kernel ridge regression from the synthetic to
    the real features predicts the real labels; the error is differentiated back to
    images and labels. The model then takes a training step on the synthetic set,
    until it has seen ``max_online_updates`` and a fresh one takes its place. There is
    no unrolling: a step costs one forward pass of the real batch, and one forward and
    backward pass of the synthetic set.

    Under torchrun the models of the pool and the images of a real batch are dealt out
    to the processes; each visits a model of its own at every step.

    Options that are not given are settled by the preset and the data set.

    Args:
        preset: ``"fast"`` is for runs of minutes: what was measured best for the data
            set; ``"paper"`` is the paper's in every option, 500,000 steps, and width
            128. A fast run of 50,000 steps and more takes the paper's learning rate.
        pool_size: online models; at least one for each process.
        pool_networks: further architectures, of which the models of the pool are in
            turn, beside the run's own. The paper's pool has one architecture.
        max_online_updates: training steps K after which a model is replaced.
        real_batch_size: real images of a visit.
        updates_per_batch: steps for which a visit lasts: the model, the real batch and
            its features stay the same meanwhile. The paper's is 1.
        online_steps: training steps of the model at the end of a visit. The paper's
            is 1.
        ridge: ridge relative to the mean eigenvalue of the kernel; by default the
            paper's 1e-6, and 1e-2 with augmented copies.
        learning_rate: of images and labels, in units of their norm (LAMB).
        last_learning_rate: at the end of the cosine, relative to the first; in [0, 1].
        online_learning_rate: of Adam on the online models.
        learn_labels: whether labels are learned.
        augment: whether the models' training sees the synthetic images under a random
            augmentation, another at each step, and so does the regression: in their
            place, or beside them as ``augmented_copies``. By default with copies, and
            in a fast run for colour images. The paper's is False.
        augmented_copies: random augmentations of each image that stand beside it in
            the regression, as a network meets them that is trained on the set; 0 for
            one in its place, with ``augment``. By default 7 in a fast run for up to 50
            images in all, 3 for up to 200, 1 for up to 500, else 0. The paper has none.
        loss: what the regression's predictions of the real labels are judged by:
            ``"squared-error"``, the paper's, or ``"cross-entropy"``, at the temperature
            that suits each real batch best
            (:func:`~dd_plugins.functional.kernel_regression.calibrated_cross_entropy`);
            by default the latter in a fast run.
        flip: whether mirrored copies stand beside the synthetic images; by default as
            in the released code: for small sets of images whose mirror image is
            natural; but not with augmented copies, of which some are mirrored.

    Reference: Zhou, Nezhadarya, Ba, "Dataset Distillation using Neural Feature
    Regression", NeurIPS 2022, arXiv 2206.00719, algorithm 1, and its released code.

    Differences: pool draws are derived from the seed (unseeded there); features may be
    computed in bfloat16, Gram matrix and solve run in float64 (float32 there); real
    batches are drawn without replacement from a whole permutation (a shuffle buffer
    there); visits of several updates, pools of several architectures, augmentation
    while distilling, by augmented copies or without, cross-entropy as the loss, and the
    settings of the fast preset are ours.
    """

    name = "frepo"

    preset: Literal["fast", "paper"] = "fast"
    pool_size: PositiveInt | None = None
    pool_networks: tuple[AbstractNetwork, ...] = ()
    max_online_updates: PositiveInt | None = None
    real_batch_size: PositiveInt | None = None
    updates_per_batch: PositiveInt | None = None
    online_steps: PositiveInt | None = None
    ridge: NonNegativeFloat | None = None
    learning_rate: PositiveFloat | None = None
    last_learning_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    online_learning_rate: PositiveFloat | None = None
    learn_labels: bool = True
    augment: bool | None = None
    augmented_copies: NonNegativeInt | None = None
    loss: Loss | None = None
    flip: bool | None = None

    def for_task(self, task: Task) -> Self:
        """Settle every option by the preset and the table of recipes."""
        recipe = _recipe(task)
        short = recipe.settings_for(task.synthetic_images)
        defaults = _PAPER if self.preset == "paper" else short
        if (task.steps or recipe.steps) >= _LONG_RUN:
            defaults = replace(defaults, learning_rate=_PAPER.learning_rate)
        settings = self._settled(defaults)
        flip = (
            task.images_per_class <= recipe.flip_up_to and not settings.augmented_copies
        )
        return replace(
            self, **vars(settings), flip=flip if self.flip is None else self.flip
        )

    def _settled(self, defaults: _Settings) -> _Settings:
        """Return the settings, by default those given."""
        options = {field.name: getattr(self, field.name) for field in fields(_Settings)}
        given = {name: value for name, value in options.items() if value is not None}
        wanted = 0 if self.augment is False else defaults.augmented_copies
        if given.setdefault("augmented_copies", wanted):
            given.setdefault("augment", True)
            given.setdefault("ridge", _RIDGE_OF_COPIES)
        return replace(defaults, **given)

    @cached_property
    def _settings(self) -> _Settings:
        return self._settled(_PAPER)

    def default_steps(self, task: Task) -> int:
        """Return the steps of a run of the preset on this data set."""
        return _PAPER_STEPS if self.preset == "paper" else _recipe(task).steps

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the recipe's network; on a CPU a narrow ``conv``, else the paper's."""
        if self.preset == "paper":
            return Conv()
        recipe = _recipe(task)
        return recipe.network or (_ON_CPU if device.type == "cpu" else Conv())

    @property
    def architectures(self) -> tuple[AbstractNetwork, ...]:
        """Those of the pool beside the run's own."""
        return self.pool_networks

    @property
    def label_kind(self) -> LabelKind:
        """Labels are centred regression targets."""
        return "regression"

    @property
    def learns_labels(self) -> bool:
        """Whether labels are moved by the optimizer."""
        return self.learn_labels

    def initial_labels(self, labels: Tensor, num_classes: int) -> Tensor:
        """Return centred one-hot labels, divided by ``sqrt(classes / 10)``."""
        return centred_targets(labels, num_classes) / math.sqrt(num_classes / 10)

    def setup(self, run: Run, real: RealSampler) -> FRePoState:
        """Fill the pool with fresh models whose ages are staggered.

        Ages start at 0, K/pool, 2K/pool, ..., so the models are replaced one at a time.

        Raises:
            OptionError: there are more processes, or architectures, than models; or
                augmented copies without augmentation.
        """
        settings = self._settings
        if settings.pool_size < run.ranks:
            raise OptionError(
                f"frepo: {run.ranks} processes share a pool of {settings.pool_size}; "
                f"use pool_size={run.ranks} or more"
            )
        if settings.pool_size < 1 + len(self.pool_networks):
            raise OptionError(
                f"frepo: a pool of {settings.pool_size} has no room for "
                f"{1 + len(self.pool_networks)} architectures; use "
                f"pool_size={1 + len(self.pool_networks)} or more"
            )
        if settings.augmented_copies and not settings.augment:
            raise OptionError(
                f"frepo: augmented_copies={settings.augmented_copies} is augmentation: "
                "leave out augment=False"
            )
        oldest, size = settings.max_online_updates, settings.pool_size
        return FRePoState(
            run,
            {
                slot: self._fresh_model(run, slot, -1, slot * oldest // size)
                for slot in range(run.rank, size, run.ranks)
            },
        )

    def accumulate(
        self, state: FRePoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the regression error and of the labels' margin loss."""
        bench = self._bench(state, self._slot(state, step))
        visit = self._visit(state, bench, real, step)
        pixels, labels = leaves.pixels, leaves.labels
        view = self._support(state.run, pixels, step)
        found = bench.gradient(view, labels, visit.features, visit.targets)
        gradient = found.view
        if view is not pixels:
            (gradient,) = torch.autograd.grad(view, [pixels], gradient)
        add_gradient(pixels, gradient)
        metrics = {"loss": found.loss, "batch_accuracy": found.batch_accuracy}
        if self.learn_labels:
            add_gradient(labels, found.labels)
            metrics["margin_loss"] = found.margin_loss
        return metrics

    def advance(self, state: FRePoState, leaves: Leaves, step: int) -> None:
        """At the end of a visit, train its model on the set, or replace it."""
        settings = self._settings
        if (step + 1) % settings.updates_per_batch:
            return
        slot = self._slot(state, step)
        with record_function("frepo: online step"):
            for number in range(settings.online_steps):
                if state.pool[slot].updates > settings.max_online_updates:
                    state.pool[slot] = self._fresh_model(state.run, slot, step, 0)
                    return
                bench = self._bench(state, slot)
                self._train(state, bench, leaves, step * settings.online_steps + number)

    def _train(
        self, state: FRePoState, bench: _Bench, leaves: Leaves, draw: int
    ) -> None:
        """Train a model on the synthetic set, or on a draw from it, once."""
        pixels, labels = leaves.pixels.detach(), leaves.labels.detach()
        if len(pixels) >= _LARGEST_ONLINE_BATCH:
            generator = state.run.own_generator("online batch", draw)
            chosen = torch.randperm(len(pixels), generator=generator)
            chosen = chosen[:_LARGEST_ONLINE_BATCH].to(pixels.device)
            pixels, labels = pixels[chosen], labels[chosen]
        if self._settings.augment:
            generator = state.run.own_generator("online augmentation", draw)
            pixels = _augmented(state.run, pixels, generator)
        bench.train(pixels, labels)

    def optimizer(self, parameters: Parameters) -> torch.optim.Optimizer:
        """Return LAMB, with one trust ratio for all images and one for all labels."""
        return LAMB(parameters, lr=self._settings.learning_rate)

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a cosine from the learning rate to the last one."""
        settings = self._settings
        return torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer,
            steps,
            eta_min=settings.last_learning_rate * settings.learning_rate,
        )

    def predict(self, state: FRePoState, leaves: Leaves, images: Tensor) -> Tensor:
        """Return the regression's predictions, on the oldest model of the pool."""
        oldest = max(state.pool.values(), key=lambda model: model.updates)
        with torch.no_grad():
            syn_features, features = (
                _features(state.run, oldest.network, each)
                for each in (self.mirrored(leaves.pixels), images)
            )
            labels = self.labels_of_support(leaves.labels, syn_features)
            ridge = self.settled_ridge
            return ridge_regression(syn_features, labels, features, ridge=ridge)

    def _bench(self, state: FRePoState, slot: int) -> _Bench:
        """Return the bench that holds the model of a slot."""
        model, benches = state.pool[slot], state.benches
        shared = _take_turns(state.run)
        key = slot % (1 + len(self.pool_networks)) if shared else slot
        if key not in benches or not (shared or benches[key].model is model):
            own = copy.deepcopy(model) if shared else model
            benches[key] = _Bench(self, state.run, own)
        return benches[key].hold(model)

    def _visit(
        self, state: FRePoState, bench: _Bench, real: RealSampler, step: int
    ) -> _Visit:
        """Return the real features of this step's visit, computed at its first step."""
        settings = self._settings
        number = step // settings.updates_per_batch
        if state.visit is None or state.visit.number != number:
            batch = real.batch(number, settings.real_batch_size)
            targets = centred_targets(batch.labels, state.run.task.num_classes)
            state.visit = _Visit(number, bench.features(batch.images), targets)
        return state.visit

    def _support(self, run: Run, pixels: Tensor, step: int) -> Tensor:
        """Return the images that support the regression, in blocks of the whole set."""
        if not self._settings.augment:
            return pixels
        generator = run.own_generator("augmentation", step)
        copies = self._settings.augmented_copies
        if not copies:
            return _augmented(run, pixels, generator)
        views = [_augmented(run, pixels, generator) for _ in range(copies)]
        return torch.cat([pixels, *views])

    def mirrored(self, images: Tensor) -> Tensor:
        """Return the images, and beside them, where asked for, mirrored copies."""
        return torch.cat([images, images.flip(-1)]) if self.flip else images

    def labels_of_support(self, labels: Tensor, support: Tensor) -> Tensor:
        """Return the labels of what supports the regression: the set, several times."""
        return labels.repeat(len(support) // len(labels), 1)

    @property
    def settled_ridge(self) -> float:
        """The ridge, by default that of the other options."""
        return self._settings.ridge

    def loss_of(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of predictions, both of shape ``(b, classes)``."""
        if self._settings.loss == "cross-entropy":
            return calibrated_cross_entropy(predictions, targets.argmax(dim=1))
        return half_squared_error(predictions, targets)

    def _slot(self, state: FRePoState, step: int) -> int:
        """Return the slot that this step's visit is to, drawn uniformly."""
        visit = step // self._settings.updates_per_batch
        generator = state.run.own_generator("pool visit", visit)
        slots = list(state.pool)
        return slots[int(torch.randint(len(slots), (), generator=generator))]

    def _fresh_model(
        self, run: Run, slot: int, step: int, updates: int
    ) -> _OnlineModel:
        others = [network.for_distillation() for network in self.pool_networks]
        architectures = [run.network, *others]
        network = run.fresh_network(
            run.generator(f"pool model {slot}", step),
            architectures[slot % len(architectures)],
        )
        recorded = run.device.type == "cuda"
        optimizer = torch.optim.Adam(
            network.parameters(),
            lr=self._settings.online_learning_rate,
            capturable=recorded,
            fused=True if recorded else None,
        )
        # Adam would make its moments at the first step. Made here, all that a
        # checkpoint has to hold is there from the start.
        for parameter in network.parameters():
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=run.device if recorded else None),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return _OnlineModel(network, optimizer, updates)
