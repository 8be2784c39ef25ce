"""Choices and defaults for the options of a memory: light to import."""

from typing import Literal

__all__ = [
    "BY_DISTILLER",
    "DISTILLER",
    "INITIAL_IMAGES",
    "NETWORK",
    "PROPORTIONAL",
    "STEPS",
    "Context",
    "Shrink",
    "Store",
]

DISTILLER = "dm(real_batch_size=64)"
"""The default distiller of a memory: the best of those measured."""

NETWORK = "conv(width=32)"
"""The default network for distillation: the network of that measurement."""

INITIAL_IMAGES = "herding(training_steps=0)"
"""The default initial images: the most typical ones by their pixels."""

BY_DISTILLER: Literal["by distiller"] = "by distiller"
"""Herded initial images, or the distiller's own choice if it is private."""

STEPS = 100
"""The steps of a distillation by default."""

Context = Literal["none", "fixed", "refined"]
"""Whether stored images are unseen, seen or learned while new ones are distilled."""

PROPORTIONAL: Literal["proportional"] = "proportional"
"""The images of a class are in proportion to its real images so far."""

Shrink = Literal["truncate", "distil"]
"""How the number of images of a class is reduced."""

Store = Literal["float32", "uint8", "packed", "packed-uint8"]
"""How images are stored, as they are or rounded to 256 levels for each. Packed ones are
four images of half the size in the room of one, rounded or not."""
