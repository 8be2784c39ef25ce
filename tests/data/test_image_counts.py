"""How many images each class gets, and runs whose classes get unequal numbers."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Said

import dd_plugins
from dd_plugins import DistilledSet, RealData
from dd_plugins.data.image_counts import (
    Proportional,
    counts_of_classes,
    parsed_counts,
)
from dd_plugins.errors import OptionError

COUNTS = (6, 3, 1)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (3, 3),
        (np.int64(3), 3),
        ("3", 3),
        ("1,2, 5", (1, 2, 5)),
        ([1, 2, 5], (1, 2, 5)),
        ((4, 4), (4, 4)),
        ("4,4,4", (4, 4, 4)),
        (range(1, 3), (1, 2)),
        (np.array([2, 3]), (2, 3)),
        ("proportional(total=30)", Proportional(total=30)),
    ],
)
def test_numbers_are_read_in_every_form(asked: Any, expected: Any) -> None:
    assert parsed_counts(asked) == expected


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "a",
        "1,",
        "1,x",
        "-1",
        "0",
        0,
        -2,
        1.5,
        True,
        None,
        [],
        [1, 0],
        [1.5],
        {1: 2},
    ],
)
def test_what_is_no_number_is_refused(asked: Any) -> None:
    with pytest.raises(OptionError, match="images_per_class") as told:
        parsed_counts(asked)
    assert str(told.value).isprintable()


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("even(total=3)", "expected proportional, such as"),
        ("proportional(total=0)", "total"),
        ("proportional()", "'total' is required"),
        ("proportional(whole=3)", "unknown option 'whole'"),
    ],
)
def test_another_spec_is_refused(asked: str, told: str) -> None:
    with pytest.raises(OptionError, match=told):
        parsed_counts(asked)


@pytest.mark.parametrize(
    ("real", "total", "expected"),
    [
        ((60, 30, 10), 10, (6, 3, 1)),
        ((60, 30, 10), 3, 1),
        ((98, 1, 1), 10, (8, 1, 1)),
        ((40, 35, 25), 9, (4, 3, 2)),
        ((10, 10, 10), 10, (4, 3, 3)),
        ((50, 50), 20, 10),
        ((50, 0, 30), 8, (5, 1, 3)),
        ((30, 0, 30), 2, 1),
    ],
)
def test_images_are_dealt_out_in_proportion(
    real: tuple[int, ...], total: int, expected: Any
) -> None:
    labels = torch.arange(len(real)).repeat_interleave(torch.tensor(real))
    found = counts_of_classes(f"proportional(total={total})", labels, len(real))
    assert found == expected


def test_fewer_images_than_classes_are_refused() -> None:
    with pytest.raises(OptionError, match="total must be at least 3"):
        counts_of_classes("proportional(total=2)", torch.arange(3), 3)
    told = r"^images per class \(--ipc\): .* a number for each of 3 classes, got 2$"
    for listed in ([1, 2], [2, 2]):
        with pytest.raises(OptionError, match=told):
            counts_of_classes(listed, torch.arange(3), 3)
    huge = counts_of_classes("proportional(total=1000000000)", torch.arange(3), 3)
    assert isinstance(huge, tuple)
    assert sum(huge) == 10**9, "at once"


@pytest.fixture
def data() -> RealData:
    """Return data whose classes have 60, 30 and 10 images."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(torch.tensor([60, 30, 10]))
    images = torch.rand(100, 1, 8, 8, generator=generator) / 2
    images += labels[:, None, None, None] / 6
    test = (images.flip(-1), labels)
    return RealData.from_tensors(
        images, labels, test=test, preprocessing="standardize", validation=0
    )


def distil(data: RealData, method: str, **options: Any) -> DistilledSet:
    given = {"steps": 2, "network": "mlp(width=8)", "device": "cpu"} | options
    return dd_plugins.distill(data, method, **given)


@pytest.mark.parametrize(
    "method",
    [
        "random",
        "herding(training_steps=0)",
        "kmeans(training_steps=0)",
        "frepo(pool_size=2, real_batch_size=16)",
        "dm(real_batch_size=8)",
        "dsa(real_batch_size=8)",
        "kip",
        "rotated(dm(real_batch_size=8))",
        "clip(frepo(pool_size=2, real_batch_size=16))",
        "metadd(frepo(pool_size=2, real_batch_size=16), networks=(conv(width=4, "
        "depth=1), conv(width=2, depth=2)), stages=(2,), start=0)",
    ],
)
@pytest.mark.parametrize("asked", ["proportional(total=10)", COUNTS])
def test_any_method_makes_unequal_numbers_of_images(
    method: str, asked: Any, data: RealData
) -> None:
    made = distil(data, method, images_per_class=asked)
    assert Counter(made.header.initial_classes) == dict(enumerate(COUNTS))
    assert made.header.run.images_per_class == COUNTS
    again = dd_plugins.distill(
        data, **(made.header.run.arguments() | {"device": "cpu"})
    )
    assert again.content_hash() == made.content_hash()


