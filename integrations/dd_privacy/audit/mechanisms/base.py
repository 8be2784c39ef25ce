"""The base class of mechanisms: from members to a release."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from pathlib import Path

import dd_plugins
from dd_plugins.api import FeatureNetwork, Transform

__all__ = ["AbstractMechanism", "Release"]


# These classes were in one module at first. Keys of kept runs name that module, so that
# kept runs are found again after a class has moved.
_MODULE_IN_KEYS = "dd_privacy.mechanisms"


@dataclass(frozen=True, eq=False)
class Release:
    """The result of a mechanism on its members.

    Attributes:
        distilled: the released images; None if a model alone is released.
        network: a model in evaluation mode.
        transform: maps images to the model's value space.
        epsilon: its stated epsilon; None without one.
    """

    distilled: dd_plugins.DistilledSet | None
    network: FeatureNetwork
    transform: Transform
    epsilon: float | None = None


@dataclass(frozen=True)
class AbstractMechanism(ABC):
    """A randomised map from members to a release.

    Attributes:
        name: the name in the report.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    """

    name: str
    device: str = "auto"

    @abstractmethod
    def run(
        self, data: dd_plugins.RealData, seed: int, folder: Path | None = None
    ) -> Release:
        """Run on members.

        Args:
            data: the members, all of them as training images.
            seed: the seed of the run.
            folder: a folder for checkpoints, so a killed run resumes; None for none.
        """

    def description(self) -> dict[str, object]:
        """Return everything a run depends on, besides its members and its seed."""
        found = asdict(self)
        del found["name"]
        kind, own = type(self), __name__.rpartition(".")[0]
        is_own = kind.__module__.startswith(f"{own}.")
        module = _MODULE_IN_KEYS if is_own else kind.__module__
        return {"mechanism": f"{module}.{kind.__qualname__}", **found}

    @abstractmethod
    def records(self) -> list[dd_plugins.Record]:
        """Return the records named by this mechanism's specs.

        A default network is not among them: it belongs to its distiller.
        """

    def for_shadows(self) -> "AbstractMechanism":
        """Return the mechanism of shadow runs: this one, unless its result is fixed."""
        return self

    @abstractmethod
    def expected_seconds(self, data: dd_plugins.RealData) -> float:
        """Estimate how long a run takes from a few of its steps."""
