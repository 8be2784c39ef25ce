"""RMIA against its equations in numpy."""

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from attack_evidence import by_hand, evidence
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from dd_plugins.errors import OptionError
from dd_privacy.audit.attacks import RMIA, Evidence, Observations

Floats = np.ndarray[Any, np.dtype[np.float64]]


def dominated(given: Evidence, scale: float, gamma: float) -> Floats:
    """Return how many of the population each example dominates."""

    def of_class(seen: Observations) -> Floats:
        p = seen.outputs.double().softmax(dim=1)
        return np.asarray(p.gather(1, given.labels[:, None])[:, 0])

    members = np.stack([each.members.numpy() for each in given.references])
    found = np.stack([of_class(each.seen) for each in given.references])
    count = len(given.labels)
    out = np.array(
        [
            found[~members[:, i], i].mean() if (~members[:, i]).any() else np.nan
            for i in range(count)
        ]
    )
    out = np.where(np.isnan(out), np.nanmean(out), out)
    ratio = of_class(given.target) / ((1 + scale) / 2 * out + (1 - scale) / 2)
    others = ratio[given.population.numpy()]
    return np.array([(value / others > gamma).sum() for value in ratio])


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("gamma", [0.5, 1.2, 4.0])
def test_rmia_counts_whom_an_example_dominates(scale: float, gamma: float) -> None:
    given, _ = evidence(50, references=3)
    others = int(given.population.sum())
    scores = RMIA(scale=scale, gamma=gamma).scores(given) * (others + 1)
    wanted = dominated(given, scale, gamma)
    np.testing.assert_array_equal(np.floor(scores.numpy()), wanted)


def test_three_examples_and_a_population_of_two_by_hand() -> None:
    target = logit([0.9, 0.5, 0.2, 0.6, 0.3])
    shadow = logit([0.5, 0.5, 0.8, 0.6, 0.6])
    population = [False] * 3 + [True] * 2
    given = by_hand(target, [shadow], [[False] * 5], population)
    # At scale 1 the ratios are 1.8, 1 and 0.25; those of the population 1 and 0.5.
    found = RMIA(scale=1.0, gamma=1.5).scores(given)
    wanted = [(2 + 1.8 / 2.8) / 3, (1 + 1 / 2) / 3, (0 + 0.25 / 1.25) / 3]
    assert found[:3].tolist() == pytest.approx(wanted)


def test_scores_lie_between_nobody_and_everybody() -> None:
    given, _ = evidence(200, gain=8.0)
    found = RMIA().scores(given)
    assert float(found.min()) > 0
    assert float(found.max()) < 1


def test_a_greater_factor_is_exceeded_more_seldom() -> None:
    given, _ = evidence(100)
    loose, strict = (RMIA(scale=0.5, gamma=gamma).scores(given) for gamma in (1.0, 3.0))
    assert (strict <= loose).all()
    assert (strict < loose).any()


def test_an_example_of_every_shadow_run_is_expected_to_be_like_the_others() -> None:
    shadows = [expit(each) for each in (-1.0, 0.0, 1.0)]
    members = [[True, False, False, False]] * 3
    population = [False, False, False, True]
    given = by_hand(
        [1.0] * 4, [[5.0, *logit([each] * 3)] for each in shadows], members, population
    )
    first, second, _, _ = RMIA(scale=1.0).scores(given).tolist()
    assert first == pytest.approx(second), "its own confidences were of a member"


def test_the_scale_is_that_which_does_best_on_a_shadow_run() -> None:
    given, _ = evidence(300, references=4, gain=3.0, seed=3)
    first, *others = given.references
    trial = dataclasses.replace(given, target=first.seen, references=others)
    plain = (~given.population).numpy()

    def area(scale: float) -> float:
        found = RMIA(scale=scale).scores(trial).numpy()
        return float(roc_auc_score(first.members.numpy()[plain], found[plain]))

    areas = {step / 10: area(step / 10) for step in range(11)}
    best = max(areas, key=lambda scale: areas[scale])
    assert areas[best] > min(areas.values()) + 0.05, "the scale counts"
    assert best == 0.5, "0.8 if the shadow run were among those it is compared with"
    assert torch.equal(RMIA().scores(given), RMIA(scale=best).scores(given))


@pytest.mark.parametrize("inside", [True, False])
def test_a_shadow_run_of_all_or_of_nobody_chooses_no_scale(inside: bool) -> None:
    given, _ = evidence(60, references=3)
    everybody = given.population.logical_not() & inside
    first = dataclasses.replace(given.references[0], members=everybody)
    given = dataclasses.replace(given, references=[first, *given.references[1:]])
    assert torch.equal(RMIA().scores(given), RMIA(scale=0.5).scores(given))


def test_rmia_says_what_it_needs() -> None:
    assert [RMIA().references_needed, RMIA(scale=0.5).references_needed] == [2, 1]
    assert (RMIA().threat_model, RMIA().learns_from_known) == ("model", False)
    assert RMIA(scale=0.0).references_needed == 1, "a scale of zero is given too"
    given, _ = evidence(20)
    nobody = torch.zeros(20, dtype=torch.bool)
    with pytest.raises(OptionError, match=r"rmia .*population"):
        RMIA().scores(dataclasses.replace(given, population=nobody))


def test_a_population_of_one_is_dominated_or_not() -> None:
    given, _ = evidence(40, references=2)
    alone = dataclasses.replace(given, population=torch.arange(40) == 39)
    found = RMIA(scale=0.5).scores(alone) * 2
    np.testing.assert_array_equal(found.floor(), dominated(alone, 0.5, 1.0))
    assert set(found.floor().tolist()) == {0.0, 1.0}
