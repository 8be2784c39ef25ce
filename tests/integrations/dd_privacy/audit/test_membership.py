"""Who is a member of which run, and what a run is given."""

import pickle
from dataclasses import replace
from typing import Any

import pytest
import torch
from privacy_data import membership_by_hand, noisy_data

from dd_plugins.errors import DataError, OptionError
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.membership import Examples, Membership

EMPTY = Examples(torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.int64))


def test_a_game_is_what_a_process_is_sent() -> None:
    membership = membership_for_mechanism(noisy_data(200), members=80, shadows=2)
    sent: Membership = pickle.loads(pickle.dumps(membership))
    assert sent.content(1) == membership.content(1)


def test_audited_runs_come_before_shadow_runs() -> None:
    membership = membership_by_hand()
    found = [membership.members(run).nonzero().flatten().tolist() for run in range(6)]
    assert found == [[0, 1], [2, 3], [0, 1, 2], [3, 4, 5], [0, 2, 4], [1, 3, 5]]
    assert len(membership) == 8


def test_data_of_a_run_are_its_members_after_those_of_every_run() -> None:
    membership = membership_by_hand(mirror=True)
    data = membership.data(3)
    wanted = torch.cat([membership.always.images, membership.images[3:6]])
    assert torch.equal(data.train.images[:], wanted)
    assert data.train.labels.tolist() == [1, 1, 0, 1]
    assert len(data.validation.labels) == 0
    assert (data.name, data.class_names) == ("by hand", ("even", "odd"))
    assert (data.preprocessing, data.mirror) == ("standardize", True)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"seed": 5, "by_coin": False}, True),
        ({"scored": torch.ones(2, 8, dtype=torch.bool)}, True),
        ({"name": "other"}, False),
        ({"mirror": True}, False),
        ({"labels": torch.ones(8, dtype=torch.int64)}, False),
        ({"images": torch.zeros(8, 1, 8, 8)}, False),
        ({"always": EMPTY}, False),
        ({"targets": torch.zeros(2, 8, dtype=torch.bool)}, False),
    ],
)
def test_the_hash_of_a_run_is_over_all_that_it_is_given(
    changes: dict[str, Any], same: bool
) -> None:
    first, second = membership_by_hand(), membership_by_hand(**changes)
    assert (first.content(0) == second.content(0)) == same
    assert first.content(0) == membership_by_hand().content(0) != first.content(1)


def test_non_members_with_the_pixels_of_a_member_are_counted() -> None:
    membership = membership_by_hand()
    assert [membership.overlap(run) for run in range(2)] == [0, 0]
    images = membership.images.clone()
    images[4] = images[0]  # a member of the first audited run alone
    images[5] = membership.always.images[0]  # a member of all
    images[7] = images[0]  # of the population, which is not scored
    membership = membership_by_hand(images=images)
    assert [membership.overlap(run) for run in range(2)] == [2, 1]


def test_each_class_has_a_member_in_every_run_that_is_made() -> None:
    by_hand = membership_by_hand(labels=torch.tensor([0, 0, 0, 0, 1, 1, 0, 1]))
    by_hand.check_classes(6)  # the member of every run is of class 1
    lonely = replace(by_hand, always=EMPTY)
    with pytest.raises(DataError, match=r"'odd', got none in 3 of 6 .* run 0.: 2 of"):
        lonely.check_classes(6)
    shadows_alone = replace(
        lonely, targets=lonely.targets | (torch.arange(8) == 4)[None]
    )
    shadows_alone.check_classes(2)
    with pytest.raises(DataError, match=r"1 of 6 runs .*first is run 2"):
        shadows_alone.check_classes(6)


@pytest.mark.parametrize("name", ["targets", "scored", "shadows"])
def test_masks_are_of_all_examples(name: str) -> None:
    short = torch.zeros(2, 7, dtype=torch.bool)
    with pytest.raises(OptionError, match=rf"{name} must be of 8 .* shape \(2, 7\)"):
        membership_by_hand(**{name: short})


@pytest.mark.parametrize("name", ["targets", "shadows"])
def test_the_population_is_of_no_run(name: str) -> None:
    members = torch.zeros(2, 8, dtype=torch.bool)
    members[1, 6:] = True
    with pytest.raises(OptionError, match="expected no common example, got 2"):
        membership_by_hand(**{name: members})
