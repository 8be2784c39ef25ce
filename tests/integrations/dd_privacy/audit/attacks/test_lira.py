"""LiRA against the densities of scipy, on drawn and on hand-made Gaussians."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from attack_evidence import area_of, by_hand, evidence
from scipy.stats import norm

from dd_plugins.errors import OptionError
from dd_privacy.audit.attacks import Evidence, LiRA, Reference, confidence

Floats = np.ndarray[Any, np.dtype[np.float64]]


def test_lira_is_the_ratio_of_two_gaussians() -> None:
    given, _ = evidence(40, references=12)
    given = dataclasses.replace(given, population=torch.zeros(40, dtype=torch.bool))
    ranks = torch.rand(12, 40).argsort(dim=0).argsort(dim=0)
    given = dataclasses.replace(
        given,
        references=[
            Reference(each.seen, ranks[run] < 6)
            for run, each in enumerate(given.references)
        ],
    )
    own = confidence(given.target.outputs, given.labels).numpy()
    values = np.stack(
        [
            confidence(each.seen.outputs, given.labels).numpy()
            for each in given.references
        ]
    )
    inside = (ranks < 6).numpy()

    def gaussian(chosen: Floats) -> tuple[Floats, float]:
        columns = [values[chosen[:, i], i] for i in range(40)]
        means = np.array([column.mean() for column in columns])
        variances = [column.var(ddof=1) for column in columns]
        return means, math.sqrt(np.mean(variances))

    (mean_in, spread_in), (mean_out, spread_out) = gaussian(inside), gaussian(~inside)
    wanted = norm.logpdf(own, mean_in, spread_in) - norm.logpdf(
        own, mean_out, spread_out
    )
    np.testing.assert_allclose(LiRA().scores(given), wanted, rtol=1e-9)
    offline = norm.logcdf((own - mean_out) / spread_out)  # one-sided, as a number
    found = LiRA(online=False).scores(given).numpy()
    np.testing.assert_allclose(norm.logcdf(found), offline, rtol=1e-9)


def test_four_shadow_runs_of_two_examples_by_hand() -> None:
    members = [[True, False], [True, False], [False, True], [False, True]]
    references = [[2.0, 0.0], [4.0, 1.0], [0.0, 5.0], [1.0, 8.0]]
    found = LiRA().scores(by_hand([3.5, 6.0], references, members))
    # With the example: 2 and 4, 5 and 8. Without it: 0 and 1, for both.
    inside, outside = math.sqrt((2 + 4.5) / 2), math.sqrt((0.5 + 0.5) / 2)
    wanted = [
        norm.logpdf(own, mean, inside) - norm.logpdf(own, 0.5, outside)
        for own, mean in ((3.5, 3.0), (6.0, 6.5))
    ]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    offline = LiRA(online=False).scores(by_hand([3.5, 6.0], references, members))
    assert offline.tolist() == pytest.approx([3.0 / outside, 5.5 / outside])


def drawn(runs: int, count: int = 5, seed: int = 0) -> tuple[Evidence, Any, Any]:
    """Return evidence whose examples have spreads of their own; and it as arrays."""
    generator = np.random.default_rng(seed)
    spreads = np.geomspace(0.1, 10, count)
    members = generator.permuted(
        np.arange(runs)[:, None].repeat(count, axis=1) < runs // 2, axis=0
    )
    values = generator.normal(0, spreads, (runs, count)) + members
    target = generator.normal(0, spreads, count) + 1
    return by_hand(target, list(values), members.tolist()), values, members


@pytest.mark.parametrize(("runs", "shared"), [(62, True), (64, False), (100, False)])
def test_with_64_shadow_runs_each_example_has_deviations_of_its_own(
    runs: int, shared: bool
) -> None:
    given, values, members = drawn(runs)
    own = confidence(given.target.outputs, given.labels).numpy()
    wanted = np.zeros(len(own))
    for sign, chosen in ((1, members), (-1, ~members)):
        kept = np.ma.array(values, mask=~chosen)
        variances = kept.var(axis=0, ddof=1).data
        spread = np.sqrt(variances.mean() if shared else variances)
        wanted += sign * norm.logpdf(own, kept.mean(axis=0).data, spread)
    np.testing.assert_allclose(LiRA().scores(given), wanted, rtol=1e-9)


@pytest.mark.parametrize("runs", [8, 64])
def test_members_and_others_of_shadow_runs_are_two_sides_of_one_ratio(
    runs: int,
) -> None:
    given, _, _ = drawn(runs)
    turned = dataclasses.replace(
        given,
        references=[Reference(each.seen, ~each.members) for each in given.references],
    )
    torch.testing.assert_close(LiRA().scores(turned), -LiRA().scores(given))


@pytest.mark.parametrize("online", [True, False])
def test_neither_the_zero_nor_the_unit_of_a_signal_counts(online: bool) -> None:
    given, values, members = drawn(8)
    own = confidence(given.target.outputs, given.labels).numpy()
    other = by_hand(3 * own - 7, list(3 * values - 7), members.tolist())
    attack = LiRA(online=online)
    torch.testing.assert_close(attack.scores(other), attack.scores(given))


def test_a_shadow_run_that_is_further_away_makes_membership_likelier() -> None:
    members = [[True], [True], [False], [False]]

    def score(outside: float) -> float:
        references = [[2.0], [3.0], [outside], [outside + 1]]
        return float(LiRA().scores(by_hand([2.5], references, members)))

    assert score(-4.0) > score(0.0) > score(1.0)


def test_runs_that_are_all_alike_have_a_finite_ratio() -> None:
    members = [[True, False], [True, False], [False, True], [False, True]]
    given = by_hand([1.0, 2.0], [[1.0, 1.0]] * 4, members)
    found = LiRA().scores(given)
    assert found.isfinite().all()
    assert found[0] == 0.0, "as likely with it as without"


def test_the_population_is_no_reason_to_refuse() -> None:
    given, _ = evidence(40, references=4)
    found = LiRA().scores(given)
    assert bool(given.population.any())
    assert (
        not torch.stack([each.members for each in given.references])
        .any(dim=0)[given.population]
        .any()
    )
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("inside", "least"),
    [([1, 0, 0, 0], 1), ([1, 1, 1, 0], 1), ([1, 1, 1, 1], 0), ([0, 0, 0, 0], 0)],
)
def test_two_shadow_runs_with_an_example_and_two_without_are_needed(
    inside: list[int], least: int
) -> None:
    members = [[bool(each), run < 2] for run, each in enumerate(inside)]
    given = by_hand([1.0, 1.0], [[0.0, 0.0], [1.0, 1.0]] * 2, members)
    with pytest.raises(OptionError, match=rf"lira .*2.*\b{least}\b"):
        LiRA().scores(given)
    assert LiRA(online=False).scores(given).isfinite().all(), "it needs none with it"


def test_lira_says_what_it_needs() -> None:
    assert [LiRA().references_needed, LiRA(online=False).references_needed] == [4, 2]
    threats = [
        LiRA(signal=each).threat_model for each in ("confidence", "pixel_distance")
    ]
    assert threats == ["model", "images"]
    assert LiRA(signal="feature_distance").threat_model == "images"
    given, _ = evidence(20)
    with pytest.raises(OptionError, match=r"lira .*2"):
        LiRA().scores(dataclasses.replace(given, references=given.references[:3]))


@pytest.mark.parametrize("signal", ["pixel_distance", "feature_distance"])
def test_lira_on_a_distance_calls_near_examples_members(signal: Any) -> None:
    offline = LiRA(online=False, signal=signal)
    assert area_of(offline, 6.0, references=8) > 0.7
    assert 0.35 < area_of(offline, 0.0, references=8) < 0.65
    given, _, _ = drawn(6)
    far = LiRA(online=False).scores(given)  # there the distance is the confidence
    assert torch.equal(offline.scores(given), -far)


def test_a_distance_in_a_shadow_run_without_images_is_refused() -> None:
    given, _ = evidence(20)
    hidden = dataclasses.replace(given.references[1].seen, pixel_distance=None)
    references = [*given.references[:3], Reference(hidden, given.references[1].members)]
    with pytest.raises(OptionError, match="pixel_distance"):
        LiRA(signal="pixel_distance").scores(
            dataclasses.replace(given, references=references)
        )
