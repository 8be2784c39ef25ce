"""Networks of an evaluation in files, so that a stopped one goes on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dd_plugins.runtime.kept_tensors import save_tensors
from dd_plugins.training.kept_files import load_weights

__all__ = ["NetworkFile", "NetworkFiles"]

_FORMAT = 1


@dataclass(frozen=True)
class NetworkFile:
    """The file of one trained network, there or not yet.

    Attributes:
        path: its path.
        described: everything that the weights depend on.
        spec: the spec of the network, for messages.
    """

    path: Path
    described: str
    spec: str

    def load(self, module: nn.Module) -> None:
        """Load the weights into a module.

        Raises:
            FileError: the file is missing or damaged, or contradicts its name.
        """
        what = "a network of an evaluation"
        load_weights(module, self.path, self.described, what=what, of=self.spec)

    def save(self, module: nn.Module) -> None:
        """Write the weights of a module.

        Raises:
            FileError: the file cannot be written.
        """
        save_tensors(self.path, module.state_dict(), {"description": self.described})


@dataclass(frozen=True)
class NetworkFiles:
    """The files of the networks of one evaluation.

    Attributes:
        folder: where they are.
        origin: what all networks depend on, such as the set, for :mod:`json`.
    """

    folder: Path
    origin: Mapping[str, object]

    def of(self, spec: str, **own: object) -> NetworkFile:
        """Return the file of a network.

        Args:
            spec: the spec of the network.
            own: what this network depends on beside :attr:`origin`.
        """
        everything = {"format": _FORMAT, **self.origin, "network": spec, **own}
        described = json.dumps(everything, sort_keys=True)
        digest = hashlib.sha256(described.encode()).hexdigest()[:32]
        return NetworkFile(self.folder / f"{digest}.safetensors", described, spec)
