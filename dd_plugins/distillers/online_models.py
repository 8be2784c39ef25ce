"""A pool of online models: networks trained on the set while it is learned."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call

from dd_plugins.distillers.state import AbstractState, check_saved
from dd_plugins.networks.base import AbstractNetwork, FeatureNetwork
from dd_plugins.run import Run
from dd_plugins.synthetic.labels import LabelKind, label_loss

__all__ = ["OnlineModel", "Pool", "PoolState"]


@dataclass
class OnlineModel:
    """One model of the pool, with its optimizer and the updates it has seen."""

    network: FeatureNetwork
    optimizer: torch.optim.Adam
    updates: int

    def overwrite(self, other: "OnlineModel") -> None:
        """Copy the trained tensors of a model: weights, statistics, moments."""
        pairs = list(zip(self.tensors(), other.tensors(), strict=True))
        with torch.no_grad():
            for dtype in {own.dtype for own, _ in pairs}:  # all of one dtype at once
                alike = [pair for pair in pairs if pair[0].dtype == dtype]
                torch._foreach_copy_(
                    [own for own, _ in alike], [given for _, given in alike]
                )

    def tensors(self) -> list[Tensor]:
        """Return the trained tensors, always in the same order."""
        moments = self.optimizer.state.values()
        return [
            *self.network.parameters(),
            *self.network.buffers(),
            *(tensor for each in moments for tensor in each.values()),
        ]

    def train(
        self, run: Run, view: Tensor, labels: Tensor, kind: LabelKind = "regression"
    ) -> None:
        """Take a training step on the synthetic set; ``updates`` does not change.

        Call it in a block of ``run.layers_drawing_from``: a network may have dropout.

        Args:
            run: the run.
            view: images, ``(n, channels, height, width)`` in the value space.
            labels: ``(n, classes)``.
            kind: the kind of the labels, which gives the loss: squared error for
                regression targets.
        """
        network, optimizer = self.network, self.optimizer
        network.train()
        # Gradients are taken with respect to fresh leaves, not to the weights: torch
        # ties a leaf to the stream in which it was first used, and a recording has its
        # own stream.
        leaves = {
            name: parameter.detach().requires_grad_()
            for name, parameter in network.named_parameters()
        }
        with run.autocast():
            outputs = functional_call(network, leaves, (view,))
        loss = label_loss(outputs.float(), labels, kind)
        gradients = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        for parameter, gradient in zip(network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)  # now: a waiting model needs none


@dataclass(frozen=True)
class Pool:
    """The recipe for the models of a pool.

    Attributes:
        architectures: the slots take them in turn.
        learning_rate: learning rate of Adam on the models.
    """

    architectures: tuple[AbstractNetwork, ...]
    learning_rate: float

    def fresh_model(self, run: Run, slot: int, step: int, updates: int) -> OnlineModel:
        """Return a model with fresh weights for a slot.

        Args:
            run: the run.
            slot: its number in the pool.
            step: the last step before the model starts; -1 at the start of the run.
            updates: the initial value of its count of training steps.
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
        # Adam would make its moments at the first step. Made here, they are there for
        # a checkpoint from the start.
        for parameter in network.parameters():
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=run.device if recorded else None),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
        return OnlineModel(network, optimizer, updates)


@dataclass
class PoolState(AbstractState):
    """The pool of online models: this process's own models, by slot."""

    pool: dict[int, OnlineModel]

    def slot_of(self, visit: int) -> int:
        """Return the slot of the model for a visit, drawn uniformly."""
        generator = self.run.own_generator("pool visit", visit)
        slots = list(self.pool)
        return slots[int(torch.randint(len(slots), (), generator=generator))]

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

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Put the pool together from the models of all processes."""
        models = {slot: model for part in parts for slot, model in part["pool"].items()}
        return {"pool": dict(sorted(models.items()))}
