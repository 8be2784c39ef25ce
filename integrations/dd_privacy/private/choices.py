"""Defaults of private training, and ways to clip; light to import."""

from typing import Literal

__all__ = [
    "BATCH_SIZE",
    "CLIPPING",
    "CLIPPING_NORM",
    "EPOCHS",
    "LEARNING_RATE",
    "NETWORK",
    "Clipping",
]

Clipping = Literal["hooks", "ghost"]
"""How to clip gradients of single examples: ``hooks`` keeps each gradient; ``ghost``
keeps their lengths alone and takes a second pass, for less memory."""

NETWORK = "conv(width=32, normalization='group')"
"""The spec of a network without BatchNorm: BatchNorm mixes examples."""

EPOCHS = 15
"""Expected passes over the images."""

BATCH_SIZE = 512
"""The expected size of a batch."""

LEARNING_RATE = 0.3
"""The learning rate of SGD with momentum 0.9."""

CLIPPING_NORM = 1.0
"""The largest norm of a clipped gradient of a single example."""

CLIPPING: Clipping = "hooks"
"""How gradients are clipped."""
