"""FRePo: neural feature regression with a pool of online models."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor

from dd_plugins.data import RealSampler
from dd_plugins.distillers.base import (
    AbstractDistiller,
    AbstractState,
    LabelKind,
    Metrics,
    add_gradient,
)
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
_LAST_LEARNING_RATE = 0.1  # of the first, at the end of the cosine


@dataclass(frozen=True)
class _Recipe:
    """What FRePo does with a data set when nobody says.

    Attributes:
        steps: steps of a short run, minutes on a CPU; the paper takes 500,000.
        learning_rate: of the images in a short run.
        flip_up_to: images per class up to which mirrored copies help; 0 for never.
        network: the architecture; None for the paper's, narrower on a CPU.
    """

    steps: int
    learning_rate: float
    flip_up_to: float
    network: AbstractNetwork | None = None


# The data-set-dependent defaults. ``flip`` is the released code's; steps and learning
# rates were measured for digits, fashion-mnist and cifar10 and carried over to their
# neighbours: docs/benchmarks/defaults.md.
_RECIPES = {
    "digits": _Recipe(500, 1e-2, 0, Conv(width=32, depth=2)),
    "mnist": _Recipe(500, 1e-2, 0),
    "fashion-mnist": _Recipe(500, 1e-2, 0),
    "cifar10": _Recipe(500, 5e-3, math.inf),
    "cifar100": _Recipe(500, 5e-3, 1),
}
_OTHERWISE = _Recipe(500, 5e-3, 0)
_OTHERWISE_WITH_MIRROR = _Recipe(500, 5e-3, 10)
_ON_CPU = Conv(width=32)  # a sixteenth of the work of the paper's width of 128
_PAPER_LEARNING_RATE = 3e-4
# Steps from which on the paper's learning rate is taken: our guess, nothing between
# 1,000 and 500,000 steps was measured.
_LONG_RUN = 50_000


def _recipe(task: Task) -> _Recipe:
    otherwise = _OTHERWISE_WITH_MIRROR if task.mirror else _OTHERWISE
    return _RECIPES.get(task.dataset, otherwise)


@dataclass
class _OnlineModel:
    """One model of the pool, with its optimizer and the updates it has seen."""

    network: FeatureNetwork
    optimizer: torch.optim.Adam
    updates: int


@dataclass
class FRePoState(AbstractState):
    """The pool of online models."""

    pool: list[_OnlineModel]

    def state_dict(self) -> dict[str, Any]:
        """Return weights, moments and update counts of every model."""
        return {
            "pool": [
                {
                    "network": model.network.state_dict(),
                    "optimizer": model.optimizer.state_dict(),
                    "updates": model.updates,
                }
                for model in self.pool
            ]
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every model in place."""
        for model, saved in zip(self.pool, state["pool"], strict=True):
            model.network.load_state_dict(saved["network"])
            model.optimizer.load_state_dict(saved["optimizer"])
            model.updates = saved["updates"]


