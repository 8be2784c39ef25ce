"""The attack by a random forest."""

import dataclasses

import pytest
import torch
from attack_evidence import evidence
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import roc_auc_score

from dd_privacy.audit.attacks import LogisticRegression, RandomForest


@pytest.mark.parametrize("trees", [1, 100])
def test_the_classifier_is_that_of_scikit_learn_with_as_many_trees(trees: int) -> None:
    model = RandomForest(trees=trees).classifier(4)
    assert type(model) is RandomForestClassifier
    assert (model.n_estimators, model.random_state) == (trees, 4)


def test_no_leaf_is_of_fewer_than_ten_examples() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(400, 2, generator=generator).numpy()
    by_chance = torch.rand(400, generator=generator).numpy() < 0.5
    model = RandomForest(trees=5).classifier(0).fit(features, by_chance)
    fewest = [
        each.tree_.n_node_samples[each.tree_.children_left == -1].min()
        for each in model.estimators_
    ]
    assert min(fewest) == 10, "what chance decides about is parted as far as allowed"


def test_scores_are_probabilities_that_the_seed_decides() -> None:
    given, _ = evidence(200, gain=1.0)
    attack = RandomForest(trees=4)
    found = attack.scores(given)
    assert ((found >= 0) & (found <= 1)).all()
    assert torch.equal(attack.scores(given), found)
    other = attack.scores(dataclasses.replace(given, seed=given.seed + 1))
    assert not torch.equal(other, found)


def test_members_between_two_bounds_are_found_where_no_line_parts_them() -> None:
    given, _ = evidence(600, gain=0.0)
    generator = torch.Generator().manual_seed(2)
    distances = torch.rand(600, generator=generator)
    members = (distances > 1 / 3) & (distances < 2 / 3)
    seen = dataclasses.replace(given.target, pixel_distance=distances)
    given = dataclasses.replace(given, target=seen, members=members & given.known)
    unknown = ~given.known
    forest, line = (
        roc_auc_score(members[unknown], attack.scores(given)[unknown])
        for attack in (
            RandomForest(threat="both", trees=20),
            LogisticRegression(threat="both"),
        )
    )
    assert forest > 0.9
    assert line < 0.65
