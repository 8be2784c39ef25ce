"""The content of a released set's files, in one form for all layouts."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

__all__ = ["Released", "SpaceHint"]

SpaceHint = Literal["pixels", "published", "zca", "unknown"]
"""The value space by a layout: pixels, pixels standardised by the numbers of the
papers, FRePo's whitened space, or none."""


@dataclass(frozen=True)
class Released:
    """The tensors of a released set.

    Attributes:
        layout: the name of the files' layout, for display.
        images: as they are in the file.
        labels: classes or scores.
        space: the value space implied by the layout.
        scores: the kind of scores: ``"logits"`` in the files of trajectory matching,
            ``"regression"`` targets in those of FRePo and RCIG.
        learning_rate: the learned step size; None if there is none.
    """

    layout: str
    images: Tensor
    labels: Any
    space: SpaceHint
    scores: Literal["logits", "regression"] = "logits"
    learning_rate: float | None = None
