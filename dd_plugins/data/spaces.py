"""The spaces of values in which images are learned."""

from typing import Literal

__all__ = ["Preprocessing"]

Preprocessing = Literal["standardize", "zca", "pixel-zca", "constant"]
"""The value spaces: standardised by channel; whitened after it (FRePo's); pixels in
[0, 1] whitened as they are (MTT's); or pixels in [-1, 1], which depend on no other
image."""
