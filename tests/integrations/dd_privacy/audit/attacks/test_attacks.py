"""What holds for all attacks that come with this integration."""

import copy
import dataclasses

import pytest
import torch
from attack_evidence import CLASSES, area_of, by_hand, evidence, reordered

from dd_privacy.audit.attacks import (
    BUILT_IN,
    RMIA,
    AbstractAttack,
    Evidence,
    LiRA,
    Loss,
    Observations,
    attack_names,
    get_attack,
)

UNTRAINED = [
    *("loss", "entropy", "modified_entropy", "pixel_distance", "feature_distance"),
    *("lira", "lira(online=False)", "lira(signal='pixel_distance')"),
    *("rmia", "rmia(scale=0.3, gamma=2.0)"),
]
TRAINED = [
    *("logistic_regression", "multilayer_perceptron(width=8)"),
    *("random_forest(trees=5)", "nearest_neighbours"),
]


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


@pytest.mark.parametrize("spec", UNTRAINED)
def test_a_score_is_of_an_example_wherever_it_stands(spec: str) -> None:
    given, _ = evidence(80, references=6, gain=1.0)
    order = torch.randperm(80, generator=torch.Generator().manual_seed(4))
    attack = get_attack(spec)
    moved = attack.scores(reordered(given, order))
    torch.testing.assert_close(moved, attack.scores(given)[order])


@pytest.mark.parametrize("spec", UNTRAINED)
def test_an_attack_that_is_not_trained_looks_at_no_membership_of_its_target(
    spec: str,
) -> None:
    given, _ = evidence(60, references=6)
    nobody = torch.zeros(60, dtype=torch.bool)
    blind = dataclasses.replace(given, known=nobody, members=nobody, seed=9)
    attack = get_attack(spec)
    assert torch.equal(attack.scores(blind), attack.scores(given))


@pytest.mark.parametrize("spec", [*UNTRAINED, *TRAINED])
def test_an_attack_leaves_the_evidence_as_it_was(spec: str) -> None:
    given, _ = evidence(200, references=4)
    before = copy.deepcopy(given)
    scores = get_attack(spec).scores(given)
    assert scores.dtype == torch.float64
    assert scores.shape == (200,)

    def tensors(each: Evidence) -> list[torch.Tensor]:
        runs = [each.target, *(reference.seen for reference in each.references)]
        return [
            *(each.labels, each.known, each.members, each.population),
            *(reference.members for reference in each.references),
            *(value for run in runs for value in vars(run).values()),
        ]

    for now, then in zip(tensors(given), tensors(before), strict=True):
        assert torch.equal(now, then)


@pytest.mark.parametrize("spec", [*UNTRAINED, *TRAINED])
def test_scores_are_a_function_of_the_evidence_alone(spec: str) -> None:
    given, _ = evidence(200, references=4)
    attack = get_attack(spec)
    torch.manual_seed(0)
    first, state = attack.scores(given), torch.get_rng_state()
    torch.manual_seed(1)
    assert torch.equal(attack.scores(given), first)
    torch.manual_seed(0)
    assert torch.equal(torch.get_rng_state(), state), "no global generator is used"


@pytest.mark.parametrize("spec", UNTRAINED)
def test_models_that_are_sure_give_finite_scores(spec: str) -> None:
    given, _ = evidence(40, references=4)

    def sure(seen: Observations) -> Observations:
        distances = 1e4 * torch.ones(40), torch.zeros(40)
        return Observations(1e5 * seen.outputs.sign(), *distances)

    references = [
        dataclasses.replace(each, seen=sure(each.seen)) for each in given.references
    ]
    given = dataclasses.replace(given, target=sure(given.target), references=references)
    assert get_attack(spec).scores(given).isfinite().all()


@pytest.mark.parametrize("spec", UNTRAINED)
def test_examples_that_look_alike_have_one_score(spec: str) -> None:
    population = [False] * 6 + [True] * 2
    inside = [[True, False] * 3 + [False] * 2, [False, True] * 3 + [False] * 2]
    given = by_hand([0.5] * 8, [[0.2] * 8, [0.3] * 8] * 2, inside * 2, population)
    found = get_attack(spec).scores(given)[:6]
    # The even and the odd examples were members of other shadow runs.
    assert len(set(found[::2].tolist())) == len(set(found[1::2].tolist())) == 1


@pytest.mark.parametrize(
    "attack", [Loss(), LiRA(), LiRA(online=False), RMIA(scale=0.5)]
)
def test_a_model_that_is_surer_of_one_example_raises_its_score_alone(
    attack: AbstractAttack,
) -> None:
    given, _ = evidence(50, references=8, gain=3.0)
    number = 7
    outputs = given.target.outputs.clone()
    outputs[number] = 0.0
    outputs[number, given.labels[number]] = 20.0
    seen = dataclasses.replace(given.target, outputs=outputs)
    before = attack.scores(given)
    after = attack.scores(dataclasses.replace(given, target=seen))
    assert float(after[number]) > float(before[number])
    others = torch.arange(50) != number
    assert torch.equal(after[others], before[others])
    assert outputs.shape == (50, CLASSES)
