"""A set as a folder of PNG files."""

import json
import re
import warnings
from functools import partial
from pathlib import Path

import torch

from dd_plugins.errors import DDWarning, OptionError
from dd_plugins.exports.recipe import ExportedRecipe
from dd_plugins.exports.tensors import write_set
from dd_plugins.runtime.files import write_atomically
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.labels import LABEL_KINDS

__all__ = ["write_pictures"]

_PIXELS_ALONE = (
    "PNG files alone may train far worse than this set, whose images are whitened and "
    "whose labels are learned; train.py takes both from set.npz"
)
_TOLERANCE = 1e-4  # learned labels differ by more from those of the classes


def write_pictures(distilled: DistilledSet, how: ExportedRecipe, folder: Path) -> Path:
    """Write a PNG file for each image, ``labels.json``, all tensors and the script.

    Raises:
        OptionError: PNG files cannot hold the channels.
        FileError: a file cannot be written.

    Warns:
        DDWarning: the set is whitened and its labels are learned.
    """
    from torchvision.transforms.v2.functional import to_pil_image

    channels = distilled.images.shape[1]
    if channels not in (1, 3):
        raise OptionError(
            f"PNG files need images of 1 or 3 channels, got {channels}; use 'npz'"
        )
    header = distilled.header
    rows = []
    for index, pixels in enumerate(distilled.pixels()):
        name = header.class_names[header.initial_classes[index]]
        safe = re.sub(r"[^\w.-]+", "_", name)[:60]
        relative = (
            Path(f"{header.initial_classes[index]:03d}-{safe}") / f"{index:05d}.png"
        )
        image = to_pil_image((pixels * 255).round().to(torch.uint8))
        write_atomically(folder / relative, partial(image.save, format="PNG"))
        rows.append({"file": str(relative), "label": distilled.labels[index].tolist()})
    write_set(distilled, how, folder)
    warned = distilled.transform.centre is not None and _has_learned_labels(distilled)
    described = {
        **({"note": f"{_PIXELS_ALONE}."} if warned else {}),
        "label_kind": header.label_kind,
        "class_names": header.class_names,
        "recipe": how.fields,
        "images": rows,
    }
    text = json.dumps(described, indent=1)
    write_atomically(folder / "labels.json", lambda file: file.write(text.encode()))
    if warned:
        warnings.warn(_PIXELS_ALONE, DDWarning, stacklevel=3)
    return folder


def _has_learned_labels(distilled: DistilledSet) -> bool:
    """Tell whether labels differ from those of the images' classes."""
    header = distilled.header
    targets = LABEL_KINDS[header.label_kind].targets
    of_classes = targets(torch.tensor(header.initial_classes), distilled.num_classes)
    return not torch.allclose(of_classes, distilled.labels.cpu(), atol=_TOLERANCE)
