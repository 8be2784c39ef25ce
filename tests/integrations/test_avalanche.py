"""Distilled replay in Avalanche: every kind of benchmark, strategy and label."""

import difflib
import io
import itertools
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import dd_plugins
from dd_plugins.errors import DataError, FileError, OptionError
from dd_plugins.functional.kernel_regression import centred_targets

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks import benchmark_from_datasets, nc_benchmark
from avalanche.benchmarks.scenarios import (
    class_incremental_benchmark,
    new_instances_benchmark,
    split_online_stream,
)
from avalanche.benchmarks.scenarios.online import (
    split_continuous_linear_decay_stream,
)
from avalanche.benchmarks.utils import (
    AvalancheDataset,
    _make_taskaware_classification_dataset,
    as_classification_dataset,
    concat_datasets,
)
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.benchmarks.utils.data_loader import ReplayDataLoader
from avalanche.checkpointing import (
    maybe_load_checkpoint,
    save_checkpoint,
)
from avalanche.evaluation.metrics import (
    accuracy_metrics,
    class_accuracy_metrics,
)
from avalanche.models import (
    IncrementalClassifier,
    MultiHeadClassifier,
    SCRModel,
)
from avalanche.models.dynamic_modules import MultiTaskModule
from avalanche.training.plugins import (
    EvaluationPlugin,
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    MIRPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from avalanche.training.supervised import ER_AML, SCR, Naive

from dd_avalanche import (
    DistilledBuffer,
    DistilledGDumb,
    DistilledReplayPlugin,
    LabelLoss,
    SoftTargets,
    restore_stream,
    save_stream,
)

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]

FREPO = "frepo(pool_size=1, real_batch_size=32, learning_rate=0.01)"
OPTIONS: dict[str, Any] = {
    "num_classes": 10,
    "steps": 3,
    "network": "conv(width=4, depth=2)",
}


class Digits(Dataset[tuple[Tensor, int]]):
    """A few digits as tensors, as a torchvision data set with ToTensor gives them."""

    def __init__(self, part: str, count: int = 400, transform: Any = None) -> None:
        data = dd_plugins.get_dataset("digits")
        images, labels = data.train if part == "train" else data.read_test()
        assert isinstance(images, Tensor)
        self.images = (images[:count].float() / images.max()).contiguous()
        self.targets = labels[:count].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        return image, self.targets[index]


def benchmark(kind: str) -> Any:
    train, test = Digits("train"), Digits("test")
    match kind:
        case "class-incremental, with tasks of nc_benchmark":
            return nc_benchmark(train, test, 5, task_labels=False, seed=0)
        case "task-incremental":
            return nc_benchmark(
                train,
                test,
                5,
                task_labels=True,
                seed=0,
                class_ids_from_zero_in_each_exp=True,
            )
        case "class-incremental":
            plain = {
                "train": as_classification_dataset(train),
                "test": as_classification_dataset(test),
            }
            return class_incremental_benchmark(plain, num_experiences=5, seed=0)
        case "class-incremental, task-aware":
            aware = {
                name: _make_taskaware_classification_dataset(data, task_labels=0)
                for name, data in (("train", train), ("test", test))
            }
            return class_incremental_benchmark(aware, num_experiences=5, seed=0)
        case "domain-incremental":
            return new_instances_benchmark(
                as_classification_dataset(train),
                as_classification_dataset(test),
                num_experiences=3,
                shuffle=True,
                seed=0,
            )
    raise AssertionError(kind)


BENCHMARKS = [
    "class-incremental, with tasks of nc_benchmark",
    "task-incremental",
    "class-incremental",
    "class-incremental, task-aware",
    "domain-incremental",
]


