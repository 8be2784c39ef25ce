"""The figures of one stream, and of the streams of one policy together."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from dd_avalanche.comparison.choices import MemoryUse
from dd_avalanche.memory import Context
from dd_plugins.api import mean_interval

__all__ = ["PolicyResult", "StreamResult", "stream_key"]


@dataclass(frozen=True)
class StreamResult:
    """One stream, of one seed.

    Attributes:
        policy: the policy for filling the memory: a spec, ``"naive"`` or ``"joint"``.
        protocol: how the memory is used.
        context: how stored images take part while others are distilled.
        store: how images are stored; ``"real"`` for images of the data set, ``"none"``
            without a memory.
        seed: the seed of the order or domains, the distillations and the networks.
        images_per_class: the room of each class in the memory, in images.
        memory_images: stored images at the end.
        memory_bytes: bytes of these images; from scratch also of learned labels.
        accuracies: after each experience, the accuracy on the scored images of each
            experience so far; empty lists where it was not measured.
        distill_seconds: seconds spent on distilling.
        seconds: seconds of the stream; a memory counts in the stream that filled it.
    """

    policy: str
    protocol: MemoryUse
    context: Context
    store: str
    seed: int
    images_per_class: int
    memory_images: int
    memory_bytes: int
    accuracies: list[list[float]]
    distill_seconds: float
    seconds: float

    @property
    def curve(self) -> list[float | None]:
        """The mean of the accuracies on the experiences so far, after each one.

        Each experience has the same weight, however many of its images are scored. None
        where it was not measured.
        """
        return [statistics.mean(row) if row else None for row in self.accuracies]

    @property
    def forgetting(self) -> float | None:
        """The mean drop in accuracy on an experience by the end of the stream.

        It is the drop from the best value before the end, and negative where accuracy
        rises at the end. The last experience is left out (Chaudhry et al. 2018, arXiv
        1801.10112, section 3.3). None for a stream measured only at its end, or with
        one experience.
        """
        *before, last = self.accuracies
        if not before or not all(before):
            return None
        return statistics.mean(
            max(row[index] for row in before[index:]) - last[index]
            for index in range(len(before))
        )


@dataclass(frozen=True)
class PolicyResult:
    """The results of one policy over all streams: a row of the table.

    Attributes:
        streams: one for each seed, with equal options.
        equal_bytes: whether the memory has as many bytes as the memory of the first
            distilled policy, not as many images.
    """

    streams: tuple[StreamResult, ...]
    equal_bytes: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the row as written to a JSON file."""
        first = self.streams[0]
        final = [stream.curve[-1] for stream in self.streams]
        finals = [value for value in final if value is not None]
        forgotten = [stream.forgetting for stream in self.streams]
        curves = list(zip(*(stream.curve for stream in self.streams), strict=True))
        return {
            "policy": first.policy,
            "protocol": first.protocol,
            "context": first.context,
            "store": first.store,
            "equal_bytes": self.equal_bytes,
            "seeds": [stream.seed for stream in self.streams],
            "memory_images": first.memory_images,
            "memory_bytes": first.memory_bytes,
            "final_accuracy_mean": statistics.mean(finals),
            "final_accuracy_ci95": mean_interval(finals),
            "final_accuracies": finals,
            "average_incremental_accuracy_mean": _mean(
                _mean(stream.curve) for stream in self.streams
            ),
            "forgetting_mean": _mean(forgotten),
            "accuracy_per_experience": [_mean(stage) for stage in curves],
            "distill_seconds": statistics.mean(
                stream.distill_seconds for stream in self.streams
            ),
        }


def stream_key(stream: dict[str, Any]) -> tuple[Any, ...]:
    """Return the key of a stream among all streams of an experiment."""
    names = ("policy", "protocol", "context", "store", "seed", "images_per_class")
    return tuple(stream[name] for name in names)


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean; None if there are no values, or one is missing."""
    found = list(values)
    known = [value for value in found if value is not None]
    return statistics.mean(known) if known and len(known) == len(found) else None
