"""What an experience adds to a memory."""

import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from memory_samples import FREPO, experience, memory
from torch import Tensor

from dd_avalanche.memory import ClassImages, ImageGroups, TaskClass
from dd_avalanche.memory.growing import Addition
from dd_avalanche.memory.options import MemoryOptions
from dd_plugins import DistilledSet
from dd_plugins.errors import DataError, DDWarning, OptionError


def test_class_that_returns_is_distilled_from_old_and_new() -> None:
    old, new = experience(0, 1, seed=0), experience(0, 2, count=20, seed=1)
    held = memory(20, "random", images_per_class=5)
    held.add(*old)
    stored = held.groups[TaskClass(0, 0)].images
    held.add(*new)
    assert held.groups[TaskClass(0, 0)].seen == 40
    assert held.groups[TaskClass(0, 1)].seen == 20
    # Twenty copies of five stored images stand beside twenty new ones: of five images
    # that are drawn from these forty some are of either kind.
    known = [
        bool((stored - image).abs().flatten(1).amax(dim=1).min() < 1e-5)
        for image in held.groups[TaskClass(0, 0)].images
    ]
    assert set(known) == {True, False}


def test_class_that_returns_with_few_images_keeps_its_share() -> None:
    held = memory(20)
    held.add(*experience(0, 1))
    images, labels = experience(0, 1, seed=1)
    held.add(images[19:], labels[19:])  # one image of class 0, twenty of class 1
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {0: 10, 1: 10}
    assert held.groups[TaskClass(0, 0)].seen == 21


@pytest.mark.parametrize("context", ["fixed", "refined"])
def test_context_may_have_seen_fewer_images_than_are_asked_for(context: Any) -> None:
    held = memory(20, context=context)
    with pytest.warns(DDWarning, match="only 3"):
        held.add(*experience(0, 1, count=3))
    held.add(*experience(2, 3))
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {0: 3, 1: 3, 2: 5, 3: 5}


@pytest.mark.parametrize("distiller", ["random", "dm", "frepo(pool_size=2)"])
@pytest.mark.parametrize("shrink", ["truncate", "distil"])
def test_room_is_filled_in_proportion_to_the_real_images(
    distiller: str, shrink: Any, tmp_path: Path
) -> None:
    held = memory(
        20, distiller, images_per_class="proportional", shrink=shrink, num_classes=9
    )
    images, labels = experience(0, 1)  # of 20 images each
    few = torch.cat([torch.arange(20), torch.arange(20, 40, 2)])
    held.add(images[few], labels[few])
    counts = Counter(held.hard_labels().tolist())
    assert counts == {0: 13, 1: 7}, "20 real images and 10"
    images, labels = experience(2, 3, seed=1)
    held.add(images[:25], labels[:25])
    counts = Counter(held.hard_labels().tolist())
    assert counts == {0: 7, 1: 4, 2: 7, 3: 2}, "of 20, 10, 20 and 5 real images"
    again = replace(held)
    held.save(tmp_path)
    again.restore(tmp_path)
    assert torch.equal(again.images(), held.images())


def test_tasks_do_not_mix() -> None:
    held = memory(20, images_per_class=2)
    held.add(*experience(0, 1), task=0)
    held.add(*experience(0, 1, seed=1), task=1)
    assert list(held.groups) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert held.tasks().tolist() == [0] * 4 + [1] * 4
    assert held.groups[TaskClass(1, 0)].seen == 20


def test_experience_with_fewer_images_than_the_memory_asks_for() -> None:
    images, labels = experience(0, 1)
    keep = torch.cat([torch.arange(3), torch.arange(20, 40)])
    held = memory(20)
    with pytest.warns(DDWarning, match="only 3"):
        held.add(images[keep], labels[keep])
    assert held.hard_labels().tolist() == [0] * 3 + [1] * 10


@pytest.mark.parametrize("distiller", ["random", FREPO])
def test_class_with_few_images_takes_none_from_others(distiller: str) -> None:
    held = memory(40, distiller, images_per_class=10)
    held.add(*experience(0, 1))
    returning, few = experience(0, seed=1), experience(2, count=1)
    with pytest.warns(DDWarning, match="only 1 of class 2"):
        held.add(*(torch.cat(pair) for pair in zip(returning, few, strict=True)))
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {0: 10, 1: 10, 2: 1}


@pytest.mark.parametrize("distiller", ["random", "herding(training_steps=20)"])
def test_images_of_a_class_that_returns_stay_different(distiller: str) -> None:
    held = memory(20, distiller, images_per_class=10)
    offered = []
    for seed in range(8):
        offered.append(experience(0, 1, seed=seed))
        held.add(*offered[-1])
    stored = held.groups[TaskClass(0, 0)].images
    assert len(stored.flatten(1).unique(dim=0)) == len(stored) == 10
    # Each experience stands for as many images; the earliest are not all that is left.
    came_from = {
        seed
        for seed, (images, _) in enumerate(offered)
        for image in stored
        if (images - image).abs().flatten(1).amax(dim=1).min() < 1e-5
    }
    assert 7 in came_from
    assert len(came_from) > 2


