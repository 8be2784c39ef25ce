"""FRePo: neural feature regression with a pool of online models."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor
from torch.profiler import record_function

from dd_plugins.data import RealSampler
from dd_plugins.distillers.base import (
    AbstractDistiller,
    AbstractState,
    LabelKind,
    Metrics,
    add_gradient,
)
from dd_plugins.errors import OptionError
from dd_plugins.functional.augment import random_augmentation
from dd_plugins.functional.kernel_regression import (
    centred_targets,
    half_squared_error,
    margin_loss,
    ridge_regression,
)
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    features_in_chunks,
)
from dd_plugins.networks.conv import Conv
from dd_plugins.optimizers import LAMB
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.synthetic import Leaves

__all__ = ["FRePo"]

_LARGEST_ONLINE_BATCH = 1000


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


_PAPER = _Settings()
_PAPER_STEPS = 500_000
# Steps from which on the paper's learning rate is taken: our guess, nothing between
# 1,000 and 500,000 steps was measured.
_LONG_RUN = 50_000

# The data-set-dependent defaults. ``flip`` is the released code's; the rest was
# measured for digits, mnist, fashion-mnist and cifar10 and carried over to their
# neighbours: docs/benchmarks/defaults.md and frepo.md. Augmentation is worth two points
# for cifar10 and costs as many, or more, for grey images; models that are trained
# faster are worth another.
_DIGITS = _Settings(learning_rate=1e-2)
_GREY = _Settings(learning_rate=1e-2, real_batch_size=256)
_COLOUR = _Settings(
    learning_rate=5e-3, real_batch_size=256, augment=True, online_learning_rate=1e-3
)
_RECIPES = {
    "digits": _Recipe(500, _DIGITS, 0, Conv(width=32, depth=2)),
    "mnist": _Recipe(800, _GREY, 0),
    "fashion-mnist": _Recipe(800, _GREY, 0),
    "cifar10": _Recipe(800, _COLOUR, math.inf),
    "cifar100": _Recipe(800, _COLOUR, 1),
}
_ON_CPU = Conv(width=32)  # a sixteenth of the work of the paper's width of 128


def _recipe(task: Task) -> _Recipe:
    settings = (
        _COLOUR if task.image_shape[0] == 3 else replace(_GREY, learning_rate=5e-3)
    )
    otherwise = _Recipe(800, settings, 10 if task.mirror else 0)
    return _RECIPES.get(task.dataset, otherwise)


@dataclass
class _OnlineModel:
    """One model of the pool, with its optimizer and the updates it has seen."""

    network: FeatureNetwork
    optimizer: torch.optim.Adam
    updates: int


@dataclass
class _Visit:
    """What a visit to a model computes once: a real batch's features and labels."""

    number: int
    features: Tensor
    labels: Tensor


