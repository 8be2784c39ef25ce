"""Stored images: their bytes, their labels, their copies."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from memory_samples import experience, memory

from dd_avalanche.memory import (
    ClassImages,
    ImageGroups,
    TaskClass,
    spread_labels,
)


def test_bytes_are_counted_and_can_be_a_quarter() -> None:
    images, labels = experience(0, 1)
    exact, rounded = memory(8), memory(8, store="uint8")
    for held in (exact, rounded):
        held.add(images, labels)
    assert exact.num_bytes == 8 * (64 * 4 + 2 * 4)
    assert rounded.num_bytes == 8 * (64 + 2 * 4 + 2 * 4)
    span = exact.images().amax(dim=(1, 2, 3)) - exact.images().amin(dim=(1, 2, 3))
    error = (exact.images() - rounded.images()).abs().amax(dim=(1, 2, 3))
    assert bool((error <= span / 255 / 2 + 1e-6).all())
    assert float(error.max()) > 0
    assert torch.equal(exact.rounded().images(), rounded.images())
    real = memory(8, "random")
    real.add(images, labels)
    assert real.num_bytes == 8 * 64 * 4  # hard labels are no more than the class
    flat = ClassImages.of(
        torch.ones(2, 1, 3, 3),
        "uint8",
        labels=torch.eye(2),
        label_classes=(0, 1),
        label_kind="classes",
        seen=2,
    )
    assert torch.equal(flat.images, torch.ones(2, 1, 3, 3))


def test_labels_are_spread_by_their_kind() -> None:
    centred = torch.tensor([[0.5, -0.5], [-0.5, 0.5]])
    wanted = torch.zeros(2, 4)
    wanted[0, 3] = wanted[1, 1] = 1
    spread = spread_labels(centred, (3, 1), "regression", range(4))
    torch.testing.assert_close(spread, wanted - 0.25)
    # In two steps or in one.
    part = spread_labels(centred, (3, 1), "regression", (1, 2, 3))
    twice = spread_labels(part, (1, 2, 3), "regression", range(4))
    torch.testing.assert_close(twice, spread)
    for kind in ("probabilities", "classes"):
        spread = spread_labels(torch.eye(2), (3, 1), kind, range(4))  # type: ignore[arg-type]
        assert torch.equal(spread, wanted)
    narrow = spread_labels(torch.eye(2), (3, 1), "classes", range(3))
    assert narrow.tolist() == [[0, 0, 0], [0, 1, 0]]


def test_image_is_a_copy_of_what_is_stored() -> None:
    held = memory(4, "random")
    held.add(*experience(0, 1))
    before = held.images()
    held.groups[TaskClass(0, 0)].image(0).add_(5)
    assert torch.equal(held.images(), before)


def stored(count: int, value: float = 0.0, **fields: Any) -> ClassImages:
    """Images of one value, whose labels score the classes 4 and 2."""
    given: dict[str, Any] = {
        "labels": torch.tensor([[1.0, 0.0]]).repeat(count, 1),
        "label_classes": (4, 2),
        "label_kind": "probabilities",
        "seen": 10 * count,
    }
    images = torch.full((count, 1, 2, 2), float(value))
    images[:, 0, 0, 0] += torch.arange(count)
    return ClassImages.of(images, fields.pop("store", "float32"), **(given | fields))


@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_first_images_are_copies_that_let_the_others_go(store: Any) -> None:
    whole = stored(5, store=store)
    first = whole.first(2)
    assert (len(first), first.seen) == (2, 50)
    assert torch.equal(first.images, whole.images[:2])
    for name, tensor in first.tensors().items():
        if tensor is not None:
            assert len(tensor) == 2, name
            assert tensor.untyped_storage().nbytes() == tensor.nbytes, name
    assert (first.low is None) is (store == "float32")


def test_rounding_twice_is_rounding_once() -> None:
    generator = torch.Generator().manual_seed(0)
    images = 3 * torch.randn(4, 3, 5, 5, generator=generator) + 1
    exact = ClassImages.of(
        images,
        "float32",
        labels=torch.zeros(4, 1),
        label_classes=(0,),
        label_kind="classes",
        seen=4,
    )
    once = exact.rounded()
    assert once.pixels.dtype == torch.uint8
    assert torch.equal(once.rounded().pixels, once.pixels)
    torch.testing.assert_close(once.rounded().images, once.images)
    # The darkest and the brightest value of each image are levels themselves.
    for end in (torch.amin, torch.amax):
        torch.testing.assert_close(
            end(once.images, dim=(1, 2, 3)), end(images, dim=(1, 2, 3))
        )


@pytest.mark.parametrize("store", ["packed", "packed-uint8"])
def test_packed_images_are_enlarged_one_by_one_or_all_at_once(store: Any) -> None:
    images = torch.rand(3, 2, 8, 6, generator=torch.Generator().manual_seed(0))
    held = ClassImages.of(
        images,
        store,
        labels=torch.arange(12.0)[:, None],
        label_classes=(0,),
        label_kind="regression",
        seen=4,
    )
    assert (held.count, len(held)) == (3, 12)
    corner = images[1, :, 4:, :3][None]  # the third cell of the second grid
    expected = torch.nn.functional.interpolate(corner, size=(8, 6), mode="bilinear")
    atol = 0.01 if store == "packed-uint8" else 1e-6
    torch.testing.assert_close(held.image(4 + 2)[None], expected, atol=atol, rtol=0)
    for index, image in enumerate(held.images):
        torch.testing.assert_close(held.image(index), image)
    first = held.first(2)
    assert (first.count, len(first), len(first.labels)) == (2, 8, 8)
    assert torch.equal(first.images, held.images[:8])
    assert torch.equal(held.rounded().rounded().pixels, held.rounded().pixels)


@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_other_images_of_a_class_keep_its_label(store: Any) -> None:
    before = stored(2, store="uint8")
    after = before.with_grids(torch.rand(3, 1, 2, 2), store)
    assert len(after) == len(after.labels) == 3
    assert torch.equal(after.labels, before.labels[:1].expand(3, -1))
    assert (after.label_classes, after.seen) == (before.label_classes, before.seen)
    assert (after.low is None) is (store == "float32")
    grids = replace(before, packing=2).with_grids(torch.rand(3, 1, 2, 2), store)
    assert (grids.count, len(grids), len(grids.labels)) == (3, 12, 12)


def groups() -> ImageGroups:
    return ImageGroups(
        {
            TaskClass(1, 4): stored(2, 10),
            TaskClass(0, 2): stored(1, 20, label_classes=(2, 7)),
            TaskClass(1, 2): stored(3, 30),
        }
    )


def test_groups_are_read_in_their_order() -> None:
    held = groups()
    assert held.num_images == 6
    assert held.images()[:, 0, 0, 0].tolist() == [10, 11, 20, 30, 31, 32]
    assert held.each("task").tolist() == [1, 1, 0, 1, 1, 1]
    assert held.each("label").tolist() == [4, 4, 2, 2, 2, 2]
    assert held.tasks() == [0, 1]
    assert (held.classes(1), held.classes(0), held.classes(3)) == ([2, 4], [2], [])
    some = held.only([TaskClass(1, 2), TaskClass(1, 4)])
    assert some.images()[:, 0, 0, 0].tolist() == [30, 31, 32, 10, 11]
    assert len(held) == 3, "the groups that some were taken from stay"


def test_groups_with_labels_of_different_classes_are_scored_together() -> None:
    labels = groups().labels(range(8))
    assert labels.shape == (6, 8)
    assert labels.argmax(dim=1).tolist() == [4, 4, 2, 4, 4, 4]
    assert torch.equal(labels.sum(dim=1), torch.ones(6))


def test_bytes_of_groups_are_those_of_their_images() -> None:
    held = groups()
    assert held.image_bytes == 6 * 4 * 4
    assert held.num_bytes == held.image_bytes + 6 * 2 * 4
    assert (ImageGroups().num_bytes, ImageGroups().num_images) == (0, 0)
