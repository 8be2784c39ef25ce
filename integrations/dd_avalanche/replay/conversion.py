"""Conversion of a distilled set to a data set of Avalanche."""

import warnings
from typing import Any

import torch

import dd_plugins
from dd_avalanche.extra import EXTRA
from dd_plugins.api import MissingExtraError

__all__ = ["require_avalanche", "to_avalanche"]


def require_avalanche() -> None:
    """Import Avalanche, or name the package to install.

    Raises:
        MissingExtraError: it is not installed, or not compatible with other packages.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # those of its many dependencies
            import avalanche.benchmarks
            import avalanche.training.plugins  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        raise MissingExtraError(
            f"dd_avalanche needs avalanche-lib: pip install '{EXTRA}' ({error})"
        ) from error


def to_avalanche(distilled: dd_plugins.DistilledSet) -> Any:
    """Return a distilled set as an ``AvalancheDataset`` of ``(image, class)``.

    Images are in the value space of the model. The label of an image is its initial
    class. ``targets`` repeats the labels for Avalanche's class-balanced buffers.

    Args:
        distilled: the set.

    Raises:
        MissingExtraError: avalanche-lib is not installed.
    """
    require_avalanche()
    from avalanche.benchmarks.utils import as_classification_dataset

    classes = torch.tensor(distilled.header.initial_classes)
    dataset = torch.utils.data.TensorDataset(distilled.images, classes)
    dataset.targets = classes.tolist()  # type: ignore[attr-defined]
    return as_classification_dataset(dataset)
