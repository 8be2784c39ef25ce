"""One distillation of a memory: its space, its context, its room."""

import os
import random
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from memory_samples import OPTIONS, experience, memory
from torch import Tensor, nn

import dd_plugins
from dd_avalanche.memory import (
    DistilledMemory,
    TaskClass,
)
from dd_avalanche.memory.distilling import unit_range
from dd_plugins.data.preprocess import Transform
from dd_plugins.errors import OptionError


def test_images_stay_in_the_space_they_came_in() -> None:
    images, labels = experience(0, 1)
    held = memory(4, "random")
    held.add(images, labels)
    # A core set holds images of the experience: none was scaled, none moved.
    for image in held.images():
        assert min((image - real).abs().max() for real in images) < 1e-5
    learned = memory(4)
    learned.add(images, labels)
    assert 0.5 < learned.images().std() / images.std() < 2
    assert not torch.equal(learned.images(), held.images())


@pytest.mark.parametrize("public", [False, True])
def test_whitening_is_of_the_experience_or_of_public_images(public: bool) -> None:
    images, labels = experience(0, 1, count=100)
    elsewhere = 2 * experience(4, 5, count=100, seed=1)[0] + 1
    plain, whitened = (
        memory(4, whitening=how)
        for how in ("none", elsewhere if public else "experience")
    )
    for held in (plain, whitened):
        held.add(images, labels)
    assert not torch.allclose(plain.images(), whitened.images(), atol=1e-3)
    # What is stored is in the space of the model all the same.
    assert 0.5 < whitened.images().std() / images.std() < 2
    chosen = memory(4, "random", whitening="experience")
    chosen.add(images, labels)
    for image in chosen.images():
        assert min((image - real).abs().max() for real in images) < 1e-3


def test_whitening_is_never_of_what_is_stored() -> None:
    """Copies of stored images stand among the data; ZCA is not fitted to them."""
    fitted: list[int] = []
    held = memory(8, context="fixed", whitening="experience", images_per_class=2)
    plain = Transform.fit

    def watched(images: Tensor, kind: Any) -> Transform:
        fitted.append(len(images))
        return plain(images, kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transform, "fit", watched)
        held.add(*experience(0, 1))
        held.add(*experience(2, 3, count=15))
    assert fitted == [40, 30]


@pytest.mark.parametrize("context", ["fixed", "refined"])
def test_context_is_seen_and_is_refined_only_if_asked(context: Any) -> None:
    plain, beside = (
        memory(12, images_per_class=2, context=how) for how in ("none", context)
    )
    for held in (plain, beside):
        held.add(*experience(0, 1))
    assert torch.equal(plain.images(), beside.images())
    first = beside.images()
    for held in (plain, beside):
        held.add(*experience(2, 3, seed=1))
    unchanged = torch.equal(beside.images()[:4], first)
    assert unchanged is (context == "fixed")
    assert not torch.equal(plain.images()[4:], beside.images()[4:])
    assert len(beside) == 8


def test_regression_labels_score_all_classes_if_their_number_is_known() -> None:
    known, unknown = memory(4, num_classes=6), memory(4)
    for held in (known, unknown):
        held.add(*experience(3, 5))
    assert known.groups[TaskClass(0, 3)].label_classes == (3, 5, 0, 1, 2, 4)
    assert unknown.groups[TaskClass(0, 3)].label_classes == (3, 5)
    for held in (known, unknown):
        labels = held.labels(6)
        assert labels.shape == (4, 6)
        assert labels.argmax(dim=1).tolist() == [3, 3, 5, 5]
        torch.testing.assert_close(labels.sum(dim=1), torch.zeros(4), atol=0.3, rtol=0)
        # However many classes there are: about one above the others.
        assert 0.5 < float(labels.amax(dim=1).mean() - labels.median()) < 1.5


def peak() -> float:
    """Return the most memory of this process since it was set back, in MiB."""
    (line,) = re.findall(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return float(line) / 1024


@pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK),
    reason="the peak of memory cannot be set back on this system",
)
@pytest.mark.parametrize(
    ("distiller", "initial"),
    [
        ("dm(real_batch_size=8)", None),
        ("dm(real_batch_size=8)", "herding(training_steps=0)"),
        ("herding(training_steps=0)", None),
    ],
)
def test_experience_is_in_memory_three_times_at_most(
    distiller: str, initial: str | None
) -> None:
    """Two of these: what the caller holds is the first."""
    shape = (3_000, 3, 64, 64)
    labels = torch.arange(shape[0]) % 2
    images = torch.rand(shape)
    size = images.nbytes / 2**20

    def growth() -> list[float]:
        """Return by how many MiB the peak grew with each experience."""
        held = memory(20, distiller, steps=1, initial_images=initial)
        held.add(images[:20], labels[:20])  # what is imported and made once
        grown = []
        # The second time as many stand-ins beside them; herding has features of them.
        for _ in range(1 if initial else 2):
            Path("/proc/self/clear_refs").write_text("5")
            before = peak()
            held.add(images, labels)
            grown.append(peak() - before)
        return grown

    # What computing takes comes and goes with the allocator: the least of three tries.
    least = growth()
    for _ in range(2):
        if max(least) >= 2.2 * size:
            least = list(map(min, least, growth()))
    assert max(least) < 2.2 * size


