"""Plugins of a strategy for replay from a distilled buffer."""

import math
from collections import defaultdict
from typing import Any

import torch
from avalanche.benchmarks import OnlineCLExperience
from avalanche.models import DynamicModule, avalanche_forward
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from dd_avalanche.memory import ClassImages
from dd_avalanche.replay.buffer import DistilledBuffer
from dd_avalanche.replay.targets import as_targets, check_criterion
from dd_plugins.api import (
    LabelKind,
    OptionError,
    generator_for,
    label_loss,
    number,
    random_augmentation,
    whole_number,
)

__all__ = ["DistilledGDumb", "DistilledReplayPlugin"]


class DistilledReplayPlugin(SupervisedPlugin):  # type: ignore[misc]
    """Replay from a distilled buffer, with its own batch and its own loss.

    The loss on a batch from the buffer is added to the loss on the current data. The
    kind of the labels determines it: see :class:`LabelLoss`. So learned labels of any
    kind work with any criterion for the current data, and item layouts may differ.

    Args:
        buffer: filled after each experience.
        weight: the weight of the buffer's loss.
        batch_size: images drawn from the buffer in each iteration, or all of them if
            there are fewer; by default as many as of current data.
        augment: whether each batch from the buffer passes through one operation of
            :func:`~dd_plugins.api.random_augmentation`.
        seed: the seed of the draws; the global generators are not used.

    Raises:
        OptionError: weight, batch size or seed is not a number, or out of its range.
    """

    def __init__(
        self,
        buffer: DistilledBuffer,
        *,
        weight: float = 1.0,
        batch_size: int | None = None,
        augment: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < number("weight", weight) < math.inf:
            raise OptionError(f"weight must be positive and finite, got {weight}")
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, least=1)
        self.buffer, self.weight, self.batch_size = buffer, float(weight), batch_size
        self.augment, self.seed = augment, whole_number("seed", seed)
        self._draws = 0
        self._kept: tuple[list[ClassImages], Tensor] | None = None

    def before_backward(self, strategy: Any, **kwargs: Any) -> None:
        """Add the buffer's loss."""
        memory = self.buffer.memory
        if not len(memory):
            return
        size = min(self.batch_size or strategy.train_mb_size, len(memory))
        generator = generator_for(self.seed, "replay", self._draws)
        self._draws += 1
        chosen = torch.randperm(len(memory), generator=generator)[:size]
        images = self._images()[chosen].to(strategy.device)
        if self.augment:
            images = random_augmentation(
                images, generator=generator, mirror=memory.mirror
            )
        tasks = memory.tasks()[chosen].to(strategy.device)
        output = avalanche_forward(strategy.model, images, tasks)
        kind: LabelKind = "classes"
        labels = as_targets(memory.hard_labels()[chosen], output.shape[1], kind)
        if self.buffer.labels == "learned":
            kind = memory.label_kind
            labels = memory.labels(output.shape[1])[chosen]
        loss = label_loss(output, labels.to(output.device), kind)
        strategy.loss = strategy.loss + self.weight * loss

    def _images(self) -> Tensor:
        """Return the stored images, joined again only when they have changed."""
        memory = self.buffer.memory
        # A class whose images change gets a new object: none is changed in place.
        stored = list(memory.groups.values())
        if self._kept is None or self._kept[0] != stored:
            self._kept = (stored, memory.images())
        return self._kept[1]

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Distil the experience."""
        self.buffer.fill(strategy, strategy.experience, mixed=False)

    def state_dict(self) -> dict[str, Any]:
        """Return the number of draws so far."""
        return {"draws": self._draws}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the next draw."""
        self._draws = int(state["draws"])


class DistilledGDumb(SupervisedPlugin):  # type: ignore[misc]
    """Train from scratch on the memory alone, at each experience.

    First the experience is distilled into the buffer. Then the model is trained on the
    buffer alone, from its initial weights: parameters, buffers and the optimizer's
    state are reset. State set by adaptation, such as the known classes, stays. This is
    the protocol of the FRePo and DM papers.

    Args:
        buffer: filled at the start of each experience.

    Raises:
        OptionError: when training begins, if the stream is online (a part of an
            experience cannot be distilled alone), or the criterion is cross-entropy,
            unfit for regression targets.
    """

    def __init__(self, buffer: DistilledBuffer) -> None:
        super().__init__()
        self.buffer = buffer
        self._initial: dict[str, Tensor] = {}

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse a criterion unfit for the labels."""
        check_criterion(strategy, self.buffer)

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Distil the experience, and train on the buffer instead of it."""
        if isinstance(strategy.experience, OnlineCLExperience):
            raise OptionError(
                "DistilledGDumb takes whole experiences, got a part of an online "
                "stream; use ReplayPlugin or DistilledReplayPlugin there"
            )
        self.buffer.fill(strategy, strategy.experience, mixed=False)
        if len(self.buffer.memory):
            strategy.adapted_dataset = self.buffer.buffer

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        """Reset the adapted model and the optimizer."""
        for name, tensor in _weights(strategy.model).items():
            kept = self._initial.get(name)
            if kept is None:
                self._initial[name] = tensor.detach().clone()
            elif kept.shape == tensor.shape:
                tensor.copy_(kept)
            else:  # a head that has grown: its old units get their initial weights
                corner = tuple(slice(0, size) for size in kept.shape)
                tensor[corner].copy_(kept)
                self._initial[name] = tensor.detach().clone()
        strategy.optimizer.state = defaultdict(dict)

    def state_dict(self) -> dict[str, Any]:
        """Return the initial weights."""
        return {"initial": self._initial}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the initial weights."""
        self._initial = dict(state["initial"])


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's parameters, and its buffers except those of adaptation."""
    found = {name: value.detach() for name, value in model.named_parameters()}
    for prefix, module in model.named_modules():
        if not isinstance(module, DynamicModule):
            found |= dict(module.named_buffers(prefix, recurse=False))
    return found
