"""A network trained under differential privacy, and its file."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

import dd_plugins
from dd_plugins.api import (
    FeatureNetwork,
    FileError,
    Transform,
    one_line,
    write_atomically,
)
from dd_privacy.private.accounting import Budget

__all__ = ["NOT_COVERED", "PrivateModel", "not_covered_by_epsilon", "public_transform"]

NOT_COVERED = (
    "The choice of hyper-parameters on the same data: each further run spends again.",
    "Accuracies measured on private validation images, if they are published.",
    "The data set's name, the number of its images, its classes and their number.",
    "Validation or test images that were cut from the same images, as those of a plain "
    "folder are: one image more or fewer moves others in and out of training.",
    "How long steps take, which tells how large batches were.",
    "Attacks on floating-point noise: Opacus's secure mode was off.",
    "Attackers who can search the 32 bits that torch seeds its generators with.",
)
"""The limits of the protection by a model's epsilon."""

_SEEDED = "Anybody who knows the seed: noise and batches were drawn from it."

_METADATA_KEY = "dd_privacy"

_FORMAT_VERSION = 1


def not_covered_by_epsilon(seeded: bool) -> list[str]:
    """List the limits of epsilon's protection; a seeded run adds one."""
    return [*NOT_COVERED, *([_SEEDED] if seeded else [])]


def public_transform(channels: int) -> Transform:
    """Return the map of [0, 1] to [-1, 1]: it uses no statistic of private images."""
    return Transform.fit(torch.empty(0, channels, 1, 1), "constant")


@dataclass(frozen=True, eq=False)
class PrivateModel:
    """A network trained under differential privacy.

    Attributes:
        network: the network, in evaluation mode.
        transform: maps images to its value space; depends on no private image.
        budget: the budget spent by training.
        about: the network's spec, the classes, and the options of training.
    """

    network: FeatureNetwork
    transform: Transform
    budget: Budget
    about: dict[str, Any]

    @property
    def not_covered(self) -> list[str]:
        """The limits of epsilon's protection."""
        return not_covered_by_epsilon(self.about["seeded"])

    def save(self, path: str | Path) -> Path:
        """Write the weights, the budget, and the limits of epsilon's protection.

        Raises:
            FileError: the file cannot be written.
        """
        described = {
            "format_version": _FORMAT_VERSION,
            "budget": asdict(self.budget),
            "not_covered": self.not_covered,
            "about": self.about,
        }
        tensors = {
            name: value.detach().cpu().contiguous()
            for name, value in self.network.state_dict().items()
        }
        content = safetensors.torch.save(
            tensors, {_METADATA_KEY: json.dumps(described)}
        )
        return write_atomically(Path(path), lambda file: file.write(content))

    @classmethod
    def load(cls, path: str | Path) -> "PrivateModel":
        """Read a file of :meth:`save`.

        Raises:
            FileError: the file is missing, damaged, of another version, or holds no
                private model.
        """
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                described = json.loads((file.metadata() or {})[_METADATA_KEY])
                version = described["format_version"]
                if version != _FORMAT_VERSION:
                    raise FileError(
                        f"{path}: expected a private model of version "
                        f"{_FORMAT_VERSION}, got {version!r}; read it with the "
                        "dd-plugins that wrote it"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            about, budget = described["about"], Budget(**described["budget"])
            channels, height, width = about["image_shape"]
            network = (
                dd_plugins.get_network(about["network"])
                .for_evaluation()
                .build(
                    (channels, height, width),
                    len(about["class_names"]),
                    generator=torch.Generator(),
                )
            )
            network.load_state_dict(tensors)
        except FileError:  # a ValueError too
            raise
        except (
            safetensors.SafetensorError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RuntimeError,
        ) as error:
            reason = one_line(error)
            raise FileError(
                f"{path}: expected a private model, got a file that cannot be read as "
                f"one: {reason}"
            ) from error
        network.eval()
        return cls(network, public_transform(channels), budget, about)
