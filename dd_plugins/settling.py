"""Settling: from what a run is asked for to every choice that it is made by."""

from dataclasses import dataclass, replace
from typing import Any

import torch

from dd_plugins.arguments import prepared
from dd_plugins.data import RealData
from dd_plugins.distillers.base import AbstractDistiller, InitialImages
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.parametrizations import AbstractParametrization
from dd_plugins.plugins import Plugins, loaded_plugins
from dd_plugins.returned import (
    check_label_kind,
    check_network,
    check_preprocessing,
    check_settled,
    check_steps,
)
from dd_plugins.run import (
    DEFAULT_NETWORK,
    Precision,
    RunOptions,
    Task,
    resolve_device,
    resolve_precision,
)

__all__ = ["Settled", "settle"]

_NAMES: dict[torch.dtype, Precision] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}


@dataclass(frozen=True, eq=False)
class Settled:
    """A run of which every option is known.

    Attributes:
        options: complete: no field is None.
        task: what is distilled.
        data: the real data, in the value space and with the mirror that were settled.
        distiller: settled for the task.
        network: the architecture on which is distilled.
        initial_images: what the set begins as.
        parametrization: what is learned in place of pixels.
        device: where tensors live.
        precision: dtype of features.
    """

    options: RunOptions
    task: Task
    data: RealData
    distiller: AbstractDistiller[Any]
    network: AbstractNetwork
    initial_images: "InitialImages | AbstractDistiller[Any]"
    parametrization: AbstractParametrization
    device: torch.device
    precision: torch.dtype


def settle(
    options: RunOptions,
    data: RealData,
    plugins: Plugins | None = None,
    *,
    device: str = "auto",
    held: int = 0,
    held_classes: int = 0,
    distiller: AbstractDistiller[Any] | None = None,
    network: AbstractNetwork | None = None,
) -> Settled:
    """Settle every choice of a run.

    Args:
        options: what it is asked for.
        data: the real data.
        plugins: where names are looked up; by default all that is installed.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        held: images of a context.
        held_classes: classes that a context holds images of.
        distiller: in place of that which the options name.
        network: likewise.

    Raises:
        OptionError: an option is out of its range.
        UnknownNameError: no plugin registers a name.
        PluginError: a method of the distiller returned something else.
    """
    plugins = plugins or loaded_plugins()
    method = distiller or plugins.distiller(options.distiller)
    parametrization = plugins.parametrization(options.parametrization)
    first = plugins.initial_images(options.initial_images or method.initial_images)
    if network is None and options.network is not None:
        network = plugins.network(options.network)
    target = resolve_device(device)
    data = prepared(data, options.preprocessing, options.mirror)
    task = Task(
        data.name,
        data.image_shape,
        data.num_classes,
        options.images_per_class * parametrization.images_per_stored,
        options.steps,
        data.mirror,
        held=held,
        held_classes=held_classes,
    )
    method = check_settled(method, method.for_task(task))
    check_label_kind(method)
    wanted = check_preprocessing(method, method.preprocessing(task))
    if wanted and options.preprocessing is None and data.transform is None:
        data = data.with_preprocessing(wanted)
    network = (
        network
        or check_network(method, method.default_network(task, target))
        or plugins.network(DEFAULT_NETWORK)
    )
    precision = resolve_precision(options.precision, target)
    complete = replace(
        options,
        distiller=repr(method),
        steps=options.steps or check_steps(method, method.default_steps(task)),
        network=repr(network.for_distillation()),
        initial_images=str(first),
        parametrization=repr(parametrization),
        preprocessing=data.preprocessing,
        mirror=data.mirror,
        precision=_NAMES[precision],
    )
    return Settled(
        complete,
        task,
        data,
        method,
        network,
        first,
        parametrization,
        target,
        precision,
    )
