"""Retrieval scores are what their paper says they are."""

import sys

import pytest
import torch

import dd_plugins
from dd_plugins.errors import DataError, OptionError
from dd_plugins.evaluation.retrieval import retrieval_scores
from dd_plugins.testing import toy_data
from dd_plugins.wrappers.metric_learning import metric_learning


def _by_hand(embeddings: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Rank all others for each image, in float64, and count."""
    unit = torch.nn.functional.normalize(embeddings.double())
    similarity = unit @ unit.T
    first, precision, average = [], [], []
    for query in range(len(labels)):
        order = similarity[query].argsort(descending=True)
        order = order[order != query]
        relevant = (labels[order] == labels[query]).double()
        count = int(relevant.sum())
        if count == 0:
            continue
        top = relevant[:count]
        places = torch.arange(1, count + 1)
        first.append(relevant[0])
        precision.append(top.mean())
        average.append((top * top.cumsum(0) / places).sum() / count)
    return {
        "precision_at_1": float(torch.stack(first).mean()),
        "r_precision": float(torch.stack(precision).mean()),
        "mean_average_precision_at_r": float(torch.stack(average).mean()),
    }


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_counted_by_hand(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (60,), generator=generator)
    labels[0] = 9  # a class of one image asks for nothing
    embeddings = torch.randn(60, 8, generator=generator)
    embeddings[:, 0] += labels
    found = retrieval_scores(embeddings, labels)
    assert found == pytest.approx(_by_hand(embeddings, labels), abs=1e-6)


def test_images_without_a_second_of_their_class_are_refused() -> None:
    with pytest.raises(DataError, match="two test images or more"):
        retrieval_scores(torch.randn(4, 2), torch.arange(4))


def test_missing_package_is_named_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    distilled = dd_plugins.distill(toy_data(), "random", network="mlp(width=8)")
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    monkeypatch.setattr("dd_plugins.evaluation.jobs.train_network", None)
    with pytest.raises(OptionError, match=r"pip install 'dd-plugins\[metric\]'"):
        dd_plugins.evaluate(distilled, protocol="retrieval", data=toy_data())
    with pytest.raises(OptionError, match="metric-learning, which is not installed"):
        metric_learning("NTXentLoss")
