"""The attack by logistic regression."""

import dataclasses

import numpy as np
import torch
from attack_evidence import area_of, evidence, reordered
from scipy.special import logit
from sklearn.linear_model import LogisticRegression as Classifier

from dd_privacy.audit.attacks import LogisticRegression


def test_the_classifier_is_that_of_scikit_learn_with_the_seed() -> None:
    model = LogisticRegression().classifier(5)
    assert type(model) is Classifier
    assert (model.random_state, model.max_iter) == (5, 1000)


def test_a_single_threshold_that_tells_members_is_learned() -> None:
    assert area_of(LogisticRegression(), 6.0) > area_of(LogisticRegression(), 1.0) > 0.5


def test_where_members_have_lower_confidence_they_are_found_as_well() -> None:
    """A threshold on the loss would call the others members."""
    assert area_of(LogisticRegression(), -6.0) > 0.8


def test_unknown_examples_are_scored_alike_in_any_order() -> None:
    given, _ = evidence(200, gain=1.0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    found = LogisticRegression().scores(reordered(given, order))
    unknown = ~given.known[order]
    wanted = LogisticRegression().scores(given)[order]
    torch.testing.assert_close(found[unknown], wanted[unknown], rtol=0, atol=1e-3)


def test_members_called_the_others_turn_the_odds_round() -> None:
    given, _ = evidence(200, gain=2.0)
    turned = dataclasses.replace(given, members=given.known & ~given.members)
    unknown = ~given.known
    found, wanted = (
        logit(LogisticRegression().scores(each)[unknown].numpy())
        for each in (turned, given)
    )
    np.testing.assert_allclose(found, -wanted, rtol=1e-2, atol=1e-2)
