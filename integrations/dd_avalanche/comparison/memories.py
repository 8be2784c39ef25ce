"""The memories of a comparison, filled once along each stream."""

from dataclasses import dataclass
from typing import Any

from dd_avalanche.comparison.streams import AbstractStream
from dd_avalanche.memory import Context, DistilledMemory, Store
from dd_avalanche.memory.stored import is_rounded, packing_of

__all__ = ["MemoryHistories", "MemoryHistory"]


@dataclass
class MemoryHistory:
    """The states of a memory after each experience of a stream.

    Attributes:
        states: the memory after each experience.
    """

    states: list[DistilledMemory]

    @property
    def memory(self) -> DistilledMemory:
        """The memory at the end."""
        return self.states[-1]

    def at(self, part: int, store: str) -> DistilledMemory:
        """Return the memory after an experience; rounded if the store rounds."""
        held = self.states[part]
        return held.rounded() if is_rounded(store) else held.copied()


class MemoryHistories:
    """The histories of memories, each filled once for all protocols and stores."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], MemoryHistory] = {}

    def __call__(
        self,
        stream: AbstractStream,
        images_per_class: int,
        policy: str,
        context: Context,
        store: str,
    ) -> MemoryHistory:
        """Return the history of a policy's memory.

        A store with rounding shares the history of the exact store.
        """
        exact: Store = "packed" if packing_of(store) > 1 else "float32"
        key = (stream.seed, images_per_class, policy, context, exact)
        if key not in self._known:
            self._known[key] = self._fill(
                stream, images_per_class, policy, context, exact
            )
        return self._known[key]

    @staticmethod
    def _fill(
        stream: AbstractStream,
        images_per_class: int,
        policy: str,
        context: Context,
        store: Store,
    ) -> MemoryHistory:
        experiment, classes = stream.experiment, stream.data.num_classes
        memory = DistilledMemory(
            images_per_class * classes,
            policy,
            images_per_class=images_per_class,
            num_classes=classes,
            steps=experiment.steps,
            network=experiment.network,
            initial_images=experiment.initial_images,
            context=context,
            store=store,
            mirror=stream.data.mirror,
            seed=stream.seed,
            device=experiment.device,
        )
        states = []
        for part in range(experiment.experiences):
            memory.add(*stream.train(part))
            states.append(memory.copied())
        return MemoryHistory(states)
