"""The attack by a perceptron with a hidden layer."""

from typing import Any

from pydantic import PositiveInt

import dd_plugins
from dd_privacy.audit.attacks.classifier import AbstractClassifierAttack

__all__ = ["MultilayerPerceptron"]


@dd_plugins.record
class MultilayerPerceptron(AbstractClassifierAttack):
    """A perceptron with a hidden layer, on a model's outputs for an example.

    Args:
        width: the number of units of the hidden layer.
    """

    name = "multilayer_perceptron"

    width: PositiveInt = 64

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's perceptron, with early stopping."""
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier((self.width,), early_stopping=True, random_state=seed)
