"""Training networks: recipes, labels of views, kept networks."""

from typing import TYPE_CHECKING

from dd_plugins.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from dd_plugins.training.outputs import accuracy
    from dd_plugins.training.recipes import Recipe
    from dd_plugins.training.train import TrainingSet, train_network
else:
    __getattr__ = lazy_names(__name__)

__all__ = ["Recipe", "TrainingSet", "accuracy", "train_network"]