class MultiHead(MultiTaskModule):  # type: ignore[misc]
    """A head for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU())
        self.head = MultiHeadClassifier(16)

    def forward(self, x: Tensor, task_labels: Tensor) -> Tensor:
        found: Tensor = self.head(self.body(x), task_labels)
        return found


def network(kind: str = "") -> nn.Module:
    torch.manual_seed(0)
    if kind == "task-incremental":
        return MultiHead()
    norm = nn.BatchNorm1d(16) if kind == "with buffers" else nn.ReLU()
    last = nn.Linear(16, 10)
    if kind == "with buffers":
        last = nn.utils.parametrizations.spectral_norm(last)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), norm, last)


def strategy(model: nn.Module, plugins: list[Any], **options: Any) -> Any:
    given: dict[str, Any] = {
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 16,
        "eval_mb_size": 200,
        "evaluator": EvaluationPlugin(accuracy_metrics(stream=True)),
        "plugins": plugins,
    }
    return Naive(model=model, **(given | options))


def buffer(labels: Any = "hard", size: int = 20, **options: Any) -> DistilledBuffer:
    return DistilledBuffer(size, FREPO, labels=labels, **(OPTIONS | options))


def plugins_for(how: str, held: DistilledBuffer) -> list[Any]:
    if how == "own batch":
        return [DistilledReplayPlugin(held)]
    if how == "from scratch":
        return [DistilledGDumb(held)]
    stock = ReplayPlugin(held.max_size, storage_policy=held)
    return [stock, SoftTargets(held)] if held.labels == "learned" else [stock]


class Losses(SupervisedPlugin):  # type: ignore[misc]
    """Keep the loss of each iteration: after training a strategy's own is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def before_update(self, strategy: Any, **kwargs: Any) -> None:
        self.losses.append(float(strategy.loss))


@pytest.mark.parametrize("labels", ["hard", "learned"])
@pytest.mark.parametrize("how", ["replay", "own batch", "from scratch", "online"])
@pytest.mark.parametrize("kind", BENCHMARKS)
def test_every_combination_trains(kind: str, how: str, labels: str) -> None:
    held = buffer(labels)
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
    assert len(held.buffer) == 20
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
        held = DistilledBuffer(50, "random", num_classes=10, network=OPTIONS["network"])
        plugins = plugins_for("replay", held) if name == "replay" else []
        stream = benchmark("class-incremental")
        learner = strategy(network(), plugins, train_epochs=5)
        for experience in stream.train_stream:
            learner.train(experience)
        (accuracies[name],) = learner.eval(stream.test_stream).values()
    assert accuracies["replay"] > accuracies["naive"] + 0.15


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
    held = DistilledBuffer(20, "random", network=OPTIONS["network"])
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


def test_missing_transform_is_named() -> None:
    from torchvision.transforms.v2.functional import to_pil_image

    train = as_classification_dataset(Digits("train", transform=to_pil_image))
    stream = class_incremental_benchmark(
        {"train": train, "test": train}, num_experiences=5, seed=0
    )
    with pytest.raises(DataError, match=r"images as Image; .* such as ToTensor\(\)"):
        buffer().post_adapt(None, stream.train_stream[0])
    sizes = itertools.cycle([8, 6])
    uneven = as_classification_dataset(
        Digits("train", transform=lambda image: image[..., : next(sizes)])
    )
    stream = class_incremental_benchmark(
        {"train": uneven, "test": uneven}, num_experiences=5, seed=0
    )
    with pytest.raises(DataError, match="differ in shape"):
        buffer().post_adapt(None, stream.train_stream[0])


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


def test_learned_labels_with_a_criterion_that_misreads_them_are_refused() -> None:
    held = buffer("learned")
    learner = strategy(network(), plugins_for("replay", held))
    with pytest.raises(OptionError, match=r"criterion=dd_avalanche.LabelLoss"):
        learner.train(benchmark("class-incremental").train_stream[0])
    with pytest.raises(OptionError, match="for a buffer of learned labels"):
        SoftTargets(buffer())
    with pytest.raises(OptionError, match="need num_classes"):
        DistilledBuffer(20, FREPO, labels="learned")
    with pytest.raises(OptionError, match="labels must be one of hard, learned"):
        buffer("soft")
    with pytest.raises(OptionError, match="weight must be positive"):
        DistilledReplayPlugin(buffer(), weight=0)
    with pytest.raises(OptionError, match="batch_size must be"):
        DistilledReplayPlugin(buffer(), batch_size=0)