def test_global_random_generators_are_left_alone() -> None:
    @dd_plugins.record
    class Careless(type(dd_plugins.get_distiller("random"))):  # type: ignore[misc]
        """A stranger's distiller that draws from every global generator."""

        name = "careless"

        def choose(self, run: Any, real: Any) -> Tensor:
            torch.rand(1)
            np.random.rand()
            random.random()
            return super().choose(run, real)  # type: ignore[no-any-return]

    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    held = DistilledMemory(4, Careless(), network=OPTIONS["network"])
    held.add(*experience(0, 1))
    drawn = float(torch.rand(1)), float(np.random.rand()), random.random()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    assert drawn == (float(torch.rand(1)), float(np.random.rand()), random.random())


def test_distiller_sees_the_values_as_they_came() -> None:
    """No map leads there and back: not a bit of an image changes."""
    drawn: list[Tensor] = []
    random_core_set: Any = type(dd_plugins.get_distiller("random"))

    @dd_plugins.record
    class Watching(random_core_set):  # type: ignore[misc]
        """A core set that remembers the images that it is offered."""

        name = "watching"

        def choose(self, run: Any, real: Any) -> Tensor:
            drawn.append(real.read(torch.arange(len(real.labels))).images)
            return super().choose(run, real)  # type: ignore[no-any-return]

    images, labels = experience(0, 1)
    held = DistilledMemory(4, Watching(), network=OPTIONS["network"])
    held.add(images, labels)
    assert torch.equal(drawn[0], images)
    for image in held.images():
        assert any(torch.equal(image, real) for real in images)


@pytest.mark.parametrize(("low", "high"), [(-3.0, 5.0), (0.0, 1.0), (2.0, 2.0)])
def test_unit_range_leads_from_values_to_pixels(low: float, high: float) -> None:
    values = low + (high - low) * torch.rand(6, 3, 4, 4)
    values[0, 0, 0, 0], values[1, 0, 0, 0] = low, high
    transform = unit_range(values)
    pixels = transform.invert(values)
    assert float(pixels.min()) == pytest.approx(0, abs=1e-6)
    assert float(pixels.max()) == pytest.approx(float(high > low), abs=1e-6)
    torch.testing.assert_close(transform(pixels), values)


def test_artifact_of_a_task_says_of_what_classes_its_images_are() -> None:
    held = memory(8, num_classes=6)
    held.add(*experience(3, 5), task=1)
    header = held.distilled_set(1).header
    assert header.class_names == [f"class {c}" for c in (3, 5, 0, 1, 2, 4)]
    assert header.initial_classes == [0] * 4 + [1] * 4
    assert header.initial_indices is None
    assert header.value_space == "standardize"
    assert (header.stored_images, header.stored_values) == (
        8,
        8 * held.images()[0].numel(),
    )
    assert (header.recipe, header.learned, header.views) == (None, {}, None)


def test_a_bound_in_seconds_takes_steps_away() -> None:
    images, labels = experience(0, 1)
    bounded = memory(4, steps=1_000_000, most_seconds=0.5)
    started = time.perf_counter()
    bounded.add(images, labels)
    # Timing its steps takes longer than the bound: one step is made all the same.
    assert time.perf_counter() - started < 60
    assert bounded._header is not None
    assert bounded._header.steps < 10_000
    free = memory(4, most_seconds=1_000.0)
    free.add(images, labels)
    assert free._header is not None
    assert free._header.steps == OPTIONS["steps"]
    plain = memory(4)
    plain.add(images, labels)
    assert torch.equal(free.images(), plain.images()), "the timed steps leave no trace"
    chosen = memory(4, "random", most_seconds=1e-6)
    chosen.add(images, labels)
    assert len(chosen) == 4


