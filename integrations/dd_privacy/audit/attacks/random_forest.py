"""The attack by a random forest."""

from typing import Any

from pydantic import PositiveInt

import dd_plugins
from dd_privacy.audit.attacks.classifier import AbstractClassifierAttack

__all__ = ["RandomForest"]


@dd_plugins.record
class RandomForest(AbstractClassifierAttack):
    """A random forest on a model's outputs for an example.

    Args:
        trees: the number of trees.
    """

    name = "random_forest"

    trees: PositiveInt = 100

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's random forest, with at least ten examples per leaf."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(
            self.trees, min_samples_leaf=10, random_state=seed
        )
