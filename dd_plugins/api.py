"""The public interface: every name for plugins and integrations to import.

A name listed here is stable: it warns for one release before it is removed. Any other
name may move from one release to the next. :mod:`dd_plugins.testing`, the conformance
checks, and :mod:`dd_plugins.options`, the options shared by commands, are public too.
"""

import sys
import warnings
from typing import TYPE_CHECKING

from dd_plugins.runtime.lazy import lazy_names
from dd_plugins.runtime.old_paths import RENAMED

if TYPE_CHECKING:
    from dd_plugins.checks import number, one_of, whole_number
    from dd_plugins.cli.outputs import OutputKind, check_outputs
    from dd_plugins.data.checks import as_number_tensor
    from dd_plugins.data.image_counts import counts_of_classes, in_proportion
    from dd_plugins.data.images import Images
    from dd_plugins.data.items import Items
    from dd_plugins.data.named import DataOptions
    from dd_plugins.data.preprocess import Preprocessing, Transform
    from dd_plugins.data.real import RealData
    from dd_plugins.data.sampler import Batch, RealSampler
    from dd_plugins.data.streamed import ImageSource, StreamedImages
    from dd_plugins.decoders.base import AbstractDecoder, LatentDecoder
    from dd_plugins.decoders.kept import train_generator
    from dd_plugins.distillers.base import (
        AbstractDistiller,
        InitialImages,
        add_gradient,
    )
    from dd_plugins.distillers.online_models import OnlineModel, Pool, PoolState
    from dd_plugins.distillers.state import AbstractState, Metrics, NoState, check_saved
    from dd_plugins.engine.distillation import distill, estimate
    from dd_plugins.engine.estimating import Estimate
    from dd_plugins.engine.settled import Settled
    from dd_plugins.engine.settling import settle
    from dd_plugins.errors import (
        DataError,
        DDError,
        DDWarning,
        FileError,
        ImageSizeError,
        LostProcessError,
        MissingExtraError,
        OptionError,
        PluginError,
        RunError,
        UnknownNameError,
        described,
        one_line,
        what_differs,
    )
    from dd_plugins.evaluation.cross_architecture import Transfer, transfer
    from dd_plugins.evaluation.data_of_set import dataset_name_of
    from dd_plugins.evaluation.evaluate import evaluate
    from dd_plugins.evaluation.relabelling import labels_stored, relabel
    from dd_plugins.evaluation.results import Evaluation, NetworkResult
    from dd_plugins.exports.export import export
    from dd_plugins.exports.hub import push_to_hub
    from dd_plugins.functional.augment import random_augmentation
    from dd_plugins.functional.kernel_regression import (
        centred_targets,
        kernel_ridge_regression,
        ridge_regression,
        ridge_weights,
    )
    from dd_plugins.functional.statistics import mean_interval
    from dd_plugins.hookspecs import (
        LazySet,
        RegisterCommand,
        RegisterDataset,
        RegisterDecoder,
        RegisterDistiller,
        RegisterHookspecs,
        RegisterNetwork,
        RegisterObserver,
        RegisterParametrization,
        RegisterWrapper,
        hookimpl,
        hookspec,
    )
    from dd_plugins.networks.base import (
        AbstractNetwork,
        ChannelsLast,
        ChannelsLastGroupNorm,
        FeatureNetwork,
        ImageShape,
        features_in_chunks,
    )
    from dd_plugins.networks.factory import NetworkLike
    from dd_plugins.pages.page import write_page
    from dd_plugins.plugins.distributed_command import DistributedCommand
    from dd_plugins.plugins.lazy_command import LazyCommand
    from dd_plugins.plugins.lookup import (
        get_dataset,
        get_decoder,
        get_distiller,
        get_initial_images,
        get_network,
        get_parametrization,
        get_record,
        record_names,
        record_versions,
    )
    from dd_plugins.plugins.manager import Plugins, loaded_plugins
    from dd_plugins.released.importing import import_set
    from dd_plugins.run import DEFAULT_NETWORK, Run, RunOptions, Task
    from dd_plugins.runtime.cache import cache_folder
    from dd_plugins.runtime.device import Precision, resolve_device, resolve_precision
    from dd_plugins.runtime.files import write_atomically
    from dd_plugins.runtime.kept_tensors import load_tensors, save_tensors
    from dd_plugins.runtime.processes import process_group
    from dd_plugins.runtime.progress import OnProgress, ProgressShown, shown_progress
    from dd_plugins.runtime.randomness import generator_for, seeded_globally
    from dd_plugins.runtime.text import plain
    from dd_plugins.spec import Record, record, split_specs
    from dd_plugins.synthetic.artifact import (
        ARTIFACT_NAME,
        DistilledSet,
        Header,
        artifact_file,
    )
    from dd_plugins.synthetic.header import PrivacyRecord, library_versions
    from dd_plugins.synthetic.labels import LABEL_KINDS, LabelKind, label_loss
    from dd_plugins.synthetic.leaves import Codec, Leaves, Parameters
    from dd_plugins.synthetic.parametrizations.base import AbstractParametrization
    from dd_plugins.synthetic.parametrizations.packed import packed, unpacked
    from dd_plugins.synthetic.pictures import save_grid
    from dd_plugins.synthetic.views import Views
    from dd_plugins.tracking.base import AbstractObserver, Observation
    from dd_plugins.training.experts import train_experts
    from dd_plugins.training.kept_networks import (
        TrainedNetwork,
        TrainingReport,
        train_networks,
    )
    from dd_plugins.training.kept_sequence import KeptNetworks
    from dd_plugins.training.obtaining import Missing, obtained
    from dd_plugins.training.outputs import accuracy, real_outputs
    from dd_plugins.training.protocols import ProtocolName, recipe_for, training_set_of
    from dd_plugins.training.recipes import (
        Recipe,
        classic_recipe,
        frepo_recipe,
        get_recipe,
        post_training_recipe,
        real_data_recipe,
        squeeze_recipe,
    )
    from dd_plugins.training.sources import code_of
    from dd_plugins.training.teacher import Teacher
    from dd_plugins.training.train import (
        DrawnImages,
        RealLabels,
        TrainingSet,
        Whitened,
        train_network,
    )
    from dd_plugins.training.trajectories import Snapshots, Trajectory
    from dd_plugins.wrappers.base import AbstractWrapper, WrappedState
