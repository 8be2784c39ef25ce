"""The kinds of labels, in a module without heavy imports."""

from typing import Literal

__all__ = ["LabelKind"]

LabelKind = Literal["regression", "probabilities", "classes"]
"""The kind of labels: centred regression targets, probabilities, or class scores (the
largest is the class)."""
