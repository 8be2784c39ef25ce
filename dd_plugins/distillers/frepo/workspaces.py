"""Workspaces: the tensors for the regression on models of the pool."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

from torch import Tensor
from torch.profiler import record_function

from dd_plugins.data.sampler import Batch
from dd_plugins.distillers.frepo.regression import (
    MetaGradient,
    Regression,
    solve_or_raise,
)
from dd_plugins.distillers.online_models import OnlineModel, PoolState
from dd_plugins.functional.kernel_regression import (
    centred_targets,
    ridge_regression_ex,
)
from dd_plugins.run import Run
from dd_plugins.runtime.cuda_graphs import GraphedFunction

__all__ = ["FRePoState", "RealFeatures", "Workspace"]


class Workspace:
    """The tensors used to compute with models of one architecture.

    On a CPU each model has a workspace of its own. On a GPU models of one architecture
    share one, because a CUDA graph is tied to the tensors of its recording: the tensors
    of a model are copied in, and back out once it is trained.

    Args:
        regression: predicts real labels, and gives the gradient.
        run: the run.
        model: a model, whose tensors the workspace uses.
    """

    def __init__(self, regression: Regression, run: Run, model: OnlineModel) -> None:
        self.model = self.held = model
        self._regression, self._run = regression, run
        network = model.network
        self._features = GraphedFunction(partial(regression.blocks, run, network))
        self._gradient = GraphedFunction(
            partial(regression.gradient, ridge_regression_ex, run, network)
        )
        self._careful_gradient = partial(
            regression.gradient, solve_or_raise, run, network
        )
        self._training = GraphedFunction(partial(_train, run, model), model.tensors)

    def hold(self, model: OnlineModel) -> Self:
        """Copy the tensors of a model to this workspace, unless it holds them."""
        if self.held is not model:
            self.model.overwrite(model)
            self.held = model
        return self

    def real_features(self, visit: int, batch: Batch) -> "RealFeatures":
        """Return what the steps of a visit need of its real images.

        Args:
            visit: the number of the visit.
            batch: the real images and their classes.
        """
        run = self._run
        generator = run.own_generator("kernel", visit)
        drawn = self._regression.draw(run, self.model.network, generator)
        with record_function("frepo: real features"):
            features = self._features(batch.images, drawn)
        targets = centred_targets(batch.labels, run.task.num_classes)
        return RealFeatures(visit, features, targets, drawn)

    def gradient(
        self, view: Tensor, labels: Tensor, real: "RealFeatures"
    ) -> MetaGradient:
        """Return the gradient of the regression error, and of the margin loss.

        Raises:
            RunError: the kernel is singular with any ridge.
        """
        inputs = (view, labels, real.targets, real.drawn, *real.features)
        found = MetaGradient(*self._gradient(*inputs))
        if found.failed:  # rare: again, with a growing ridge
            found = MetaGradient(*self._careful_gradient(*inputs))
        return found

    def train(self, view: Tensor, labels: Tensor) -> None:
        """Train the held model by one step."""
        self._training(view, labels)
        if self.held is not self.model:
            self.held.overwrite(self.model)
        self.held.updates += 1


def _train(
    run: Run, model: OnlineModel, view: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """Train a model on the synthetic set by one step, as a graph records it."""
    model.train(run, view, labels)
    return ()


@dataclass
class RealFeatures:
    """Features and targets of a real batch, computed once for several steps.

    Attributes:
        number: the number of the visit.
        features: features of the real images, in blocks.
        targets: regression targets, ``(b, classes)``.
        drawn: random draw of the kernel for the visit.
    """

    number: int
    features: tuple[Tensor, ...]
    targets: Tensor
    drawn: Tensor


@dataclass
class FRePoState(PoolState):
    """The pool, and unsaved tensors computed from it.

    Attributes:
        architectures: the number of architectures in the pool.
        visit: the real images of the present visit.
        workspaces: by architecture on a GPU, else by slot.
    """

    architectures: int
    visit: RealFeatures | None = None
    workspaces: dict[int, Workspace] = field(default_factory=dict)

    def workspace(self, slot: int, regression: Regression) -> Workspace:
        """Return a workspace, holding the model of a slot.

        Args:
            slot: its number in the pool.
            regression: for a new workspace.
        """
        model, known = self.pool[slot], self.workspaces
        shared = shares_workspaces(self.run)
        key = slot % self.architectures if shared else slot
        if key not in known or not (shared or known[key].model is model):
            own = copy.deepcopy(model) if shared else model
            known[key] = Workspace(regression, self.run, own)
        return known[key].hold(model)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore every model in place, and forget tensors computed from old ones."""
        super().load_state_dict(state)
        self.visit = None
        self.workspaces.clear()


def shares_workspaces(run: Run) -> bool:
    """Return whether models of one architecture share a workspace: on a GPU."""
    return run.device.type == "cuda"
