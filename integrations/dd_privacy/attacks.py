"""Membership-inference attacks: from what an attacker sees to a score for each example.

An attack is told of the audited run what its threat model grants, and of reference runs
(shadow runs: the same mechanism on other members) everything. The higher the score of
an example, the more it looks like a member.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

import dd_plugins
from dd_plugins.api import OptionError

__all__ = [
    "RMIA",
    "AbstractAttack",
    "Entropy",
    "Evidence",
    "FeatureDistance",
    "LiRA",
    "LogisticRegression",
    "Loss",
    "ModifiedEntropy",
    "MultilayerPerceptron",
    "NearestNeighbours",
    "PixelDistance",
    "RandomForest",
    "Reference",
    "Seen",
    "ThreatModel",
    "confidence",
    "probabilities",
]

ThreatModel = Literal["images", "model", "both"]
"""What the attacker sees: the released images, a model trained on them, or both."""

_TINY = 1e-12
_SHARED_DEVIATION_BELOW = 64  # reference runs; LiRA's authors advise it
_FOLDS = 5
_FEWEST_RUNS = 2  # with an example, for a deviation
_FEWEST_KNOWN = 20  # members, and non-members, to train a classifier on


@dataclass(frozen=True)
class Seen:
    """What one run shows of each of ``n`` examples.

    Attributes:
        outputs: float32 ``(n, classes)``: what a model trained on the released images
            makes of them, before any softmax.
        pixel_distance: float32 ``(n,)``: the Euclidean distance to the nearest released
            image, in the value space; None where no images are released.
        feature_distance: the same in the model's features, each of unit length.
    """

    outputs: Tensor
    pixel_distance: Tensor | None = None
    feature_distance: Tensor | None = None


@dataclass(frozen=True)
class Reference:
    """A shadow run: what it shows, and who its members were.

    Attributes:
        seen: of all examples.
        members: bool ``(n,)``.
    """

    seen: Seen
    members: Tensor


@dataclass(frozen=True)
class Evidence:
    """All that an attacker has.

    Attributes:
        target: what the audited run shows.
        labels: int64 ``(n,)``: the class that each example is presented with.
        known: bool ``(n,)``: examples whose membership the attacker knows.
        members: bool ``(n,)``: that membership; False for the others.
        population: bool ``(n,)``: examples that no run ever had as members.
        references: shadow runs.
        seed: of what is drawn.
        scored: bool ``(n,)``: examples whose score is asked for; None for all. The
            others need a score of any value.
    """

    target: Seen
    labels: Tensor
    known: Tensor
    members: Tensor
    population: Tensor
    references: Sequence[Reference] = ()
    seed: int = 0
    scored: Tensor | None = None


def confidence(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the logarithm of the odds of each example's class.

    ``log p_y - log(sum of the others' p)``, equation (1) and appendix B of Carlini et
    al. (2022), from outputs, not probabilities: nothing is lost near 0 and 1.

    Args:
        outputs: shape ``(n, classes)``.
        labels: int64 of shape ``(n,)``.

    Returns:
        float64 of shape ``(n,)``.
    """
    found = outputs.double()
    own = found.gather(1, labels[:, None])
    others = found.scatter(1, labels[:, None], -torch.inf)
    return (own[:, 0] - others.logsumexp(dim=1)).clamp(-1e6, 1e6)


def probabilities(outputs: Tensor) -> Tensor:
    """Return the softmax of outputs, float64 of shape ``(n, classes)``."""
    return outputs.double().softmax(dim=1)


