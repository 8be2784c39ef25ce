"""What the files of a released set hold, whoever has written them."""

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

__all__ = ["Released", "SpaceHint"]

SpaceHint = Literal["pixels", "published", "zca", "unknown"]
"""The space that a layout tells: pixels, pixels that were standardised by the numbers
of the papers, FRePo's whitened space, or none."""


@dataclass(frozen=True)
class Released:
    """The tensors of a released set.

    Attributes:
        layout: whose files they are, for people.
        images: as they stand in the file.
        labels: classes or scores.
        space: what the layout says of the values.
        scores: what scores are: ``"logits"`` in the files of trajectory matching,
            ``"regression"`` targets in those of FRePo and RCIG.
        learning_rate: the step size that was learned; None if there is none.
    """

    layout: str
    images: Tensor
    labels: Any
    space: SpaceHint
    scores: Literal["logits", "regression"] = "logits"
    learning_rate: float | None = None