def test_training_from_scratch_refuses_a_criterion_that_misreads() -> None:
    learner = strategy(network(), plugins_for("from scratch", buffer("learned")))
    with pytest.raises(OptionError, match=r"criterion=dd_avalanche.LabelLoss"):
        learner.train(benchmark("class-incremental").train_stream[0])


def test_whole_experience_after_parts_of_another_is_refused() -> None:
    stream = benchmark("class-incremental").train_stream
    parts = split_online_stream(stream, 25, access_task_boundaries=True, seed=0)
    held = buffer()
    held.post_adapt(None, next(iter(parts)))
    with pytest.raises(OptionError, match="whole experience came after 1 parts"):
        held.post_adapt(None, stream[1])


def test_label_loss_takes_vectors_and_classes_alike() -> None:
    output, classes = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    squared = LabelLoss("regression")
    assert torch.equal(
        squared(output, classes), squared(output, centred_targets(classes, 4))
    )
    entropy = LabelLoss("probabilities")(output, classes)
    torch.testing.assert_close(entropy, nn.functional.cross_entropy(output, classes))


def test_own_batch_adds_the_loss_of_its_labels() -> None:
    held = buffer("learned")
    held.post_adapt(None, benchmark("class-incremental").train_stream[0])
    model = network().eval()
    plugin = DistilledReplayPlugin(held, weight=0.5, batch_size=100)

    class Fake:
        train_mb_size, device, loss = 8, torch.device("cpu"), torch.tensor(1.0)

    fake = Fake()
    fake.model = model  # type: ignore[attr-defined]
    plugin.before_backward(fake)
    memory = held.memory
    with torch.no_grad():
        error = model(memory.images()) - memory.labels(10)
        by_hand = 1 + 0.5 * error.square().sum(dim=1).mean() / 2
    torch.testing.assert_close(fake.loss.detach(), by_hand)


def test_training_from_scratch_resets_everything() -> None:
    stream = benchmark("class-incremental")
    held = buffer()
    model = network("with buffers")
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    learner = strategy(model, [DistilledGDumb(held)])
    seen: list[bool] = []
    trained_on: list[int] = []

    class Look(ReplayPlugin):  # type: ignore[misc]
        def __init__(self) -> None: ...

        def before_training_exp(self, strategy: Any, **kwargs: Any) -> None: ...

        def after_training_exp(self, strategy: Any, **kwargs: Any) -> None: ...

        def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
            state = strategy.model.state_dict()
            same = all(torch.equal(state[name], initial[name]) for name in initial)
            seen.append(same and not strategy.optimizer.state)
            trained_on.append(len(strategy.adapted_dataset))

    learner.plugins.append(Look())
    for experience in stream.train_stream:
        learner.train(experience)
    assert seen == [True] * 5
    assert trained_on == [20, 20, 18, 16, 20]
    assert any(
        not torch.equal(value, initial[name])
        for name, value in learner.model.state_dict().items()
    )


def test_reset_keeps_what_adaptation_has_told_the_model() -> None:
    """A head masks the outputs of classes that it has not met; that is no weight."""
    stream = benchmark("class-incremental")
    model = nn.Sequential(nn.Flatten(), IncrementalClassifier(64, 10))
    learner = strategy(model, [DistilledGDumb(buffer())])
    for experience in stream.train_stream:
        learner.train(experience)
    assert model[1].active_units.tolist() == [1] * 10


def test_training_from_scratch_on_parts_of_an_experience_is_refused() -> None:
    parts = split_online_stream(
        benchmark("class-incremental").train_stream, 25, access_task_boundaries=True
    )
    learner = strategy(network(), [DistilledGDumb(buffer())])
    with pytest.raises(OptionError, match="not on the parts of an online stream"):
        learner.train(next(iter(parts)))


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
    with pytest.raises(OptionError, match="no room"):
        held.resize(None, 3)
    assert (len(held.buffer), held.max_size) == (8, 8)


