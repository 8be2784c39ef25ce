import pytest
import torch

from dd_plugins.errors import DDWarning
from dd_plugins.runtime import cuda_graphs
from dd_plugins.runtime.cuda_graphs import GraphedFunction


def test_without_a_gpu_the_function_is_called():
    calls = []

    def add(one, two):
        calls.append(one)
        return one + two, one - two

    total, difference = GraphedFunction(add)(torch.tensor(3.0), torch.tensor(1.0))

    assert (total, difference) == (4.0, 2.0)
    assert len(calls) == 1


class _Graph:
    """Stands in for a CUDA graph: its replay computes from the inputs' places."""

    def __init__(self, inputs, output):
        self.inputs, self.output = inputs, output

    def replay(self):
        self.output.copy_(self.inputs[0] * 2)


def test_a_replay_reads_its_inputs_and_keeps_no_history_of_them():
    place, output = torch.zeros(2), torch.zeros(2)
    recording = cuda_graphs._Recording(_Graph([place], output), [place], (output,))
    leaf = torch.ones(2, requires_grad=True)

    for factor in (1, 2, 3):
        (found,) = recording.replay([leaf * factor])
        assert found.tolist() == [2 * factor] * 2

    assert place.grad_fn is None
    assert not place.requires_grad


needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="there is no CUDA GPU here"
)


@needs_gpu
def test_a_gpu_records_what_it_can_and_leaves_no_trace_of_the_warm_up():
    counter = torch.zeros((), device="cuda")

    def count(tensor):
        counter.add_(1)
        return (tensor * counter,)

    counting = GraphedFunction(count, lambda: [counter])
    found = [counting(torch.ones(2, device="cuda"))[0].clone() for _ in range(3)]

    assert [tensor[0].item() for tensor in found] == [1, 2, 3]
    assert all(counting._recordings.values())


@needs_gpu
def test_what_a_gpu_cannot_record_is_called_after_one_warning():
    def wait(tensor):
        return (tensor * tensor.sum().item(),)

    waiting = GraphedFunction(wait)
    with pytest.warns(DDWarning, match="cannot be recorded"):
        assert waiting(torch.ones(2, device="cuda"))[0].tolist() == [2, 2]
    assert waiting(torch.ones(3, device="cuda")[:2] * 2)[0].tolist() == [8, 8]


@needs_gpu
def test_a_function_that_draws_at_random_is_called_each_time():
    def drop(tensor):
        return (torch.nn.functional.dropout(tensor),)

    ones = torch.ones(64, device="cuda")
    dropping = GraphedFunction(drop)
    torch.cuda.manual_seed(0)
    with pytest.warns(UserWarning, match="it draws at random"):
        found = [dropping(ones)[0].clone() for _ in range(2)]

    torch.cuda.manual_seed(0)
    assert [tensor.tolist() for tensor in found] == [
        drop(ones)[0].tolist() for _ in range(2)
    ]
