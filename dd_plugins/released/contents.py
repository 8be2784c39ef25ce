"""The content of a released set's files, in one form for all layouts."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from dd_plugins.errors import FileError

__all__ = ["Released", "SpaceHint", "refuse_export"]

_OF_EXPORTS = {"header", "transform_mean"}

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


def refuse_export(file: Path, names: Collection[str]) -> None:
    """Refuse a file that dd-plugins itself has exported.

    Its images are in a value space that no option of the import names.

    Args:
        file: the file, for the message.
        names: the names of its tensors.

    Raises:
        FileError: it is such an export.
    """
    if set(names) >= _OF_EXPORTS:
        raise FileError(
            f"{file} is an export of dd-plugins; every command reads the artifact that "
            "it was made from, without an import"
        )
