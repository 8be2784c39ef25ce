"""The kinds of labels; it imports nothing heavy."""

from typing import Literal

__all__ = ["LabelKind"]

LabelKind = Literal["regression", "probabilities", "classes"]
"""The kind of labels: centred regression targets, probabilities, or class scores (the
largest is the class)."""
