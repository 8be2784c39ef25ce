"""What an evaluation finds: figures against numpy and scipy, and the form of JSON."""

import json
from typing import Any

import numpy as np
import pytest
from scipy import stats

from dd_plugins import Evaluation
from dd_plugins.api import NetworkResult, Recipe, mean_interval
from dd_plugins.evaluation.robustness import score_of_runs


@pytest.mark.parametrize("count", [2, 3, 5, 30])
@pytest.mark.parametrize("seed", [0, 1])
def test_figures_are_those_of_numpy_and_scipy(count: int, seed: int) -> None:
    scores = np.random.default_rng(seed).random(count)
    result = NetworkResult("mlp", tuple(scores.tolist()))
    figures = result.as_dict()
    assert figures["accuracy_mean"] == pytest.approx(scores.mean(), rel=1e-12)
    assert figures["accuracy_std"] == pytest.approx(stats.tstd(scores), rel=1e-12)
    expected = stats.ttest_1samp(scores, 0).confidence_interval(0.95)
    assert figures["accuracy_ci95"] == pytest.approx(list(expected), rel=1e-9)
    assert figures["accuracies"] == scores.tolist()


def test_equal_scores_have_an_interval_without_width() -> None:
    result = NetworkResult("mlp", (0.75,) * 4)
    assert (result.mean, result.std, result.ci95) == (0.75, 0.0, (0.75, 0.75))


def test_one_score_has_neither_deviation_nor_interval() -> None:
    result = NetworkResult("mlp", (0.5,), {"r_precision": (0.25,)})
    assert (result.std, result.ci95, mean_interval([0.5])) == (None, None, None)
    figures = result.as_dict()
    assert (figures["accuracy_std"], figures["accuracy_ci95"]) == (None, None)
    assert figures["retrieval"]["r_precision"] == {
        "mean": 0.25,
        "ci95": None,
        "scores": [0.25],
    }


def test_retrieval_stands_in_the_figures_if_it_was_asked_for() -> None:
    scores = {"precision_at_1": (0.5, 1.0), "r_precision": (0.25, 0.35)}
    figures = NetworkResult("mlp", (0.5, 0.6), scores).as_dict()
    assert list(figures["retrieval"]) == ["precision_at_1", "r_precision"]
    first = figures["retrieval"]["precision_at_1"]
    assert first["mean"] == 0.75
    assert first["scores"] == [0.5, 1.0]
    assert first["ci95"] == list(mean_interval([0.5, 1.0]) or ())
    assert "retrieval" not in NetworkResult("mlp", (0.5, 0.6)).as_dict()


ONE, TWO = NetworkResult("mlp", (0.5, 0.6)), NetworkResult("conv", (0.7, 0.8))


def test_an_evaluation_is_plain_json_and_nothing_is_lost() -> None:
    recipe = Recipe(steps=3, learning_rate=0.1, optimizer="sgd")
    found = Evaluation((ONE, TWO), (TWO, ONE), (), 40, "recipe", recipe)
    figures = found.as_dict()
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    assert [each["spec"] for each in figures["networks"]] == ["mlp", "conv"]
    assert (figures["test_images"], figures["protocol"]) == (40, "recipe")
    assert Recipe(**figures["recipe"]) == recipe


@pytest.mark.parametrize(
    ("random", "full", "names"),
    [
        ((), (), None),
        ((ONE,), (), ["random"]),
        ((), (TWO,), ["full"]),
        ((ONE, TWO), (TWO, ONE), ["random", "full"]),
    ],
)
def test_baselines_stand_there_if_they_were_measured(
    random: Any, full: Any, names: list[str] | None
) -> None:
    figures = Evaluation((ONE, TWO), random, full).as_dict()
    assert figures["recipe"] is None
    if names is None:
        assert "baselines" not in figures
        return
    assert list(figures["baselines"]) == names
    for name, results in (("random", random), ("full", full)):
        if not results:
            continue
        row = dict(figures["baselines"][name])
        assert row.pop("networks") == [each.as_dict() for each in results]
        assert row == results[0].as_dict(), "the form of a network's result"


def test_scores_that_were_asked_for_are_printed() -> None:
    result = NetworkResult("mlp", (0.5, 0.7), {"precision_at_1": (0.2, 0.4)})
    score = score_of_runs("lrs", "mlp", ([0.9], [0.5]), ([0.6], [0.4]))
    found = Evaluation((result,), kernel=result, robustness=(score,))
    lines = str(found).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "distilled set, mlp",
        "distilled set, precision at 1, mlp",
        "regression from the distilled set, mlp",
        "LRS, mlp",
    ]
    assert lines[-1] == f"LRS, mlp: {score.value:.4f}"
    assert found._repr_html_().count("<tr>") == 1 + len(lines)
