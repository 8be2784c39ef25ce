"""Where architectures look on a distilled set: meta and heterogeneous features."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dd_plugins.data.real import RealData
from dd_plugins.errors import OptionError
from dd_plugins.evaluation.data_of_set import real_data_of
from dd_plugins.evaluation.method_of_set import method_of
from dd_plugins.evaluation.networks_of_set import refuse_huge
from dd_plugins.evaluation.teacher_of_set import space_shared_with
from dd_plugins.networks.activation_maps import map_layer, meta_ratio, observe
from dd_plugins.networks.factory import NetworkLike
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.runtime.device import Precision, plain_torch, resolve_device
from dd_plugins.runtime.progress import OnProgress
from dd_plugins.synthetic.artifact import DistilledSet, as_set
from dd_plugins.training.kept_networks import train_networks
from dd_plugins.training.protocols import MOST_STEPS
from dd_plugins.wrappers.base import wrappers_of
from dd_plugins.wrappers.metadd.metadd import MetaDD

__all__ = ["MetaFeatures", "meta_features"]

_AT_A_TIME = 256  # images


@dataclass(frozen=True)
class MetaFeatures:
    """Class activation maps of several trained networks on a set's images.

    Attributes:
        networks: the specs of the networks.
        maps: float32 in [0, 1], ``(networks, n, height, width)``, on the CPU.
        threshold: the smallest value of a map at which a pixel counts.
    """

    networks: tuple[str, ...]
    maps: Tensor
    threshold: float = 0.5

    @property
    def meta(self) -> Tensor:
        """Return the pixels attended by all networks: bool, ``(n, height, width)``."""
        return (self.maps >= self.threshold).all(dim=0)

    @property
    def heterogeneous(self) -> Tensor:
        """Return the pixels attended by each network, not by all: bool, as the maps."""
        return (self.maps >= self.threshold) & ~self.meta

    @property
    def ratio(self) -> Tensor:
        """Return the share of meta features: float32 in [0, 1], ``(n,)``."""
        return meta_ratio(self.maps, self.threshold)


@plain_torch()
def meta_features(
    distilled: DistilledSet | str | Path,
    networks: NetworkLike | Iterable[NetworkLike] = (),
    *,
    threshold: float = 0.5,
    data: "RealData | str | tuple[Tensor, Tensor] | Dataset[Any] | None" = None,
    data_root: str | Path | None = None,
    download: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    plugins: Plugins | None = None,
    on_progress: OnProgress | None = None,
) -> MetaFeatures:
    """Return where trained networks look on the images of a distilled set.

    Args:
        distilled: the set, or the path of an artifact or of a run's folder.
        networks: specs, two or more; by default those of the set's ``metadd`` wrapper,
            or the wrapper's defaults. They are trained on the real data, in the value
            space of the set, for the longest of the wrapper's stages, or found among
            kept networks.
        threshold: the smallest value of a map at which a pixel counts, in (0, 1).
        data: the real data, in any form accepted by :func:`~dd_plugins.distill`; by
            default found by the name in the artifact.
        data_root: the folder of named data sets.
        download: whether a missing data set may be downloaded to that folder.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        precision: the precision of the networks' arithmetic in training.
        plugins: where names are looked up; by default all installed plugins.
        on_progress: called after each training step with the network, the work done and
            all work, in seconds, estimated from a few timed steps of each.

    Raises:
        OptionError: an option is out of its range, or a network has no usable map; or
            the set asks for more training steps than an artifact may.
        UnknownNameError: no plugin registers a name.
        FileError: the artifact, or a kept network, cannot be read.
        DataError: the real data cannot be read, or does not fit the artifact.
    """
    plugins = plugins or loaded_plugins()
    distilled = as_set(distilled)
    # Any base does: of the wrapper only its own options are used.
    method = method_of(distilled, plugins.distiller) or plugins.distiller("random")
    wrapper = _wrapper(method)
    steps = max(wrapper.stages)
    if steps > MOST_STEPS:
        raise OptionError(
            f"the artifact asks for {steps:,} training steps of each network, expected "
            f"at most {MOST_STEPS:,}; distil with smaller stages"
        )
    chosen = plugins.network_list(networks)
    for network in () if chosen else wrapper.networks:
        refuse_huge(network, distilled)
    chosen = chosen or list(wrapper.networks)
    if len(chosen) < 2:
        raise OptionError(
            "features are compared between at least two networks, got "
            f"{len(chosen)}; name two networks or more"
        )
    if not 0 < threshold < 1:
        raise OptionError(f"threshold must be between 0 and 1, got {threshold}")
    real = real_data_of(
        distilled, data, data_root, plugins.real_data, download=download
    )
    if space_shared_with(distilled, real) is None:
        real = real.with_transform(distilled.transform)
    target = resolve_device(device)
    classes = torch.tensor(distilled.header.initial_classes)
    maps = []
    for kept in train_networks(
        real,
        chosen,
        stages=[steps],
        device=device,
        precision=precision,
        on_progress=on_progress,
    ):
        layer = map_layer(kept.module.cpu(), real.image_shape)
        module = kept.module.to(target)
        seen = [
            observe(module, layer, images.to(target), wanted.to(target)).maps.cpu()
            for images, wanted in zip(
                torch.split(distilled.images, _AT_A_TIME),
                torch.split(classes, _AT_A_TIME),
                strict=True,
            )
        ]
        maps.append(torch.cat(seen))
    return MetaFeatures(tuple(map(repr, chosen)), torch.stack(maps), threshold)


def _wrapper(distiller: Any) -> MetaDD:
    """Return the metadd wrapper of a set; if it has none, one with all defaults."""
    for wrapper in wrappers_of(distiller):
        if isinstance(wrapper, MetaDD):
            return wrapper
    return MetaDD(base=distiller)
