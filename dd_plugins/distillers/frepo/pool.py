"""The pool of models whose features the regression uses, and how they are trained."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor
from torch.func import functional_call
from torch.profiler import record_function

from dd_plugins.distillers.frepo.regression import (
    MetaGradient,
    Regression,
    features_of,
    solve_or_raise,
)
from dd_plugins.distillers.state import AbstractState, check_saved
from dd_plugins.functional.kernel_regression import (
    half_squared_error,
    ridge_regression_ex,
)
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork
from dd_plugins.run import Run
from dd_plugins.runtime.cuda_graphs import GraphedFunction

__all__ = ["FRePoState", "Pool", "RealFeatures", "Workspace"]


@dataclass
class OnlineModel:
    """One model of the pool, with its optimizer and the updates it has seen."""

    network: FeatureNetwork
    optimizer: torch.optim.Adam
    updates: int

    def overwrite(self, other: "OnlineModel") -> None:
        """Copy all that training changes from a model: weights, statistics, moments."""
        pairs = list(zip(self.tensors(), other.tensors(), strict=True))
        with torch.no_grad():
            for dtype in {own.dtype for own, _ in pairs}:  # all of one dtype at once
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


class Workspace:
    """The tensors with which models of one architecture are computed.

    On a CPU each model has a workspace of its own. On a GPU models of one architecture
    share one, because CUDA graphs are tied to the tensors that they were recorded with:
    the tensors of a model are copied there and, once it is trained, back.

    Args:
        regression: predicts real labels, and gives the gradient.
        run: the run.
        model: the workspace uses its tensors.
    """

    def __init__(self, regression: Regression, run: Run, model: OnlineModel) -> None:
        self.model = self.held = model
        network = model.network
        self._features = GraphedFunction(partial(_real_features, run, network))
        self._gradient = GraphedFunction(
            partial(regression.gradient, ridge_regression_ex, run, network)
        )
        self._careful_gradient = partial(
            regression.gradient, solve_or_raise, run, network
        )
        self._training = GraphedFunction(partial(_train, run, model), model.tensors)

    def hold(self, model: OnlineModel) -> Self:
        """Hold a model: copy its tensors here, unless it is held already."""
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
    ) -> MetaGradient:
        """Return the gradient of the regression error, and of the margin loss.

        Raises:
            RunError: the kernel is singular with any ridge.
        """
        inputs = (view, labels, features, targets)
        found = MetaGradient(*self._gradient(*inputs))
        if found.failed:  # rare: once more, with a ridge that grows
            found = MetaGradient(*self._careful_gradient(*inputs))
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
        return (features_of(run, network, images),)


def _train(
    run: Run, model: OnlineModel, view: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    """Train a model on the synthetic set by one step."""
    network, optimizer = model.network, model.optimizer
    network.train()
    # Gradients are taken with respect to fresh leaves, not to the weights: torch ties a
    # leaf to the stream in which it was first used, and a recording has its own stream.
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


@dataclass
class RealFeatures:
    """Features and targets of a real batch, computed once for several steps."""

    number: int
    features: Tensor
    targets: Tensor


@dataclass(frozen=True)
class Pool:
    """How the models of a pool are made.

    Attributes:
        architectures: the slots take them in turn.
        learning_rate: of Adam, by which models are trained.
    """

    architectures: tuple[AbstractNetwork, ...]
    learning_rate: float

    def fresh_model(self, run: Run, slot: int, step: int, updates: int) -> OnlineModel:
        """Return a model with fresh weights for a slot.

        Args:
            run: the run.
            slot: its number in the pool.
            step: the step after which the model starts; -1 at the start of the run.
            updates: the number of training steps from which it counts its own.
        """
        network = run.fresh_network(
            run.generator(f"pool model {slot}", step),
            self.architectures[slot % len(self.architectures)],
        )
        recorded = run.device.type == "cuda"
        optimizer = torch.optim.Adam(
            network.parameters(),
            lr=self.learning_rate,
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
        return OnlineModel(network, optimizer, updates)


@dataclass
class FRePoState(AbstractState):
    """The pool of online models: those that this process owns, by their slot."""

    pool: dict[int, OnlineModel]
    # Not saved: they can be computed from the rest.
    visit: RealFeatures | None = None
    # By architecture on a GPU, else by slot:
    workspaces: dict[int, Workspace] = field(default_factory=dict)

    def slot_of(self, visit: int) -> int:
        """Return the slot whose model a visit is to, drawn uniformly."""
        generator = self.run.own_generator("pool visit", visit)
        slots = list(self.pool)
        return slots[int(torch.randint(len(slots), (), generator=generator))]

    def workspace(
        self, slot: int, regression: Regression, architectures: int
    ) -> Workspace:
        """Return the workspace that holds the model of a slot.

        Args:
            slot: its number in the pool.
            regression: for a workspace that is made now.
            architectures: the number of architectures in the pool.
        """
        model, known = self.pool[slot], self.workspaces
        shared = shares_workspaces(self.run)
        key = slot % architectures if shared else slot
        if key not in known or not (shared or known[key].model is model):
            own = copy.deepcopy(model) if shared else model
            known[key] = Workspace(regression, self.run, own)
        return known[key].hold(model)

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
            ValueError: a model is missing, or has another form.
        """
        own = self.state_dict()["pool"]
        if not own.keys() <= state["pool"].keys():
            raise ValueError(f"pool: expected {list(own)}, got {list(state['pool'])}")
        for slot, model in self.pool.items():
            saved = state["pool"][slot]
            check_saved(saved, own[slot], f"pool.{slot}")
            if saved["updates"] < 0:
                raise ValueError(
                    f"pool.{slot}.updates must be at least 0, got {saved['updates']}"
                )
            model.network.load_state_dict(saved["network"])
            model.optimizer.load_state_dict(saved["optimizer"])
            model.updates = saved["updates"]
        self.visit = None
        self.workspaces.clear()

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Put the pool together from the models of all processes."""
        models = {slot: model for part in parts for slot, model in part["pool"].items()}
        return {"pool": dict(sorted(models.items()))}


def shares_workspaces(run: Run) -> bool:
    """Tell whether models of one architecture share a workspace: on a GPU."""
    return run.device.type == "cuda"
