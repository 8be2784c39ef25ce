"""Robust scores are DD-Ranking's, of networks that are trained for them."""

import json
import math
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Said

import dd_plugins
from dd_plugins.errors import OptionError
from dd_plugins.evaluation.asked_scores import asked_scores
from dd_plugins.evaluation.robustness import (
    augmentation_robust_score,
    label_robust_score,
    score_of_runs,
)
from dd_plugins.training.recipes import real_data_recipe

QUICK: dict[str, Any] = {"networks": "mlp(width=16)", "repeats": 2}


@pytest.fixture(autouse=True)
def short_training_on_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digits are learned in fewer steps; what is expected is the same."""
    recipe = real_data_recipe(50)
    place = "dd_plugins.evaluation.evaluate.real_data_recipe"
    monkeypatch.setattr(place, lambda _: recipe)


def by_dd_ranking(alpha: float) -> float:
    """The formula as their paper prints it, in its own arithmetic."""
    low, high = math.e**-1, math.e
    return float((math.e**alpha - low) / (high - low))


@pytest.mark.parametrize("own", [0.1, 0.531, 0.97])
@pytest.mark.parametrize("hard", [0.1, 0.4])
@pytest.mark.parametrize("random", [0.2, 0.7])
def test_scores_are_their_formulas(own: float, hard: float, random: float) -> None:
    full, weight = 0.99, 0.5
    recovery, over = full - hard, own - random
    alpha = weight * over - (1 - weight) * recovery
    assert label_robust_score(recovery, over) == pytest.approx(
        by_dd_ranking(alpha), abs=1e-12
    )
    beta = weight * (own - random) + (1 - weight) * (hard - random)
    assert augmentation_robust_score(own - random, hard - random) == pytest.approx(
        by_dd_ranking(beta), abs=1e-12
    )


def test_ends_of_the_scale_are_0_and_1() -> None:
    assert label_robust_score(1, -1) == pytest.approx(0)
    assert label_robust_score(-1, 1) == pytest.approx(1)
    assert augmentation_robust_score(1, 1) == pytest.approx(1)


def test_score_of_several_networks_has_the_interval_of_theirs() -> None:
    full, hard = (0.9, 0.92), (0.5, 0.6)
    own, random = (0.8, 0.7), (0.4, 0.5)
    found = score_of_runs("lrs", "mlp", (full, hard), (own, random))
    assert found.parts == pytest.approx({"HLR": 0.36, "IOR": 0.3})
    assert found.value == pytest.approx(label_robust_score(0.36, 0.3))
    runs = [label_robust_score(0.4, 0.4), label_robust_score(0.32, 0.2)]
    assert found.interval is not None
    assert sum(found.interval) / 2 == pytest.approx(statistics.mean(runs))


def test_evaluation_trains_what_the_scores_need() -> None:
    distilled = dd_plugins.distill("digits", steps=3, network="mlp(width=4)")
    found = dd_plugins.evaluate(
        distilled, protocol="recipe(steps=40)", scores="lrs,ars,hard", **QUICK
    )
    by_hand = {
        "full": found.full[0].mean,
        "hard": found.hard[0].mean,
        "own": found.networks[0].mean,
        "random": found.random[0].mean,
    }
    lrs, ars = found.robustness
    assert lrs.value == pytest.approx(
        label_robust_score(
            by_hand["full"] - by_hand["hard"], by_hand["own"] - by_hand["random"]
        )
    )
    assert ars.parts["augmented"] == pytest.approx(by_hand["own"] - by_hand["random"])
    # The other half is trained without augmentation: on these that is the same as
    # an evaluation by such a recipe.
    plain = dd_plugins.evaluate(
        distilled,
        protocol="recipe(steps=40, augmentation='none')",
        scores="ars",
        **QUICK,
    )
    (other,) = plain.robustness
    assert set(other.parts) == set(ars.parts)
    assert other.parts["plain"] == pytest.approx(
        plain.networks[0].mean - plain.random[0].mean
    )
    assert by_hand["hard"] != by_hand["own"]


def test_hard_labels_are_the_classes_of_the_images() -> None:
    distilled = dd_plugins.distill("digits", "random", network="mlp(width=4)")
    wrong = replace(distilled, labels=distilled.labels.roll(1, dims=1))
    recipe = "recipe(steps=100, learning_rate=0.005)"
    found = dd_plugins.evaluate(wrong, protocol=recipe, scores="hard", **QUICK)
    assert found.networks[0].mean < 0.1
    assert found.hard[0].mean > 0.4
    assert not found.random


def test_a_set_with_its_own_views_has_no_score_of_augmentation() -> None:
    distilled = dd_plugins.distill("digits", "random", network="mlp(width=4)")
    taught = dd_plugins.relabel(
        distilled,
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)).eval(),
        views="views(count=2)",
        store_labels=True,
    )
    with pytest.raises(OptionError, match="has labels for its own views; leave it out"):
        dd_plugins.evaluate(taught, scores="ars", **QUICK)


def test_names_of_scores_are_read() -> None:
    found = asked_scores("hard, lrs,kernel(of=fc(depth=2)),retrieval")
    assert (found.hard, found.lrs, found.retrieval, found.ars) == (True,) * 3 + (False,)
    assert found.kernel is not None


def test_the_command_shows_them(
    in_process: Callable[..., Said], tmp_path: Path
) -> None:
    dd_plugins.distill("digits", "random", network="mlp(width=4)", out=tmp_path / "run")
    words = ["--network", "mlp(width=4)", "--repeats", 2, "--scores", "lrs,ars,hard"]
    words += ["--protocol", "recipe(steps=5)", "--json", "found.json"]
    said = in_process("evaluate", "run", *words)
    assert said.status == 0, said.stderr
    for text in ("LRS: images, not labels", "ARS:", "distilled set, hard labels"):
        assert text in said.stdout
    scores = json.loads((tmp_path / "found.json").read_text())["scores"]
    assert set(scores["lrs"][0]) == {"spec", "value", "ci95", "HLR", "IOR"}
    assert 0 <= scores["ars"][0]["value"] <= 1
