"""Training networks: recipes, labels per view, networks that are kept."""

from dd_plugins.training.recipes import Recipe
from dd_plugins.training.train import TrainingSet, accuracy, train_network

__all__ = ["Recipe", "TrainingSet", "accuracy", "train_network"]
