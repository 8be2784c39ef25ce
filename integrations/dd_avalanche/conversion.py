"""From a distilled set to a data set of Avalanche."""

from typing import Any

import dd_plugins
from dd_plugins.errors import MissingExtraError

__all__ = ["EXTRA", "to_avalanche"]

EXTRA = "dd-plugins[avalanche]"
"""What to install for this integration to be of use."""


def to_avalanche(distilled: dd_plugins.DistilledSet) -> Any:
    """Return a distilled set as an ``AvalancheDataset`` of ``(image, class)``.

    Images are in the value space of the model, labels the class that each image began
    as, also as ``targets``, which Avalanche's class-balanced buffers need.

    Args:
        distilled: the set.

    Raises:
        MissingExtraError: avalanche-lib is not installed.
    """
    try:
        from avalanche.benchmarks.utils import as_classification_dataset
    except ImportError as error:
        raise MissingExtraError(
            f"dd_avalanche needs avalanche-lib: pip install '{EXTRA}'"
        ) from error
    import torch

    classes = torch.tensor(distilled.header.initial_classes)
    dataset = torch.utils.data.TensorDataset(distilled.images, classes)
    dataset.targets = classes.tolist()  # type: ignore[attr-defined]
    return as_classification_dataset(dataset)
