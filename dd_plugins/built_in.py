"""The plugin that registers all that comes with the library, by the public hooks."""

from dd_plugins.datasets import DATASETS
from dd_plugins.distillers.core_set import Herding, KMeans, RandomImages
from dd_plugins.distillers.dm import DM
from dd_plugins.distillers.dsa import DSA
from dd_plugins.distillers.frepo import FRePo
from dd_plugins.hookspecs import (
    RegisterCommand,
    RegisterDataset,
    RegisterDistiller,
    RegisterNetwork,
    RegisterWrapper,
    hookimpl,
)
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.networks.mlp import MLP
from dd_plugins.wrappers.clip import Clip


@hookimpl
def dd_register_distillers(register: RegisterDistiller) -> None:
    """Offer the built-in distillers."""
    for distiller in (FRePo, DSA, DM, RandomImages, Herding, KMeans):
        register(distiller)


@hookimpl
def dd_register_wrappers(register: RegisterWrapper) -> None:
    """Offer the built-in wrappers."""
    register(Clip)


@hookimpl
def dd_register_networks(register: RegisterNetwork) -> None:
    """Offer the built-in networks."""
    for network in (Conv, DCConvNet, MLP):
        register(network)


@hookimpl
def dd_register_datasets(register: RegisterDataset) -> None:
    """Offer the built-in data sets."""
    for name, loader in DATASETS.items():
        register(name, loader)


@hookimpl
def dd_register_commands(register: RegisterCommand) -> None:
    """Offer the built-in commands."""
    from dd_plugins.commands import COMMANDS

    for command in COMMANDS:
        register(command)
