"""Estimates of the time, memory and disk of a run, before it starts."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from dd_plugins.distillers.returned import check_images_in_graph
from dd_plugins.engine.settled import Settled
from dd_plugins.errors import OptionError
from dd_plugins.networks.base import AbstractNetwork, ImageShape
from dd_plugins.run import Run
from dd_plugins.runtime.device import autocast
from dd_plugins.runtime.memory import graph_bytes, memory_limit
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.runtime.text import duration_text, size_text

__all__ = ["Estimate", "check_memory", "feature_graph_bytes", "probed"]

_PROBE_SECONDS = 1.0
_MOST_STEPS = 20  # of a probe, at each place
_PLACES = (1 / 8, 3 / 8, 5 / 8, 7 / 8)  # of a run: the cost of a step may change
_SLOW = 5.0  # seconds of a step after which one place is enough
_FLOAT = 4  # bytes
_COPIES = 4  # of the set: itself, its gradient, and two moments of an optimizer
_MOST_KEPT = 4_096  # values for each value of an image: more than any network keeps


@dataclass(frozen=True)
class Estimate:
    """The time, memory and disk of a run.

    Attributes:
        steps: number of steps to make.
        preparation_seconds: seconds before the first step, for reading, whitening and
            networks.
        step_seconds: mean seconds of a step.
        validation_seconds: seconds of all measurements of validation accuracy.
        memory: peak bytes of the process, or reserved by torch on a GPU.
        disk: bytes of the files in the folder of the run, without pictures.
        device: the kind of device.
    """

    steps: int
    preparation_seconds: float
    step_seconds: float
    validation_seconds: float
    memory: int
    disk: int
    device: str

    @property
    def seconds(self) -> float:
        """Seconds of the whole run, without its checkpoints."""
        made = self.preparation_seconds + self.steps * self.step_seconds
        return made + self.validation_seconds

    def line(self) -> str:
        """Return the estimate as a line of text."""
        steps = "1 step takes" if self.steps == 1 else f"{self.steps:,} steps take"
        return (
            f"{steps} about {duration_text(self.seconds)} on "
            f"{self.device}, {size_text(self.memory)} of memory and "
            f"{size_text(self.disk)} of disk"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the form written by ``--json``."""
        return asdict(self) | {"seconds": self.seconds}


def probed(make_step: Callable[[int], object], steps: int) -> float:
    """Return the seconds of a step, measured at several stages of the run.

    Args:
        make_step: makes a step, as if all earlier steps had been made, and waits for
            its end.
        steps: number of steps of the run.
    """

    def timed(step: int) -> float:
        started = time.perf_counter()
        make_step(step)
        return time.perf_counter() - started

    first = timed(0)  # in which libraries set themselves up
    places = (1 / 2,) if first > _SLOW else _PLACES
    found = []
    for place in places:
        step = int(place * steps)
        times = [timed(step)]
        while sum(times) < _PROBE_SECONDS / len(places) and len(times) < _MOST_STEPS:
            step += 1
            if step >= steps:
                break
            times.append(timed(step))
        # The first of a place may set something up, as a wrapper does at its start.
        later = times[1:] or times
        found.append(sum(later) / len(later))
    return sum(found) / len(found)


def check_memory(settled: Settled, run: Run) -> None:
    """Refuse a run too large for the memory.

    The check counts the set with its moments, and the activations of the images in the
    graph of a step (:meth:`~dd_plugins.AbstractDistiller.images_in_graph`). Even a run
    that passes may not fit.

    Raises:
        OptionError: the run does not fit; the message says how to make it smaller.
    """
    task, distiller = run.task, settled.distiller
    channels, height, width = task.image_shape
    each = channels * height * width
    needed = _COPIES * _FLOAT * task.synthetic_images * each

    def images_in_graph(batch_norm: bool) -> int:
        assumed = replace(task, batch_norm=batch_norm)
        return check_images_in_graph(distiller, distiller.images_in_graph(assumed))

    if run.device.type == "cuda":
        room = float(torch.cuda.get_device_properties(run.device).total_memory)
    else:
        room = memory_limit()
    # Building a wide network only to count takes seconds, and few runs come near.
    most = max(images_in_graph(False), images_in_graph(True))
    may_not_fit = most * _MOST_KEPT * _FLOAT * each > room - needed
    if may_not_fit and distiller.uses_network:
        joined = run.network.uses_batch_norm(task.image_shape)
        needed += images_in_graph(joined) * feature_graph_bytes(
            run.network, task.image_shape, task.num_classes, run.precision
        )
    if needed > room:
        raise OptionError(
            f"the run needs at least {size_text(needed)} of memory, and {run.device} "
            f"has {size_text(int(room))}: make fewer images (--ipc), take a narrower "
            "network (--network 'conv(width=32)') or a smaller chunk_size of "
            "frepo or group_size of sre2l"
        )


def feature_graph_bytes(
    network: AbstractNetwork,
    image_shape: ImageShape,
    num_classes: int,
    precision: torch.dtype,
) -> int:
    """Return the bytes kept for the backward pass by the features of one image.

    They are counted on two images of zeros, on the CPU.
    """
    module = network.build(
        image_shape, num_classes, generator=generator_for(0, "graph bytes")
    ).eval()
    images = torch.zeros(2, *image_shape).requires_grad_()

    def features() -> Tensor:
        with autocast(torch.device("cpu"), precision):
            return module.features(images)

    return graph_bytes(features, without=module.parameters()) // 2
