"""Settling: completing the options of a run until no choice is open."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from dd_plugins.checks import whole_number
from dd_plugins.data.real import RealData
from dd_plugins.distillers.base import AbstractDistiller
from dd_plugins.distillers.returned import (
    check_label_kind,
    check_network,
    check_preprocessing,
    check_steps,
)
from dd_plugins.engine.settled import Settled
from dd_plugins.errors import OptionError, PluginError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.plugins.manager import Plugins, loaded_plugins
from dd_plugins.run import DEFAULT_NETWORK, RunOptions, Task
from dd_plugins.runtime.device import Precision, resolve_device, resolve_precision
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization

__all__ = ["images_within", "settle"]

_BYTES = 4  # of a float32

_NAMES: dict[torch.dtype, Precision] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
}


def settle(
    options: RunOptions,
    data: RealData,
    plugins: Plugins | None = None,
    *,
    device: str = "auto",
    context_labels: Sequence[int] = (),
    distiller: AbstractDistiller[Any] | None = None,
    network: AbstractNetwork | None = None,
    public: RealData | None = None,
) -> Settled:
    """Settle every choice of a run.

    Args:
        options: the given options.
        data: the real data.
        plugins: where names are looked up; by default all installed plugins.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        context_labels: the class of each image of the context.
        distiller: used in place of the one in the options.
        network: used in place of the one in the options.
        public: public images for a private distiller.

    Raises:
        OptionError: an option is out of its range.
        UnknownNameError: no plugin registers a name.
        PluginError: a method of the distiller returned a wrong value.
    """
    plugins = plugins or loaded_plugins()
    method = distiller or plugins.distiller(options.distiller)
    parametrization = plugins.parametrization(options.parametrization)
    first = plugins.initial_images(options.initial_images or method.initial_images)
    if network is None and options.network is not None:
        network = plugins.network(options.network)
    target = resolve_device(device)
    data = data.prepared(options.preprocessing, options.mirror)
    if method.private:  # the choice of held-out images reveals their number
        data = data.undivided()
    # For a private set, the classes without images are private too.
    has_images = [True] * data.num_classes
    if not method.private:
        sizes = data.train.labels.bincount(minlength=data.num_classes)
        has_images = (sizes > 0).tolist()
    per_stored = parametrization.images_per_stored
    task = _task(options, data, has_images, per_stored, Counter(context_labels))
    method = _settled_method(method, task)
    check_label_kind(method, method.label_kind)
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
        options=complete,
        task=task,
        data=data,
        distiller=method,
        network=network,
        initial_images=first,
        parametrization=parametrization,
        device=target,
        precision=precision,
        public=public,
    )


def images_within(
    parametrization: AbstractParametrization,
    data: RealData,
    *,
    budget: int | None = None,
    images_worth: int | None = None,
) -> int:
    """Return how many stored images of each class fit in a budget.

    Args:
        parametrization: parametrization of the stored images.
        data: the real data.
        budget: bytes of all stored images of the set, in float32.
        images_worth: a budget, as the number of plain images for each class with the
            same bytes.

    Raises:
        OptionError: not one stored image of each class fits, or both budgets are given.
    """
    if budget is not None and images_worth is not None:
        raise OptionError("expected either budget or images_worth, got both")
    plain = data.num_classes * math.prod(data.image_shape) * _BYTES
    if budget is None:
        budget = plain * whole_number("images_worth", images_worth, least=1)
    budget = whole_number("budget", budget, least=1)
    values = parametrization.values_per_stored(data.image_shape, data.num_classes)
    least = data.num_classes * values * _BYTES
    if budget < least:
        raise OptionError(
            f"budget: expected at least {least:,} bytes, for one stored image of each "
            f"of {data.num_classes} classes by {parametrization!r}, got {budget:,}"
        )
    return budget // least


def _task(
    options: RunOptions,
    data: RealData,
    has_images: Sequence[bool],
    per_stored: int,
    context: Counter[int],
) -> Task:
    """Return the task of the run: its data, decoded images and context.

    Args:
        options: the options of the run.
        data: the real data.
        has_images: whether each class has real images.
        per_stored: number of images in a stored one.
        context: number of images of each class in the context.
    """
    asked, unequal = options.images_per_class, None
    if not isinstance(asked, tuple) and not all(has_images):
        asked = (asked,) * data.num_classes
    if isinstance(asked, tuple):
        # Classes without real images get none, and those of a context no new ones.
        made = [per_stored * n if has_images[c] else 0 for c, n in enumerate(asked)]
        each = round(sum(made) / sum(has_images))
        unequal = tuple(0 if label in context else n for label, n in enumerate(made))
    else:
        each = per_stored * asked
    return Task(
        data.name,
        data.image_shape,
        data.num_classes,
        each,
        options.steps,
        data.mirror,
        context_images=context.total(),
        context_classes=len(context),
        unequal_counts=unequal,
        images_per_stored=per_stored,
    )


def _settled_method(
    method: AbstractDistiller[Any], task: Task
) -> AbstractDistiller[Any]:
    """Return the distiller with its options settled."""
    settled: object = method.for_task(task)
    if not isinstance(settled, AbstractDistiller):
        raise PluginError(
            f"{method.name}.for_task must return a distiller, got "
            f"{type(settled).__name__}"
        )
    if hasattr(settled, "predict"):  # of 0.1: it would never be called
        raise PluginError(
            f"{settled.name}.predict must be predictor(state, leaves), which returns a "
            "function of images; got the method of version 0.1"
        )
    return settled
