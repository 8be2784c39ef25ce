"""Scores of how well features find images of the same class."""

from torch import Tensor

from dd_plugins.errors import DataError
from dd_plugins.wrappers.metric_learning import require_metric_learning

__all__ = ["retrieval_scores"]

_SCORES = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
_QUERIES = 1024  # images whose distances to all others are in memory at a time


def retrieval_scores(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Return how well embeddings find the images of the same class among all.

    Every image is a query, and all others are ranked by their cosine similarity to it.

    Args:
        embeddings: float, ``(n, d)``.
        labels: integers, ``(n,)``.

    Returns:
        ``precision_at_1``, ``r_precision`` and ``mean_average_precision_at_r``, each in
        [0, 1], as pytorch-metric-learning's ``AccuracyCalculator`` defines them; the
        mean over all images whose class has another image.

    Raises:
        OptionError: the package is missing.
        DataError: no class has two images.

    Reference: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", arXiv
    2003.08505, section 3.2.
    """
    require_metric_learning()
    most = int(labels.bincount().max())
    if most < 2:
        raise DataError(
            "retrieval needs a class with two test images or more, got at most "
            f"{most} a class"
        )
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    calculator = AccuracyCalculator(
        include=_SCORES,
        k="max_bin_count",
        device=embeddings.device,
        # Its own search needs faiss.
        knn_func=CustomKNN(CosineSimilarity(), batch_size=_QUERIES),
    )
    found = calculator.get_accuracy(embeddings, labels)
    return {name: float(found[name]) for name in _SCORES}
