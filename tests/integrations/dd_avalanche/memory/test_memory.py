"""A memory grows, shrinks, and stays as it was after a failure."""

import pytest
import torch
from memory_samples import experience, memory

from dd_avalanche.memory import TaskClass
from dd_plugins.errors import DataError, OptionError, UnknownNameError


def test_classes_share_the_room_there_is() -> None:
    held = memory(size=13)
    held.add(*experience(3, 5))
    assert held.hard_labels().tolist() == [3] * 6 + [5] * 6
    first = held.groups[TaskClass(0, 3)].images
    held.add(*experience(1, 2))
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {3: 3, 5: 3, 1: 3, 2: 3}
    # Without re-reading old data: the first of what was there.
    assert torch.equal(held.groups[TaskClass(0, 3)].images, first[:3])
    held.resize(8)
    assert len(held) == 8
    held.resize(40)
    assert len(held) == 8  # what is gone does not come back
    held.add(*experience(6, 7))
    assert len(held.groups[TaskClass(0, 6)]) == 6


def test_number_for_each_class_may_be_fixed() -> None:
    held = memory(size=20, images_per_class=4)
    held.add(*experience(0, 1))
    held.add(*experience(2, 3))
    assert len(held) == 16
    with pytest.raises(OptionError, match=r"at least 24 for 6 classes .* got 20"):
        held.add(*experience(4, 5))
    assert len(held) == 16


def test_memory_smaller_than_the_number_of_classes_is_refused() -> None:
    held = memory(size=3)
    held.add(*experience(0, 1))
    before = held.images()
    with pytest.raises(OptionError, match="at least 4 for 4 classes, got 3; make"):
        held.add(*experience(2, 3))
    assert torch.equal(held.images(), before)
    with pytest.raises(OptionError, match="at least 2 for 2 classes, got 1"):
        held.resize(1)
    assert held.size == 3


def test_failure_leaves_the_memory_as_it_was() -> None:
    held = memory(4, shrink="distil")
    held.add(*experience(0, 1))
    images, experiences = held.images(), held.experiences
    bad = experience(2, 3)[0][:, :, :4], experience(2, 3)[1]
    with pytest.raises(DataError):
        held.add(*bad)
    held.network = "no_such_network"
    with pytest.raises(UnknownNameError):
        held.add(*experience(2, 3))
    assert torch.equal(held.images(), images)
    assert held.experiences == experiences


def test_fewer_images_may_be_distilled_from_those_that_are_stored() -> None:
    cut, distilled = (
        memory(12, shrink=how, images_per_class=None) for how in ("truncate", "distil")
    )
    for held in (cut, distilled):
        held.add(*experience(0, 1))
        held.resize(4)
    assert len(cut) == len(distilled) == 4
    assert not torch.equal(cut.images(), distilled.images())
    assert distilled.groups[TaskClass(0, 0)].seen == 20


def test_a_packed_memory_has_four_images_in_the_room_of_one() -> None:
    plain, packed = (memory(8, store=store) for store in ("float32", "packed"))
    for held in (plain, packed):
        held.add(*experience(0, 1))
    assert (len(plain), len(packed)) == (8, 32)
    assert packed.image_bytes == plain.image_bytes
    assert packed.images().shape == (32, 1, 8, 8)
    assert packed.labels(2).shape == (32, 2)
    assert packed.hard_labels().tolist() == [0] * 16 + [1] * 16
    packed.add(*experience(2, 3))
    counts = {group.label: len(stored) for group, stored in packed.groups.items()}
    assert counts == {0: 8, 1: 8, 2: 8, 3: 8}
    packed.resize(4)
    assert len(packed) == 16
    assert len(packed.rounded()) == 16


def test_a_packed_memory_of_few_real_images_keeps_no_more_than_they_fill() -> None:
    held = memory(8, store="packed")
    with pytest.warns(UserWarning, match="2 of class 1"):
        held.add(*experience(0, 1, count=5))
    assert {group.label: stored.count for group, stored in held.groups.items()} == {
        0: 2,
        1: 2,
    }


def test_a_packed_memory_has_no_context() -> None:
    with pytest.raises(OptionError, match="'packed' allows no context, got 'fixed'"):
        memory(8, store="packed", context="fixed")
