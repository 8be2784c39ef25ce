"""The base class of attacks by a trained classifier."""

from abc import abstractmethod
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import OptionError
from dd_privacy.audit.attacks.base import AbstractAttack, Evidence, ThreatModel
from dd_privacy.audit.attacks.signals import (
    Signal,
    confidence,
    negative_entropy,
    negative_modified_entropy,
    signal_of,
)

__all__ = ["FEWEST_KNOWN", "AbstractClassifierAttack"]

_FOLDS = 5


FEWEST_KNOWN = 20  # members, and non-members, to train a classifier on


@dd_plugins.record
class AbstractClassifierAttack(AbstractAttack):
    """A classifier trained to separate members from non-members.

    It is trained on the known examples, whose own scores come from cross-validation.
    Its features of an example are the sorted outputs, the confidence in its class, the
    two entropies, and with ``threat="both"`` the distances to the released images.

    Args:
        threat: the attacker's access, ``"model"`` or ``"both"``.
    """

    threat: Literal["model", "both"] = "model"

    @property
    def threat_model(self) -> ThreatModel:
        """The model, or the model and the images."""
        return self.threat

    @property
    def learns_from_known(self) -> bool:
        """Always True."""
        return True

    @abstractmethod
    def classifier(self, seed: int) -> Any:
        """Return a scikit-learn classifier able to predict probabilities."""

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the probability of membership."""
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        features = self._features(evidence).numpy()
        known = evidence.known.numpy()
        truth = evidence.members.numpy()[known]
        if min(truth.sum(), (~truth).sum()) < FEWEST_KNOWN:
            raise OptionError(
                f"{self.name} needs {FEWEST_KNOWN} known members and as many "
                f"non-members, got {truth.sum()} and {(~truth).sum()}"
            )
        model = make_pipeline(StandardScaler(), self.classifier(evidence.seed))
        folds = StratifiedKFold(_FOLDS, shuffle=True, random_state=evidence.seed)
        found = np.zeros(len(features))
        found[known] = cross_val_predict(
            model, features[known], truth, cv=folds, method="predict_proba"
        )[:, 1]
        model.fit(features[known], truth)
        rest = ~known if evidence.scored is None else evidence.scored.numpy() & ~known
        if rest.any():
            found[rest] = model.predict_proba(features[rest])[:, 1]
        return torch.from_numpy(found)

    def _features(self, evidence: Evidence) -> Tensor:
        outputs, labels = evidence.target.outputs.double(), evidence.labels
        columns = [
            outputs.sort(dim=1, descending=True).values,
            confidence(outputs, labels)[:, None],
            negative_entropy(outputs)[:, None],
            negative_modified_entropy(outputs, labels)[:, None],
        ]
        if self.threat == "both":
            for signal in get_args(Signal)[1:]:
                found = signal_of(evidence.target, labels, signal)
                columns.append(found[:, None])
        return torch.cat(columns, dim=1)
