"""The changing state of a distiller in a run."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dd_plugins.run import Run

__all__ = ["AbstractState", "Metrics", "NoState", "check_saved"]

Metrics = dict[str, Tensor]
"""Named 0-d tensors of one step."""


@dataclass
class AbstractState(ABC):
    """The changing state of a distiller in a run.

    Attributes:
        run: the run of this state; not saved.
    """

    run: Run

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return only tensors, numbers, strings, and lists and dicts of them."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a result of :meth:`state_dict` exactly."""

    def merge(self, parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Merge the results of :meth:`state_dict` from all processes of a run.

        The result is saved, and loaded in each process at a resume, perhaps with
        another number of processes. Here the state is the same in all processes.
        """
        return dict(parts[0])


@dataclass
class NoState(AbstractState):
    """The state of a distiller in which nothing changes but the set."""

    def state_dict(self) -> dict[str, Any]:
        """Return an empty dict."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore nothing."""


def check_saved(saved: object, now: object, place: str = "state") -> None:
    """Refuse a saved value in another form than the current one.

    A hash detects damage, but not values written by somebody else.

    Args:
        saved: tensors, numbers, strings, and lists and dicts of them.
        now: the values of a fresh state, with the expected keys, shapes and types.
        place: the name of the values, for messages.

    Raises:
        ValueError: a key, shape or type differs, or a number is not finite.
    """
    match now:
        case Tensor():
            if not isinstance(saved, Tensor) or _form(saved) != _form(now):
                raise ValueError(f"{place}: expected {_form(now)}, got {_form(saved)}")
            if saved.is_floating_point() and not torch.isfinite(saved).all():
                raise ValueError(f"{place}: expected finite values, got NaN or inf")
        case Mapping():
            if not isinstance(saved, Mapping) or saved.keys() != now.keys():
                keys = list(saved) if isinstance(saved, Mapping) else _form(saved)
                raise ValueError(f"{place}: expected {list(now)}, got {keys}")
            for key, value in now.items():
                check_saved(saved[key], value, f"{place}.{key}")
        case list() | tuple():
            if not isinstance(saved, list | tuple) or len(saved) != len(now):
                raise ValueError(
                    f"{place}: expected {len(now)} items, got {_form(saved)}"
                )
            for number, value in enumerate(now):
                check_saved(saved[number], value, f"{place}.{number}")
        case _:
            if type(saved) is not type(now):
                raise ValueError(f"{place}: expected {_form(now)}, got {_form(saved)}")
            if isinstance(saved, float) and not math.isfinite(saved):
                raise ValueError(f"{place}: expected a finite number, got {saved}")


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
