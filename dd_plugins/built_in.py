"""The plugin for the library's own records, registered through the public hooks."""

from dd_plugins.data.datasets.offered import DATASETS
from dd_plugins.decoders.conv import ConvDecoder
from dd_plugins.decoders.generator import Generator
from dd_plugins.distillers.core_set import Herding, KMeans, RandomImages
from dd_plugins.distillers.dm import DM
from dd_plugins.distillers.dsa import DSA
from dd_plugins.distillers.frepo import FRePo
from dd_plugins.distillers.kip import KIP
from dd_plugins.distillers.mtt import MTT
from dd_plugins.distillers.rded import RDED
from dd_plugins.distillers.sre2l import SRe2L
from dd_plugins.hookspecs import (
    RegisterDataset,
    RegisterDecoder,
    RegisterDistiller,
    RegisterNetwork,
    RegisterObserver,
    RegisterParametrization,
    RegisterWrapper,
    hookimpl,
)
from dd_plugins.networks.alexnet import AlexNet
from dd_plugins.networks.conv import Conv
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.networks.factory import FactoryNetwork
from dd_plugins.networks.mlp import MLP
from dd_plugins.networks.mobilenet import MobileNetV2
from dd_plugins.networks.resnet import ResNet18
from dd_plugins.networks.shufflenet import ShuffleNetV2
from dd_plugins.networks.timm_models import Timm
from dd_plugins.networks.vgg import VGG11
from dd_plugins.networks.vit import ViT
from dd_plugins.synthetic.parametrizations.base import Identity
from dd_plugins.synthetic.parametrizations.packed import Packed
from dd_plugins.synthetic.parametrizations.spectral import Spectral
from dd_plugins.tracking.tensorboard_events import TensorBoard
from dd_plugins.tracking.weights_and_biases import WandB
from dd_plugins.wrappers.clip import Clip
from dd_plugins.wrappers.metadd import MetaDD
from dd_plugins.wrappers.rotated import Rotated


@hookimpl
def dd_register_distillers(register: RegisterDistiller) -> None:
    """Offer the built-in distillers."""
    for distiller in (
        FRePo,
        KIP,
        MTT,
        DSA,
        DM,
        SRe2L,
        RDED,
        RandomImages,
        Herding,
        KMeans,
    ):
        register(distiller)


@hookimpl
def dd_register_wrappers(register: RegisterWrapper) -> None:
    """Offer the built-in wrappers."""
    for wrapper in (Clip, MetaDD, Rotated):
        register(wrapper)


@hookimpl
def dd_register_networks(register: RegisterNetwork) -> None:
    """Offer the built-in networks."""
    for network in (
        Conv,
        DCConvNet,
        MLP,
        AlexNet,
        VGG11,
        ResNet18,
        MobileNetV2,
        ShuffleNetV2,
        ViT,
        Timm,
        FactoryNetwork,
    ):
        register(network)


@hookimpl
def dd_register_parametrizations(register: RegisterParametrization) -> None:
    """Offer the built-in parametrizations."""
    for parametrization in (Identity, Packed, Spectral, Generator):
        register(parametrization)


@hookimpl
def dd_register_decoders(register: RegisterDecoder) -> None:
    """Offer the built-in decoders."""
    register(ConvDecoder)


@hookimpl
def dd_register_observers(register: RegisterObserver) -> None:
    """Offer the built-in observers, used by runs on request."""
    for observer in (TensorBoard, WandB):
        register(observer)


@hookimpl
def dd_register_datasets(register: RegisterDataset) -> None:
    """Offer the built-in data sets."""
    for name, loader in DATASETS.items():
        register(name, loader)
