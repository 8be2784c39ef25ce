"""Members are drawn as an audit says, or refused."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from privacy_data import noisy_data

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.errors import DataError, OptionError
from dd_privacy.audit.drawing import membership_for_artifact, membership_for_mechanism


def test_memberships_of_the_game() -> None:
    data = noisy_data(1000)
    membership = membership_for_mechanism(
        data, members=400, canaries=40, targets=2, shadows=6
    )
    assert membership.targets.shape == (2, len(membership))
    assert 340 < int(membership.targets[0].sum()) < 460
    assert not torch.equal(*membership.targets)
    candidates = ~membership.population
    assert (membership.shadows.sum(dim=0)[candidates] == 3).all(), (
        "each in half of them"
    )
    assert not (membership.shadows | membership.targets.any(dim=0))[
        :, membership.population
    ].any()
    again = membership_for_mechanism(
        data, members=400, canaries=40, targets=2, shadows=6
    )
    assert again.content(0) == membership.content(0) != membership.content(1)
    plain = membership_for_mechanism(data, members=400)
    assert (plain.labels != membership.labels).sum() == membership.canaries.sum() == 40
    members = membership.data(0)
    assert len(members.train.labels) == int(membership.targets[0].sum())
    assert len(members.validation.labels) == 0


def test_frepo_protocol_takes_chunks_and_the_test_set() -> None:
    data = dd_plugins.get_dataset("digits")
    membership = membership_for_mechanism(
        data, members=200, targets=3, shadows=4, non_members="test"
    )
    assert membership.targets.sum(dim=1).tolist() == [200, 200, 200]
    assert int(membership.targets.sum(dim=0).max()) == 1, "chunks do not overlap"
    test = data.read_test()
    outside = membership.scored[0] & ~membership.targets[0]
    assert int(outside.sum()) == len(test.labels)
    assert torch.equal(membership.images[outside], test.images[:])
    assert not membership.by_coin


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 100.5}, "members must be a whole number"),
        ({"members": True}, "members must be a whole number"),
        ({"members": 100, "seed": 1.0}, "seed must be a whole number"),
        ({"members": 100, "targets": "2"}, "targets must be a whole number"),
        ({"members": 100, "non_members": "val"}, "non_members must be one of train"),
        ({"members": 100, "shadows": 10**6}, "shadows must be at most 1000"),
        ({"members": 100, "targets": 10**6}, "shadows must be at most 1000"),
        ({"members": 100, "shadows": 3}, "ask for 2 or for 4 shadow runs, or for none"),
    ],
)
def test_games_of_other_numbers_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        membership_for_mechanism(noisy_data(400), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 201}, "^201 members need 402 .* has 380; lower the number of"),
        (
            {"members": 40, "targets": 10, "non_members": "test"},
            "^40 members in each of 10 audited runs need 400 .* has 380; lower either",
        ),
    ],
)
def test_too_few_images_are_told_with_what_needs_them(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        membership_for_mechanism(noisy_data(400), **options)


@pytest.fixture(scope="module")
def data() -> RealData:
    """Return 192 training and eight validation images, and a test set."""
    return with_test(noisy_data(200), 60)


def with_test(data: RealData, count: int) -> RealData:
    return replace(data, read_test=lambda: noisy_data(count, seed=9).train)


def test_coins_decide_about_every_image_that_is_drawn(data: RealData) -> None:
    membership = membership_for_mechanism(data, members=90, targets=3)
    candidates = ~membership.population
    assert int(candidates.sum()) == 180
    assert (membership.scored == candidates).all()
    counts = membership.targets.sum(dim=1)
    assert ((counts > 60) & (counts < 120)).all()
    assert len({tuple(mask.tolist()) for mask in membership.targets}) == 3
    assert membership.shadows.shape == (0, len(membership))
    assert not membership.initial.any()
    assert len(membership.always.labels) == 0
    assert membership.by_coin


def test_the_population_is_the_validation_images(data: RealData) -> None:
    membership = membership_for_mechanism(data, members=50)
    found = membership.images[membership.population]
    assert len(found) == len(data.validation.labels) == 8
    wanted = {image.tobytes() for image in data.validation.images[:].numpy()}
    assert {image.tobytes() for image in found.numpy()} == wanted


def test_canaries_alone_have_another_label(data: RealData) -> None:
    plain = membership_for_mechanism(data, members=90)
    membership = membership_for_mechanism(data, members=90, canaries=30)
    assert torch.equal(plain.images, membership.images)
    assert torch.equal(plain.targets, membership.targets)
    assert torch.equal(plain.labels != membership.labels, membership.canaries)
    assert int(membership.canaries.sum()) == 30
    assert not (membership.canaries & membership.population).any()
    assert set(membership.labels.tolist()) == {0, 1, 2, 3}


def test_another_seed_draws_others_and_the_same_seed_the_same(data: RealData) -> None:
    first, same, other = (
        membership_for_mechanism(data, members=60, shadows=4, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.images, same.images)
    assert torch.equal(first.shadows, same.shadows)
    assert not torch.equal(first.images, other.images)
    assert not torch.equal(first.targets, other.targets)


def test_numbers_of_numpy_draw_the_same(data: RealData) -> None:
    given = membership_for_mechanism(data, members=np.int64(60), seed=np.int32(1))
    wanted = membership_for_mechanism(data, members=60, seed=1)
    assert torch.equal(given.targets, wanted.targets)
    assert type(given.seed) is int


def test_images_of_another_dtype_are_refused(data: RealData) -> None:
    test = noisy_data(60).train
    other = test._replace(images=(255 * test.images[:]).to(torch.uint8))
    mixed = replace(data, read_test=lambda: other)
    with pytest.raises(DataError, match=r"float32 and others of torch\.uint8"):
        membership_for_mechanism(mixed, members=60, non_members="test")


def test_chunks_and_the_test_set_are_scored(data: RealData) -> None:
    membership = membership_for_mechanism(
        data, members=40, targets=2, non_members="test"
    )
    assert membership.targets.sum(dim=1).tolist() == [40, 40]
    others = membership.scored & ~membership.targets
    assert torch.equal(others[0], others[1]), "runs share their non-members"
    assert int(others[0].sum()) == 60


def test_an_artifact_is_scored_on_the_images_that_it_started_from(
    data: RealData,
) -> None:
    initial = data.train_indices[torch.tensor([3, 50, 177])]
    membership = membership_for_artifact(data, initial, members=20, shadows=4)
    assert int(membership.initial.sum()) == 3
    assert (membership.scored[0] & membership.targets[0])[membership.initial].all()
    assert int(membership.targets.sum()) == 20
    assert int((membership.scored & ~membership.targets).sum()) == 20
    assert len(membership.always.labels) == len(data.train.labels) - 20
    assert not membership.by_coin
    started_from = {
        image.tobytes() for image in data.train.images[[3, 50, 177]].numpy()
    }
    found = membership.images[membership.initial].numpy()
    assert {image.tobytes() for image in found} == started_from
    inside = membership.shadows.sum(dim=0)
    assert (inside[~membership.population] == 2).all()


def test_an_artifact_that_started_from_noise_has_no_initial_images(
    data: RealData,
) -> None:
    membership = membership_for_artifact(data, None, members=20)
    assert not membership.initial.any()
    every = membership.data(0)
    assert len(every.train.labels) == len(data.train.labels), "all made the set"


def test_a_small_test_set_gives_fewer_non_members(data: RealData) -> None:
    membership = membership_for_artifact(with_test(data, 12), None, members=30)
    others = membership.scored & ~membership.targets
    assert int(others.sum()) == len(with_test(data, 12).read_test().labels)


@pytest.mark.parametrize(("members", "population"), [(20, 40), (57, 6)])
def test_data_without_validation_images_has_a_population_of_test_images(
    data: RealData, members: int, population: int
) -> None:
    membership = membership_for_artifact(data.undivided(), None, members=members)
    assert int(membership.population.sum()) == population
    others = membership.scored & ~membership.targets
    found = membership.images[others[0] | membership.population]
    wanted = {image.tobytes() for image in data.read_test().images[:].numpy()}
    assert {image.tobytes() for image in found.numpy()} == wanted, "each once"
    assert len(found) == len(wanted)


def test_shadow_runs_of_an_artifact_have_as_many_members_as_made_it(
    data: RealData,
) -> None:
    few = with_test(data, 30)
    membership = membership_for_artifact(few, None, members=150, shadows=12)
    sizes = len(membership.always.labels) + membership.shadows.sum(dim=1)
    assert sizes.float().mean() == pytest.approx(len(data.train.labels), rel=0.02)
    with pytest.raises(OptionError, match=r"got 2 shadow runs, .* ask for 3 shadow"):
        membership_for_artifact(few, None, members=150, shadows=2)


def test_more_members_than_images_are_refused(data: RealData) -> None:
    with pytest.raises(OptionError, match="need 200 training images, 'noisy' has"):
        membership_for_artifact(data, None, members=200)
    with pytest.raises(OptionError, match="need 200 training images, 'noisy' has"):
        membership_for_mechanism(data, members=100)