@pytest.mark.parametrize("store", ["packed", "packed-uint8"])
def test_chosen_images_may_be_packed(store: str) -> None:
    """Four typical photographs of half the size stand in the room of one."""
    typical = "herding(training_steps=0)"
    images, labels = experience(0, 1, count=30)
    held = memory(4, typical, store=store)
    held.add(images, labels)
    assert held.hard_labels().tolist() == [0] * 8 + [1] * 8
    whole = memory(16, typical)
    whole.add(images, labels)
    smaller = torch.nn.functional.interpolate(whole.images(), size=4, mode="area")
    packed = torch.nn.functional.interpolate(held.images(), size=4, mode="area")
    spread = whole.images().std()
    # Each is one of the images that are chosen anyway, at half the size.
    distances = torch.cdist(packed.flatten(1), smaller.flatten(1)) / 4
    assert distances.amin(dim=1).max() < 0.6 * spread
    # A class that returns keeps some of them and takes new ones.
    again, classes = experience(0, 2, count=30, seed=1)
    grown = memory(6, typical, store=store, images_per_class=2)
    grown.add(images, labels)
    grown.add(again, classes)
    assert grown.hard_labels().bincount().tolist() == [8, 8, 8]
    assert sum(stored.count for stored in grown.groups.values()) == 6
    # All are whole images at half the size, none a part of one.
    reals = torch.cat([images, again])
    reals = torch.nn.functional.interpolate(reals, size=4, mode="area")
    found = torch.nn.functional.interpolate(grown.images(), size=4, mode="area")
    distances = torch.cdist(found.flatten(1), reals.flatten(1)) / 4
    assert distances.amin(dim=1).max() < 0.6 * spread


@pytest.mark.parametrize("store", ["packed", "packed-uint8"])
def test_few_images_and_returning_classes_are_packed(store: str) -> None:
    """Three images fill one grid of four; a class that returns brings five more."""
    held = memory(8, "random", store=store, images_per_class=2)
    images, labels = experience(0, 1, count=3)
    with pytest.warns(UserWarning, match="1 of class 0"):
        held.add(images, labels)
    assert [stored.count for stored in held.groups.values()] == [1, 1]
    assert held.hard_labels().tolist() == [0] * 4 + [1] * 4
    small = torch.nn.functional.interpolate(images[labels == 0], size=4, mode="area")
    found = torch.nn.functional.interpolate(held.images()[:4], size=4, mode="area")
    nearest = torch.cdist(found.flatten(1), small.flatten(1)).argmin(dim=1)
    assert set(nearest.tolist()) == {0, 1, 2}, "each is there"
    held.add(*experience(0, 1, count=5, seed=1))
    assert [stored.count for stored in held.groups.values()] == [2, 2]
    assert held.labels(2).shape == (len(held), 2) == (16, 2)
    assert held.hard_labels().tolist() == [0] * 8 + [1] * 8


@pytest.mark.parametrize("context", ["none", "fixed"])
def test_images_are_learned_with_the_users_own_model(
    tmp_path: Path, context: str
) -> None:
    made = []

    def perceptron(num_classes: int) -> nn.Module:
        made.append(num_classes)
        layers = [nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout()]
        return nn.Sequential(*layers, nn.Linear(16, num_classes))

    def held(network: Any) -> DistilledMemory:
        return memory(8, "dm", network=network, context=context)

    own, other = held(perceptron), held("mlp(width=16, depth=2)")
    for memories in (own, other):
        memories.add(*experience(0, 1))
        memories.add(*experience(2, 3))
    assert own.images().shape == (8, 1, 8, 8)
    assert not torch.equal(own.images(), other.images())
    assert len(made) == 2 * OPTIONS["steps"], "a fresh one at each step"
    own.save(tmp_path)
    restored = held(perceptron)
    restored.restore(tmp_path)
    assert torch.equal(restored.images(), own.images())
    with pytest.raises(OptionError, match=r"network was .factory\(.*perceptron"):
        held("mlp(width=16, depth=2)").restore(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_private_memory_learns_no_class_of_other_experiences() -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    spec = "dp_frepo(epsilon=8, delta=0.001, batch_size=10, pool_size=1)"
    held = memory(8, spec, num_classes=6, steps=1)
    held.add(*experience(2, 3))
    assert held._header is not None
    assert held._header.class_names == ["class 2", "class 3"]
    assert held._header.initial_classes == [0, 0, 0, 0, 1, 1, 1, 1]
    labels = held.labels(6)
    assert labels.shape == (8, 6)
    assert labels.argmax(dim=1).tolist() == [2, 2, 2, 2, 3, 3, 3, 3]
    torch.testing.assert_close(labels.sum(dim=1), torch.zeros(8))


@pytest.mark.filterwarnings("ignore")
def test_private_memory_states_the_epsilon_of_its_last_experience(
    tmp_path: Path,
) -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    held = memory(8, "dp_dm(epsilon=8, delta=0.001, batch_size=10)")
    for classes in ((0, 1), (2, 3), (4, 5)):
        held.add(*experience(*classes))
    assert len(held) == 6
    held.save(tmp_path)
    header = dd_plugins.DistilledSet.read_header(tmp_path / "task-0.safetensors")
    assert header.privacy is not None
    assert 0 < header.privacy.epsilon <= 8