else:
    _look_up = lazy_names(__name__)

__all__ = [
    "ARTIFACT_NAME",
    "DEFAULT_NETWORK",
    "LABEL_KINDS",
    "AbstractDecoder",
    "AbstractDistiller",
    "AbstractNetwork",
    "AbstractObserver",
    "AbstractParametrization",
    "AbstractState",
    "AbstractWrapper",
    "Batch",
    "ChannelsLast",
    "ChannelsLastGroupNorm",
    "Codec",
    "DDError",
    "DDWarning",
    "DataError",
    "DataOptions",
    "DistilledSet",
    "DistributedCommand",
    "DrawnImages",
    "Estimate",
    "Evaluation",
    "FeatureNetwork",
    "FileError",
    "Header",
    "ImageShape",
    "ImageSizeError",
    "ImageSource",
    "Images",
    "InitialImages",
    "Items",
    "KeptNetworks",
    "LabelKind",
    "LatentDecoder",
    "LazyCommand",
    "LazySet",
    "Leaves",
    "LostProcessError",
    "Metrics",
    "Missing",
    "MissingExtraError",
    "NetworkLike",
    "NetworkResult",
    "NoState",
    "Observation",
    "OnProgress",
    "OnlineModel",
    "OptionError",
    "OutputKind",
    "Parameters",
    "PluginError",
    "Plugins",
    "Pool",
    "PoolState",
    "Precision",
    "Preprocessing",
    "PrivacyRecord",
    "ProgressShown",
    "ProtocolName",
    "RealData",
    "RealLabels",
    "RealSampler",
    "Recipe",
    "Record",
    "RegisterCommand",
    "RegisterDataset",
    "RegisterDecoder",
    "RegisterDistiller",
    "RegisterHookspecs",
    "RegisterNetwork",
    "RegisterObserver",
    "RegisterParametrization",
    "RegisterWrapper",
    "Run",
    "RunError",
    "RunOptions",
    "Settled",
    "Snapshots",
    "StreamedImages",
    "Task",
    "Teacher",
    "TrainedNetwork",
    "TrainingReport",
    "TrainingSet",
    "Trajectory",
    "Transfer",
    "Transform",
    "UnknownNameError",
    "Views",
    "Whitened",
    "WrappedState",
    "accuracy",
    "add_gradient",
    "artifact_file",
    "as_number_tensor",
    "cache_folder",
    "centred_targets",
    "check_outputs",
    "check_saved",
    "classic_recipe",
    "code_of",
    "counts_of_classes",
    "dataset_name_of",
    "described",
    "distill",
    "estimate",
    "evaluate",
    "export",
    "features_in_chunks",
    "frepo_recipe",
    "generator_for",
    "get_dataset",
    "get_decoder",
    "get_distiller",
    "get_initial_images",
    "get_network",
    "get_parametrization",
    "get_recipe",
    "get_record",
    "hookimpl",
    "hookspec",
    "import_set",
    "in_proportion",
    "kernel_ridge_regression",
    "label_loss",
    "labels_stored",
    "lazy_names",
    "library_versions",
    "load_tensors",
    "loaded_plugins",
    "mean_interval",
    "number",
    "obtained",
    "one_line",
    "one_of",
    "packed",
    "plain",
    "post_training_recipe",
    "process_group",
    "push_to_hub",
    "random_augmentation",
    "real_data_recipe",
    "real_outputs",
    "recipe_for",
    "record",
    "record_names",
    "record_versions",
    "relabel",
    "resolve_device",
    "resolve_precision",
    "ridge_regression",
    "ridge_weights",
    "save_grid",
    "save_tensors",
    "seeded_globally",
    "settle",
    "shown_progress",
    "split_specs",
    "squeeze_recipe",
    "train_experts",
    "train_generator",
    "train_network",
    "train_networks",
    "training_set_of",
    "transfer",
    "unpacked",
    "what_differs",
    "whole_number",
    "write_atomically",
    "write_page",
]


if not TYPE_CHECKING:  # otherwise mypy would accept any name

    def __getattr__(name: str) -> object:
        """Import a name at its first use; warn if it is an old name from 0.1."""
        now = RENAMED.get(name)
        if now not in __all__:
            return _look_up(name)
        warnings.warn(
            f"dd_plugins.api.{name} is named {now}; the old name goes with 0.3",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(sys.modules[__name__], now)
