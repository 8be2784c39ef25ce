"""A distilled buffer in every kind of benchmark, strategy and label."""

import difflib
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, run_code
from torch import Tensor, nn

from dd_plugins.errors import DDWarning, OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks.scenarios import (
    class_incremental_benchmark,
    split_online_stream,
)
from avalanche.benchmarks.scenarios.online import split_continuous_linear_decay_stream
from avalanche.benchmarks.utils import (
    _make_taskaware_classification_dataset,
    as_classification_dataset,
)
from avalanche.evaluation.metrics import class_accuracy_metrics
from avalanche.training.plugins import (
    EvaluationPlugin,
    ReplayPlugin,
)
from avalanche.training.supervised import Cumulative, JointTraining
from learners import (
    BENCHMARKS,
    OPTIONS,
    Digits,
    Losses,
    benchmark,
    buffer,
    chosen,
    network,
    plugins_for,
    strategy,
)

from dd_avalanche import (
    DistilledBuffer,
    DistilledGDumb,
    DistilledReplayPlugin,
    LabelLoss,
)

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.mark.parametrize("labels", ["hard", "learned"])
@pytest.mark.parametrize("how", ["replay", "own batch", "from scratch", "online"])
@pytest.mark.parametrize("kind", BENCHMARKS)
def test_every_combination_trains(kind: str, how: str, labels: str) -> None:
    held = buffer(labels, augmented_copies=1)
    stream = benchmark(kind)
    criterion: nn.Module = nn.CrossEntropyLoss()
    if labels == "learned":
        criterion = LabelLoss(held.memory.label_kind)
    # The online streams of Avalanche 0.6 lose task labels: no model of several heads.
    model = network("" if how == "online" else kind)
    learner = strategy(model, plugins_for(how, held), criterion=criterion)
    parts = stream.train_stream
    # 25 does not divide the experiences, 40 does some.
    if how == "online":
        parts = split_online_stream(parts, 25, access_task_boundaries=True, seed=0)
    watched = Losses()
    learner.plugins.append(watched)
    for experience in parts:
        learner.train(experience)
    assert len(held.memory.groups) == 10
    assert len(held.memory) == 20
    assert len(held.buffer) == 40  # one augmented copy of each
    assert len(watched.losses) >= 5
    assert all(0 <= loss < 100 for loss in watched.losses)
    found = learner.eval(stream.test_stream)
    assert all(0 <= value <= 1 for value in found.values())
    image, label, *task = held.buffer[0]
    assert image.shape == (1, 8, 8)
    assert isinstance(label, int) is (labels == "hard")
    assert bool(task) is (kind not in ("class-incremental", "domain-incremental"))


def test_replay_remembers_what_training_alone_forgets() -> None:
    accuracies = {}
    for name in ("naive", "replay"):
        held = DistilledBuffer(50, "random", **OPTIONS)
        plugins = plugins_for("replay", held) if name == "replay" else []
        stream = benchmark("class-incremental")
        learner = strategy(network(), plugins, train_epochs=5)
        for experience in stream.train_stream:
            learner.train(experience)
        (accuracies[name],) = learner.eval(stream.test_stream).values()
    assert accuracies["replay"] > accuracies["naive"] + 0.15


def test_metric_that_needs_task_labels_needs_them_of_the_benchmark() -> None:
    for kind, works in (
        ("class-incremental", False),
        ("class-incremental, task-aware", True),
    ):
        held, stream = buffer(), benchmark(kind)
        evaluator = EvaluationPlugin(class_accuracy_metrics(stream=True))
        learner = strategy(network(), plugins_for("replay", held), evaluator=evaluator)
        for experience in stream.train_stream[:2]:
            learner.train(experience)
        if works:
            assert learner.eval(stream.test_stream)
        else:  # with or without our buffer
            with pytest.raises(AssertionError, match="Task label not found"):
                learner.eval(stream.test_stream)


def test_online_stream_without_boundaries_is_refused() -> None:
    stream = benchmark("class-incremental")
    parts = split_online_stream(stream.train_stream, 25, seed=0)
    learner = strategy(network(), plugins_for("replay", buffer()))
    with pytest.raises(OptionError, match="access_task_boundaries=True"):
        learner.train(next(iter(parts)))


