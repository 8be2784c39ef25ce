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
"""The default distiller of a memory, the best one measured."""

NETWORK = "conv(width=32)"
"""The default network for distillation, that of the same measurement."""

INITIAL_IMAGES = "herding(training_steps=0)"
"""The default first images, the most typical ones by their pixels."""

BY_DISTILLER: Literal["by distiller"] = "by distiller"
"""Herded first images; the distiller's own choice if it is private."""

STEPS = 100
"""The steps of a distillation by default."""

Context = Literal["none", "fixed", "refined"]
"""Whether stored images are unseen, seen or learned while new ones are distilled."""

PROPORTIONAL: Literal["proportional"] = "proportional"
"""Each class has images in proportion to its real ones so far."""

Shrink = Literal["truncate", "distil"]
"""How the images of a class become fewer."""

Store = Literal["float32", "uint8", "packed", "packed-uint8"]
"""How images are stored, as they are or rounded to 256 levels for each. Packed ones are
four images of half the size in the room of one, rounded or not."""