def test_noise_and_grids_are_unequal_too(data: RealData) -> None:
    noise = distil(data, "dm", images_per_class=COUNTS, initial_images="noise")
    assert Counter(noise.header.initial_classes) == dict(enumerate(COUNTS))
    packed = distil(
        data, "dm", images_per_class=(3, 2, 1), parametrization="packed(factor=2)"
    )
    assert Counter(packed.header.initial_classes) == {0: 12, 1: 8, 2: 4}
    assert packed.header.run.images_per_class == (3, 2, 1)


@pytest.mark.parametrize("first", ["real", "noise"])
@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (2, {0: 2, 2: 2}),
        ((1, 1, 1), {0: 1, 2: 1}),
        ("proportional(total=9)", {0: 5, 2: 4}),
    ],
)
def test_a_class_without_real_images_gets_none(
    asked: Any, expected: dict[int, int], first: str
) -> None:
    images = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 2]).repeat_interleave(torch.tensor([30, 20]))
    data = RealData.from_values(images, labels, class_names=["a", "b", "c"])
    made = distil(
        data, "dm(real_batch_size=8)", images_per_class=asked, initial_images=first
    )
    assert Counter(made.header.initial_classes) == expected
    again = distil(data, "random", images_per_class=made.header.run.images_per_class)
    assert Counter(again.header.initial_classes) == expected


def test_classes_of_a_context_get_no_new_images(data: RealData) -> None:
    first = distil(data, "dm", images_per_class=1)
    kept = [n for n, label in enumerate(first.header.initial_classes) if label == 0]
    header = first.header.of_pixels([0], first.images[kept].numel())
    part = replace(
        first, images=first.images[kept], labels=first.labels[kept], header=header
    )
    whole = distil(data, "dm", images_per_class=COUNTS, context=part)
    assert Counter(whole.header.initial_classes) == {0: 1, 1: 3, 2: 1}


def test_baselines_are_of_as_many_images_of_each_class(data: RealData) -> None:
    made = distil(data, "random", images_per_class=COUNTS)
    options: dict[str, Any] = {"repeats": 2, "device": "cpu"}
    found = dd_plugins.evaluate(
        made,
        "mlp(width=8)",
        data=data,
        baselines=True,
        full_steps=3,
        protocol="recipe(steps=3)",
        **options,
    )
    assert len(found.random[0].accuracies) == len(found.full[0].accuracies) == 2


def test_a_class_with_too_few_images_is_named(data: RealData) -> None:
    data = replace(data, class_names=("ant", "bee", "cat"))
    told = "11 images of class 'cat' asked for, but it has only 10"
    with pytest.raises(OptionError, match=told):
        distil(data, "dm", images_per_class=(1, 1, 11))
    with pytest.raises(OptionError, match="a number for each of 3 classes, got 2"):
        distil(data, "dm", images_per_class="1,2")


def test_the_command_line_takes_and_remembers_them(
    in_process: Callable[..., Said], tmp_path: Path
) -> None:
    words = ["distill", "--distiller", "random", "--network", "mlp(width=4)"]
    done = in_process(*words, "--ipc", "proportional(total=23)")
    assert done.status == 0, done.stderr
    made = DistilledSet.load(tmp_path / "runs" / "digits-total23")
    assert len(made) == 23
    assert "23" in done.stdout
    listed = ",".join(map(str, range(1, 11)))
    done = in_process(*words, "--ipc", listed, "--out", "listed")
    assert done.status == 0, done.stderr
    found = Counter(DistilledSet.load(tmp_path / "listed").header.initial_classes)
    assert found == {n: n + 1 for n in range(10)}
    assert in_process("show", "listed").status == 0
    again = in_process(*words, "--ipc", listed, "--out", "listed", "--resume")
    assert again.status == 0, again.stderr
    for wrong in ("0", "1,2", "half", "proportional(total=3)"):
        refused = in_process(*words, "--ipc", wrong, "--out", "wrong")
        assert refused.status != 0
        assert "Traceback" not in refused.stderr
        assert not (tmp_path / "wrong").exists()