def test_one_class_alone_needs_others_beside_it() -> None:
    apart = "take dm, random or herding\\(training_steps=0\\)"
    for distiller in (
        FREPO,
        f"turned({FREPO})",
        "dsa(real_batch_size=8)",
        "herding(training_steps=2)",
        "kmeans(training_steps=2)",
        "rded",
        "metadd(dm, networks=(mlp, conv), variant='variance')",
    ):
        held = memory(20, distiller, context="fixed")
        with pytest.raises(OptionError, match=f"got class 4 alone.*{apart}"):
            held.add(*experience(4))
        assert len(held) == 0
    for context, distiller in (("fixed", FREPO), ("none", FREPO), ("none", "random")):
        held = memory(20, distiller, context=context)
        held.add(*experience(0, 1))
        before = held.groups[TaskClass(0, 0)].images
        held.add(*experience(4))
        assert held.classes(0) == [0, 1, 4]
        after = held.groups[TaskClass(0, 0)].images
        assert torch.equal(after, before[: len(after)])


@pytest.mark.parametrize(
    "distiller",
    [
        "random",
        "herding(training_steps=0)",
        "kmeans(training_steps=0)",
        "dm(real_batch_size=8)",
        "clip(dm(real_batch_size=8))",
        "turned(dm(real_batch_size=8))",
    ],
)
def test_memory_may_begin_with_one_class(distiller: str, tmp_path: Path) -> None:
    held = memory(12, distiller)
    held.add(*experience(3))
    held.add(*experience(0, seed=1), task=2)  # one class of a task
    assert held.hard_labels().tolist() == [3] * 6 + [0] * 6
    assert held.labels(4).argmax(dim=1).tolist() == [3] * 6 + [0] * 6
    assert bool(torch.isfinite(held.images()).all())
    held.save(tmp_path)
    assert DistilledSet.load(tmp_path / "task-0.safetensors").header.class_names == [
        "class 3"
    ]
    again = memory(12, distiller)
    again.restore(tmp_path)
    for each in (held, again):
        each.add(*experience(3, 1, seed=2))
        assert each.groups[TaskClass(0, 3)].seen == 40
    assert torch.equal(held.images(), again.images())


def test_one_class_alone_needs_others_where_batch_norm_joins_them() -> None:
    network = "conv(width=4, depth=2, normalization='batch')"
    with pytest.raises(OptionError, match=r"class 4 alone.*network without BatchNorm"):
        memory(20, "dm(real_batch_size=8)", network=network).add(*experience(4))
    held = memory(20, "herding(training_steps=0)", network=network)
    held.add(*experience(4))  # no network takes part
    assert held.classes(0) == [4]


def test_images_that_cannot_be_used_are_refused() -> None:
    held = memory(8)
    images, labels = experience(0, 1)
    with pytest.raises(DataError, match="must have finite values, got values between"):
        held.add(images / 0, labels)
    with pytest.raises(DataError, match=r"shape \(n, channels"):
        held.add(images[0], labels[:1])
    with pytest.raises(DataError, match="go from 0 to 1; expected 0 to 0"):
        memory(8, num_classes=1).add(images, labels)
    with pytest.raises(DataError, match="go from -1 to 0"):
        held.add(images, labels - 1)
    with pytest.raises(DataError, match=r"\(1, 4, 4\), as the public ones have, got"):
        memory(8, whitening=torch.rand(9, 1, 4, 4)).add(images, labels)
    held.add(images, labels)
    with (
        warnings.catch_warnings(),
        pytest.raises(DataError, match="as those before"),
    ):
        held.add(images[..., :6], labels + 2)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 1], r"must have shape \(40,\), one for each image; got \(3,\)"),
        (torch.zeros(40, 2), r"one for each image; got \(40, 2\)"),
        (torch.full((40,), 0.5), "must be whole numbers"),
        (torch.full((40,), torch.inf), "must be whole numbers"),
        (torch.full((40,), 1j), "must be whole numbers"),
        (["cat"] * 40, "must be a tensor or an array of numbers"),
    ],
)
def test_labels_that_are_no_classes_are_refused(labels: Any, message: str) -> None:
    with pytest.raises(DataError, match=f"the classes of an experience .*{message}"):
        memory(8).add(experience(0, 1)[0], labels)


def test_pixels_that_no_transform_has_seen_are_refused() -> None:
    images, labels = experience(0, 1)
    with pytest.raises(DataError, match=r"got torch.uint8; apply the evaluation"):
        memory(8).add(images.abs().to(torch.uint8), labels)
    with pytest.raises(DataError, match="must be a tensor or an array of numbers"):
        memory(8).add("images", labels)


def test_images_and_classes_may_be_arrays_and_lists() -> None:
    images, labels = experience(0, 1)
    plain = memory(8, "random")
    plain.add(images, labels)
    small = labels.numpy().astype("uint16")
    for classes in (labels.tolist(), small, labels[:, None].float()):
        held = memory(8, "random")
        held.add(images.numpy(), classes)
        assert torch.equal(held.images(), plain.images())


