"""The attack by nearest neighbours, against all distances by numpy."""

import dataclasses

import numpy as np
import pytest
import torch
from attack_evidence import evidence
from scipy.spatial.distance import cdist
from sklearn.neighbors import KNeighborsClassifier

from dd_privacy.audit.attacks import Entropy, Loss, ModifiedEntropy, NearestNeighbours


@pytest.mark.parametrize("neighbours", [1, 7, 20])
def test_unknown_examples_have_the_votes_of_the_nearest_known_ones(
    neighbours: int,
) -> None:
    given, _ = evidence(200, gain=1.0)
    features = np.concatenate(
        [
            given.target.outputs.double().sort(dim=1).values,
            *(
                attack.scores(given)[:, None]
                for attack in (Loss(), Entropy(), ModifiedEntropy())
            ),
        ],
        axis=1,
    )
    known = given.known.numpy()
    learned = features[known]
    apart = cdist(
        *(
            (each - learned.mean(axis=0)) / learned.std(axis=0)
            for each in (features, learned)
        )
    )
    nearest = apart.argsort(axis=1)[:, :neighbours]
    wanted = given.members.numpy()[known][nearest].mean(axis=1)
    found = NearestNeighbours(neighbours=neighbours).scores(given).numpy()
    np.testing.assert_allclose(found[~known], wanted[~known])


def test_each_neighbour_has_one_vote() -> None:
    given, _ = evidence(200, gain=1.0)
    votes = 4 * NearestNeighbours(neighbours=4).scores(given)
    torch.testing.assert_close(votes, votes.round())
    assert set(votes.round().tolist()) == {0.0, 1.0, 2.0, 3.0, 4.0}


def test_the_classifier_draws_nothing() -> None:
    first, second = (
        NearestNeighbours(neighbours=3).classifier(seed) for seed in (0, 1)
    )
    assert type(first) is KNeighborsClassifier
    assert first.get_params() == second.get_params()
    assert first.n_neighbors == 3


def test_the_seed_decides_about_folds_alone() -> None:
    given, _ = evidence(200, gain=1.0)
    first, other = (
        NearestNeighbours().scores(dataclasses.replace(given, seed=seed))
        for seed in (0, 1)
    )
    assert torch.equal(first[~given.known], other[~given.known])
    assert not torch.equal(first[given.known], other[given.known])
