"""The attack by an entropy that knows the class, against numpy."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from attack_evidence import CLASSES, by_hand, evidence
from scipy.special import softmax

from dd_privacy.audit.attacks import Entropy, ModifiedEntropy


def test_scores_by_the_equation_of_the_paper() -> None:
    given, _ = evidence(200)
    p = softmax(given.target.outputs.double().numpy(), axis=1)
    own = np.eye(CLASSES, dtype=bool)[given.labels]
    right = p[own]
    others = np.where(own, 0.0, p * np.log1p(-p)).sum(axis=1)
    wanted = (1 - right) * np.log(right) + others
    np.testing.assert_allclose(ModifiedEntropy().scores(given), wanted, rtol=1e-8)


def test_of_two_classes_both_terms_are_alike() -> None:
    given = by_hand([-3.0, 0.0, 0.5, 4.0])
    right = given.target.pixel_distance.sigmoid()  # type: ignore[union-attr]
    wanted = 2 * (1 - right) * right.log()
    torch.testing.assert_close(ModifiedEntropy().scores(given), wanted)


def test_a_sure_mistake_is_told_from_a_sure_hit() -> None:
    given = by_hand([60.0, -60.0])
    assert Entropy().scores(given).tolist() == pytest.approx([0, 0], abs=1e-9)
    right, wrong = ModifiedEntropy().scores(given).tolist()
    assert right == pytest.approx(0, abs=1e-9)
    # Both logarithms end at that of the smallest probability.
    assert wrong == pytest.approx(2 * math.log(1e-12), rel=1e-3)


def test_scores_rise_with_the_probability_of_the_class() -> None:
    found = ModifiedEntropy().scores(by_hand(torch.linspace(-8, 8, 200)))
    assert (found.diff() > 0).all()


def test_scores_fall_with_a_wrong_class_at_the_cost_of_another() -> None:
    """It is better to be torn between all other classes than to be sure of one."""
    given, _ = evidence(2)
    probabilities = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.4, 0.58, 0.01, 0.01]])
    seen = dataclasses.replace(given.target, outputs=probabilities.log())
    zeros = torch.zeros(2, dtype=torch.int64)
    torn, sure = ModifiedEntropy().scores(
        dataclasses.replace(given, target=seen, labels=zeros)
    )
    assert torn > sure
