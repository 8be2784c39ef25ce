"""Kinds of labels: targets, losses and further classes, against values by hand."""

import math
from typing import get_args

import pytest
import torch

from dd_plugins.synthetic.labels import (
    LABEL_KINDS,
    LabelKind,
    as_kind,
    as_probabilities,
    label_loss,
    one_hot,
)

KINDS = get_args(LabelKind)
CLASSES = torch.tensor([2, 0])
LOGITS = torch.tensor([[0.0, 1.0, 2.0], [math.log(2.0), 0.0, 0.0]]).double()


def test_every_kind_has_a_meaning() -> None:
    assert set(LABEL_KINDS) == set(KINDS)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("regression", [[-1 / 3, -1 / 3, 2 / 3], [2 / 3, -1 / 3, -1 / 3]]),
        ("probabilities", [[0, 0, 1], [1, 0, 0]]),
        ("classes", [[0, 0, 1], [1, 0, 0]]),
    ],
)
def test_targets_say_the_class(kind: LabelKind, expected: list[list[float]]) -> None:
    found = LABEL_KINDS[kind].targets(CLASSES, 3)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))


@pytest.mark.parametrize("held", KINDS)
@pytest.mark.parametrize("wanted", KINDS)
def test_kinds_are_converted(held: LabelKind, wanted: LabelKind) -> None:
    labels = LABEL_KINDS[held].targets(CLASSES, 3)
    found = as_kind(labels, held, wanted)
    assert found.dtype == torch.float32
    assert torch.equal(found.argmax(1), CLASSES)
    expected = LABEL_KINDS[wanted].targets(CLASSES, 3)
    if (held, wanted) == ("regression", "probabilities"):
        expected = torch.where(expected > 0, 0.9, 0.05)
    torch.testing.assert_close(found, expected)


def test_soft_labels_stay_soft_where_they_can() -> None:
    soft = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    centred = as_kind(soft, "probabilities", "regression")
    torch.testing.assert_close(centred, soft - 1 / 3)
    hard = as_kind(soft, "probabilities", "classes")
    assert torch.equal(hard, one_hot(torch.tensor([0, 2]), 3))
    assert torch.equal(as_kind(hard, "classes", "probabilities"), hard)


Z = 1 + math.e + math.e**2


@pytest.mark.parametrize(
    ("kind", "labels", "expected"),
    [
        # half of (0.5^2 + 1 + 1) and of (ln 2 - 1)^2 + 1, in the mean
        (
            "regression",
            [[0.5, 0, 1], [1, 0, -1]],
            (2.25 + (math.log(2) - 1) ** 2 + 1) / 4,
        ),
        # half of the first's mass on 0, all of the second's on its largest of 2 : 1 : 1
        (
            "probabilities",
            [[0.5, 0.5, 0], [1, 0, 0]],
            ((math.log(Z) + math.log(Z) - 1) / 2 + math.log(2)) / 2,
        ),
        # of scores only their largest counts
        (
            "classes",
            [[-3, -1, -2], [-9, 7, 6]],
            (math.log(Z) - 1 + math.log(4)) / 2,
        ),
    ],
)
def test_loss_is_that_by_hand(
    kind: LabelKind, labels: list[list[float]], expected: float
) -> None:
    given = torch.tensor(labels, dtype=torch.float64)
    assert float(label_loss(LOGITS, given, kind)) == pytest.approx(expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("before", "after"), [(0, 0), (2, 0), (0, 3), (1, 2)])
def test_targets_among_further_classes_are_the_targets_of_all(
    kind: LabelKind, before: int, after: int
) -> None:
    meaning = LABEL_KINDS[kind]
    few = meaning.targets(CLASSES, 3)
    all_of_them = meaning.targets(CLASSES + before, before + 3 + after)
    torch.testing.assert_close(meaning.among(few, before, after), all_of_them)


def test_soft_labels_keep_their_differences_among_further_classes() -> None:
    labels = torch.tensor([[0.25, -0.25]])
    found = LABEL_KINDS["regression"].among(labels, 1, 1)
    torch.testing.assert_close(found, torch.tensor([[-0.25, 0.5, 0.0, -0.25]]))
    shares = torch.tensor([[0.75, 0.25]])
    found = LABEL_KINDS["probabilities"].among(shares, 1, 1)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0.75, 0.25, 0.0]]))


def test_one_hot_is_of_float32_and_as_wide_as_asked_for() -> None:
    found = one_hot(torch.tensor([1]), 4)
    assert found.dtype == torch.float32
    assert found.tolist() == [[0, 1, 0, 0]]
    assert one_hot(torch.tensor([], dtype=torch.int64), 4).shape == (0, 4)


def test_probabilities_keep_the_order_of_targets_at_one_confidence() -> None:
    targets = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    for scale in (1e-2, 1.0, 30.0):
        found = as_probabilities(scale * targets)
        assert found.dtype == torch.float32
        assert float(found.amax(dim=1).mean()) == pytest.approx(0.9, abs=1e-4)
        assert torch.equal(found.argsort(dim=1), targets.argsort(dim=1))
    even = as_probabilities(torch.zeros(2, 4))
    torch.testing.assert_close(even, torch.full((2, 4), 0.25))