def test_parts_of_an_online_experience_are_distilled_once_and_whole() -> None:
    stream = benchmark("class-incremental")
    whole, collected = buffer(), buffer()
    experience = stream.train_stream[0]
    count = len(experience.dataset)
    for size in (count // 2, 25):  # with a rest, and perhaps without
        collected = buffer()
        parts = split_online_stream(
            [experience], size, shuffle=False, access_task_boundaries=True, seed=0
        )
        for part in parts:
            assert len(collected.buffer) == 0
            collected.post_adapt(None, part)
        whole = buffer()
        whole.post_adapt(None, experience)
        assert torch.equal(collected.memory.images(), whole.memory.images())


def test_whole_experience_after_parts_of_another_is_refused() -> None:
    stream = benchmark("class-incremental").train_stream
    parts = split_online_stream(stream, 25, access_task_boundaries=True, seed=0)
    held = buffer()
    held.post_adapt(None, next(iter(parts)))
    with pytest.raises(OptionError, match="after 1 parts, got a whole experience"):
        held.post_adapt(None, stream[1])


def test_distiller_touches_neither_model_nor_randomness() -> None:
    def noisy(image: Tensor) -> Tensor:
        return image + 0.1 * torch.rand(1)

    train = as_classification_dataset(
        Digits("train"),
        transform_groups={"train": (noisy, None), "eval": (noisy, None)},
    )
    stream = class_incremental_benchmark(
        {"train": train, "test": train}, num_experiences=5, seed=0
    )
    model = network().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    learner = strategy(model, [])
    torch.manual_seed(3)
    state = torch.get_rng_state()
    buffer().post_adapt(learner, stream.train_stream[0])
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_buffer_is_resized_like_others() -> None:
    held = buffer()
    for experience in benchmark("class-incremental").train_stream[:2]:
        held.post_adapt(None, experience)
    assert len(held.buffer) == 20
    held.resize(None, 8)
    assert (len(held.buffer), held.max_size) == (8, 8)
    with pytest.raises(OptionError, match="at least 4 for 4 classes, got 3"):
        held.resize(None, 3)
    assert (len(held.buffer), held.max_size) == (8, 8)


def test_experience_of_several_tasks_is_added_whole_or_not_at_all() -> None:
    train = Digits("train", 60)
    tasks = [int(place > 40) for place in range(60)]
    train.targets[41:] = [3] * 19  # one class alone in the second task
    data = _make_taskaware_classification_dataset(train, task_labels=tasks)
    held = buffer(size=40)
    with pytest.raises(OptionError, match="got class 3 alone"):  # by FRePo
        held.post_adapt(None, SimpleNamespace(dataset=data))
    assert len(held.memory) == len(held.buffer) == 0


def test_script_changes_by_two_lines_and_runs(tmp_path: Path) -> None:
    folder = ROOT / "docs" / "examples"
    texts = [
        (folder / f"avalanche_{name}.py").read_text().splitlines()
        for name in ("stock", "distilled")
    ]
    changed = [
        line
        for line in difflib.unified_diff(*texts, n=0, lineterm="")
        if line[1:].strip() and not line.startswith(("+++", "---", "@@"))
    ]
    assert [line[0] for line in changed] == ["+", "-", "+"]  # an import, and a line
    for text in texts:
        done = run_code("\n".join(text), folder=tmp_path)
        assert done.returncode == 0, done.stderr
        accuracy = float(done.stdout.split()[-1])
        assert accuracy > 0.3  # of ten classes, two of which were seen last


def test_experience_without_images_is_passed_over() -> None:
    stream = benchmark("class-incremental, task-aware").train_stream
    empty = SimpleNamespace(dataset=stream[0].dataset.subset([]))
    held = buffer()
    held.post_adapt(None, empty)  # the first
    assert len(held.buffer) == 0
    held.post_adapt(None, stream[0])
    before, layout = held.memory.images(), held.layout
    held.post_adapt(None, empty)
    held.update_from_dataset(empty.dataset)
    assert torch.equal(held.memory.images(), before)
    assert held.layout == layout
    assert len(held.buffer[0]) == 3


def test_empty_part_of_an_online_experience_is_counted() -> None:
    stream = benchmark("class-incremental").train_stream[:1]
    parts = list(split_online_stream(stream, 25, access_task_boundaries=True))
    whole, held = buffer(), buffer()
    for part in parts:
        whole.post_adapt(None, part)
        if part is parts[1]:
            part._dataset = part.dataset.subset([])
        held.post_adapt(None, part)
    assert held.parts == 0
    assert sum(group.seen for group in held.memory.groups.values()) == (
        sum(group.seen for group in whole.memory.groups.values()) - 25
    )


def test_stream_without_boundaries_is_told_what_it_can_have() -> None:
    stream = benchmark("class-incremental").train_stream
    parts = split_continuous_linear_decay_stream(
        stream, experience_size=40, iters_per_virtual_epoch=3, beta=0.5, shuffle=True
    )
    held = chosen(40)
    part = next(iter(parts))
    with pytest.raises(OptionError, match=r"update_from_dataset\(\)"):
        held.post_adapt(None, part)
    held.update_from_dataset(part.dataset)
    assert len(held.buffer) > 0


def test_buffer_of_two_plugins_is_filled_once() -> None:
    stream = benchmark("class-incremental").train_stream
    for plugins in (
        lambda held: [
            ReplayPlugin(20, storage_policy=held),
            DistilledReplayPlugin(held),
        ],
        lambda held: [DistilledGDumb(held), ReplayPlugin(20, storage_policy=held)],
    ):
        held = chosen(20)
        learner = strategy(network(), plugins(held))
        for experience in (stream[0], stream[1], stream[1]):
            learner.train(experience)
        seen = [len(each.dataset) for each in (stream[0], stream[1], stream[1])]
        stored = held.memory.groups.values()
        assert sum(group.seen for group in stored) == sum(seen)
        assert held.memory.experiences == 3, "one trained on again is taken again"


def test_classes_that_joint_training_keeps_from_the_buffer_are_told() -> None:
    stream = benchmark("class-incremental").train_stream
    for kind, told in ((JointTraining, True), (Cumulative, False)):
        held, model = chosen(20), network()
        learner = kind(
            model=model,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.05),
            criterion=nn.CrossEntropyLoss(),
            train_mb_size=64,
            plugins=plugins_for("replay", held),
            evaluator=EvaluationPlugin(),
        )
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            learner.train(stream[:2])
        lines = [str(each.message) for each in said if each.category is DDWarning]
        assert len(held.memory.groups) == (2 if told else 4)
        assert len(lines) == told, lines
        if told:
            later = sorted({int(label) for label in stream[1].dataset.targets})
            assert f"trains on classes {later[0]}, {later[1]} that are" in lines[0]


