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
