"""Learned labels in a strategy: their loss, and matching labels for current data."""

from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.transform_groups import TransformGroups
from avalanche.training.plugins import SupervisedPlugin
from torch import Tensor, nn

from dd_avalanche.memory import spread_labels
from dd_avalanche.replay.buffer import DistilledBuffer
from dd_avalanche.replay.layout import content_of
from dd_plugins.api import (
    LABEL_KINDS,
    LabelKind,
    OptionError,
    label_loss,
)

__all__ = ["LabelLoss", "SoftTargets", "as_targets", "check_criterion"]


class LabelLoss(nn.Module):
    """A strategy's criterion for learned labels, and for classes as well.

    It is half the squared error for regression targets, and cross-entropy for all other
    labels. Classes, as given in evaluation, are converted to targets first. Scores of
    classes without an output of the model are dropped. A head that masks units, as
    Avalanche's ``IncrementalClassifier`` does by default, has a squared error of
    millions on the masked ones: make it with ``masking=False``.

    Args:
        label_kind: the kind of the learned labels.
    """

    def __init__(self, label_kind: LabelKind) -> None:
        super().__init__()
        self.label_kind = label_kind

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Return the mean loss.

        Args:
            output: float of shape ``(n, classes)``.
            target: integers of shape ``(n,)`` or ``(n, 1)``, or float of shape ``(n,
                any number of classes)``.
        """
        width = output.shape[1]
        if not target.is_floating_point() and target.numel() == len(output):
            target = as_targets(target.long().flatten(), width, self.label_kind)
        elif target.shape[1] != width:
            known = range(target.shape[1])
            target = spread_labels(target, known, self.label_kind, range(width))
        return label_loss(output, target, self.label_kind)


def as_targets(classes: Tensor, num_classes: int, label_kind: LabelKind) -> Tensor:
    """Return classes as labels of a kind, float32 ``(n, num_classes)``."""
    return LABEL_KINDS[label_kind].targets(classes, num_classes)


class SoftTargets(SupervisedPlugin):  # type: ignore[misc]
    """Convert the labels of current data to vectors like a buffer's learned ones.

    A stock ``ReplayPlugin`` then mixes both in one batch. The strategy's criterion must
    be :class:`LabelLoss`, or another one suited to the labels.

    Args:
        buffer: the buffer; its items get their learned labels.

    Raises:
        OptionError: the buffer was made with hard labels, or without ``num_classes``;
            or, when training begins, the criterion is cross-entropy, unfit for
            regression targets, or the data have classes beyond ``num_classes``.
    """

    def __init__(self, buffer: DistilledBuffer) -> None:
        super().__init__()
        buffer.prefer_learned_labels()
        if buffer.labels != "learned":
            raise OptionError(
                f"SoftTargets needs a buffer of learned labels, got {buffer.labels!r} "
                "ones; leave out the option labels='hard' of DistilledBuffer"
            )
        self.buffer = buffer

    def before_training(self, strategy: Any, **kwargs: Any) -> None:
        """Refuse a criterion unfit for the labels."""
        check_criterion(strategy, self.buffer)

    def after_train_dataset_adaptation(self, strategy: Any, **kwargs: Any) -> None:
        """Turn the labels of the adapted data set into vectors.

        Raises:
            OptionError: it has a class that the vectors do not score.
        """
        memory = self.buffer.memory
        assert memory.num_classes is not None
        highest = max(content_of(strategy.adapted_dataset).classes, default=0)
        if highest >= memory.num_classes:
            raise OptionError(
                f"num_classes must be from {highest + 1}, because the current data "
                f"have class {highest}, got {memory.num_classes}; make the "
                "DistilledBuffer with the width of the model's output"
            )
        targets = TargetVectors(memory.num_classes, memory.label_kind)
        strategy.adapted_dataset = _with_targets(strategy.adapted_dataset, targets)


def check_criterion(strategy: Any, buffer: DistilledBuffer) -> None:
    """Refuse cross-entropy for learned labels other than probabilities.

    Raises:
        OptionError: it is the strategy's criterion.
    """
    kind = buffer.memory.label_kind
    misread = buffer.labels == "learned" and kind == "regression"
    if misread and isinstance(strategy._criterion, nn.CrossEntropyLoss):
        raise OptionError(
            f"the criterion must take labels of kind {kind!r}, got CrossEntropyLoss, "
            "which takes probabilities; give the strategy "
            f"criterion=dd_avalanche.LabelLoss({kind!r})"
        )


class TargetVectors:
    """A target transform from a class to its vector; it leaves vectors alone."""

    def __init__(self, num_classes: int, label_kind: LabelKind) -> None:
        self.num_classes, self.label_kind = num_classes, label_kind

    def __call__(self, label: Any) -> Tensor:
        vector: Tensor = torch.as_tensor(label)
        if vector.is_floating_point():
            return vector
        classes = vector.reshape(1).long()
        return as_targets(classes, self.num_classes, self.label_kind)[0]


def _with_targets(
    dataset: AvalancheDataset, targets: TargetVectors
) -> AvalancheDataset:
    """Return a data set whose labels pass through a transform, after all others.

    The data set keeps its type, and its task labels.
    """
    groups = TransformGroups(dict.fromkeys(("train", "eval"), (None, targets)))
    return type(dataset)([dataset], transform_groups=groups)
