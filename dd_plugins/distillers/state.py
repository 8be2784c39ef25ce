"""The changing state of a distiller in a run."""

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dd_plugins.errors import DDWarning
from dd_plugins.run import Run

__all__ = ["AbstractState", "Metrics", "NoState", "check_saved"]

_ROUNDING = 0.01  # of the length of a tensor

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
        another number of processes. Here the state is the same in all processes; a
        warning names a value that is not.
        """
        for part in parts[1:]:
            place = _difference(part, parts[0])
            if place is not None:
                warnings.warn(
                    f"{type(self).__name__}: {place} differs between processes, and "
                    "only that of process 0 is saved, so a resumed run goes another "
                    "way; draw by run.generator, or define merge",
                    DDWarning,
                    stacklevel=2,
                )
                break
        return dict(parts[0])

    def adopt(self, own: "AbstractState") -> None:
        """Take over what runs that learn the same set share besides its leaves.

        MetaDD runs its base under several architectures. It calls this before each step
        under another one. The default takes over nothing.

        Args:
            own: the state under the run's own architecture.
        """
        del own


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


def _difference(other: object, own: object, place: str = "state") -> str | None:
    """Return the place of the first value that differs by more than rounding."""
    match own:
        case Tensor():
            return None if _near(other, own) else place
        case Mapping() if isinstance(other, Mapping) and other.keys() == own.keys():
            pairs = [(key, other[key], value) for key, value in own.items()]
        case list() | tuple() if isinstance(other, list | tuple):
            if len(other) != len(own):
                return place
            pairs = [(n, other[n], value) for n, value in enumerate(own)]
        case _:
            return None if other == own else place
    found = (_difference(one, each, f"{place}.{key}") for key, one, each in pairs)
    return next((each for each in found if each is not None), None)


def _near(other: object, own: Tensor) -> bool:
    """Return whether tensors are equal, but for the rounding of long training."""
    if not isinstance(other, Tensor) or _form(other) != _form(own):
        return False
    if torch.equal(other, own) or not own.is_floating_point():
        return torch.equal(other, own)
    return bool((other - own).norm() <= _ROUNDING * own.norm())


def _form(value: object) -> str:
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__
