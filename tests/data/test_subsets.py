"""Parts of a data set, beside what test_real.py shows of whole data sets."""

import pytest
import torch
from torch import Tensor

from dd_plugins.data.subsets import (
    balanced_subset,
    by_class,
    class_members,
    every_fifth,
    random_members,
    stratified_split,
)
from dd_plugins.errors import DataError, OptionError
from dd_plugins.runtime.randomness import generator_for


def mixed(*counts: int) -> Tensor:
    """Return labels with that many of each class, mixed."""
    ordered = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return ordered[torch.randperm(len(ordered), generator=generator_for(0, "mixing"))]


@pytest.mark.parametrize(
    ("part", "most", "expected"),
    [
        (0.0, 1000, [0, 0, 0, 0]),
        (0.1, 1000, [10, 3, 0, 0]),
        (0.5, 1000, [50, 15, 4, 0]),
        (0.99, 1000, [99, 30, 8, 0]),
        (0.5, 71, [50, 15, 4, 0]),  # of 142
        (0.5, 35, [24, 7, 2, 0]),  # a part of 0.246
        (0.5, 0, [0, 0, 0, 0]),
    ],
)
def test_a_part_of_each_class_is_held_out(
    part: float, most: int, expected: list[int]
) -> None:
    labels = mixed(101, 31, 9, 1)
    held_out, kept = stratified_split(labels, part, most)
    assert torch.bincount(labels[held_out], minlength=4).tolist() == expected
    assert torch.equal(torch.cat([held_out, kept]).sort().values, torch.arange(142))
    for places in (held_out, kept):
        assert torch.equal(places, places.sort().values)


def test_a_larger_part_holds_the_smaller_one() -> None:
    labels = mixed(60, 40)
    small, large = (
        set(stratified_split(labels, part, 99)[0].tolist()) for part in (0.1, 0.3)
    )
    assert small < large


def test_what_is_held_out_of_a_class_depends_on_that_class_alone() -> None:
    """A class more leaves the others' validation images as they were."""
    labels = mixed(50, 30, 20)
    whole, _ = stratified_split(labels, 0.2, 99)
    few = (labels < 2).nonzero().flatten()
    part, _ = stratified_split(labels[few], 0.2, 99)
    assert torch.equal(few[part], whole[labels[whole] < 2])


def test_members_are_the_places_of_each_class_in_order() -> None:
    labels = torch.tensor([3, 0, 3, 1, 0])
    found = [members.tolist() for members in class_members(labels)]
    assert found == [[1, 4], [3], [], [0, 2]]
    assert [len(members) for members in by_class(labels, 6)] == [2, 1, 0, 2, 0, 0]
    assert [len(members) for members in by_class(labels[:0], 2)] == [0, 0]


def test_every_fifth_leaves_labels_without_a_name_and_refuses_negative_ones() -> None:
    labels = [0, 1, 2] * 5
    mask = every_fifth(labels, ["ant", "bee"], "insects")
    assert mask.nonzero().flatten().tolist() == [12, 13]
    mask = every_fifth(labels, None, "insects")
    assert mask.nonzero().flatten().tolist() == [12, 13, 14]
    assert every_fifth([], None, "insects").tolist() == []
    with pytest.raises(DataError, match="insects: labels must not be negative, got -1"):
        every_fifth([0, -1], ["ant"], "insects")


@pytest.mark.parametrize(
    ("labels", "least", "named"),
    [([0, 0, 1, 1, 1], 3, r"\b3\b.*class 0.*\b2\b"), ([0, 2], 1, r"\b1\b.*class 1.*0")],
)
def test_too_small_a_class_is_named_with_its_size(
    labels: list[int], least: int, named: str
) -> None:
    class_members(torch.tensor([0, 0, 1, 1]), 2)
    with pytest.raises(OptionError, match=named):
        class_members(torch.tensor(labels), least)


def test_numbers_of_classes_without_images_are_not_cut_off() -> None:
    labels = torch.tensor([0, 1, 1])
    assert [len(members) for members in class_members(labels, [1, 2, 0])] == [1, 2, 0]
    chosen = balanced_subset(labels, [1, 1, 0], generator_for(1, "draw"))
    assert labels[chosen].tolist() == [0, 1]
    with pytest.raises(OptionError, match=r"1 image of class 2, .* 0 training"):
        class_members(labels, [1, 2, 1])


def test_as_many_members_as_asked_for_or_all_there_are() -> None:
    labels = mixed(9, 5, 7)
    members = class_members(labels)
    for counts, expected in (([2, 0, 7], [2, 0, 7]), ([99, 3, 8], [9, 3, 7])):
        chosen = random_members(members, counts, generator_for(1, "draw"))
        assert len(set(chosen.tolist())) == sum(expected)
        ordered = [place for place, n in enumerate(expected) for _ in range(n)]
        assert labels[chosen].tolist() == ordered
    with pytest.raises(ValueError, match="zip"):
        random_members(members, [1, 1], generator_for(1, "draw"))


def test_every_member_is_drawn_as_often() -> None:
    members = class_members(torch.tensor([0] * 5 + [1] * 3))
    generator = generator_for(0, "often")
    drawn = torch.cat([random_members(members, [2, 1], generator) for _ in range(600)])
    shares = torch.bincount(drawn) / 600
    torch.testing.assert_close(
        shares, torch.tensor([0.4] * 5 + [1 / 3] * 3), atol=0.08, rtol=0
    )
