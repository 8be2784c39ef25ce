"""The items of a buffer: beside new data, by class, and never the stored images."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dd_plugins.errors import OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks.scenarios import class_incremental_benchmark
from avalanche.benchmarks.utils import (
    as_classification_dataset,
    concat_datasets,
)
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
from avalanche.models import SCRModel
from avalanche.training.plugins import GDumbPlugin, MIRPlugin, ReplayPlugin
from avalanche.training.supervised import ER_ACE, ER_AML, SCR
from learners import (
    BENCHMARKS,
    OPTIONS,
    Digits,
    benchmark,
    buffer,
    chosen,
    labelled,
    network,
    strategy,
)

from dd_avalanche import DistilledBuffer

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_transforms_of_the_benchmark_are_respected_and_not_applied_twice() -> None:
    def shifted(image: Tensor) -> Tensor:
        return 2 * image - 5

    train = as_classification_dataset(
        Digits("train"),
        transform_groups={
            "train": (lambda image: image.flip(-1) - 100, None),
            "eval": (shifted, None),
        },
    )
    stream = class_incremental_benchmark(
        {"train": train, "test": train}, num_experiences=5, seed=0
    )
    held = DistilledBuffer(20, "random", **OPTIONS)
    experience = stream.train_stream[0]
    held.post_adapt(None, experience)
    known = torch.stack([item[0] for item in experience.dataset.eval()])
    for part in (held.buffer, held.buffer.train(), held.buffer.eval()):
        for image, *_ in part:
            assert min((image - real).abs().max() for real in known) < 1e-4
    # Mixed with current data, each keeps its own.
    mixed = ReplayDataLoader(
        experience.dataset.train(), held.buffer, batch_size=4, batch_size_mem=4
    )
    images = next(iter(mixed))[0]
    assert (
        sorted((images.flatten(1).mean(dim=1) < -50).tolist())
        == [False] * 4 + [True] * 4
    )


@pytest.mark.parametrize("kind", BENCHMARKS)
def test_buffer_stands_before_and_after_new_data(kind: str) -> None:
    stream = list(benchmark(kind).train_stream)
    held = buffer()
    for experience in stream[:2]:  # of several tasks, where there are tasks
        held.post_adapt(None, experience)
    new = stream[2].dataset
    part = held.buffer.subset([0, len(held.buffer) - 1])
    for order in (
        [held.buffer, new],
        [new, held.buffer],
        [part, new, stream[0].dataset],
        [held.buffer, held.buffer, new],
        [*held.buffer_datasets, new],
    ):
        together = concat_datasets(order)
        assert len(together) == sum(map(len, order))
        wanted = [int(item[1]) for each in order for item in each]
        assert [int(label) for label in together.targets] == wanted
        if "task" in kind:  # each item with that of its own
            tasks = [int(item[2]) for each in order for item in each]
            assert [int(task) for task in together.targets_task_labels] == tasks
            assert [int(item[2]) for item in together] == tasks


@pytest.mark.parametrize("labels", ["hard", "learned"])
@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_what_is_stored_is_not_changed_through_items(labels: str, store: str) -> None:
    make = labelled(lambda x, y, i: (x, torch.tensor(y)))
    held = chosen(store=store, labels=labels, num_classes=4)
    held.post_adapt(None, SimpleNamespace(dataset=make))
    before = held.memory.images(), held.memory.labels(4), held.memory.hard_labels()
    groups = held.buffer.replace_current_transform_group(
        (lambda image: image.mul_(9), lambda label: label.add_(1))
    )
    for _ in range(2):
        for item in [*groups, *held.buffer]:
            item[0].zero_()
    again = held.memory.images(), held.memory.labels(4), held.memory.hard_labels()
    assert all(map(torch.equal, before, again))
    assert int(held.buffer[0][1].max()) <= 1


def test_a_packed_buffer_replays_every_image_that_it_holds() -> None:
    stream = benchmark("class-incremental").train_stream
    held = DistilledBuffer(
        4, "dm(real_batch_size=8)", store="packed", **(OPTIONS | {"num_classes": None})
    )
    held.post_adapt(None, stream[0])
    assert len(held.buffer) == len(held.memory) == 16
    images = torch.stack([item[0] for item in held.buffer])
    torch.testing.assert_close(images, held.memory.images())
    assert [item[1] for item in held.buffer] == held.memory.hard_labels().tolist()


def test_groups_are_those_of_a_class_balanced_buffer() -> None:
    stream = benchmark("class-incremental").train_stream
    held = chosen(20)
    held.post_adapt(None, stream[0])
    assert set(held.buffer_groups) == {group.label for group in held.memory.groups}
    for label, group in held.buffer_groups.items():
        assert {int(item[1]) for item in group.buffer} == {label}
        with pytest.raises(OptionError, match="resize the buffer"):
            group.resize(None, 3)
    assert sum(map(len, held.buffer_datasets)) == len(held.buffer)
    held.resize(None, 8)
    assert list(map(len, held.buffer_datasets)) == [4, 4]
    by_hand = chosen(20)
    by_hand.update_from_dataset(stream[0].dataset, None)
    by_hand.resize(None, 8)
    assert torch.equal(by_hand.memory.images(), held.memory.images())


def small_scr(policy: DistilledBuffer) -> Any:
    model = SCRModel(
        feature_extractor=nn.Sequential(nn.Flatten(), nn.Linear(64, 8)),
        projection=nn.Linear(8, 8),
    )
    learner = SCR(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        augmentations=nn.Identity(),
        mem_size=20,
        train_mb_size=10,
        batch_size_mem=10,
        evaluator=None,
    )
    learner.replay_plugin.storage_policy = policy
    return learner


def small_er_aml(policy: DistilledBuffer) -> Any:
    body, head = nn.Sequential(nn.Flatten(), nn.Linear(64, 8)), nn.Linear(8, 10)
    model = nn.Sequential(body, head)
    learner = ER_AML(
        model=model,
        feature_extractor=body,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        mem_size=20,
        train_mb_size=2,
        batch_size_mem=10,
        evaluator=None,
    )
    learner.storage_policy = policy
    return learner


def small_mir(policy: DistilledBuffer) -> Any:
    plugin = MIRPlugin(batch_size_mem=4, mem_size=20, subsample=8)
    plugin.storage_policy = policy
    return strategy(network(), [plugin])


def small_er_ace(policy: DistilledBuffer) -> Any:
    model = network()
    learner = ER_ACE(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        criterion=nn.CrossEntropyLoss(),
        mem_size=20,
        train_mb_size=16,
        batch_size_mem=10,
        evaluator=None,
    )
    learner.storage_policy = policy
    return learner


def small_gdumb(policy: DistilledBuffer) -> Any:
    plugin = GDumbPlugin(20)
    plugin.storage_policy = policy
    return strategy(network(), [plugin])


def test_replay_plugin_needs_the_size_of_its_buffer() -> None:
    """Avalanche's own check, without a message; the documentation has one."""
    with pytest.raises(AssertionError):
        ReplayPlugin(30, storage_policy=chosen(3))


@pytest.mark.parametrize(
    "make", [small_scr, small_er_aml, small_mir, small_er_ace, small_gdumb]
)
def test_strategies_with_a_storage_policy_train(make: Any) -> None:
    torch.manual_seed(0)
    held = chosen(20)
    learner = make(held)
    stream = benchmark("class-incremental, task-aware").train_stream
    for experience in stream[:3]:
        learner.train(experience)
    assert len(held.buffer_groups) == 6
