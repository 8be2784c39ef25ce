"""The attack by logistic regression."""

from typing import Any

import dd_plugins
from dd_privacy.audit.attacks.classifier import AbstractClassifierAttack

__all__ = ["LogisticRegression"]


@dd_plugins.record
class LogisticRegression(AbstractClassifierAttack):
    """Logistic regression on a model's outputs for an example."""

    name = "logistic_regression"

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's logistic regression."""
        from sklearn.linear_model import LogisticRegression as Classifier

        return Classifier(max_iter=1000, random_state=seed)
