"""The options of a memory are checked when it is made."""

from typing import Any

import pytest
import torch
from memory_samples import FREPO, memory
from torch import nn

from dd_avalanche.memory.options import MemoryOptions
from dd_plugins.errors import OptionError


def test_context_may_be_told_by_true_and_false() -> None:
    assert memory(context=True).context == "fixed"
    assert memory(context=False).context == "none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 0}, "size must be a whole number from 1"),
        ({"images_per_class": 0}, "images_per_class must be"),
        ({"images_per_class": "equal"}, "images_per_class must be"),
        ({"size": "proportional"}, "size must be"),
        ({"num_classes": 0}, "num_classes must be"),
        ({"context": "both"}, "context must be one of none, fixed, refined"),
        ({"store": "int4"}, "store must be one of"),
        ({"shrink": "merge"}, "shrink must be one of"),
        ({"whitening": "later"}, "whitening must be"),
        (
            {"whitening": torch.zeros(2, 1, 8, 8, dtype=torch.uint8)},
            "floating images .* got torch.uint8",
        ),
        ({"network": nn.Linear(64, 10)}, "a function that returns a fresh module"),
        ({"network": "factory('mine.Net')"}, "only names a function"),
        ({"device": "gpu"}, "such as 'cuda:1'; got 'gpu'"),
        ({"device": "cuda:77"}, "device 'cuda:77' cannot be used"),
        ({"device": "meta"}, "device 'meta' cannot be used"),
        ({"device": None}, "such as 'cuda:1'; got None"),
        ({"device": 77}, "device 77 cannot be used"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"mirror": "no"}, "mirror must be True or False, got 'no'"),
        ({"most_seconds": 0}, "most_seconds must be a positive number"),
        ({"most_seconds": "long"}, "most_seconds must be a positive number"),
        ({"most_seconds": True}, "most_seconds must be a positive number"),
        ({"most_seconds": float("nan")}, "most_seconds must be a positive number"),
    ],
)
def test_option_out_of_its_range_is_named(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        memory(**options)


PRIVATE = "dp_dm(epsilon=8, delta=0.001, batch_size=10)"


def test_private_distiller_starts_from_its_own_images() -> None:
    assert memory().initial_images == "herding(training_steps=0)"
    assert memory(distiller=PRIVATE).initial_images is None
    assert memory(distiller=PRIVATE, initial_images="noise").initial_images == "noise"
    public = PRIVATE.replace(")", ", public='digits')")
    assert memory(distiller=public, initial_images="public").initial_images == "public"
    for first in ("herding(training_steps=0)", "real", "random"):
        with pytest.raises(
            OptionError, match=r"because dp_dm is private, got"
        ) as error:
            memory(distiller=PRIVATE, initial_images=first)
        assert repr(first) in str(error.value)
    with pytest.raises(OptionError, match="that names public data, got dp_dm"):
        memory(distiller=PRIVATE, initial_images="public")
    with pytest.raises(OptionError, match="that names public data, got dm"):
        memory(distiller="dm", initial_images="public")
    with pytest.raises(OptionError, match="or a core set such as herding, got 'dm'"):
        memory(initial_images="dm")


@pytest.mark.parametrize(
    ("size", "images_per_class", "classes", "room"),
    [(20, None, 3, 6), (20, None, 20, 1), (20, 4, 5, 4), (20, 4, 1, 4)],
)
def test_room_is_shared_by_the_classes(
    size: int, images_per_class: int | None, classes: int, room: int
) -> None:
    options = MemoryOptions(size, "dm", images_per_class=images_per_class)
    seen = dict.fromkeys(range(classes), 9)
    assert options.room(seen) == dict.fromkeys(range(classes), room)


def test_room_is_shared_in_proportion_to_the_images_seen() -> None:
    options = MemoryOptions(20, "dm", images_per_class="proportional")
    assert options.room({"a": 100, "b": 50, "c": 50}) == {"a": 10, "b": 5, "c": 5}
    assert options.room({"a": 1_000, "b": 1}) == {"a": 19, "b": 1}
    assert options.room({"a": 7}) == {"a": 20}
    with pytest.raises(OptionError, match="a size of at least 21 for 21 classes"):
        options.room(dict.fromkeys(range(21), 9))


@pytest.mark.parametrize(
    ("images_per_class", "classes", "message"),
    [
        (None, 21, "a size of at least 21 for 21 classes, got 20"),
        (4, 6, "at least 24 for 6 classes of 4 images each, got 20"),
    ],
)
def test_memory_without_room_says_how_large_it_must_be(
    images_per_class: int | None, classes: int, message: str
) -> None:
    options = MemoryOptions(20, "dm", images_per_class=images_per_class)
    with pytest.raises(OptionError, match=message):
        options.room(dict.fromkeys(range(classes), 9))


def test_regression_labels_alone_score_classes_that_are_still_to_come() -> None:
    centred = MemoryOptions(20, FREPO, num_classes=4)
    assert centred.label_kind == "regression"
    assert centred.label_classes([1, 3]) == [1, 3, 0, 2]
    assert MemoryOptions(20, FREPO).label_classes([1, 3]) == [1, 3]
    assert MemoryOptions(20, "dm", num_classes=4).label_classes([1, 3]) == [1, 3]


def test_configuration_tells_memories_apart_and_has_its_old_keys() -> None:
    """A saved memory holds it: a key that is renamed makes old files unreadable."""
    made = MemoryOptions(20, "dm").configuration(size=20)
    assert sorted(made) == [
        *("context", "distiller", "images_per_class", "initial_images", "mirror"),
        *("network", "num_classes", "seed", "shrink", "size", "steps", "store"),
        "whitening",
    ]
    public = torch.rand(3, 1, 4, 4)
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"mirror": True},
        {"whitening": "experience"},
        {"whitening": public},
        {"whitening": public + 1},
        {"store": "uint8"},
    ]
    found = [MemoryOptions(20, "dm", **each).configuration(20) for each in others]
    assert all(each != made for each in found)
    assert len({str(each) for each in found}) == len(found)
    again = MemoryOptions(20, "dm", whitening=public.clone())
    assert again.configuration(20) == found[3]
