"""Retrieval scores of features whose neighbours are known."""

import pytest
import torch

from dd_plugins.evaluation.retrieval import retrieval_scores

PRECISION, R_PRECISION, MAP = (
    "precision_at_1",
    "r_precision",
    "mean_average_precision_at_r",
)


def on_a_circle(*degrees: float) -> torch.Tensor:
    angles = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angles.cos(), angles.sin()], dim=1)


def test_scores_of_five_directions_are_those_on_paper() -> None:
    embeddings = on_a_circle(0, 10, 25, 90, 95)
    labels = torch.tensor([0, 1, 0, 1, 0])
    # Nearest first: 0: 10 25 90 95; 10: 0 25 90 95; 25: 10 0 90 95; 90: 95 25 10 0;
    # 95: 90 25 10 0. Class 0 has two others each, class 1 has one.
    found = retrieval_scores(embeddings, labels)
    assert found[PRECISION] == 0.0
    assert found[R_PRECISION] == pytest.approx(3 * 0.5 / 5)
    assert found[MAP] == pytest.approx(3 * 0.25 / 5)


def test_only_directions_count() -> None:
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(40, 4, generator=generator)
    labels = torch.arange(40) % 3
    lengths = 10 ** (4 * torch.rand(40, 1, generator=generator) - 2)
    found = retrieval_scores(embeddings * lengths, labels)
    assert found == pytest.approx(retrieval_scores(embeddings, labels), abs=1e-6)


@pytest.mark.parametrize("count", [1023, 1024, 1025, 2100])
def test_more_images_than_are_compared_at_a_time(count: int) -> None:
    labels = torch.arange(count) % 3
    embeddings = torch.eye(3)[labels]
    assert retrieval_scores(embeddings, labels) == dict.fromkeys(
        (PRECISION, R_PRECISION, MAP), pytest.approx(1.0)
    )
    turned = labels.clone()
    turned[-1] = (turned[-1] + 1) % 3  # the last one of all finds nobody
    found = retrieval_scores(embeddings, turned)
    assert found[PRECISION] < 1
    assert found[PRECISION] > 1 - 0.02
