"""The file of a saved memory, and its content."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from dd_avalanche.memory.stored import ClassImages, ImageGroups, TaskClass
from dd_plugins.api import (
    FileError,
    Header,
    OptionError,
    described,
    load_tensors,
    save_tensors,
    whole_number,
)

__all__ = ["MEMORY_NAME", "MemoryState", "read_state", "write_state"]

MEMORY_NAME = "memory.safetensors"
"""The name of the file of a saved memory."""

_FORMAT_VERSION = 2  # from 2 on a file has a hash over all that it holds
_METADATA_KEY = "dd_avalanche"


@dataclass(frozen=True)
class MemoryState:
    """The state of a memory after an experience.

    Attributes:
        configuration: the options of the memory when it was made.
        size: the largest number of images, perhaps changed since.
        experiences: distillations so far.
        seconds: seconds spent on distilling.
        header: the header of the last distillation.
        groups: the stored images.
    """

    configuration: dict[str, Any]
    size: int
    experiences: int
    seconds: float
    header: Header | None
    groups: ImageGroups

    @property
    def made_size(self) -> int:
        """The original size of the memory."""
        size: int = self.configuration["size"]
        return size


def write_state(file: Path, state: MemoryState) -> Path:
    """Write a memory to a file, whole or not at all; return the file.

    Raises:
        FileError: the file cannot be written; its old content is kept.
    """
    tensors: dict[str, Tensor] = {}
    groups = []
    for number, (key, stored) in enumerate(state.groups.items()):
        for name, tensor in stored.tensors().items():
            if tensor is not None:
                tensors[f"{number}.{name}"] = tensor
        groups.append(
            {
                "task": key.task,
                "label": key.label,
                "columns": stored.label_classes,  # what the format calls them
                "label_kind": stored.label_kind,
                "seen": stored.seen,
                **({"packing": stored.packing} if stored.packing > 1 else {}),
            }
        )
    content = {
        "format_version": _FORMAT_VERSION,
        "configuration": state.configuration,
        "size": state.size,
        "experiences": state.experiences,
        "seconds": state.seconds,
        "header": state.header and state.header.model_dump(),
        "groups": groups,
    }
    return save_tensors(file, tensors, {_METADATA_KEY: json.dumps(content)})


def read_state(file: Path) -> MemoryState:
    """Read a file written by :func:`write_state`.

    Raises:
        FileError: the file is missing, damaged, foreign or of another version.
        OptionError: its size is impossible for a memory.
    """
    content, tensors = _read(file)
    try:
        for size in (content["size"], content["configuration"]["size"]):
            whole_number("size", size, least=1)
        return MemoryState(
            dict(content["configuration"]),
            content["size"],
            int(content["experiences"]),
            float(content["seconds"]),
            content["header"] and Header.model_validate(content["header"]),
            _groups(content["groups"], tensors),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, OptionError):
            raise
        raise FileError(
            f"{file}: expected a saved memory, got a damaged one: {described(error)}"
        ) from error


def _groups(
    entries: list[dict[str, Any]], tensors: Mapping[str, Tensor]
) -> ImageGroups:
    groups = ImageGroups()
    for number, about in enumerate(entries):
        groups[TaskClass(about["task"], about["label"])] = ClassImages(
            pixels=tensors[f"{number}.pixels"],
            labels=tensors[f"{number}.labels"],
            label_classes=tuple(about["columns"]),
            label_kind=about["label_kind"],
            seen=about["seen"],
            low=tensors.get(f"{number}.low"),
            step=tensors.get(f"{number}.step"),
            packing=about.get("packing", 1),
        )
    return groups


def _read(file: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the tensors of a saved memory.

    Raises:
        FileError: the file is missing, damaged, foreign or of another version.
    """
    if not file.is_file():
        raise FileError(f"{file} does not exist; expected a saved memory")
    advice = f"remove {file.parent}, and fill the memory anew"
    tensors, metadata = load_tensors(
        file, what="a memory of dd_avalanche", advice=advice
    )
    try:
        content = json.loads(metadata[_METADATA_KEY])
        version = int(content["format_version"])
    except (ValueError, KeyError, TypeError) as error:
        raise FileError(
            f"{file}: expected a memory of dd_avalanche, got another file "
            f"({type(error).__name__}); {advice}"
        ) from error
    if version != _FORMAT_VERSION:
        raise FileError(
            f"{file}: expected format version {_FORMAT_VERSION}, got {version}; "
            f"upgrade dd-plugins, or {advice}"
        )
    return content, tensors
