"""Objects trained on real data, kept in files under a hash of their origin."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from torch import nn

from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import FileError, one_line
from dd_plugins.run import Run
from dd_plugins.runtime.kept_tensors import load_tensors

__all__ = [
    "ADVICE",
    "AbstractKept",
    "OnStep",
    "classes_without_images",
    "load_weights",
]

ADVICE = "remove the file, and it is trained anew"
"""The remedy for a damaged file, for messages."""

OnStep = Callable[[int], None]
"""Called with the number of training steps done."""


class AbstractKept(ABC):
    """An object trained on real data, determined by its description.

    Attributes:
        prefix: the prefix of the names of its files.
    """

    prefix: ClassVar[str] = ""

    @abstractmethod
    def description(self, run: Run, real: RealSampler) -> dict[str, object]:
        """Return everything it depends on."""

    def described(self, run: Run, real: RealSampler) -> str:
        """Return its description as text, for its file and its key."""
        return json.dumps(self.description(run, real), sort_keys=True)

    def path(self, run: Run, real: RealSampler, folder: Path) -> Path:
        """Return the path of its file, present or not."""
        digest = hashlib.sha256(self.described(run, real).encode()).hexdigest()[:32]
        return folder / f"{self.prefix}{digest}.safetensors"

    def is_keepable(self, real: RealSampler) -> bool:
        """Return whether a file may hold it: the real images have a known origin."""
        return real.content is not None

    def is_kept(self, run: Run, real: RealSampler, folder: Path) -> bool:
        """Return whether its file exists."""
        return self.is_keepable(real) and self.path(run, real, folder).exists()


def classes_without_images(run: Run, real: RealSampler) -> dict[str, object]:
    """Return the number of classes for a description, if the last has no images.

    Otherwise the images tell the number.
    """
    named = run.task.num_classes
    return {} if named == int(real.labels.max()) + 1 else {"classes": named}


def load_weights(
    module: nn.Module, path: Path, described: str, *, what: str, of: str
) -> None:
    """Load the weights of a file into a module.

    Args:
        module: changed in place.
        path: the file.
        described: the expected description in the file.
        what: its expected content, for messages: ``"a trained network"``.
        of: the spec of the module, for messages.

    Raises:
        FileError: the file is missing or damaged, or contradicts its name.
    """
    tensors, _ = load_tensors(path, what=what, advice=ADVICE, description=described)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = one_line(error)
        raise FileError(
            f"{path}: expected the weights of {of}, got others ({reason}); {ADVICE}"
        ) from error
