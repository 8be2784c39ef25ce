"""Whom an evaluation trains on what, and in which order."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dd_plugins
from dd_plugins import DistilledSet
from dd_plugins.api import (
    DDWarning,
    Evaluation,
    FileError,
    OptionError,
    TrainingSet,
)
from dd_plugins.testing import toy_data

SPECS = ["mlp(width=2)", "mlp(width=3)"]


@pytest.fixture(scope="module")
def distilled() -> DistilledSet:
    return dd_plugins.distill(
        toy_data(), "frepo(pool_size=1)", steps=1, network="mlp(width=2)"
    )


class Untrained:
    """Trains nothing, and remembers what it was to train, and on what."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun: list[Tensor] = []
        self.sets: list[TrainingSet] = []
        self.drawn: list[list[float]] = []
        self.steps: list[int] = []
        monkeypatch.setattr("dd_plugins.evaluation.jobs.train_network", self)

    def __call__(self, module: Any, training_set: Any, recipe: Any, **more: Any) -> Any:
        self.begun.append(torch.cat([each.flatten() for each in module.parameters()]))
        self.sets.append(training_set)
        self.drawn.append(torch.rand(3, generator=more["generator"]).tolist())
        self.steps.append(recipe.steps)
        return module


@pytest.fixture
def untrained(monkeypatch: pytest.MonkeyPatch) -> Untrained:
    return Untrained(monkeypatch)


def found_by(distilled: DistilledSet, **options: Any) -> Evaluation:
    given = {"repeats": 2, "baselines": True, "data": toy_data()} | options
    return dd_plugins.evaluate(distilled, SPECS, **given)


def test_each_baseline_trains_the_same_fresh_networks(
    distilled: DistilledSet, untrained: Untrained
) -> None:
    found_by(distilled)
    assert len(untrained.begun) == 2 * 3 * 2  # networks, kinds and repeats
    for first in (0, 6):
        rows = untrained.begun[first : first + 6]
        for repeat in (0, 1):
            assert all(torch.equal(rows[repeat], each) for each in rows[repeat::2])
        assert not torch.equal(rows[0], rows[1])
    draws = [tuple(each) for each in untrained.drawn[:6]]
    assert len(set(draws)) == 6, "but each draws batches of its own"
    assert untrained.drawn[:6] == untrained.drawn[6:]


def test_baselines_are_real_training_images_in_the_value_space_of_the_set(
    distilled: DistilledSet, untrained: Untrained
) -> None:
    found_by(distilled)
    own, _, random, other, full, _ = untrained.sets[:6]
    assert torch.equal(own.images, distilled.images)
    assert torch.equal(own.labels, distilled.labels)
    train = toy_data().train
    everything = distilled.transform(train.images)
    torch.testing.assert_close(full.images[:], everything)
    assert full.labels[:].argmax(dim=1).tolist() == train.labels.tolist()
    assert not torch.equal(random.images, other.images), "drawn for each network"
    for drawn in (random, other):
        distances = (drawn.images[:, None] - everything).abs().amax(dim=(2, 3, 4))
        values, places = distances.min(dim=1)
        assert float(values.max()) < 1e-5
        assert train.labels[places].tolist() == [0, 1]
        assert drawn.labels.argmax(dim=1).tolist() == [0, 1]
    assert {each.label_kind for each in untrained.sets} == {"regression"}
    torch.testing.assert_close(full.labels[:].sum(dim=1), torch.zeros(len(full.images)))


@pytest.mark.parametrize("options", [{}, {"full_steps": 7}])
def test_networks_on_all_images_have_steps_of_their_own(
    distilled: DistilledSet, untrained: Untrained, options: dict[str, int]
) -> None:
    steps = options.get("full_steps", 1_000)
    found = found_by(distilled, protocol="recipe(steps=4)", **options)
    assert untrained.steps[:6] == [4, 4, 4, 4, steps, steps]
    assert found.as_dict()["full_recipe"]["steps"] == steps
    plain = found_by(distilled, protocol="recipe(steps=4)", baselines=False)
    assert plain.full_recipe is None
    assert "full_recipe" not in plain.as_dict()
    with pytest.raises(OptionError, match="full_steps must be a whole number from 1"):
        found_by(distilled, full_steps=0)


