"""The learned set: its parameters, its labels and its file."""

from typing import TYPE_CHECKING

from dd_plugins.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from dd_plugins.synthetic.artifact import DistilledSet
    from dd_plugins.synthetic.leaves import Codec, Leaves, Parameters, Synthetic
else:
    __getattr__ = lazy_names(__name__)

__all__ = ["Codec", "DistilledSet", "Leaves", "Parameters", "Synthetic"]