class AbstractAttack(dd_plugins.Record, ABC):
    """A membership-inference attack.

    A subclass is a frozen record of its options (see :func:`dd_plugins.record`),
    registered by the hook ``dd_register_attacks`` under ``name``.
    """

    @property
    @abstractmethod
    def threat_model(self) -> ThreatModel:
        """What the attacker must see of the audited run."""

    @property
    def references_needed(self) -> int:
        """How many shadow runs there must be at least; none here."""
        return 0

    @property
    def learns_from_known(self) -> bool:
        """Whether scores are learned from known examples; areas leave these out then.

        Scores of these can only be cross-validated, and the folds depend on each other.
        """
        return False

    @abstractmethod
    def scores(self, evidence: Evidence) -> Tensor:
        """Return a score for each example, higher for likelier members.

        Args:
            evidence: what the attacker has. Who was a member of the audited run is
                told for known examples alone.

        Returns:
            float64 of shape ``(n,)``, finite.
        """


class _OnModel(AbstractAttack):
    """An attack on a model trained on the released images."""

    @property
    def threat_model(self) -> ThreatModel:
        """A model."""
        return "model"


@dd_plugins.record
class Loss(_OnModel):
    """The cross-entropy of an example: members have lower ones (Yeom et al. 2018)."""

    name = "loss"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative loss, on the scale of :func:`confidence`."""
        return confidence(evidence.target.outputs, evidence.labels)


@dd_plugins.record
class Entropy(_OnModel):
    """The entropy of the prediction: members have lower ones (Salem et al. 2019)."""

    name = "entropy"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative entropy, in nats."""
        found = probabilities(evidence.target.outputs)
        return (found * found.clamp_min(_TINY).log()).sum(dim=1)


@dd_plugins.record
class ModifiedEntropy(_OnModel):
    """Entropy that knows the class: equation (8) of Song and Mittal (2021)."""

    name = "modified_entropy"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative modified entropy, in nats."""
        found = probabilities(evidence.target.outputs)
        own = torch.nn.functional.one_hot(evidence.labels, found.shape[1]).bool()
        right = torch.where(own, found, 1 - found).clamp_min(_TINY)
        wrong = torch.where(own, 1 - found, found)
        return (wrong * right.log()).sum(dim=1)


@dd_plugins.record
class PixelDistance(AbstractAttack):
    """The distance to the nearest released image, pixel by pixel."""

    name = "pixel_distance"

    @property
    def threat_model(self) -> ThreatModel:
        """The released images."""
        return "images"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative distance."""
        return -_signal(evidence.target, evidence.labels, "pixel_distance")


@dd_plugins.record
class FeatureDistance(AbstractAttack):
    """The distance to the nearest released image in features.

    The features are those of a network that was trained on the released images alone.
    """

    name = "feature_distance"

    @property
    def threat_model(self) -> ThreatModel:
        """The released images."""
        return "images"

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the negative distance."""
        return -_signal(evidence.target, evidence.labels, "feature_distance")


Signal = Literal["confidence", "pixel_distance", "feature_distance"]


def _signal(seen: Seen, labels: Tensor, signal: Signal) -> Tensor:
    """Return one number for each example, float64 of shape ``(n,)``."""
    if signal == "confidence":
        return confidence(seen.outputs, labels)
    found: Tensor | None = getattr(seen, signal)
    if found is None:
        raise OptionError(f"{signal}: no images are released, there is no distance")
    return found.double()


@dd_plugins.record
class LiRA(AbstractAttack):
    """The likelihood ratio of a signal under membership and without it.

    Each example has a Gaussian for the runs that had it as a member and one for those
    that did not. With fewer than 64 shadow runs all examples share the deviations.

    Args:
        online: whether shadow runs with the example are used; without, the score is
            how far the signal lies from the runs that had not seen the example.
        signal: what is compared: the confidence in the example's class, or a distance
            to the released images.

    Reference: Carlini et al., "Membership Inference Attacks From First Principles"
    (2022), algorithm 1.

    Differences: the offline score is the one-sided one of the paper, as a number of
    deviations; the released code takes the two-sided density. One query an example.
    """

    name = "lira"

    online: bool = True
    signal: Signal = "confidence"

    @property
    def threat_model(self) -> ThreatModel:
        """A model, or the images if the signal is a distance."""
        return "model" if self.signal == "confidence" else "images"

    @property
    def references_needed(self) -> int:
        """Two with each example and two without."""
        return 4 if self.online else 2

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the logarithm of the ratio, or the deviations from non-membership."""
        own = _signal(evidence.target, evidence.labels, self.signal)
        found = torch.stack(
            [
                _signal(reference.seen, evidence.labels, self.signal)
                for reference in evidence.references
            ]
        )
        members = torch.stack([each.members for each in evidence.references])
        counts = members[:, ~evidence.population].sum(dim=0)
        least = min(int(counts.min()), len(members) - int(counts.max()))
        if self.online and least < _FEWEST_RUNS:
            raise OptionError(
                f"lira needs {_FEWEST_RUNS} shadow runs with each example and as many "
                f"without, there are {least}"
            )
        outside, spread_outside = _gaussian(found, ~members)
        if not self.online:
            score = (own - outside) / spread_outside
            return -score if self.signal != "confidence" else score
        inside, spread_inside = _gaussian(found, members)
        return _log_density(own, inside, spread_inside) - _log_density(
            own, outside, spread_outside
        )


