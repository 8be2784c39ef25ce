"""Kinds of labels: the meaning and the loss of each."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from dd_plugins.functional.kernel_regression import (
    centred_targets,
    half_squared_error,
)
from dd_plugins.synthetic.label_kinds import LabelKind

__all__ = [
    "LABEL_KINDS",
    "LabelKind",
    "LabelMeaning",
    "as_kind",
    "as_probabilities",
    "label_loss",
    "one_hot",
]

_CONFIDENCE = 0.9  # the mean of the largest probabilities
_SHARPNESS = (1e-3, 1e4)
_HALVINGS = 60


@dataclass(frozen=True)
class LabelMeaning:
    """The meaning of one kind of labels.

    Attributes:
        targets: labels for known classes: maps int64 ``(n,)`` and the number of classes
            to float32 ``(n, classes)``.
        loss: maps logits and labels, both ``(n, classes)``, to the mean loss.
        offset: maps the number of classes to the shift of every entry of a label: 0, or
            ``-1/classes`` where labels are centred.
    """

    targets: Callable[[Tensor, int], Tensor]
    loss: Callable[[Tensor, Tensor], Tensor]
    offset: Callable[[int], float]

    def among(self, labels: Tensor, before: int, after: int) -> Tensor:
        """Extend labels of some classes to more classes.

        The entries of the added classes hold the value of a wrong class.

        Args:
            labels: float of shape ``(n, classes)``.
            before: the number of classes added before them.
            after: the number of classes added after them.

        Returns:
            Shape ``(n, before + classes + after)``.
        """
        classes = labels.shape[1]
        offset = self.offset(before + classes + after)
        shifted = labels - self.offset(classes) + offset
        return F.pad(shifted, (before, after), value=offset)


def one_hot(classes: Tensor, num_classes: int) -> Tensor:
    """Return float32 ``(n, num_classes)``: 1 for the class of each image, else 0."""
    return F.one_hot(classes, num_classes).float()


def as_probabilities(targets: Tensor) -> Tensor:
    """Convert regression targets to probabilities, keeping their order.

    A softmax at one temperature for all labels, chosen to make the largest probability
    of a label 0.9 on average. Equal targets have equal probabilities at any
    temperature: if many labels are such, the others become one-hot.

    Args:
        targets: float of shape ``(n, classes)``.

    Example:
        >>> import torch
        >>> as_probabilities(torch.tensor([[0.5, -0.5], [-0.5, 0.5]])).round(decimals=3)
        tensor([[0.9000, 0.1000],
                [0.1000, 0.9000]])
    """
    low, high = _SHARPNESS
    precise = targets.detach().cpu().double()  # some devices have no float64
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        if (middle * precise).softmax(dim=1).amax(dim=1).mean() < _CONFIDENCE:
            low = middle
        else:
            high = middle
    return (low * precise).softmax(dim=1).to(targets)


def as_kind(labels: Tensor, held: LabelKind, wanted: LabelKind) -> Tensor:
    """Convert labels of one kind to another.

    Class scores keep the class with the largest score alone. Regression targets become
    probabilities by :func:`as_probabilities`, and any other labels are shifted.

    Args:
        labels: float of shape ``(n, classes)``.
        held: the kind of the labels.
        wanted: the kind of the result.

    Example:
        >>> import torch
        >>> as_kind(torch.tensor([[2.0, 1.0]]), "classes", "regression")
        tensor([[ 0.5000, -0.5000]])
    """
    if held == wanted:
        return labels
    meaning, num_classes = LABEL_KINDS[wanted], labels.shape[1]
    if "classes" in (held, wanted):
        return meaning.targets(labels.argmax(dim=1), num_classes).to(labels)
    if held == "regression":
        return as_probabilities(labels)
    offset = LABEL_KINDS[held].offset(num_classes)
    return labels - offset + meaning.offset(num_classes)


def _class_loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.argmax(dim=1))


LABEL_KINDS: Mapping[LabelKind, LabelMeaning] = {
    "regression": LabelMeaning(
        centred_targets, half_squared_error, lambda classes: -1 / classes
    ),
    "probabilities": LabelMeaning(one_hot, F.cross_entropy, lambda classes: 0.0),
    "classes": LabelMeaning(one_hot, _class_loss, lambda classes: 0.0),
}
"""The meaning of each kind. A further kind is one more entry here."""


def label_loss(logits: Tensor, labels: Tensor, kind: LabelKind) -> Tensor:
    """Return the loss for a kind of labels, averaged over the images."""
    return LABEL_KINDS[kind].loss(logits, labels)
