"""pytorch-metric-learning: its objects, named by specs, and its retrieval scores."""

from types import ModuleType
from typing import Any

from torch import Tensor

from dd_plugins.errors import DataError, OptionError
from dd_plugins.spec import Call, parse, unknown_name

__all__ = ["metric_learning", "require_metric_learning", "retrieval_scores"]

_SCORES = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
_QUERIES = 1024  # images whose distances to all others are in memory at a time


def require_metric_learning() -> None:
    """Raise an OptionError that says what to install if the package is missing."""
    _classes()


def retrieval_scores(embeddings: Tensor, labels: Tensor) -> dict[str, float]:
    """Return how well images of a class are found among all by their embeddings.

    Every image is a query, and all others are ranked by their cosine similarity to it.

    Args:
        embeddings: float, ``(n, d)``.
        labels: integers, ``(n,)``.

    Returns:
        ``precision_at_1``, ``r_precision`` and ``mean_average_precision_at_r``, each in
        [0, 1], as pytorch-metric-learning's ``AccuracyCalculator`` defines them; the
        mean over all images whose class has another.

    Raises:
        OptionError: the package is missing.
        DataError: no class has two images.

    Reference: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", arXiv
    2003.08505, section 3.2.
    """
    require_metric_learning()
    if int(labels.bincount().max()) < 2:
        raise DataError("retrieval needs a class with two test images or more")
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


def metric_learning(spec: str) -> Any:
    """Build a loss, miner, distance, reducer or regularizer from its spec.

    Args:
        spec: a class of pytorch-metric-learning with literal options, or such objects
            as options: ``"NTXentLoss(temperature=0.1, distance=CosineSimilarity())"``.

    Raises:
        OptionError: the package is missing, or an option does not fit.
        UnknownNameError: it has no such class.
    """
    return _build(parse(spec), _classes())


def _classes() -> dict[str, type]:
    """Return every public class of the package's modules by name."""
    try:
        from pytorch_metric_learning import (
            distances,
            losses,
            miners,
            reducers,
            regularizers,
        )
    except ModuleNotFoundError as error:
        raise OptionError(
            "pytorch-metric-learning is not installed; pip install 'dd-plugins[metric]'"
        ) from error
    modules: tuple[ModuleType, ...] = (
        losses,
        miners,
        distances,
        reducers,
        regularizers,
    )
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and not name.startswith("_")
    }


def _build(call: Call, classes: dict[str, type]) -> Any:
    if call.name not in classes:
        raise unknown_name("metric-learning class", call.name, list(classes))

    def value(given: Any) -> Any:
        return _build(given, classes) if isinstance(given, Call) else given

    arguments = [value(argument) for argument in call.arguments]
    options = {name: value(option) for name, option in call.options.items()}
    try:
        return classes[call.name](*arguments, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{call.name}: {error}") from error
