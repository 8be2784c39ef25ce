"""The attack by the loss, against the cross-entropy of torch."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from attack_evidence import by_hand, evidence

from dd_privacy.audit.attacks import Loss, Observations


def test_a_score_is_the_log_odds_of_the_class_by_hand() -> None:
    given, _ = evidence(5)
    found = Loss().scores(given)
    for row, label, score in zip(
        given.target.outputs.double(), given.labels, found, strict=True
    ):
        own = float(row.softmax(dim=0)[label])
        wanted = math.log(own) - math.log(1 - own)
        assert float(score) == pytest.approx(wanted, rel=1e-9)


def test_scores_are_the_negative_cross_entropy_on_another_scale() -> None:
    given, _ = evidence(200)
    losses = F.cross_entropy(
        given.target.outputs.double(), given.labels, reduction="none"
    )
    found = Loss().scores(given)
    # log(p / (1 - p)) of the probability p = exp(-loss).
    torch.testing.assert_close(found, -losses.expm1().log(), rtol=1e-9, atol=1e-9)
    assert torch.equal(found.argsort(), losses.argsort(descending=True))


def test_scores_go_on_where_cross_entropies_are_all_zero() -> None:
    given = by_hand([40.0, 60.0, 800.0])
    losses = F.cross_entropy(given.target.outputs, given.labels, reduction="none")
    assert losses.tolist() == pytest.approx([0, 0, 0], abs=1e-15)
    assert Loss().scores(given).tolist() == [40.0, 60.0, 800.0]


def test_the_names_of_classes_do_not_matter() -> None:
    given, _ = evidence(60)
    order = torch.tensor([2, 0, 3, 1])
    renamed = replace(
        given,
        target=Observations(given.target.outputs[:, order]),
        labels=order.argsort()[given.labels],
    )
    torch.testing.assert_close(Loss().scores(renamed), Loss().scores(given))


def test_a_wrong_label_has_a_low_score() -> None:
    given = by_hand([5.0, 1.0, 0.0, -1.0, -5.0])
    wrong = replace(given, labels=1 - given.labels)
    assert torch.equal(Loss().scores(wrong), -Loss().scores(given))
