"""The learned set: what is learned, and the file that holds it."""

from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.leaves import Codec, Leaves, Parameters, Synthetic

__all__ = ["Codec", "DistilledSet", "Leaves", "Parameters", "Synthetic"]