def test_small_buffer_has_augmented_copies_as_items() -> None:
    stream = benchmark("class-incremental").train_stream
    held = buffer(size=40, images_per_class=4, augmented_copies=None)
    held.post_adapt(None, stream[0])
    assert len(held.memory) == 8
    assert len(held.buffer) == 640
    stored, copies = held.buffer.subset(range(8)), held.buffer.subset(range(8, 640))
    images = held.memory.images()
    assert torch.equal(torch.stack([item[0] for item in stored]), images)
    moved = [item[0] for item in copies]
    assert not any(torch.equal(each, one) for each in moved for one in images)
    # Every copy has the class of its image, and they are the same when read again.
    classes = held.memory.hard_labels().tolist()
    assert [item[1] for item in copies] == classes * 79
    assert all(map(torch.equal, moved, [item[0] for item in copies]))
    again = buffer(size=40, images_per_class=4)
    again.post_adapt(None, stream[0])
    assert torch.equal(again.memory.images(), images)
    assert len(again.buffer) == 8
    groups = held.buffer_groups
    assert sum(len(group.buffer) for group in groups.values()) == 640
    with pytest.raises(OptionError, match="augmented_copies"):
        buffer(augmented_copies=-1)


def test_large_buffer_has_no_copies_unless_asked() -> None:
    stream = benchmark("class-incremental").train_stream
    held = chosen(700, images_per_class=40, augmented_copies=None)
    for experience in stream:
        held.post_adapt(None, experience)
    assert len(held.buffer) == len(held.memory) > 320
    twice = chosen(700, images_per_class=40, augmented_copies=1)
    twice.post_adapt(None, stream[0])
    assert len(twice.buffer) == 2 * len(twice.memory)
