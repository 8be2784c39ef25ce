"""Stored images: their bytes, their labels, their copies."""

import torch
from memory_samples import experience, memory

from dd_avalanche.memory import (
    ClassImages,
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
