"""Shadow runs have each example equally often."""

import re
from dataclasses import replace

import pytest
import torch
from privacy_data import noisy_data

from dd_plugins.errors import OptionError
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.membership import Membership
from dd_privacy.audit.shadow_members import shadow_members


@pytest.mark.parametrize("shadows", [2, 3, 5, 7])
def test_shadow_runs_that_a_refusal_asks_for_are_taken(shadows: int) -> None:
    data = noisy_data(400)

    def made(count: int) -> Membership:
        return membership_for_mechanism(
            data, members=60, shadows=count, non_members="test", targets=2
        )

    data = replace(data, read_test=lambda: noisy_data(300, seed=9).train)
    try:
        made(shadows)
    except OptionError as error:
        asked = [int(word) for word in re.findall(r"\d+", str(error).split("ask")[1])]
        assert asked
        assert shadows not in asked
        for count in asked:
            assert made(count).shadows.shape[0] == count


@pytest.mark.parametrize(
    ("shadows", "fraction", "runs_with_each"),
    [(2, 0.5, 1), (8, 0.5, 4), (4, 0.25, 1), (10, 0.3, 3), (64, 0.5, 32)],
)
def test_each_example_is_in_equally_many_runs(
    shadows: int, fraction: float, runs_with_each: int
) -> None:
    members = shadow_members(shadows, 500, fraction, seed=3)
    assert members.shape == (shadows, 500)
    assert members.dtype == torch.bool
    assert (members.sum(dim=0) == runs_with_each).all()
    sizes = members.sum(dim=1) / 500
    assert float((sizes - fraction).abs().max()) < 0.12, "and each run has its part"


def test_shadow_members_are_a_function_of_the_seed() -> None:
    first, same, other = (shadow_members(6, 50, 0.5, seed) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert shadow_members(0, 50, 0.5, 1).shape == (0, 50)


def test_a_number_of_runs_that_cannot_be_balanced_is_refused() -> None:
    with pytest.raises(OptionError, match=r"got 3 shadow runs, .* 2 or for 4 shadow"):
        shadow_members(3, 50, 0.5, 0)
    with pytest.raises(OptionError, match="ask for 8 shadow runs, or for none"):
        shadow_members(2, 50, 0.1, 0)
