"""A stream goes on after a kill as if there had been none."""

import itertools
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dd_plugins.errors import DDWarning, FileError, OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks.scenarios import split_online_stream
from avalanche.checkpointing import (
    maybe_load_checkpoint,
    save_checkpoint,
)
from avalanche.training.plugins import (
    EvaluationPlugin,
    EWCPlugin,
    LRSchedulerPlugin,
    LwFPlugin,
    ReplayPlugin,
    SupervisedPlugin,
)
from conftest import run_code
from learners import benchmark, buffer, chosen, network, plugins_for, strategy

from dd_avalanche import (
    DistilledBuffer,
    restore_stream,
    save_stream,
)

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


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
from learners import benchmark, buffer, network, plugins_for, strategy
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
    done = run_code(STREAM, *words, folder=tmp_path)
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
    with pytest.raises(OptionError, match="got 1 parts that wait for it"):
        save_stream(tmp_path, learner, held, 1)
    with pytest.raises(OptionError, match="after 1 parts of another"):
        held.post_adapt(None, first)
    held.post_adapt(None, second)


def test_stream_of_another_model_is_refused(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    held = buffer()
    learner = strategy(network(), plugins_for("replay", held))
    assert restore_stream(tmp_path, learner, held, stream) == 0
    learner.train(stream[0])
    save_stream(tmp_path, learner, held, 1)
    other = strategy(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), [])
    with pytest.raises(OptionError, match=r"expected the model, .* got others: "):
        restore_stream(tmp_path, other, buffer(), stream)
    with pytest.raises(OptionError, match="steps was 3, is 4"):
        restore_stream(tmp_path, learner, buffer(steps=4), stream)
    with pytest.raises(OptionError, match=r"at least 1 experiences, .* got 0"):
        restore_stream(tmp_path, learner, buffer(), [])
    (tmp_path / "stream.pt").write_bytes(b"nothing")
    with pytest.raises(FileError, match="damaged"):
        restore_stream(tmp_path, learner, buffer(), stream)


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
    ours = [str(w.message) for w in said if issubclass(w.category, DDWarning)]
    told = [message for message in ours if "is not restored" in message]
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
    with pytest.raises(OptionError, match="a strategy with Saved, got none"):
        restore_stream(tmp_path, learner, chosen(20), stream)
    assert torch.equal(learner.model[1].weight, before)
    for state in (nn.Linear(2, 2), lambda: 0):
        with pytest.raises(OptionError, match="state_dict of Saved must hold only"):
            save(Saved(state))


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
