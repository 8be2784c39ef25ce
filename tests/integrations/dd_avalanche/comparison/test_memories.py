"""The memories of a comparison are filled once, and known after each experience."""

import pytest
import torch

import dd_plugins
from dd_avalanche.comparison.experiment import Experiment
from dd_avalanche.comparison.memories import MemoryHistories
from dd_avalanche.comparison.memory_use import scores_from_scratch, scores_with_replay
from dd_avalanche.comparison.streams import ClassStream
from dd_avalanche.memory import DistilledMemory


@pytest.fixture(scope="module")
def stream() -> ClassStream:
    data = dd_plugins.get_dataset("digits")
    experiment = Experiment(
        "split-digits", training_steps=2, steps=2, network="conv(width=4, depth=2)"
    )
    return ClassStream(experiment, data, data.read_test(), seed=0)


def test_history_tells_the_memory_of_each_experience(stream: ClassStream) -> None:
    history = MemoryHistories()(stream, 3, "random", "none", "real")
    for part in range(5):
        held = history.at(part, "real")
        assert len(held) == 3 * 2 * (part + 1), "an equal share from the start"
        assert {key.label for key in held.groups} == {
            label for classes in stream.order[: part + 1] for label in classes
        }
    first, last = history.at(0, "real"), history.at(4, "real")
    assert torch.equal(last.images()[:6], first.images())
    first.groups.clear()
    assert len(history.at(0, "real")) == 6, "what is given is not the history itself"


@pytest.mark.parametrize("store", ["float32", "uint8"])
def test_history_tells_the_distillations_so_far(
    stream: ClassStream, store: str
) -> None:
    """The number of them seeds a buffer's augmented copies."""
    history = MemoryHistories()(stream, 1, "dm(real_batch_size=8)", "none", store)
    states = [history.at(part, store) for part in range(5)]
    assert [held.experiences for held in states] == [1, 2, 3, 4, 5]
    assert 0 < states[0].seconds < states[4].seconds == history.memory.seconds
    assert len(states[0].distilled_set().images) == 2


def test_history_is_rounded_when_it_is_asked_for(stream: ClassStream) -> None:
    history = MemoryHistories()(stream, 1, "dm(real_batch_size=8)", "none", "uint8")
    exact, rounded = history.at(4, "float32"), history.at(4, "uint8")
    assert rounded.image_bytes < exact.image_bytes / 3
    torch.testing.assert_close(rounded.images(), exact.images(), atol=0.05, rtol=0)
    assert torch.equal(rounded.hard_labels(), exact.hard_labels())


def test_same_memory_is_filled_once(
    stream: ClassStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    added: list[int] = []
    plain = DistilledMemory.add

    def counted(self: DistilledMemory, *given: torch.Tensor) -> None:
        added.append(self.size)
        plain(self, *given)

    monkeypatch.setattr(DistilledMemory, "add", counted)
    histories = MemoryHistories()
    first = histories(stream, 1, "random", "none", "real")
    assert histories(stream, 1, "random", "none", "real") is first
    assert added == [10] * 5
    assert histories(stream, 2, "random", "none", "real") is not first
    assert added == [10] * 5 + [20] * 5


def test_scores_are_of_each_experience_and_those_before(stream: ClassStream) -> None:
    history = MemoryHistories()(stream, 1, "random", "none", "real")
    scores = scores_from_scratch(stream, history, "real")
    assert [len(row) for row in scores] == [1, 2, 3, 4, 5]
    assert scores_from_scratch(stream, history, "real") == scores


def test_replay_leaves_the_global_generator_alone(stream: ClassStream) -> None:
    pytest.importorskip("avalanche.training", reason="extra 'avalanche'")
    history = MemoryHistories()(stream, 1, "random", "none", "real")
    state = torch.get_rng_state()
    with_memory = scores_with_replay(stream, history, "real")
    assert torch.equal(torch.get_rng_state(), state)
    without = scores_with_replay(stream, None, "none")
    for scores in (with_memory, without):
        assert [len(row) for row in scores] == [1, 2, 3, 4, 5]
    assert with_memory != without
