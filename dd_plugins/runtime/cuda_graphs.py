"""Functions of tensors whose kernels a GPU records once and then replays.

A step of a distiller runs hundreds of small kernels, and a GPU finishes most of them
before Python launches the next. Replayed as one CUDA graph they run without gaps.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dd_plugins.errors import DDWarning

__all__ = ["GraphedFunction"]

_WARM_UPS = 2  # calls before the recording, in which libraries set themselves up


@dataclass
class _Recording:
    """A recorded call: where its inputs are read from, and its outputs written to."""

    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    outputs: tuple[Tensor, ...]

    def replay(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        with torch.no_grad():  # else autograd would track the copies
            for recorded, given in zip(self.inputs, inputs, strict=True):
                recorded.copy_(given)
        self.graph.replay()
        return self.outputs


class GraphedFunction:
    """A function, recorded on a GPU at its first call, and called as usual elsewhere.

    It is recorded once for inputs of the same shapes and dtypes, and must do the same
    for all of them: nothing in it may depend on a value, or wait for the device. If the
    GPU cannot record it, or if it draws at random, it is called each time, after one
    warning.

    Args:
        function: maps tensors on one device to a tuple of tensors.
        changed: returns the tensors changed by a call, besides its outputs. They are
            restored after the warm-up calls and the recording.

    Example:
        >>> double = GraphedFunction(lambda tensor: (2 * tensor,))
        >>> double(torch.ones(2))
        (tensor([2., 2.]),)
    """

    def __init__(
        self,
        function: Callable[..., tuple[Tensor, ...]],
        changed: Callable[[], Sequence[Tensor]] = tuple,
    ) -> None:
        self._function = function
        self._changed = changed
        self._recordings: dict[Hashable, _Recording | None] = {}

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs of the function.

        On a GPU the outputs are overwritten by the next call.
        """
        if inputs[0].device.type != "cuda":
            return self._function(*inputs)
        kind = tuple((each.shape, each.dtype) for each in inputs)
        if kind not in self._recordings:
            with torch.cuda.device(inputs[0].device):
                self._recordings[kind] = self._record(inputs)
        recording = self._recordings[kind]
        if recording is None:
            return self._function(*inputs)
        return recording.replay(inputs)

    def _record(self, inputs: Sequence[Tensor]) -> _Recording | None:
        """Record a call, or return None if it cannot be recorded.

        The inputs' device is the current one.
        """
        recorded = [each.detach().clone() for each in inputs]
        kept = [(each, each.clone()) for each in self._changed()]
        generators = _generators()
        graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        around = torch.cuda.current_stream()
        stream.wait_stream(around)
        try:
            with torch.cuda.stream(stream), warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*capturable=True")  # it will be
                for _ in range(_WARM_UPS):
                    self._function(*recorded)
            around.wait_stream(stream)
            if not _equal(_generators(), generators):
                raise RuntimeError("it draws at random")
            with torch.cuda.graph(graph, stream=stream):
                outputs = self._function(*recorded)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            warnings.warn(
                f"a part of a step cannot be recorded as a CUDA graph, and stays "
                f"slower: {reason}",
                DDWarning,
                stacklevel=2,
            )
            return None
        finally:
            torch.cuda.set_stream(around)  # a recording that failed may have left it
            around.wait_stream(stream)
            for tensor, before in kept:
                tensor.detach().copy_(before)
            if not _equal(_generators(), generators):
                torch.set_rng_state(generators[0])
                torch.cuda.set_rng_state(generators[1])
        return _Recording(graph, recorded, outputs)


def _generators() -> tuple[Tensor, Tensor]:
    """Return the states of the generators of the CPU and of the current GPU."""
    return torch.get_rng_state(), torch.cuda.get_rng_state()


def _equal(one: tuple[Tensor, Tensor], other: tuple[Tensor, Tensor]) -> bool:
    return all(map(torch.equal, one, other))