def images_of(count: int, seen: int) -> ClassImages:
    return ClassImages.of(
        torch.arange(count).view(-1, 1, 1, 1) + torch.zeros(1, 1, 2, 2),
        "float32",
        labels=torch.ones(count, 1),
        label_classes=(0,),
        label_kind="classes",
        seen=seen,
    )


def addition(new: dict[int, int], **options: Any) -> tuple[Addition, ImageGroups]:
    """New images of some classes, where 0 and 1 are stored, two images for twelve."""
    settings: dict[str, Any] = {"distiller": "dm", "images_per_class": 4}
    groups = ImageGroups({TaskClass(0, c): images_of(2, 12) for c in (0, 1)})
    labels = torch.tensor([c for c, count in new.items() for _ in range(count)])
    made = MemoryOptions(20, **(settings | options))
    return Addition.of(labels, 0, groups, made), groups


@pytest.mark.parametrize(
    ("context", "new", "beside", "contrast_classes", "learned"),
    [
        ("none", {2: 5, 3: 5}, [], [], [2, 3]),
        ("fixed", {2: 5, 3: 5}, [0, 1], [0, 1], [2, 3]),
        ("refined", {2: 5, 3: 5}, [0, 1], [0, 1], [0, 1, 2, 3]),
        # A class that comes again is no context: it is distilled anew.
        ("fixed", {1: 5, 2: 5}, [0], [0], [1, 2]),
        ("refined", {0: 5, 1: 5}, [], [], [0, 1]),
        # A class that comes alone is told from the others, context or not.
        ("none", {2: 5}, [], [0, 1], [2]),
        ("none", {1: 5}, [], [0], [1]),
    ],
)
def test_stored_classes_stand_beside_new_ones(
    context: Any,
    new: dict[int, int],
    beside: list[int],
    contrast_classes: list[int],
    learned: list[int],
) -> None:
    made, _ = addition(new, context=context)
    assert made.beside == beside
    assert made.contrast_classes == contrast_classes
    assert made.present == sorted({*new, *contrast_classes})
    assert made.learned == learned


def counts_of(labels: Tensor) -> dict[int, int]:
    return {int(c): int((labels == c).sum()) for c in labels.unique()}


@pytest.mark.parametrize(
    ("distiller", "new", "counts"),
    [
        # Class 1 has five new images, and copies that stand for twelve old ones.
        ("dm", {1: 5, 2: 6}, {1: 17, 2: 6}),
        # A core set must not choose one image twice: no copies of stored ones.
        ("random", {1: 5, 2: 6}, {1: 5, 2: 6}),
        # Of too few images there are as many copies as are distilled.
        ("dm", {2: 1, 3: 6}, {2: 4, 3: 6}),
        ("random", {1: 1, 3: 6}, {1: 4, 3: 6}),
        ("dm", {2: 5}, {0: 12, 1: 12, 2: 5}),
    ],
)
def test_pool_holds_as_many_images_as_each_class_stands_for(
    distiller: str, new: dict[int, int], counts: dict[int, int]
) -> None:
    made, groups = addition(new, distiller=distiller)
    labels = torch.tensor([c for c, count in new.items() for _ in range(count)])
    pool = made.pool(torch.rand(len(labels), 1, 2, 2), labels, groups)
    assert counts_of(pool.labels) == counts
    assert len(pool.images()) == sum(counts.values())


def test_shortage_names_the_classes_and_their_images() -> None:
    enough, _ = addition({1: 1, 2: 4})  # class 1 has had twelve images before
    assert enough.shortage() is None
    short, _ = addition({2: 3, 3: 1, 4: 9})
    told = (
        "4 images of each class were asked for, but there are only 3 of class 2, 1 of"
    )
    assert str(short.shortage()).startswith(told)
    assert [short.most_stored(label) for label in (0, 2, 3, 4)] == [4, 3, 1, 4]


@pytest.mark.parametrize(
    ("old_seen", "count", "old_share"),
    [(12, 12, 2), (30, 10, 2), (6, 14, 1), (1, 99, 0), (12, 1, 2)],
)
def test_chosen_images_are_mixed_by_what_they_stand_for(
    old_seen: int, count: int, old_share: int
) -> None:
    made, _ = addition({0: count}, distiller="random")
    old, new = images_of(2, old_seen), images_of(min(count, 4), old_seen + count)
    new = new.with_grids(new.grids + 50, "float32")
    mixed = made._mixed(old, new, 4).images[:, 0, 0, 0]
    assert int((mixed < 50).sum()) == old_share
    assert len(mixed) == min(4, old_share + count)


def test_several_tasks_share_the_room_and_nothing_else() -> None:
    groups = ImageGroups({TaskClass(7, 0): images_of(2, 12)})
    labels = torch.tensor([0, 1, 0, 1])
    made = Addition.of(labels, 0, groups, MemoryOptions(9, "dm", context="fixed"))
    assert set(made.room.values()) == {3}  # three classes of two tasks
    assert (made.seen, made.others, made.present) == ({}, [], [0, 1])
