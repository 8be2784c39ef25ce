"""Validation figures on the way: when, on which images, and by whom."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from small_runs import begun, doing, small_settled

from dd_plugins.api import RealData, classic_recipe
from dd_plugins.engine.finished import finished_set
from dd_plugins.engine.learning import Learning
from dd_plugins.engine.validation import (
    validation_accuracy,
    validation_steps,
)
from dd_plugins.testing import toy_data


@pytest.mark.parametrize("steps", [1, 2, 9, 10, 11, 19, 20, 25, 100, 999, 1000])
@pytest.mark.parametrize(("distiller", "least"), [("frepo", 1), ("dm", 50)])
def test_a_run_is_measured_some_ten_times_and_at_its_end(
    steps: int, distiller: str, least: int
) -> None:
    settled = small_settled(distiller=distiller)
    due = validation_steps(settled, steps)
    assert due[-1] == steps
    assert min(10, math.ceil(steps / least)) <= len(due) < 20
    early = due[0] < least and steps > least
    gaps = {later - before for before, later in pairwise(due[early:-1])}
    assert len(gaps) <= 1, "at equal distances"
    assert all(gap >= least for gap in gaps), "networks that are trained take longer"
    tenth = max(steps // 10, 1)
    assert due[0] <= tenth or steps <= least, "the time left knows from a tenth on"


def test_nothing_is_measured_where_nothing_is_held_out() -> None:
    settled = small_settled(data=toy_data(validation=0.0))
    assert validation_steps(settled, 5) == ()


def measured(learning: Learning, step: int = 1) -> float:
    def distilled() -> Any:
        parts = learning.beginning, learning.synthetic, learning.state
        return finished_set(*parts, step, {})

    return validation_accuracy(
        learning.run,
        learning.settled,
        step,
        learning.state,
        learning.synthetic.decode(),
        learning.transform,
        distilled,
    )


def by_corner(images: torch.Tensor) -> torch.Tensor:
    """Return logits for the toy classes: which corner is the brighter one."""
    dark = images[:, 0, :4, :4].mean(dim=(1, 2))
    return torch.stack([dark, images[:, 0, 4:, 4:].mean(dim=(1, 2))], dim=1)


@pytest.mark.parametrize(
    ("predict", "accuracy"),
    [
        (by_corner, 1.0),
        (lambda images: by_corner(images).flip(1), 0.0),
        (lambda images: torch.tensor([[1.0, 0.0]]).repeat(len(images), 1), 0.5),
    ],
)
def test_the_method_s_own_predictor_is_measured(predict: Any, accuracy: float) -> None:
    learning = begun(doing(predictor=lambda self, state, leaves: predict))
    assert measured(learning) == accuracy


def test_a_thousand_held_out_images_are_seen_and_others_at_the_next_step() -> None:
    images = torch.rand(3000, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    data = RealData.from_tensors(
        images, torch.arange(3000) % 2, validation=0.5, preprocessing="standardize"
    )
    seen: list[torch.Tensor] = []

    def predictor(self: Any, state: Any, leaves: Any) -> Any:
        def predict(images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return torch.zeros(len(images), 2)

        return predict

    learning = begun(doing(predictor=predictor), data)
    for step in (1, 1, 2):
        measured(learning, step)
    assert [len(each) for each in seen] == [1000] * 3
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    held_out = learning.transform(data.validation.images).flatten(1)
    rows = {tuple(row) for row in held_out.tolist()}
    found = {tuple(row) for row in seen[0].flatten(1).tolist()}
    assert len(found & rows) == 1000, "in the value space, and none of training"


@pytest.mark.usefixtures("usual_validation")
def test_a_trained_network_sees_a_few_images_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []

    def train(*given: Any, **options: Any) -> Any:
        def classify(images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return by_corner(images)

        return classify

    monkeypatch.setattr("dd_plugins.engine.validation.train_network", train)
    monkeypatch.setattr("dd_plugins.networks.base._PIXELS_IN_CHUNK", 4 * 8 * 8)
    assert measured(begun(doing())) == 1.0
    assert max(seen) == 4


@pytest.mark.usefixtures("usual_validation")
@pytest.mark.parametrize(("own", "steps"), [(7, 7), (5_000, 200)])
def test_a_method_without_a_predictor_is_judged_by_a_quickly_trained_network(
    own: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[Any] = []

    def train(module: Any, training_set: Any, recipe: Any, **options: Any) -> Any:
        trained.append((module, training_set, recipe))
        return by_corner

    monkeypatch.setattr("dd_plugins.engine.validation.train_network", train)

    def recipe(self: Any, task: Any, images: int, learned: Any) -> Any:
        return replace(classic_recipe(images), steps=own)

    learning = begun(doing(recipe=recipe))
    state = torch.random.get_rng_state()
    assert measured(learning) == 1.0
    ((module, training_set, found),) = trained
    assert found.steps == steps
    assert torch.equal(training_set.images, learning.synthetic.decode().pixels)
    assert sum(each.numel() for each in module.parameters()) == 260 + 20 + 10
    assert torch.equal(torch.random.get_rng_state(), state)