def _gaussian(values: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation over the chosen runs, for each example.

    Examples without a chosen run get the mean of all examples.
    """
    kept = values.masked_fill(~chosen, torch.nan)
    mean = kept.nanmean(dim=0)
    centred = kept - mean
    counts = chosen.sum(dim=0)
    squares = centred.square().nan_to_num(0.0).sum(dim=0)
    if len(values) < _SHARED_DEVIATION_BELOW:
        freedom = (counts - 1).clamp_min(0).sum().clamp_min(1)
        deviation = (squares.sum() / freedom).sqrt().expand_as(mean)
    else:
        deviation = (squares / (counts - 1).clamp_min(1)).sqrt()
    return mean.nan_to_num(float(mean.nanmean())), deviation.clamp_min(_TINY)


def _log_density(values: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    return -0.5 * ((values - mean) / deviation).square() - deviation.log()


@dd_plugins.record
class RMIA(_OnModel):
    """How many examples of the population an example's likelihood ratio dominates.

    Args:
        gamma: by which factor it must be greater.
        scale: ``a`` of the paper, by which the mean confidence over all models is told
            from that over models without the example, in [0, 1]; by default it is
            chosen on one shadow run, audited with the others.

    Reference: Zarifzadeh, Liu and Shokri, "Low-Cost High-Power Membership Inference
    Attacks" (2024), offline; equations (2), (5) and (10).
    """

    name = "rmia"

    gamma: PositiveFloat = 1.0
    scale: Annotated[float, Field(ge=0, le=1)] | None = None

    @property
    def references_needed(self) -> int:
        """One; two where the scale is chosen."""
        return 1 if self.scale is not None else 2

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the part of the population that is dominated, in [0, 1]."""
        if not bool(evidence.population.any()):
            raise OptionError("rmia needs examples that are never members")
        scale = self.scale
        if scale is None:
            scale = self._chosen_scale(evidence)
        return self._dominated(evidence, scale)

    def _dominated(self, evidence: Evidence, scale: float) -> Tensor:
        own = self._of_class(evidence.target, evidence)
        found = torch.stack(
            [self._of_class(each.seen, evidence) for each in evidence.references]
        )
        members = torch.stack([each.members for each in evidence.references])
        without = found.masked_fill(members, torch.nan).nanmean(dim=0)
        without = without.nan_to_num(float(without.nanmean()))
        expected = (1 + scale) / 2 * without + (1 - scale) / 2
        ratios = (own / expected.clamp_min(_TINY)).log()
        others = ratios[evidence.population].sort().values - np.log(1 / self.gamma)
        below = torch.searchsorted(others, ratios.contiguous())
        # Examples that dominate as many are told apart by their own ratio.
        return (below + torch.sigmoid(ratios)) / (len(others) + 1)

    @staticmethod
    def _of_class(seen: Seen, evidence: Evidence) -> Tensor:
        return probabilities(seen.outputs).gather(1, evidence.labels[:, None])[:, 0]

    def _chosen_scale(self, evidence: Evidence) -> float:
        from sklearn.metrics import roc_auc_score

        first, *others = evidence.references
        trial = replace(evidence, target=first.seen, references=others)
        truth = first.members[~evidence.population].numpy()
        if truth.all() or not truth.any():
            return 0.5

        def area(scale: float) -> float:
            found = self._dominated(trial, scale)[~evidence.population]
            return float(roc_auc_score(truth, found.numpy()))

        return max((step / 10 for step in range(11)), key=area)


@dd_plugins.record
class _Classifier(AbstractAttack):
    """A classifier that is trained to tell members from non-members.

    It is trained on examples whose membership the attacker knows; these themselves are
    scored by cross-validation. What it sees of an example are the outputs, sorted, the
    confidence in its class and the two entropies, and the distances to the
    released images as well where ``threat`` is ``"both"``.

    Args:
        threat: ``"model"`` or ``"both"``.
    """

    threat: Literal["model", "both"] = "model"

    @property
    def threat_model(self) -> ThreatModel:
        """A model, or the images as well."""
        return self.threat

    @property
    def learns_from_known(self) -> bool:
        """It does."""
        return True

    @abstractmethod
    def classifier(self, seed: int) -> Any:
        """Return a classifier of scikit-learn that gives probabilities."""

    def scores(self, evidence: Evidence) -> Tensor:
        """Return the probability of membership."""
        from sklearn.model_selection import StratifiedKFold, cross_val_predict
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        features = self._features(evidence).numpy()
        known = evidence.known.numpy()
        truth = evidence.members.numpy()[known]
        if min(truth.sum(), (~truth).sum()) < _FEWEST_KNOWN:
            raise OptionError(
                f"{self.name} needs {_FEWEST_KNOWN} known members and as many "
                "non-members"
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
        outputs = evidence.target.outputs.double()
        columns = [
            outputs.sort(dim=1, descending=True).values,
            Loss().scores(evidence)[:, None],
            Entropy().scores(evidence)[:, None],
            ModifiedEntropy().scores(evidence)[:, None],
        ]
        if self.threat == "both":
            for signal in get_args(Signal)[1:]:
                found = _signal(evidence.target, evidence.labels, signal)
                columns.append(found[:, None])
        return torch.cat(columns, dim=1)


@dd_plugins.record
class LogisticRegression(_Classifier):
    """Logistic regression of membership on what a model makes of an example."""

    name = "logistic_regression"

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's."""
        from sklearn.linear_model import LogisticRegression as Classifier

        return Classifier(max_iter=1000, random_state=seed)


@dd_plugins.record
class MultilayerPerceptron(_Classifier):
    """A perceptron with a hidden layer, on what a model makes of an example.

    Args:
        width: units of the hidden layer.
    """

    name = "multilayer_perceptron"

    width: PositiveInt = 64

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's, stopped early."""
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier((self.width,), early_stopping=True, random_state=seed)


@dd_plugins.record
class RandomForest(_Classifier):
    """A random forest, on what a model makes of an example.

    Args:
        trees: how many.
    """

    name = "random_forest"

    trees: PositiveInt = 100

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's, with leaves of ten examples or more."""
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(
            self.trees, min_samples_leaf=10, random_state=seed
        )


@dd_plugins.record
class NearestNeighbours(_Classifier):
    """Nearest neighbours, on what a model makes of an example.

    Args:
        neighbours: how many vote, at most 20.
    """

    name = "nearest_neighbours"

    neighbours: Annotated[int, Field(ge=1, le=_FEWEST_KNOWN)] = 20

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's."""
        del seed
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(self.neighbours)


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
HOOK = "dd_register_attacks"