@record
class FRePo(AbstractDistiller[FRePoState]):
    """Neural feature regression with pooling: the core distiller.

    One model of a pool gives features; kernel ridge regression from the synthetic to
    the real features predicts the real labels; the error is differentiated back to
    images and labels. The model then takes one training step on the synthetic set,
    until it has seen ``max_online_updates`` and a fresh one takes its place. There is
    no unrolling: a step costs one forward pass of the real batch, and one forward and
    backward pass of the synthetic set.

    Args:
        pool_size: online models.
        max_online_updates: training steps K after which a model is replaced.
        real_batch_size: real images of a step.
        ridge: ridge relative to the mean eigenvalue of the kernel.
        learning_rate: of images and labels, in units of their norm (LAMB); by default
            3e-4, the paper's, for runs of 50,000 steps and more, and what was measured
            best for the data set in shorter ones.
        online_learning_rate: of Adam on the online models.
        learn_labels: whether labels are learned.
        flip: whether mirrored copies stand beside the synthetic images; by default as
            in the released code: for small sets of images whose mirror image is
            natural.

    Reference: Zhou, Nezhadarya, Ba, "Dataset Distillation using Neural Feature
    Regression", NeurIPS 2022, arXiv 2206.00719, algorithm 1, and its released code.

    Differences: pool draws are derived from the seed (unseeded there); features may be
    computed in bfloat16, Gram matrices and solve run in float64 (float32 there); real
    batches are drawn without replacement from a whole permutation (a shuffle buffer
    there); steps and learning rate of short runs are ours.
    """

    name = "frepo"

    pool_size: PositiveInt = 10
    max_online_updates: PositiveInt = 100
    real_batch_size: PositiveInt = 1024
    ridge: NonNegativeFloat = 1e-6
    learning_rate: PositiveFloat | None = None
    online_learning_rate: PositiveFloat = 3e-4
    learn_labels: bool = True
    flip: bool | None = None

    def for_task(self, task: Task) -> Self:
        """Settle learning rate and flip by the table of recipes."""
        recipe = _recipe(task)
        short_run = (task.steps or recipe.steps) < _LONG_RUN
        return replace(
            self,
            learning_rate=self.learning_rate
            or (recipe.learning_rate if short_run else _PAPER_LEARNING_RATE),
            flip=self.flip
            if self.flip is not None
            else task.images_per_class <= recipe.flip_up_to,
        )

    def default_steps(self, task: Task) -> int:
        """Return the steps of a short run on this data set."""
        return _recipe(task).steps

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the recipe's network; on a CPU a narrow ``conv``, else the paper's."""
        recipe = _recipe(task)
        return recipe.network or (_ON_CPU if device.type == "cpu" else Conv())

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

    def setup(self, run: Run) -> FRePoState:
        """Fill the pool with fresh models whose ages are staggered.

        Ages start at 0, K/pool, 2K/pool, ..., so the models are replaced one at a time.
        """
        stagger = self.max_online_updates // self.pool_size
        pool = [
            self._fresh_model(
                run, run.generator("pool model", -1 - slot), slot * stagger
            )
            for slot in range(self.pool_size)
        ]
        return FRePoState(run, pool)

    def accumulate(
        self, state: FRePoState, leaves: Leaves, real: RealSampler, step: int
    ) -> Metrics:
        """Add the gradient of the regression error and of the labels' margin loss."""
        batch = real.batch(step, self.real_batch_size)
        num_classes = state.run.task.num_classes
        model = state.pool[self._slot(state, step)]
        predictions = self._regress(state, model, leaves, batch.images)
        targets = centred_targets(batch.labels, num_classes)
        loss = half_squared_error(predictions, targets)
        metrics = {"loss": loss.detach()}
        if self.learn_labels:
            margin = margin_loss(leaves.labels)
            metrics["margin_loss"] = margin.detach()
            pixels_grad, labels_grad = torch.autograd.grad(
                loss + margin, [leaves.pixels, leaves.labels]
            )
            add_gradient(leaves.labels, labels_grad)
        else:
            (pixels_grad,) = torch.autograd.grad(loss, [leaves.pixels])
        add_gradient(leaves.pixels, pixels_grad)
        correct = predictions.argmax(dim=1) == batch.labels
        metrics["batch_accuracy"] = correct.float().mean()
        return metrics

    def advance(self, state: FRePoState, leaves: Leaves, step: int) -> None:
        """Train the step's model on the synthetic set once, or replace it."""
        slot = self._slot(state, step)
        model = state.pool[slot]
        if model.updates > self.max_online_updates:
            generator = state.run.generator("pool model", step)
            state.pool[slot] = self._fresh_model(state.run, generator, 0)
            return
        pixels, labels = leaves.pixels.detach(), leaves.labels.detach()
        if len(pixels) >= _LARGEST_ONLINE_BATCH:
            generator = state.run.generator("online batch", step)
            chosen = torch.randperm(len(pixels), generator=generator)
            chosen = chosen[:_LARGEST_ONLINE_BATCH].to(pixels.device)
            pixels, labels = pixels[chosen], labels[chosen]
        model.network.train()
        with state.run.autocast():
            outputs = model.network(pixels)
        model.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(half_squared_error(outputs.float(), labels))
        model.optimizer.step()
        model.updates += 1

    def optimizer(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """Return LAMB, with one trust ratio for all images and one for all labels."""
        return LAMB(parameters, lr=self.learning_rate or _PAPER_LEARNING_RATE)

    def schedule(
        self, optimizer: torch.optim.Optimizer, steps: int
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a cosine from the learning rate to a tenth of it."""
        last = _LAST_LEARNING_RATE * (self.learning_rate or _PAPER_LEARNING_RATE)
        return torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, steps, eta_min=last
        )

    def predict(self, state: FRePoState, leaves: Leaves, images: Tensor) -> Tensor:
        """Return the regression's predictions, on the oldest model of the pool."""
        oldest = max(state.pool, key=lambda model: model.updates)
        with torch.no_grad():
            return self._regress(state, oldest, leaves, images)

    def _regress(
        self, state: FRePoState, model: _OnlineModel, leaves: Leaves, images: Tensor
    ) -> Tensor:
        """Predict the labels of real images, differentiably in the leaves alone.

        BatchNorm is in evaluation mode: its statistics come from the synthetic batches
        of the online steps, for the real features as well.
        """
        network = model.network.eval()
        pixels, labels = leaves
        if self.flip:
            pixels = torch.cat([pixels, pixels.flip(-1)])
            labels = torch.cat([labels, labels])
        with state.run.autocast():
            with torch.no_grad():
                features = features_in_chunks(network, images)
            syn_features = features_in_chunks(network, pixels)
        return ridge_regression(syn_features, labels, features, ridge=self.ridge)

    def _slot(self, state: FRePoState, step: int) -> int:
        """Return the place in the pool that this step visits, drawn uniformly."""
        generator = state.run.generator("pool visit", step)
        return int(torch.randint(self.pool_size, (), generator=generator))

    def _fresh_model(
        self, run: Run, generator: torch.Generator, updates: int
    ) -> _OnlineModel:
        network = run.fresh_network(generator)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.online_learning_rate)
        return _OnlineModel(network, optimizer, updates)
