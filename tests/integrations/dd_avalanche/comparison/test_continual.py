"""A comparison of memories, called from Python."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import data_root

import dd_plugins
from dd_avalanche.comparison.continual import continual
from dd_avalanche.comparison.experiment import Experiment
from dd_plugins.api import Images
from dd_plugins.errors import DataError, OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)


SMALL = "conv(width=4, depth=2)"


def test_real_benchmark_runs() -> None:
    name = "fashion-mnist"
    data = dd_plugins.get_dataset(name, data_root=data_root(name))
    experiment = Experiment(
        f"split-{name}", memory=10, steps=2, training_steps=3, network=SMALL
    )
    rows = continual(
        experiment, ["turned(frepo(pool_size=1, real_batch_size=32))"], data=data
    )
    assert [row.streams[0].store for row in rows] == ["float32", "uint8", "none"]
    first, second = (torch.tensor(row.streams[0].curve) for row in rows[:2])
    assert len(first) == len(second) == 5


def test_hundred_classes_are_divided_into_ten_experiences() -> None:
    """The shape of split CIFAR-100, of noise: its files are seldom at hand."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(800, 3, 8, 8, generator=generator)
    labels = torch.arange(800) % 100
    data = dd_plugins.RealData.from_tensors(
        images, labels, test=(images[:200], labels[:200]), preprocessing="standardize"
    )
    experiment = Experiment(
        "split-cifar100",
        experiences=10,
        memory=200,
        steps=1,
        training_steps=2,
        network="conv(width=2, depth=2)",
    )
    policies = ["dm(real_batch_size=8)", "random"]
    rows = continual(experiment, policies, stores=["uint8"], data=data)
    learned = rows[0].as_dict()
    assert learned["memory_images"] == 200
    assert len(learned["accuracy_per_experience"]) == 10


def test_learned_images_may_be_stored_with_256_levels_alone() -> None:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(
        "split-digits", memory=10, steps=2, training_steps=2, network=SMALL
    )
    policies = ["dm(real_batch_size=8)", "random"]
    rows = continual(experiment, policies, stores=["uint8"], data=data)
    assert [row.streams[0].store for row in rows] == ["uint8", "real", "real", "none"]
    learned, real, equal, _ = (row.as_dict() for row in rows)
    # 64 bytes an image, and two numbers that say where its levels lie.
    assert learned["memory_bytes"] == 10 * (64 + 2 * 4)
    assert equal["equal_bytes"]
    assert equal["final_accuracies"] == real["final_accuracies"]


def test_packed_memories_stand_beside_plain_ones_of_as_many_bytes() -> None:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(
        "split-digits", memory=10, steps=2, training_steps=60, network=SMALL
    )
    policies = ["dm(real_batch_size=8)", "random"]
    stores: list[Any] = ["uint8", "packed-uint8", "packed"]
    rows = continual(
        experiment, policies, stores=stores, contexts=["none", "fixed"], data=data
    )
    learned = [row.as_dict() for row in rows[:4]]
    told = [(row["store"], row["context"], row["memory_images"]) for row in learned]
    assert told == [
        ("uint8", "none", 10),
        ("packed-uint8", "none", 40),
        ("packed", "none", 40),
        ("uint8", "fixed", 10),
    ]
    assert learned[0]["memory_bytes"] == learned[1]["memory_bytes"]
    assert learned[0]["final_accuracies"] != learned[1]["final_accuracies"]


def test_packed_memories_with_a_context_alone_are_refused() -> None:
    experiment = Experiment("split-digits", memory=10)
    with pytest.raises(OptionError, match="packed memories have no context"):
        continual(
            experiment,
            ["dm", "random"],
            stores=["packed"],
            contexts=["fixed"],
            data=dd_plugins.get_dataset("digits"),
        )


def test_unknown_protocol_and_whitening_are_refused() -> None:
    data = dd_plugins.get_dataset("digits")
    with pytest.raises(OptionError, match="protocol must be one of replay, scratch"):
        continual(Experiment(), ["random"], protocols=["both"], data=data)  # type: ignore[list-item]
    with pytest.raises(OptionError, match="whitening must be one of none, first"):
        continual(Experiment(whitening="all"), ["random"], data=data)  # type: ignore[arg-type]


def test_validation_reads_no_test_images() -> None:
    data = replace(dd_plugins.get_dataset("digits"), read_test=_unreadable)
    experiment = Experiment(
        "split-digits", memory=10, training_steps=2, network=SMALL, validation=True
    )
    (row, *_) = continual(experiment, ["random"], data=data)
    assert row.as_dict()["memory_images"] == 10
    with pytest.raises(AssertionError, match="test images were read"):
        continual(replace(experiment, validation=False), ["random"], data=data)


@pytest.mark.parametrize("validation", [True, False])
def test_experience_without_scored_images_is_refused_at_once(validation: bool) -> None:
    data = dd_plugins.get_dataset("digits")
    held, first = data.validation, [2, 9]  # of the first experience of order 1
    some = ~torch.isin(held.labels, torch.tensor(first))
    scored = Images(held.images[some], held.labels[some])
    data = replace(data, validation=scored, read_test=lambda: scored)
    experiment = Experiment("split-digits", memory=10, validation=validation)
    told = "validation" if validation else "test"
    with pytest.raises(DataError, match=f"needs {told} images, .* classes 2, 9 of an"):
        continual(experiment, ["random"], seeds=[0, 1], data=data, on_progress=_never)


def _never(*told: Any) -> None:
    raise AssertionError(f"a stream has begun: {told}")


def _unreadable() -> Any:
    raise AssertionError("test images were read")


def test_replay_shows_all_packed_images_at_each_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from avalanche.benchmarks.utils.data_loader import ReplayDataLoader

    sizes = []

    class Counting(ReplayDataLoader):  # type: ignore[misc]
        def __iter__(self) -> Any:
            for batch in super().__iter__():
                sizes.append(len(batch[0]))
                yield batch

    monkeypatch.setattr("avalanche.training.plugins.replay.ReplayDataLoader", Counting)
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(
        "split-digits",
        memory=10,
        batch_size=32,
        experiences=2,
        augmented_copies=0,
        training_steps=2,
        network=SMALL,
    )
    stores: list[Any] = ["packed-uint8"]
    continual(experiment, ["random"], protocols=["replay"], stores=stores, data=data)
    # 32 current images, and 20 stored ones of the first experience: 5 classes.
    assert sizes[0] == 32 + 20, sizes
