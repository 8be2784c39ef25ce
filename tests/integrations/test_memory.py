"""A memory of distilled images: what it holds, how it grows, shrinks and is kept."""

import json
import os
import random
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

import dd_plugins
from dd_avalanche.memory import (
    MEMORY_NAME,
    DistilledMemory,
    Group,
    Stored,
    spread_labels,
)
from dd_plugins import DistilledSet
from dd_plugins.errors import DataError, FileError, OptionError, UnknownNameError
from dd_plugins.kept import load_tensors, save_tensors
from dd_plugins.preprocess import Transform

FREPO = "frepo(pool_size=2, real_batch_size=32, learning_rate=0.01)"
OPTIONS: dict[str, Any] = {"network": "conv(width=4, depth=2)", "steps": 4}


def memory(size: int = 20, distiller: str = FREPO, **options: Any) -> DistilledMemory:
    if distiller in ("random", "herding"):
        options = {"steps": None, **options}
    return DistilledMemory(size, distiller, **(OPTIONS | options))


def experience(*classes: int, count: int = 20, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images in a space of any range: here from -3 to 5, a stripe for each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(classes).repeat_interleave(count)
    images = torch.randn(len(labels), 1, 8, 8, generator=generator)
    for place, label in enumerate(labels.tolist()):
        images[place, :, label % 8] += 3
    return images, labels


def test_classes_share_the_room_there_is() -> None:
    held = memory(size=13)
    held.add(*experience(3, 5))
    assert held.hard_labels().tolist() == [3] * 6 + [5] * 6
    first = held.groups[Group(0, 3)].images
    held.add(*experience(1, 2))
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {3: 3, 5: 3, 1: 3, 2: 3}
    # Without re-reading old data: the first of what was there.
    assert torch.equal(held.groups[Group(0, 3)].images, first[:3])
    held.resize(8)
    assert len(held) == 8
    held.resize(40)
    assert len(held) == 8  # what is gone does not come back
    held.add(*experience(6, 7))
    assert len(held.groups[Group(0, 6)]) == 6


def test_number_for_each_class_may_be_fixed() -> None:
    held = memory(size=20, images_per_class=4)
    held.add(*experience(0, 1))
    held.add(*experience(2, 3))
    assert len(held) == 16
    with pytest.raises(OptionError, match=r"no room for 6 classes .* 24 or larger"):
        held.add(*experience(4, 5))
    assert len(held) == 16


def test_memory_smaller_than_the_number_of_classes_is_refused() -> None:
    held = memory(size=3)
    held.add(*experience(0, 1))
    before = held.images()
    with pytest.raises(OptionError, match="no room for 4 classes; make it 4 or larger"):
        held.add(*experience(2, 3))
    assert torch.equal(held.images(), before)
    with pytest.raises(OptionError, match="no room for 2 classes"):
        held.resize(1)
    assert held.size == 3


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
    flat = Stored.of(
        torch.ones(2, 1, 3, 3),
        "uint8",
        labels=torch.eye(2),
        columns=(0, 1),
        label_kind="classes",
        seen=2,
    )
    assert torch.equal(flat.images, torch.ones(2, 1, 3, 3))


def test_class_that_returns_is_distilled_from_old_and_new() -> None:
    old, new = experience(0, 1, seed=0), experience(0, 2, count=20, seed=1)
    held = memory(20, "random", images_per_class=5)
    held.add(*old)
    stored = held.groups[Group(0, 0)].images
    held.add(*new)
    assert held.groups[Group(0, 0)].seen == 40
    assert held.groups[Group(0, 1)].seen == 20
    # Twenty copies of five stored images stand beside twenty new ones: of five images
    # that are drawn from these forty some are of either kind.
    known = [
        bool((stored - image).abs().flatten(1).amax(dim=1).min() < 1e-5)
        for image in held.groups[Group(0, 0)].images
    ]
    assert set(known) == {True, False}


def test_class_that_returns_with_few_images_keeps_its_share() -> None:
    held = memory(20)
    held.add(*experience(0, 1))
    images, labels = experience(0, 1, seed=1)
    held.add(images[19:], labels[19:])  # one image of class 0, twenty of class 1
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {0: 10, 1: 10}
    assert held.groups[Group(0, 0)].seen == 21


@pytest.mark.parametrize("context", ["fixed", "refined"])
def test_context_may_have_seen_fewer_images_than_are_asked_for(context: Any) -> None:
    held = memory(20, context=context)
    with pytest.warns(UserWarning, match="only 3"):
        held.add(*experience(0, 1, count=3))
    held.add(*experience(2, 3))
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {0: 3, 1: 3, 2: 5, 3: 5}


def test_header_does_not_grow_with_the_experiences(tmp_path: Path) -> None:
    held = memory(12, context="fixed")
    for first in (0, 2, 4):
        held.add(*experience(first, first + 1))
    assert held.distilled_set().header.context is None, "it has no single history"
    held.save(tmp_path / "memory")
    written = b"".join(file.read_bytes() for file in tmp_path.rglob("*.safetensors"))
    assert written.count(b"refined") == 1, "the last experience's context alone"


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


def test_tasks_do_not_mix() -> None:
    held = memory(20, images_per_class=2)
    held.add(*experience(0, 1), task=0)
    held.add(*experience(0, 1, seed=1), task=1)
    assert list(held.groups) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert held.tasks().tolist() == [0] * 4 + [1] * 4
    assert held.groups[Group(1, 0)].seen == 20


def test_experience_with_fewer_images_than_the_memory_asks_for() -> None:
    images, labels = experience(0, 1)
    keep = torch.cat([torch.arange(3), torch.arange(20, 40)])
    held = memory(20)
    with pytest.warns(UserWarning, match="only 3"):
        held.add(images[keep], labels[keep])
    assert held.hard_labels().tolist() == [0] * 3 + [1] * 10


@pytest.mark.parametrize("distiller", ["random", FREPO])
def test_class_with_few_images_takes_none_from_others(distiller: str) -> None:
    held = memory(40, distiller, images_per_class=10)
    held.add(*experience(0, 1))
    returning, few = experience(0, seed=1), experience(2, count=1)
    with pytest.warns(UserWarning, match="only 1 of class 2"):
        held.add(*(torch.cat(pair) for pair in zip(returning, few, strict=True)))
    counts = {group.label: len(stored) for group, stored in held.groups.items()}
    assert counts == {0: 10, 1: 10, 2: 1}


@pytest.mark.parametrize("distiller", ["random", "herding"])
def test_images_of_a_class_that_returns_stay_different(distiller: str) -> None:
    held = memory(20, distiller, images_per_class=10)
    offered = []
    for seed in range(8):
        offered.append(experience(0, 1, seed=seed))
        held.add(*offered[-1])
    stored = held.groups[Group(0, 0)].images
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


def test_context_may_be_told_by_true_and_false() -> None:
    assert memory(context=True).context == "fixed"
    assert memory(context=False).context == "none"


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


def test_one_class_alone_needs_others_beside_it() -> None:
    for distiller in (FREPO, f"turned({FREPO})", "dsa(real_batch_size=8)"):
        held = memory(20, distiller, context="fixed")
        with pytest.raises(
            OptionError, match=r"class 4 stands alone.*take dm or a core"
        ):
            held.add(*experience(4))
        assert len(held) == 0
    for context, distiller in (("fixed", FREPO), ("none", FREPO), ("none", "random")):
        held = memory(20, distiller, context=context)
        held.add(*experience(0, 1))
        before = held.groups[Group(0, 0)].images
        held.add(*experience(4))
        assert held.classes(0) == [0, 1, 4]
        after = held.groups[Group(0, 0)].images
        assert torch.equal(after, before[: len(after)])


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


def test_regression_labels_speak_of_all_classes_if_their_number_is_known() -> None:
    known, unknown = memory(4, num_classes=6), memory(4)
    for held in (known, unknown):
        held.add(*experience(3, 5))
    assert known.groups[Group(0, 3)].columns == (3, 5, 0, 1, 2, 4)
    assert unknown.groups[Group(0, 3)].columns == (3, 5)
    for held in (known, unknown):
        labels = held.labels(6)
        assert labels.shape == (4, 6)
        assert labels.argmax(dim=1).tolist() == [3, 3, 5, 5]
        torch.testing.assert_close(labels.sum(dim=1), torch.zeros(4), atol=0.3, rtol=0)
        # However many classes there are: about one above the others.
        assert 0.5 < float(labels.amax(dim=1).mean() - labels.median()) < 1.5


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


def test_fewer_images_may_be_distilled_from_those_that_are_stored() -> None:
    cut, distilled = (
        memory(12, shrink=how, images_per_class=None) for how in ("truncate", "distil")
    )
    for held in (cut, distilled):
        held.add(*experience(0, 1))
        held.resize(4)
    assert len(cut) == len(distilled) == 4
    assert not torch.equal(cut.images(), distilled.images())
    assert distilled.groups[Group(0, 0)].seen == 20


@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_memory_that_is_restored_goes_on_bit_for_bit(
    tmp_path: Path, store: Any
) -> None:
    options: dict[str, Any] = {"context": "fixed", "store": store, "num_classes": 4}
    whole = memory(16, **options)
    whole.add(*experience(0, 1))
    whole.save(tmp_path)
    whole.add(*experience(2, 3))
    again = memory(16, **options)
    again.restore(tmp_path)
    assert len(again) == 16
    again.add(*experience(2, 3))
    assert torch.equal(again.images(), whole.images())
    assert torch.equal(again.labels(4), whole.labels(4))
    assert again.num_bytes == whole.num_bytes


def test_saved_memory_is_an_artifact_as_well(tmp_path: Path) -> None:
    held = memory(8)
    held.add(*experience(0, 1))
    held.add(*experience(0, 3), task=2)
    held.save(tmp_path)
    loaded = DistilledSet.load(tmp_path / "task-2.safetensors")
    assert loaded.header.class_names == ["class 0", "class 3"]
    assert loaded.header.initial_classes == [0, 0, 1, 1]
    assert loaded.header.distiller.startswith("frepo(")
    torch.testing.assert_close(loaded.images, held.images()[4:])
    pixels = loaded.pixels()
    assert (float(pixels.min()), float(pixels.max())) == (0, 1)
    with pytest.raises(OptionError, match="nothing is stored of task 1"):
        held.distilled_set(1)


@pytest.mark.parametrize(
    "distiller",
    [
        "random",
        "herding(training_steps=0)",
        "herding(training_steps=2)",
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
        assert each.groups[Group(0, 3)].seen == 40
    assert torch.equal(held.images(), again.images())


def test_flipped_bit_of_a_saved_memory_is_refused(tmp_path: Path) -> None:
    held = memory(8, "random", store="uint8")
    held.add(*experience(0, 1))
    file = held.save(tmp_path)
    content = bytearray(file.read_bytes())
    fresh = memory(8, "random", store="uint8")
    for place in range(0, len(content), len(content) // 100):
        content[place] ^= 0x40
        file.write_bytes(content)
        with pytest.raises(FileError, match="remove"):
            fresh.restore(tmp_path)
        content[place] ^= 0x40
    assert len(fresh) == 0
    file.write_bytes(content)
    fresh.restore(tmp_path)
    assert torch.equal(fresh.images(), held.images())


@pytest.mark.parametrize("size", [6, 20])
def test_memory_that_was_resized_is_restored(size: int, tmp_path: Path) -> None:
    held = memory(12, "random")
    held.add(*experience(0, 1))
    held.resize(size)
    held.save(tmp_path)
    made_alike, of_that_size = memory(12, "random"), memory(size, "random")
    for again in (made_alike, of_that_size):
        again.restore(tmp_path)
        assert (again.size, len(again)) == (size, len(held))
        again.save(tmp_path / "again")
        memory(12, "random").restore(tmp_path / "again")
    with pytest.raises(OptionError, match="size was 12, is 13"):
        memory(13, "random").restore(tmp_path)


def test_image_is_a_copy_of_what_is_stored() -> None:
    held = memory(4, "random")
    held.add(*experience(0, 1))
    before = held.images()
    held.groups[Group(0, 0)].image(0).add_(5)
    assert torch.equal(held.images(), before)


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


def test_damaged_or_foreign_memory_is_refused(tmp_path: Path) -> None:
    held = memory(8)
    held.add(*experience(0, 1))
    file = held.save(tmp_path)
    content = file.read_bytes()
    fresh = memory(8)
    tensors, described = load_tensors(file, what="a memory", advice="")
    with pytest.raises(FileError, match="does not exist"):
        fresh.restore(tmp_path / "nowhere")
    with pytest.raises(OptionError, match="steps was 4, is 5"):
        memory(8, steps=5).restore(tmp_path)
    with pytest.raises(OptionError, match="size was 8, is 9"):
        memory(9).restore(tmp_path)
    with pytest.raises(OptionError, match="num_classes was None, is 3"):
        memory(8, num_classes=3).restore(tmp_path)
    for damaged in (content[:100], b"", content.replace(b"columns", b"colunms")):
        file.write_bytes(damaged)
        with pytest.raises(FileError, match=r"(damaged|cannot be read).*remove .*anew"):
            fresh.restore(tmp_path)
    for version, advice in ((9, "upgrade dd-plugins"), (1, "remove")):
        state = json.loads(described["dd_avalanche"]) | {"format_version": version}
        save_tensors(file, tensors, {"dd_avalanche": json.dumps(state)})
        with pytest.raises(FileError, match=f"format version {version}.*{advice}"):
            fresh.restore(tmp_path)
    save_file(tensors, file, described)  # as versions before hashes wrote it
    with pytest.raises(FileError, match="no hash; remove"):
        fresh.restore(tmp_path)
    artifact = DistilledSet.load(tmp_path / "task-0.safetensors")
    artifact.save(tmp_path / MEMORY_NAME)
    with pytest.raises(FileError, match="a memory of dd_avalanche"):
        fresh.restore(tmp_path)
    assert len(fresh) == 0


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be a whole number from 1"),
        ({"images_per_class": 0}, "images_per_class must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"context": "both"}, "context must be one of none, fixed, refined"),
        ({"store": "int4"}, "store must be one of"),
        ({"shrink": "merge"}, "shrink must be one of"),
        ({"whitening": "later"}, "whitening must be"),
    ],
)
def test_option_out_of_its_range_is_named(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        memory(**options)


def test_images_that_cannot_be_used_are_refused() -> None:
    held = memory(8)
    images, labels = experience(0, 1)
    with pytest.raises(DataError, match="not finite"):
        held.add(images / 0, labels)
    with pytest.raises(DataError, match=r"shape \(n, channels"):
        held.add(images[0], labels[:1])
    with pytest.raises(DataError, match="go from 0 to 1; expected 0 to 0"):
        memory(8, num_classes=1).add(images, labels)
    with pytest.raises(DataError, match="go from -1 to 0"):
        held.add(images, labels - 1)
    with pytest.raises(DataError, match=r"the public ones \(1, 4, 4\)"):
        memory(8, whitening=torch.rand(9, 1, 4, 4)).add(images, labels)
    held.add(images, labels)
    with warnings.catch_warnings(), pytest.raises(DataError, match="those before were"):
        held.add(images[..., :6], labels + 2)
