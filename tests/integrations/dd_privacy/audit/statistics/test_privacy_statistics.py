"""How often intervals hold, and which figures are withheld."""

import re

import numpy as np
import pytest
from score_samples import scores

from dd_plugins.errors import OptionError
from dd_plugins.functional.statistics import mean_interval
from dd_privacy.audit.statistics import (
    Figure,
    advantage,
    area,
    non_members_needed,
    true_positive_rate,
)


def test_area_of_several_models_varies_with_the_models_too() -> None:
    generator = np.random.default_rng(0)
    # Examples are many, so that all that varies are the models.
    models = [
        scores(generator.normal(shift, 1, 4000), generator.normal(0, 1, 4000))
        for shift in (0.0, 0.5, 1.0)
    ]
    found = area(models)
    alone = [area([model]).estimate for model in models]
    assert found.estimate == pytest.approx(np.mean(alone))
    assert found.ci95 is not None
    assert found.ci95[1] - found.ci95[0] > 0.2


def test_intervals_over_models_are_no_narrower_than_students() -> None:
    generator = np.random.default_rng(2)
    shared = generator.normal(0, 1, 3000)  # as with the test set for all models
    models = [
        tuple(
            scores(generator.normal(shift, 1, 500), half)
            for half in np.split(shared, 2)
        )
        for shift in (0.0, 0.3, 0.6)
    ]
    for figure, lowest in (
        (advantage, -1.0),
        (lambda targets: true_positive_rate(targets, 0.01), 0.0),
    ):
        alone = [figure([model]).estimate for model in models]
        low, high = mean_interval(alone)  # type: ignore[misc]
        found = figure(models).ci95
        assert found[0] <= max(low, lowest)
        assert found[1] >= min(high, 1.0)


@pytest.mark.parametrize("members", [5, 10])
def test_area_of_a_few_members_holds_as_often_as_it_says(members: int) -> None:
    generator = np.random.default_rng(3)
    held = 0
    for seed in range(150):
        drawn = generator.normal(size=members), generator.normal(size=300)
        low, high = area([scores(*drawn)], seed=seed).ci95  # type: ignore[misc]
        held += low <= 0.5 <= high
    # Of a percentile bootstrap, without regard for how few there are, 123 of five.
    assert held >= 133, "88 of 100; 95 are meant"


def test_non_members_that_models_share_are_one_sample() -> None:
    generator = np.random.default_rng(4)
    held = {True: 0, False: 0}
    for seed in range(100):
        others = generator.normal(size=200)
        models = [scores(generator.normal(size=200), others) for _ in range(5)]
        for shared in held:
            found = area(models, seed=seed, shared_non_members=shared).ci95
            assert found is not None
            held[shared] += found[0] <= 0.5 <= found[1]
        gained = [(model, model) for model in models]
        low, high = advantage(gained, shared_non_members=True).ci95  # type: ignore[misc]
        one, two = advantage(gained).ci95  # type: ignore[misc]
        assert high - low > two - one
    assert held[True] >= 91 > held[False], held


def test_figures_of_too_few_examples_are_withheld_with_the_reason() -> None:
    few = scores(range(4), range(100))
    assert re.findall(r"\d+", area([few]).withheld or "") == ["4", "5"]
    assert advantage([(few, few)]).estimate is not None, "8 in the two halves"
    coarse = true_positive_rate([(scores(range(50), range(400)),) * 2], 0.01)
    assert re.findall(r"[\d.]+", coarse.withheld or "") == ["0.01", "1000", "800"]
    assert coarse.as_dict()["estimate"] is None
    assert [non_members_needed(rate) for rate in (0.01, 0.001, 0.3)] == [
        1000,
        10000,
        34,
    ]
    with pytest.raises(OptionError, match=r"\[0, 1\).* 1\.0"):
        true_positive_rate([(few, few)], 1.0)


def test_intervals_hold_in_95_of_100_audits_where_scores_say_nothing() -> None:
    generator = np.random.default_rng(1)
    names = ("area", "advantage", "rate 0.02", "rate 0")
    held = dict.fromkeys(names, 0)
    audits = 200
    for audit in range(audits):
        halves = tuple(
            scores(generator.normal(size=300), generator.normal(size=300))
            for _ in range(2)
        )
        whole = scores(*(np.concatenate(parts) for parts in zip(*halves, strict=True)))
        figures: dict[str, tuple[Figure, float]] = {
            "area": (area([whole], seed=audit), 0.5),
            "advantage": (advantage([halves]), 0.0),
            "rate 0.02": (true_positive_rate([halves], 0.02), 0.02),
            # Chance is any rate up to one in as many non-members.
            "rate 0": (true_positive_rate([halves], 0.0), 1 / 301),
        }
        for name, (figure, chance) in figures.items():
            assert figure.ci95 is not None
            low, high = figure.ci95
            held[name] += low <= chance <= high
    # 180 of 200 or fewer would happen with a chance of 1 in 300.
    assert min(held.values()) > 180, held
    assert held["area"] < audits, "an interval that always holds says nothing"
