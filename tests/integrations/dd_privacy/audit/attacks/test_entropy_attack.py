"""The attack by the entropy of a prediction, against scipy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from attack_evidence import CLASSES, evidence
from scipy.special import softmax
from scipy.stats import entropy

from dd_privacy.audit.attacks import Entropy, Evidence, Observations


def with_outputs(outputs: torch.Tensor) -> Evidence:
    given, _ = evidence(len(outputs))
    return dataclasses.replace(given, target=Observations(outputs))


def test_scores_are_negative_entropies_in_nats() -> None:
    given, _ = evidence(200)
    p = softmax(given.target.outputs.double().numpy(), axis=1)
    np.testing.assert_allclose(Entropy().scores(given), -entropy(p, axis=1), rtol=1e-9)


def test_an_entropy_lies_between_that_of_chance_and_that_of_certainty() -> None:
    outputs = torch.zeros(3, CLASSES)
    outputs[1, 2] = 5.0
    outputs[2, 0] = 2e4
    chance, between, certain = Entropy().scores(with_outputs(outputs)).tolist()
    assert chance == pytest.approx(-math.log(CLASSES))
    assert chance < between < certain
    assert certain == 0.0


def test_two_classes_that_are_as_likely_have_one_bit() -> None:
    outputs = torch.tensor([[300.0, 300.0, 0.0, 0.0]])
    (found,) = Entropy().scores(with_outputs(outputs)).tolist()
    assert found == pytest.approx(-math.log(2))


def test_labels_do_not_count() -> None:
    given, _ = evidence(50)
    wrong = dataclasses.replace(given, labels=(given.labels + 1) % CLASSES)
    assert torch.equal(Entropy().scores(wrong), Entropy().scores(given))


def test_a_sharper_prediction_is_likelier_of_a_member() -> None:
    given, _ = evidence(50)
    sharper = with_outputs(2 * given.target.outputs)
    assert (Entropy().scores(sharper) > Entropy().scores(given)).all()
