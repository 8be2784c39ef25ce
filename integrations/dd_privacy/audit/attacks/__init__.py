"""Membership-inference attacks, one per file."""

from collections.abc import Sequence

from dd_privacy.audit.attacks.base import (
    AbstractAttack,
    AbstractModelAttack,
    Evidence,
    Observations,
    Reference,
    ThreatModel,
)
from dd_privacy.audit.attacks.classifier import AbstractClassifierAttack
from dd_privacy.audit.attacks.entropy import Entropy
from dd_privacy.audit.attacks.feature_distance import FeatureDistance
from dd_privacy.audit.attacks.lira import LiRA
from dd_privacy.audit.attacks.logistic_regression import LogisticRegression
from dd_privacy.audit.attacks.lookup import HOOK, attack_names, get_attack
from dd_privacy.audit.attacks.loss import Loss
from dd_privacy.audit.attacks.modified_entropy import ModifiedEntropy
from dd_privacy.audit.attacks.multilayer_perceptron import MultilayerPerceptron
from dd_privacy.audit.attacks.nearest_neighbours import NearestNeighbours
from dd_privacy.audit.attacks.pixel_distance import PixelDistance
from dd_privacy.audit.attacks.random_forest import RandomForest
from dd_privacy.audit.attacks.rmia import RMIA
from dd_privacy.audit.attacks.signals import confidence, probabilities

__all__ = [
    "BUILT_IN",
    "HOOK",
    "RMIA",
    "AbstractAttack",
    "AbstractClassifierAttack",
    "AbstractModelAttack",
    "Entropy",
    "Evidence",
    "FeatureDistance",
    "LiRA",
    "LogisticRegression",
    "Loss",
    "ModifiedEntropy",
    "MultilayerPerceptron",
    "NearestNeighbours",
    "Observations",
    "PixelDistance",
    "RandomForest",
    "Reference",
    "ThreatModel",
    "attack_names",
    "confidence",
    "get_attack",
    "probabilities",
]

BUILT_IN: Sequence[type[AbstractAttack]] = (
    Loss,
    Entropy,
    ModifiedEntropy,
    LogisticRegression,
    MultilayerPerceptron,
    RandomForest,
    NearestNeighbours,
    LiRA,
    RMIA,
    PixelDistance,
    FeatureDistance,
)
"""The attacks of this integration."""
