"""What attacks by a trained classifier share."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from attack_evidence import evidence
from scipy.special import logit, softmax
from scipy.stats import entropy
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

import dd_plugins
from dd_plugins.errors import OptionError
from dd_privacy.audit.attacks import (
    AbstractAttack,
    AbstractClassifierAttack,
    Evidence,
    LogisticRegression,
    MultilayerPerceptron,
    NearestNeighbours,
    Observations,
    RandomForest,
)


@pytest.mark.parametrize(
    "attack",
    [
        LogisticRegression(),
        LogisticRegression(threat="both"),
        MultilayerPerceptron(width=8),
        RandomForest(trees=5),
        NearestNeighbours(),
    ],
)
def test_classifiers_do_not_score_what_they_were_trained_on(
    attack: AbstractAttack,
) -> None:
    given, members = evidence(400, gain=0.0, seed=3)
    found = attack.scores(given)
    known = given.known
    assert 0.35 < roc_auc_score(members[known], found[known]) < 0.65
    assert attack.threat_model == ("both" if "both" in repr(attack) else "model")


def features_of(given: Evidence, both: bool) -> np.ndarray[Any, Any]:
    """Return what a classifier learns from, by numpy and scipy."""
    outputs = given.target.outputs.double().numpy()
    p = softmax(outputs, axis=1)
    own = np.eye(p.shape[1], dtype=bool)[given.labels]
    right = p[own]
    modified = (1 - right) * np.log(right)
    modified += np.where(own, 0, p * np.log1p(-p)).sum(axis=1)
    columns = [
        *np.sort(outputs, axis=1)[:, ::-1].T,
        *(logit(right), -entropy(p, axis=1), modified),
    ]
    if both:
        columns += [given.target.pixel_distance, given.target.feature_distance]
    return np.stack([np.asarray(each, float) for each in columns], axis=1)


@pytest.mark.parametrize("both", [False, True])
def test_scores_by_a_regression_of_its_own(both: bool) -> None:
    given, _ = evidence(300, gain=2.0, seed=5)
    features = features_of(given, both)
    known, truth = given.known.numpy(), given.members.numpy()

    def fitted(rows: Any) -> Any:
        mean, spread = features[rows].mean(axis=0), features[rows].std(axis=0)
        model = Reference(max_iter=1000).fit(
            (features[rows] - mean) / spread, truth[rows]
        )
        return lambda wanted: model.predict_proba((features[wanted] - mean) / spread)[
            :, 1
        ]

    wanted = np.empty(300)
    wanted[~known] = fitted(np.flatnonzero(known))(~known)
    folds = StratifiedKFold(5, shuffle=True, random_state=given.seed)
    at = np.flatnonzero(known)
    for learned, left in folds.split(features[at], truth[at]):
        wanted[at[left]] = fitted(at[learned])(at[left])
    attack = LogisticRegression(threat="both" if both else "model")
    np.testing.assert_allclose(attack.scores(given), wanted, rtol=1e-4, atol=1e-6)


def test_a_unit_of_distances_does_not_count() -> None:
    given, _ = evidence(200, gain=1.0)
    assert given.target.pixel_distance is not None
    seen = dataclasses.replace(
        given.target, pixel_distance=1000 * given.target.pixel_distance + 5
    )
    attack = LogisticRegression(threat="both")
    found = attack.scores(dataclasses.replace(given, target=seen))
    torch.testing.assert_close(found, attack.scores(given), rtol=0, atol=1e-3)


def test_distances_count_where_the_attacker_has_both() -> None:
    given, _ = evidence(200, gain=0.0)
    known = given.known
    told = torch.where(known, given.members, torch.rand(200) < 0.5).float()
    seen = dataclasses.replace(given.target, pixel_distance=1 - told)
    given = dataclasses.replace(given, target=seen)
    area = roc_auc_score(
        given.members[known], LogisticRegression(threat="both").scores(given)[known]
    )
    assert area == 1.0
    blind = LogisticRegression().scores(given)
    hidden = dataclasses.replace(given, target=Observations(given.target.outputs))
    assert torch.equal(LogisticRegression().scores(hidden), blind)
    with pytest.raises(OptionError, match="pixel_distance"):
        LogisticRegression(threat="both").scores(hidden)


@pytest.mark.parametrize(
    ("members", "others"), [(0, 60), (19, 60), (60, 19), (60, 0), (0, 0)]
)
def test_twenty_known_members_and_non_members_are_needed(
    members: int, others: int
) -> None:
    given, _ = evidence(200)
    known, inside = torch.arange(200) < members + others, torch.arange(200) < members
    given = dataclasses.replace(given, known=known, members=inside)
    with pytest.raises(
        OptionError, match=rf"logistic_regression .*20.*\b{members}\b.*\b{others}\b"
    ):
        LogisticRegression().scores(given)


def test_twenty_of_each_are_enough() -> None:
    given, _ = evidence(200)
    known, inside = torch.arange(200) < 40, torch.arange(200) < 20
    found = LogisticRegression().scores(
        dataclasses.replace(given, known=known, members=inside)
    )
    assert ((found > 0) & (found < 1)).all()


def test_examples_that_do_not_count_are_not_scored_and_change_nothing() -> None:
    given, _ = evidence(200, gain=1.0)
    everybody = LogisticRegression().scores(given)
    scored = torch.arange(200) % 2 == 0
    found = LogisticRegression().scores(dataclasses.replace(given, scored=scored))
    counted = scored | given.known
    assert torch.equal(found[counted], everybody[counted])
    assert (found[~counted] == 0).all()
    nobody = torch.zeros(200, dtype=torch.bool)
    alone = LogisticRegression().scores(dataclasses.replace(given, scored=nobody))
    assert torch.equal(alone[given.known], everybody[given.known])


def test_unknown_members_are_not_looked_at() -> None:
    given, members = evidence(200, gain=1.0)
    told = dataclasses.replace(given, members=members)  # as no audit does
    assert not torch.equal(told.members, given.members)
    found, wanted = (LogisticRegression().scores(each) for each in (told, given))
    assert torch.equal(found, wanted)


@dd_plugins.record
class Prior(AbstractClassifierAttack):
    """Knows how many are members, and nothing else."""

    name = "prior"

    def classifier(self, seed: int) -> Any:
        SEEDS.append(seed)
        return DummyClassifier(strategy="prior")


SEEDS: list[int] = []


def test_a_classifier_of_another_package_is_given_the_seed() -> None:
    given, _ = evidence(200, seed=7)
    SEEDS.clear()
    found = Prior().scores(given)
    assert SEEDS == [7]
    prior = float(given.members[given.known].double().mean())
    assert found[~given.known].tolist() == pytest.approx(
        [prior] * int((~given.known).sum())
    )
    assert (Prior().threat_model, Prior(threat="both").threat_model) == (
        "model",
        "both",
    )
    assert Prior().learns_from_known


def test_a_classifier_without_a_model_is_no_attack() -> None:
    with pytest.raises(TypeError, match="classifier"):
        AbstractClassifierAttack()  # type: ignore[abstract]