@pytest.mark.parametrize("baselines", [False, True])
def test_progress_is_told_of_each_step_of_each_network(
    distilled: DistilledSet, baselines: bool
) -> None:
    told: list[tuple[str, float, float]] = []
    found = found_by(
        distilled,
        baselines=baselines,
        full_steps=5 if baselines else None,
        protocol="recipe(steps=4)",
        on_progress=lambda *given: told.append(given),
    )
    kinds = ["distilled set", *(["random images", "all images"] if baselines else [])]
    expected = [
        f"{kind}: {spec}, network {number} of 2"
        for spec in SPECS
        for kind in kinds
        for number in (1, 2)
    ]
    assert list(dict.fromkeys(what for what, _, _ in told)) == expected
    works = [done for _, done, _ in told]
    (total,) = {total for _, _, total in told}
    assert works == sorted(works), "work is never undone"
    assert len(set(works)) == len(works) >= 4 * len(expected)
    assert works[-1] == pytest.approx(total)
    assert [result.spec for result in found.networks] == SPECS
    assert len(found.random) == len(found.full) == (2 if baselines else 0)
    assert found.test_images == 40


def test_scores_belong_to_the_networks_that_earned_them(
    distilled: DistilledSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heads are set so that each network names one class for every image."""
    numbers = iter([1, 0, 1, 1])

    def train(module: Any, *given: Any, **options: Any) -> Any:
        wanted = next(numbers)
        with torch.no_grad():
            module.head.weight.zero_()
            module.head.bias.copy_(torch.eye(2)[wanted])
        return module

    monkeypatch.setattr("dd_plugins.evaluation.jobs.train_network", train)
    test = toy_data().read_test()
    kept = test.labels == 1
    kept[0] = True  # 20 images of class 1, one of class 0
    few = type(test)(test.images[kept], test.labels[kept])
    data = replace(toy_data(), read_test=lambda: few)
    found = found_by(distilled, baselines=False, data=data)
    ones, zeros = 20 / 21, 1 / 21
    assert found.networks[0].accuracies == pytest.approx((ones, zeros))
    assert found.networks[1].accuracies == pytest.approx((ones, ones))


def test_random_images_fill_the_values_of_the_set(untrained: Untrained) -> None:
    images, classes = torch.rand(60, 1, 8, 8), torch.arange(60) % 3
    data = dd_plugins.RealData.from_tensors(
        images, classes, test=(1 - images, classes), validation=0
    )
    for images_per_class, keep in ((1, 0.3), (3, 0.4)):
        distilled = dd_plugins.distill(
            *(data, "dm"),
            images_per_class=images_per_class,
            parametrization=f"spectral(keep={keep})",
            steps=1,
            network="mlp(width=2)",
        )
        untrained.sets.clear()
        found = dd_plugins.evaluate(
            *(distilled, "mlp(width=2)"), repeats=1, baselines=True, data=data
        )
        drawn = len(untrained.sets[1].images)
        assert drawn == found.random_images == distilled.budget
        counts = untrained.sets[1].labels.argmax(dim=1).bincount()
        assert int(counts.max() - counts.min()) <= 1


def test_a_network_that_diverged_is_told_and_classifies_nothing(
    distilled: DistilledSet,
) -> None:
    with pytest.warns(DDWarning, match=r"diverged \(distilled set: mlp\(width=2\)\)"):
        found = dd_plugins.evaluate(
            *(distilled, "mlp(width=2)"),
            repeats=1,
            data=toy_data(),
            protocol="recipe(steps=30, learning_rate=1e9, optimizer='sgd')",
        )
    assert found.networks[0].mean == 0.0


@pytest.mark.parametrize("place", [5, "/dev/null/nowhere"])
def test_a_place_for_networks_is_checked_first(
    distilled: DistilledSet, untrained: Untrained, place: Any
) -> None:
    with pytest.raises(OptionError if place == 5 else FileError):
        dd_plugins.evaluate(distilled, "mlp(width=2)", data=toy_data(), kept=place)
    assert not untrained.sets


@pytest.mark.parametrize("options", [{}, {"scores": "hard"}])
def test_steps_on_all_images_need_networks_on_all_images(
    distilled: DistilledSet, untrained: Untrained, options: dict[str, str]
) -> None:
    with pytest.raises(OptionError, match="full_steps needs networks on all real"):
        found_by(distilled, baselines=False, full_steps=3, **options)
    assert not untrained.sets
    found_by(distilled, baselines=False, full_steps=3, scores="lrs")
