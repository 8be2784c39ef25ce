"""Attacks against calculations by hand, and where there is nothing to find."""

import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from conftest import Command
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from dd_plugins.errors import OptionError, UnknownNameError
from dd_privacy.audit.attacks import (
    BUILT_IN,
    RMIA,
    AbstractAttack,
    Entropy,
    Evidence,
    LiRA,
    LogisticRegression,
    Loss,
    ModifiedEntropy,
    MultilayerPerceptron,
    NearestNeighbours,
    Observations,
    RandomForest,
    Reference,
    attack_names,
    confidence,
    get_attack,
)
from dd_privacy.audit.attacks.signals import signal_of

CLASSES = 4


def evidence(
    count: int = 60, references: int = 4, gain: float = 0.0, seed: int = 0
) -> tuple[Evidence, torch.Tensor]:
    """Return evidence in which members have a higher logit by ``gain``; and them."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (count,), generator=generator)
    population = torch.arange(count) >= count - count // 5
    ease = 2 * torch.randn(count, generator=generator)

    # Each example is a member of half of the shadow runs, as in an audit.
    ranks = torch.rand(references, count, generator=generator).argsort(dim=0)
    inside = ranks.argsort(dim=0) < references // 2

    def run(members: torch.Tensor) -> tuple[Observations, torch.Tensor]:
        members = members & ~population
        outputs = 0.5 * torch.randn(count, CLASSES, generator=generator)
        raised = ease + gain * members
        outputs[torch.arange(count), labels] += raised
        pixels = torch.rand(count, generator=generator) - 0.1 * gain * members
        return Observations(outputs, pixels, pixels.clone()), members

    target, members = run(torch.rand(count, generator=generator) < 0.5)
    others = [Reference(*run(inside[number])) for number in range(references)]
    known = (torch.rand(count, generator=generator) < 0.5) & ~population
    return (
        Evidence(target, labels, known, members & known, population, others, seed),
        members,
    )


def area_of(
    attack: AbstractAttack, gain: float, count: int = 600, **options: int
) -> float:
    given, members = evidence(count, gain=gain, **options)
    scored = ~given.population
    found = attack.scores(given)
    assert found.shape == (count,)
    assert found.isfinite().all()
    return float(roc_auc_score(members[scored], found[scored]))


def test_scores_on_one_output_by_hand() -> None:
    given, _ = evidence(5)
    for attack, by_hand in (
        (Loss(), lambda p, y: math.log(p[y]) - math.log(1 - p[y])),
        (Entropy(), lambda p, y: sum(q * math.log(q) for q in p)),
        (
            ModifiedEntropy(),
            lambda p, y: (
                (1 - p[y]) * math.log(p[y])
                + sum(q * math.log(1 - q) for i, q in enumerate(p) if i != y)
            ),
        ),
    ):
        found = attack.scores(given)
        for row, label, score in zip(
            given.target.outputs.double(), given.labels, found, strict=True
        ):
            p = row.softmax(dim=0).tolist()
            assert float(score) == pytest.approx(by_hand(p, int(label)), rel=1e-9)


def test_confidence_loses_nothing_where_the_model_is_sure() -> None:
    outputs = torch.tensor([[800.0, 0.0, -5.0], [0.0, 900.0, 0.0]])
    found = confidence(outputs, torch.tensor([0, 2]))
    assert found.tolist() == pytest.approx([800 - math.log(1 + math.exp(-5)), -900])


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

    def gaussian(chosen: np.ndarray) -> tuple[np.ndarray, float]:
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


def test_rmia_counts_whom_an_example_dominates() -> None:
    given, _ = evidence(50, references=3)
    scale, gamma = 0.3, 1.2

    def of_class(seen: Observations) -> np.ndarray:
        p = seen.outputs.double().softmax(dim=1)
        return p.gather(1, given.labels[:, None])[:, 0].numpy()

    members = np.stack([each.members.numpy() for each in given.references])
    found = np.stack([of_class(each.seen) for each in given.references])
    out = np.array(
        [
            found[~members[:, i], i].mean() if (~members[:, i]).any() else np.nan
            for i in range(50)
        ]
    )
    out = np.where(np.isnan(out), np.nanmean(out), out)
    ratio = of_class(given.target) / ((1 + scale) / 2 * out + (1 - scale) / 2)
    others = ratio[given.population.numpy()]
    wanted = [(value / others > gamma).sum() for value in ratio]
    scores = RMIA(scale=scale, gamma=gamma).scores(given) * (len(others) + 1)
    np.testing.assert_array_equal(np.floor(scores.numpy()), wanted)


@pytest.mark.parametrize("name", attack_names())
def test_every_attack_finds_members_that_show(name: str) -> None:
    attack = get_attack(name)
    gain = 6.0
    assert area_of(attack, gain, references=8) > 0.7
    assert 0.35 < area_of(attack, 0.0, references=8) < 0.65


def test_calibrated_attacks_beat_the_loss_where_examples_differ() -> None:
    loss, lira, rmia = (
        area_of(attack, 2.0, references=16) for attack in (Loss(), LiRA(), RMIA())
    )
    assert lira > loss + 0.1
    assert rmia > loss + 0.05


@pytest.mark.parametrize(
    "attack",
    [
        LogisticRegression(),
        LogisticRegression(threat="both"),
        MultilayerPerceptron(width=8),
        RandomForest(trees=5),
        NearestNeighbours(),
    ],
)
def test_classifiers_do_not_score_what_they_were_trained_on(
    attack: AbstractAttack,
) -> None:
    given, members = evidence(400, gain=0.0, seed=3)
    found = attack.scores(given)
    known = given.known
    assert 0.35 < roc_auc_score(members[known], found[known]) < 0.65
    assert attack.threat_model == ("both" if "both" in repr(attack) else "model")


def test_attacks_say_what_they_need() -> None:
    assert [LiRA().references_needed, LiRA(online=False).references_needed] == [4, 2]
    assert [RMIA().references_needed, RMIA(scale=0.5).references_needed] == [2, 1]
    assert LiRA(signal="pixel_distance").threat_model == "images"
    given, _ = evidence(20)
    with pytest.raises(OptionError, match="needs 2 shadow runs with each example"):
        LiRA().scores(dataclasses.replace(given, references=given.references[:3]))
    with pytest.raises(OptionError, match="20 known members"):
        LogisticRegression().scores(
            dataclasses.replace(given, members=torch.zeros(20, dtype=torch.bool))
        )
    hidden = dataclasses.replace(given, target=Observations(given.target.outputs))
    with pytest.raises(OptionError, match="needs released images, got none"):
        get_attack("pixel_distance").scores(hidden)
    with pytest.raises(OptionError, match="never members"):
        RMIA().scores(
            dataclasses.replace(given, population=torch.zeros(20, dtype=torch.bool))
        )


def test_specs_of_attacks() -> None:
    assert get_attack("lira(online=False)") == LiRA(online=False)
    with pytest.raises(UnknownNameError, match="unknown attack 'lyra'"):
        get_attack("lyra")
    with pytest.raises(OptionError, match="lira: signal"):
        get_attack("lira(signal='smell')")


def test_attacks_are_listed_with_the_plugin_that_offers_them(
    command_line: Command,
) -> None:
    found = json.loads(command_line("plugins", "--json").stdout)
    (own,) = [plugin for plugin in found if plugin["name"] == "privacy"]
    assert sorted(own["offers"]["attack"]) == attack_names()
    assert "attack: loss, " in command_line("plugins").stdout


def test_attacks_of_this_integration_are_found_by_their_names() -> None:
    assert {attack.name for attack in BUILT_IN} <= set(attack_names())
    assert len({attack.name for attack in BUILT_IN}) == len(BUILT_IN)
    for kind in BUILT_IN:
        assert get_attack(repr(kind())) == kind()


def test_each_attack_sees_what_its_threat_model_grants() -> None:
    seen = {attack.name: attack().threat_model for attack in BUILT_IN}
    assert {name for name, threat in seen.items() if threat == "images"} == {
        "pixel_distance",
        "feature_distance",
    }
    assert "both" not in seen.values(), "by default"
    learning = {attack.name for attack in BUILT_IN if attack().learns_from_known}
    assert learning == {
        *("logistic_regression", "multilayer_perceptron"),
        *("random_forest", "nearest_neighbours"),
    }


@pytest.mark.parametrize("signal", ["pixel_distance", "feature_distance"])
def test_a_distance_is_the_lower_the_nearer(signal: str) -> None:
    given, _ = evidence(20)
    scores = get_attack(signal).scores(given)
    distances = getattr(given.target, signal)
    assert torch.equal(scores, -distances.double())
    of_signal = signal_of(given.target, given.labels, signal)  # type: ignore[arg-type]
    assert torch.equal(of_signal, distances.double())
    hidden = Observations(given.target.outputs)
    with pytest.raises(OptionError, match=f"{signal} needs released images"):
        signal_of(hidden, given.labels, signal)  # type: ignore[arg-type]


def test_lira_on_a_distance_calls_near_examples_members() -> None:
    offline = LiRA(online=False, signal="pixel_distance")
    assert area_of(offline, 6.0, references=8) > 0.7
    assert 0.35 < area_of(offline, 0.0, references=8) < 0.65


def test_an_attack_needs_no_shadow_runs_unless_it_says_so() -> None:
    assert [Loss().references_needed, Loss().learns_from_known] == [0, False]
    assert [LiRA(signal="feature_distance").threat_model, RMIA().threat_model] == [
        "images",
        "model",
    ]


def test_the_older_name_of_observations_is_where_the_checks_look() -> None:
    kinds = sys.modules[AbstractAttack.__module__]
    assert kinds.Seen is Observations
    assert {"Evidence", "Reference"} <= set(vars(kinds))