def test_avalanche_checkpoint_keeps_the_buffer(tmp_path: Path) -> None:
    stream = benchmark("class-incremental, task-aware")
    ends = []
    for killed in (False, True):
        held = buffer()
        learner = strategy(
            network(),
            plugins_for("replay", held),
            evaluator=EvaluationPlugin(),
        )
        torch.manual_seed(0)
        learner.train(stream.train_stream[0])
        if killed:
            # Its own optimizer cannot be pickled by this version.
            save_checkpoint(learner, tmp_path / "c.pkl", exclude=["optimizer"])
            fresh = strategy(
                network(),
                plugins_for("replay", buffer()),
                evaluator=EvaluationPlugin(),
            )
            learner, done = maybe_load_checkpoint(fresh, tmp_path / "c.pkl")
            assert done == 1
        policy = learner.plugins[0].storage_policy
        assert len(policy.buffer) == 20
        learner.train(stream.train_stream[1])
        ends.append(policy.memory.images())
    assert torch.equal(*ends)


STREAM = """
import os, signal, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, sys.argv[1])
import torch
from test_avalanche import benchmark, buffer, network, plugins_for, strategy
from avalanche.training.plugins import EvaluationPlugin
from dd_avalanche import restore_stream, save_stream

how, whole, killed = sys.argv[2:]

def learn(out, kill):
    stream = benchmark("class-incremental, task-aware").train_stream
    held = buffer(context="fixed")
    learner = strategy(
        network("with buffers" if how == "from scratch" else ""),
        plugins_for(how, held),
        evaluator=EvaluationPlugin(),
    )
    torch.manual_seed(7)
    done = restore_stream(out, learner, held, stream)
    print("goes on with", done, flush=True)
    for number, experience in enumerate(stream[done:], done + 1):
        learner.train(experience)
        if number == kill:
            # Between the two files of the next save: the last whole one must count.
            save = held.save
            held.save = lambda folder: (
                save(folder), os.kill(os.getpid(), signal.SIGKILL)
            )
        save_stream(out, learner, held, number)
    torch.save(
        [
            learner.model.state_dict(),
            held.memory.images(),
            torch.get_rng_state(),
            vars(learner.clock),
        ],
        out + "/end.pt",
    )

# Nothing was computed before the forks: threads are made in the children alone.
for out, kill in ((whole, 0), (killed, 3), (killed, 0)):
    child = os.fork()
    if child == 0:
        learn(out, kill)
        os._exit(0)
    print("ended with", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("how", ["replay", "own batch", "from scratch"])
def test_killed_stream_ends_as_if_it_had_not_been_killed(
    how: str, tmp_path: Path
) -> None:
    folders = [tmp_path / "whole", tmp_path / "killed"]
    words = [str(Path(__file__).parent), how, *map(str, folders)]
    done = subprocess.run(
        [sys.executable, "-c", STREAM, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    lines = [line for line in done.stdout.splitlines() if " with " in line]
    assert lines == [
        *("goes on with 0", "ended with 0"),
        *("goes on with 0", f"ended with {-signal.SIGKILL}"),
        *("goes on with 2", "ended with 0"),
    ], done.stderr
    for folder in folders:
        assert len(list(folder.glob("buffer-*"))) == 1, "the kill left one behind"
    ends = [torch.load(folder / "end.pt", weights_only=True) for folder in folders]
    (model, images, state, clock), (model_again, images_again, state_again, _) = ends
    assert clock == ends[1][-1]
    assert clock["train_iterations"] > 0
    assert torch.equal(images, images_again)
    assert torch.equal(state, state_again)
    for key, value in model.items():
        assert torch.equal(value, model_again[key]), key


def test_saved_stream_leaves_other_files_alone(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    held = buffer()
    learner = strategy(network(), plugins_for("replay", held))
    other = tmp_path / "buffer-notes" / "thesis.txt"
    other.parent.mkdir()
    other.write_text("mine")
    for number, experience in enumerate(stream[:2], 1):
        learner.train(experience)
        save_stream(tmp_path, learner, held, number)
    assert other.read_text() == "mine"
    assert len(list(tmp_path.glob("buffer-*-*"))) == 1  # the older one is gone


def test_stream_is_not_saved_within_an_experience(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    parts = split_online_stream(stream, 25, access_task_boundaries=True, seed=0)
    held = buffer()
    learner = strategy(network(), plugins_for("replay", held))
    first, second, *_ = itertools.islice(parts, 2)
    learner.train(first)
    with pytest.raises(OptionError, match="1 parts of an online experience wait"):
        save_stream(tmp_path, learner, held, 1)
    with pytest.raises(OptionError, match="after 1 parts of another"):
        held.post_adapt(None, first)
    held.post_adapt(None, second)


def test_experience_of_several_tasks_is_added_whole_or_not_at_all() -> None:
    train = Digits("train", 60)
    tasks = [int(place > 40) for place in range(60)]
    train.targets[41:] = [3] * 19  # one class alone in the second task
    data = _make_taskaware_classification_dataset(train, task_labels=tasks)
    held = buffer(size=40)
    with pytest.raises(OptionError, match="class 3 stands alone"):  # by FRePo
        held.post_adapt(None, SimpleNamespace(dataset=data))
    assert len(held.memory) == len(held.buffer) == 0


def test_stream_of_another_model_is_refused(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    held = buffer()
    learner = strategy(network(), plugins_for("replay", held))
    assert restore_stream(tmp_path, learner, held, stream) == 0
    learner.train(stream[0])
    save_stream(tmp_path, learner, held, 1)
    other = strategy(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), [])
    with pytest.raises(OptionError, match="another model"):
        restore_stream(tmp_path, other, buffer(), stream)
    with pytest.raises(OptionError, match="steps was 3, is 4"):
        restore_stream(tmp_path, learner, buffer(steps=4), stream)
    with pytest.raises(OptionError, match="1 experiences are done; this one has 0"):
        restore_stream(tmp_path, learner, buffer(), [])
    (tmp_path / "stream.pt").write_bytes(b"nothing")
    with pytest.raises(FileError, match="damaged"):
        restore_stream(tmp_path, learner, buffer(), stream)


def test_script_changes_by_two_lines_and_runs() -> None:
    folder = Path(__file__).parents[2] / "docs" / "examples"
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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name in ("stock", "distilled"):
        done = subprocess.run(
            [sys.executable, str(folder / f"avalanche_{name}.py")],
            capture_output=True,
            text=True,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        accuracy = float(done.stdout.split()[-1])
        assert accuracy > 0.3  # of ten classes, two of which were seen last


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


class Few(Dataset[Any]):
    """Items of any layout."""

    def __init__(self, make: Any, low: int = 0, count: int = 12) -> None:
        self.targets = [low + place % 2 for place in range(count)]
        self.make = make

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        generator = torch.Generator().manual_seed(index)
        image = torch.rand(1, 8, 8, generator=generator)
        return self.make(image, self.targets[index], index)


def labelled(make: Any, low: int = 0, *attributes: DataAttribute) -> AvalancheDataset:
    few = Few(make, low)
    targets = DataAttribute(few.targets, "targets")
    return AvalancheDataset([few], data_attributes=[targets, *attributes])


def chosen(size: int = 8, **options: Any) -> DistilledBuffer:
    return DistilledBuffer(size, "random", network=OPTIONS["network"], **options)


def pair(image: Tensor, label: int, place: int) -> tuple[Any, Any]:
    return image, label


def beside(low: int) -> AvalancheDataset:
    return labelled(pair, low, DataAttribute([3] * 12, "targets_task_labels"))


@pytest.mark.parametrize(
    "make",
    [
        lambda low: labelled(pair, low),
        beside,
        lambda low: labelled(lambda x, y, i: (x, torch.tensor(y)), low),
        lambda low: labelled(lambda x, y, i: (x, torch.tensor([y])), low),
        lambda low: labelled(lambda x, y, i: (x, torch.tensor(y).int()), low),
        lambda low: labelled(lambda x, y, i: [x.double(), np.int64(y)], low),
        lambda low: labelled(lambda x, y, i: (x.half(), y), low),
    ],
)
def test_items_have_the_parts_of_the_benchmark(make: Any) -> None:
    stream = benchmark_from_datasets(train=[make(0), make(2)]).train_stream
    held = chosen()
    held.post_adapt(None, stream[0])
    batch = next(
        iter(
            ReplayDataLoader(
                stream[1].dataset, held.buffer, batch_size=4, batch_size_mem=4
            )
        )
    )
    ours, theirs = held.buffer[0], stream[1].dataset[0]
    assert len(ours) == len(theirs)
    assert ours[0].dtype == theirs[0].dtype == batch[0].dtype
    if isinstance(theirs[1], Tensor):
        assert (ours[1].shape, ours[1].dtype) == (theirs[1].shape, theirs[1].dtype)
    assert len(batch[0]) == 8
    if hasattr(stream[0].dataset, "targets_task_labels"):
        assert list(held.buffer.targets_task_labels) == [3] * 8


@pytest.mark.parametrize(
    "dataset",
    [
        labelled(pair, 0, DataAttribute([7] * 12, "domain", use_in_getitem=True)),
        labelled(lambda x, y, i: (x, y, i)),
        labelled(lambda x, y, i: (x, y, 0, x)),
    ],
)
def test_items_of_further_parts_are_refused_where_they_are_mixed(dataset: Any) -> None:
    experience = benchmark_from_datasets(train=[dataset]).train_stream[0]
    held = chosen()
    with pytest.raises(DataError, match=r"use_in_getitem=False.*DistilledReplayPlugin"):
        held.post_adapt(None, experience)
    assert len(held.buffer) == 0
    DistilledReplayPlugin(held).after_training_exp(
        SimpleNamespace(experience=experience)
    )
    assert len(held.memory) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, y, i: {"image": x, "label": y}, "dictionaries with 'image', 'lab"),
        (lambda x, y, i: (x,), "sequences of 1 part"),
        (lambda x, y, i: x, "items as Tensor"),
        (lambda x, y, i: None, "items as NoneType"),
        (lambda x, y, i: (x, "ab"[y]), "labels images with 'a', expected whole"),
        (lambda x, y, i: (x, None), "labels images with None"),
        (lambda x, y, i: (x, y + 0.5), "labels images with 0.5"),
        (lambda x, y, i: (x, np.array([1, 0, 1])), r"vectors of shape \(3,\)"),
        (lambda x, y, i: (x, y if i < 5 else "b"), "labels images with 'b'"),
    ],
)
def test_items_that_are_no_pairs_are_refused(make: Any, message: str) -> None:
    held = chosen()
    with pytest.raises(DataError, match=message):
        held.post_adapt(None, SimpleNamespace(dataset=labelled(make)))
    assert len(held.memory) == 0


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
    learner.plugins[0].storage_policy = policy
    return learner


def small_mir(policy: DistilledBuffer) -> Any:
    plugin = MIRPlugin(batch_size_mem=4, mem_size=20, subsample=8)
    plugin.storage_policy = policy
    return strategy(network(), [plugin])


@pytest.mark.parametrize("make", [small_scr, small_er_aml, small_mir])
def test_strategies_that_read_groups_train(make: Any) -> None:
    torch.manual_seed(0)
    held = chosen(20)
    learner = make(held)
    stream = benchmark("class-incremental, task-aware").train_stream
    for experience in stream[:3]:
        learner.train(experience)
    assert len(held.buffer_groups) == 6


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


class Counting(SupervisedPlugin):  # type: ignore[misc]
    """A plugin of a stranger, with a state of its own."""

    def __init__(self, state: Any = 0) -> None:
        super().__init__()
        self.state = state

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        if isinstance(self.state, int):
            self.state += 1


class Saved(Counting):
    """The same, with what a saved stream needs."""

    def state_dict(self) -> dict[str, Any]:
        return {"state": self.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state = state["state"]


def scheduled(learner: Any) -> Any:
    schedule = torch.optim.lr_scheduler.StepLR(learner.optimizer, 1)
    learner.plugins.insert(0, LRSchedulerPlugin(schedule))
    return learner


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (lambda: [], None),
        (lambda: [Saved()], None),
        (lambda: [EWCPlugin(1.0)], "EWCPlugin"),
        (lambda: [LwFPlugin(), EWCPlugin(1.0)], "LwFPlugin, EWCPlugin"),
        (lambda: [ReplayPlugin(20)], "ReplayPlugin"),  # with a buffer of its own
        (lambda: [Counting()], "Counting"),
        (lambda: [Counting("a setting")], None),
        ("scheduled", "LRSchedulerPlugin"),
    ],
)
def test_plugins_whose_state_is_lost_are_named(
    make: Any, lost: str | None, tmp_path: Path
) -> None:
    stream = benchmark("class-incremental, task-aware").train_stream

    def made() -> tuple[DistilledBuffer, Any]:
        held = chosen(20)
        own = [] if make == "scheduled" else make()
        learner = strategy(network(), [*plugins_for("replay", held), *own])
        return held, scheduled(learner) if make == "scheduled" else learner

    held, learner = made()
    learner.train(stream[0])
    save_stream(tmp_path, learner, held, 1)
    held, learner = made()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert restore_stream(tmp_path, learner, held, stream) == 1
    told = [str(w.message) for w in said if "is not restored" in str(w.message)]
    assert len(told) == (lost is not None), told
    if lost is not None:
        assert told[0].startswith(f"the state of {lost} is not restored")
    found = [plugin.state for plugin in learner.plugins if isinstance(plugin, Saved)]
    assert found in ([], [1])


def test_plugins_with_a_state_must_be_those_that_were_saved(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream

    def save(plugin: Any) -> None:
        held = chosen(20)
        learner = strategy(network(), [*plugins_for("replay", held), plugin])
        learner.train(stream[0])
        save_stream(tmp_path, learner, held, 1)

    save(Saved())
    learner = strategy(network(), [])
    before = learner.model[1].weight.clone()
    with pytest.raises(OptionError, match="plugins Saved, the strategy has none"):
        restore_stream(tmp_path, learner, chosen(20), stream)
    assert torch.equal(learner.model[1].weight, before)
    for state in (nn.Linear(2, 2), lambda: 0):
        with pytest.raises(OptionError, match="state_dict of Saved cannot be saved"):
            save(Saved(state))


def test_flipped_bit_of_a_saved_stream_is_refused(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    held = chosen(20)
    learner = strategy(network(), plugins_for("replay", held))
    learner.train(stream[0])
    save_stream(tmp_path, learner, held, 1)
    file = tmp_path / "stream.pt"
    content = bytearray(file.read_bytes())
    assert torch.load(file, weights_only=True)["experiences"] == 1

    def refused(message: str) -> None:
        with pytest.raises(FileError, match=rf"{message}.*remove .* anew") as error:
            restore_stream(tmp_path, learner, chosen(20), stream)
        assert "\n" not in str(error.value)

    for place in [*range(0, len(content), len(content) // 100), len(content) - 1]:
        content[place] ^= 0x40
        file.write_bytes(content)
        refused("damaged")
        content[place] ^= 0x40
    for part in (content[:50], content[:-1], content + b"more", b""):
        file.write_bytes(part)
        refused("damaged")
    saved = torch.load(io.BytesIO(content), weights_only=True)
    torch.save(saved, file)  # as it was written before there was a digest
    refused("older version without a digest")
    file.write_bytes(content)
    (memory,) = tmp_path.glob("buffer-*/memory.safetensors")
    kept = memory.read_bytes()
    memory.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    refused("damaged")
    memory.write_bytes(kept)
    assert restore_stream(tmp_path, learner, chosen(20), stream) == 1


def test_resized_buffer_is_restored_with_its_stream(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    held = chosen(20)
    learner = strategy(network(), plugins_for("replay", held))
    learner.train(stream[0])
    held.resize(None, 10)
    save_stream(tmp_path, learner, held, 1)
    again = chosen(20)
    learner = strategy(network(), plugins_for("replay", again))
    restore_stream(tmp_path, learner, again, stream)
    assert (again.max_size, len(again.buffer)) == (10, 10)
    assert torch.equal(again.memory.images(), held.memory.images())