@dataclass
class FRePoState(AbstractState):
    """The pool of online models: those that this process owns, by their slot."""

    pool: dict[int, _OnlineModel]
    visit: _Visit | None = None  # not saved: a function of the rest

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
        """Restore every model in place."""
        for slot, model in self.pool.items():
            saved = state["pool"][slot]
            model.network.load_state_dict(saved["network"])
            model.optimizer.load_state_dict(saved["optimizer"])
            model.updates = saved["updates"]
        self.visit = None

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
        ridge: ridge relative to the mean eigenvalue of the kernel.
        learning_rate: of images and labels, in units of their norm (LAMB).
        last_learning_rate: at the end of the cosine, relative to the first; in [0, 1].
        online_learning_rate: of Adam on the online models.
        learn_labels: whether labels are learned.
        augment: whether the synthetic images are seen under a random augmentation, one
            for each step, by the regression and in the models' training. The paper's is
            False.
        flip: whether mirrored copies stand beside the synthetic images; by default as
            in the released code: for small sets of images whose mirror image is
            natural.

    Reference: Zhou, Nezhadarya, Ba, "Dataset Distillation using Neural Feature
    Regression", NeurIPS 2022, arXiv 2206.00719, algorithm 1, and its released code.

    Differences: pool draws are derived from the seed (unseeded there); features may be
    computed in bfloat16, Gram matrix and solve run in float64 (float32 there); real
    batches are drawn without replacement from a whole permutation (a shuffle buffer
    there); visits of several updates, pools of several architectures, augmentation
    while distilling, and the settings of the fast preset are ours.
    """

    name = "frepo"

    preset: Literal["fast", "paper"] = "fast"
    pool_size: PositiveInt | None = None
    pool_networks: tuple[AbstractNetwork, ...] = ()
    max_online_updates: PositiveInt | None = None
    real_batch_size: PositiveInt | None = None
    updates_per_batch: PositiveInt | None = None
    online_steps: PositiveInt | None = None
    ridge: NonNegativeFloat = 1e-6
    learning_rate: PositiveFloat | None = None
    last_learning_rate: Annotated[float, Field(ge=0, le=1)] | None = None
    online_learning_rate: PositiveFloat | None = None
    learn_labels: bool = True
    augment: bool | None = None
    flip: bool | None = None

    def for_task(self, task: Task) -> Self:
        """Settle every option by the preset and the table of recipes."""
        recipe = _recipe(task)
        settings = _PAPER if self.preset == "paper" else recipe.settings
        if (task.steps or recipe.steps) >= _LONG_RUN:
            settings = replace(settings, learning_rate=_PAPER.learning_rate)
        flip = task.images_per_class <= recipe.flip_up_to
        return replace(
            self,
            **vars(self._settled(settings)),
            flip=flip if self.flip is None else self.flip,
        )

    def _settled(self, defaults: _Settings) -> _Settings:
        """Return the settings, by default those given."""
        given = {field.name: getattr(self, field.name) for field in fields(_Settings)}
        return replace(
            defaults,
            **{name: value for name, value in given.items() if value is not None},
        )

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
            OptionError: there are more processes, or architectures, than models.
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
        stagger = settings.max_online_updates // settings.pool_size
        return FRePoState(
            run,
            {
                slot: self._fresh_model(run, slot, -1, slot * stagger)
                for slot in range(run.rank, settings.pool_size, run.ranks)
            },
        )

    def accumulate(
        self, state: FRePoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the regression error and of the labels' margin loss."""
        model = state.pool[self._slot(state, step)]
        visit = self._visit(state, model, real, step)
        num_classes = state.run.task.num_classes
        pixels, labels = leaves
        view = self._view(state.run, pixels, "augmentation", step)
        syn_features = self._syn_features(state, model, view)
        # The two halves of the graph are walked one after the other: from the loss to
        # the features and labels, and from the features to the pixels.
        inner = syn_features.detach().requires_grad_()
        with record_function("frepo: regression"):
            predictions = self._regress(inner, labels, visit.features)
            targets = centred_targets(visit.labels, num_classes)
            loss = half_squared_error(predictions, targets)
            metrics = {"loss": loss.detach()}
            if self.learn_labels:
                margin = margin_loss(labels)
                metrics["margin_loss"] = margin.detach()
                gradient, labels_gradient = torch.autograd.grad(
                    loss + margin, [inner, labels]
                )
                add_gradient(labels, labels_gradient)
            else:
                (gradient,) = torch.autograd.grad(loss, [inner])
        with record_function("frepo: synthetic backward"):
            (gradient,) = torch.autograd.grad(syn_features, [pixels], gradient)
        add_gradient(pixels, gradient)
        correct = predictions.argmax(dim=1) == visit.labels
        metrics["batch_accuracy"] = correct.float().mean()
        return metrics

    def advance(self, state: FRePoState, leaves: Leaves, step: int) -> None:
        """At the end of a visit, train its model on the set, or replace it."""
        settings = self._settings
        if (step + 1) % settings.updates_per_batch:
            return
        slot = self._slot(state, step)
        model = state.pool[slot]
        with record_function("frepo: online step"):
            for number in range(settings.online_steps):
                if model.updates > settings.max_online_updates:
                    state.pool[slot] = self._fresh_model(state.run, slot, step, 0)
                    return
                self._train(state, model, leaves, step * settings.online_steps + number)

    def _train(
        self, state: FRePoState, model: _OnlineModel, leaves: Leaves, draw: int
    ) -> None:
        """Train a model on the synthetic set, or on a draw from it, once."""
        pixels, labels = leaves.pixels.detach(), leaves.labels.detach()
        if len(pixels) >= _LARGEST_ONLINE_BATCH:
            generator = state.run.own_generator("online batch", draw)
            chosen = torch.randperm(len(pixels), generator=generator)
            chosen = chosen[:_LARGEST_ONLINE_BATCH].to(pixels.device)
            pixels, labels = pixels[chosen], labels[chosen]
        view = self._view(state.run, pixels, "online augmentation", draw)
        model.network.train()
        with state.run.autocast():
            outputs = model.network(view)
        torch.autograd.backward(half_squared_error(outputs.float(), labels))
        model.optimizer.step()
        model.optimizer.zero_grad(set_to_none=True)  # now: the whole pool waits
        model.updates += 1

    def optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
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
            syn_features = self._syn_features(state, oldest, leaves.pixels)
            features = self._features(state, oldest, images)
            return self._regress(syn_features, leaves.labels, features)

    def _visit(
        self, state: FRePoState, model: _OnlineModel, real: RealSampler, step: int
    ) -> _Visit:
        """Return the real features of this step's visit, computed at its first step."""
        settings = self._settings
        number = step // settings.updates_per_batch
        if state.visit is None or state.visit.number != number:
            batch = real.batch(number, settings.real_batch_size)
            with record_function("frepo: real features"), torch.no_grad():
                features = self._features(state, model, batch.images)
            state.visit = _Visit(number, features, batch.labels)
        return state.visit

    def _features(
        self, state: FRePoState, model: _OnlineModel, images: Tensor
    ) -> Tensor:
        """Return the features of images.

        BatchNorm is in evaluation mode: its statistics come from the synthetic batches
        of the online steps, for the real features as well.
        """
        with state.run.autocast():
            return features_in_chunks(model.network.eval(), images)

    def _view(self, run: Run, pixels: Tensor, purpose: str, draw: int) -> Tensor:
        """Return the images, or one random augmentation of them."""
        if not self._settings.augment:
            return pixels
        generator = run.own_generator(purpose, draw)
        view = random_augmentation(pixels, generator=generator, mirror=run.task.mirror)
        return view.contiguous(memory_format=torch.channels_last)

    def _syn_features(
        self, state: FRePoState, model: _OnlineModel, pixels: Tensor
    ) -> Tensor:
        """Return the features of the synthetic set, mirrored copies included."""
        with record_function("frepo: synthetic forward"):
            if self.flip:
                pixels = torch.cat([pixels, pixels.flip(-1)])
            return self._features(state, model, pixels)

    def _regress(
        self, syn_features: Tensor, labels: Tensor, features: Tensor
    ) -> Tensor:
        """Predict labels from features; mirrored copies share their labels."""
        if self.flip:
            labels = torch.cat([labels, labels])
        return ridge_regression(syn_features, labels, features, ridge=self.ridge)

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
        optimizer = torch.optim.Adam(
            network.parameters(), lr=self._settings.online_learning_rate
        )
        # Adam would make its moments at the first step. Made here, all that a
        # checkpoint has to hold is there from the start.
        for parameter in network.parameters():
            optimizer.state[parameter] = {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return _OnlineModel(network, optimizer, updates)
