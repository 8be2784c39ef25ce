"""Dataset distillation for PyTorch: distil, evaluate, and extend with plugins."""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING

from dd_plugins.runtime import old_paths
from dd_plugins.runtime.lazy import lazy_names

if TYPE_CHECKING:
    from dd_plugins.data.real import RealData
    from dd_plugins.distillers.base import AbstractDistiller
    from dd_plugins.distillers.state import AbstractState
    from dd_plugins.engine.distillation import distill, estimate
    from dd_plugins.errors import DDError
    from dd_plugins.evaluation.cross_architecture import Transfer, transfer
    from dd_plugins.evaluation.evaluate import evaluate
    from dd_plugins.evaluation.relabelling import relabel
    from dd_plugins.evaluation.results import Evaluation
    from dd_plugins.exports.export import export
    from dd_plugins.exports.hub import push_to_hub
    from dd_plugins.hookspecs import hookimpl, hookspec
    from dd_plugins.networks.base import AbstractNetwork
    from dd_plugins.plugins.lookup import get_dataset, get_distiller, get_network
    from dd_plugins.released.importing import import_set
    from dd_plugins.spec import Record, record
    from dd_plugins.synthetic.artifact import DistilledSet
    from dd_plugins.synthetic.pictures import save_grid
    from dd_plugins.training.kept_networks import train_networks
    from dd_plugins.training.recipes import Recipe
    from dd_plugins.wrappers.base import AbstractWrapper
else:
    __getattr__ = lazy_names(__name__)  # torch is imported only when needed

__all__ = [
    "AbstractDistiller",
    "AbstractNetwork",
    "AbstractState",
    "AbstractWrapper",
    "DDError",
    "DistilledSet",
    "Evaluation",
    "RealData",
    "Recipe",
    "Record",
    "Transfer",
    "distill",
    "estimate",
    "evaluate",
    "export",
    "get_dataset",
    "get_distiller",
    "get_network",
    "hookimpl",
    "hookspec",
    "import_set",
    "push_to_hub",
    "record",
    "relabel",
    "save_grid",
    "train_networks",
    "transfer",
]

__version__ = _version("dd-plugins")

old_paths.install()
