"""Checks of the values returned by methods of plugins.

Each check raises :class:`~dd_plugins.errors.PluginError` with the method, the expected
value and the returned one. The checks made at each step look only at types and shapes:
nothing is read from a GPU.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from dd_plugins.data.preprocess import Preprocessing
from dd_plugins.distillers.state import AbstractState, Metrics
from dd_plugins.errors import PluginError
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.spec import Record
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.synthetic.leaves import Codec
from dd_plugins.synthetic.privacy_record import PrivacyRecord
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.teacher import Teacher

__all__ = [
    "check_codec",
    "check_first_images",
    "check_images_in_graph",
    "check_indices",
    "check_label_kind",
    "check_labels",
    "check_learnables",
    "check_logits",
    "check_metrics",
    "check_network",
    "check_optimizer",
    "check_predictor",
    "check_preprocessing",
    "check_privacy",
    "check_recipe",
    "check_saved_state",
    "check_schedule",
    "check_state",
    "check_steps",
    "check_stored",
    "check_teacher",
]

_RESERVED = ("step", "seconds", "validation_accuracy")  # the run's own metrics
_MOST_LEARNED = 1_000  # values besides images and labels; the header holds them


def _refused(source: Record, method: str, expected: str, got: object) -> PluginError:
    if isinstance(got, Tensor):
        told = f"a {got.dtype} tensor of shape {tuple(got.shape)}"
    elif isinstance(got, int | float | str | bool | None):
        told = repr(got) if len(repr(got)) <= 80 else type(got).__name__
    else:
        told = type(got).__name__
    return PluginError(f"{source.name}.{method} must return {expected}, got {told}")


def _check_finite(source: Record, method: str, got: Tensor, of: str = "") -> Tensor:
    wrong = got.detach()[~torch.isfinite(got)]
    if len(wrong):
        raise PluginError(
            f"{source.name}.{method} must return finite values, got {wrong[0].item()}"
            + of
        )
    return got


def check_network(source: Record, got: Any) -> AbstractNetwork | None:
    """Check a value returned by ``default_network``."""
    if got is not None and not isinstance(got, AbstractNetwork):
        raise _refused(source, "default_network", "a dd_plugins network or None", got)
    return got


def check_steps(source: Record, got: Any) -> int:
    """Check a value returned by ``default_steps``."""
    return _whole_number(source, "default_steps", got, least=1)


def check_images_in_graph(source: Record, got: Any) -> int:
    """Check a value returned by ``images_in_graph``."""
    return _whole_number(source, "images_in_graph", got, least=0)


def _whole_number(source: Record, method: str, got: Any, *, least: int) -> int:
    number = None
    with suppress(TypeError):
        number = None if isinstance(got, bool) else operator.index(got)
    if number is None or number < least:
        raise _refused(source, method, f"a whole number of at least {least}", got)
    return number


def check_label_kind(source: Record, got: Any) -> None:
    """Check the property ``label_kind``."""
    kinds = get_args(LabelKind)
    if got not in kinds:
        raise _refused(source, "label_kind", f"one of {', '.join(kinds)}", got)


def check_indices(
    source: Record, got: Any, labels: Tensor, counts: Sequence[int]
) -> Tensor:
    """Check a value returned by ``choose``: indices, class by class.

    Args:
        source: the distiller or coreset.
        got: the returned value.
        labels: labels of all real images, on the CPU; a class may have no images.
        counts: the number of images wanted of each class.
    """
    present = torch.unique(labels)
    wanted = present.repeat_interleave(torch.tensor(counts)[present])
    many = counts[0] if len(set(counts)) == 1 else ", ".join(map(str, counts))
    expected = f"int64 indices of {many} real images per class, class by class"
    if (
        not isinstance(got, Tensor)
        or got.dtype != torch.int64
        or got.shape != wanted.shape
    ):
        raise _refused(source, "choose", expected, got)
    indices: Tensor = got.cpu()
    if indices.min() < 0 or indices.max() >= len(labels):
        raise PluginError(
            f"{source.name}.choose must return {expected}, got indices from "
            f"{int(indices.min())} to {int(indices.max())} of {len(labels)} images"
        )
    if not torch.equal(labels[indices], wanted):
        raise PluginError(
            f"{source.name}.choose must return {expected}, got other classes"
        )
    return indices


def check_first_images(source: Record, got: Any, shape: tuple[int, ...]) -> Tensor:
    """Check a value returned by ``first_images``."""
    if not isinstance(got, Tensor) or got.dtype != torch.float32 or got.shape != shape:
        expected = f"a torch.float32 tensor of shape {shape}"
        raise _refused(source, "first_images", expected, got)
    return _check_finite(source, "first_images", got).cpu()


def check_labels(
    source: Record,
    got: Any,
    count: int,
    num_classes: int,
    method: str = "initial_labels",
    kind: LabelKind = "classes",
) -> Tensor:
    """Check a value returned by ``initial_labels`` or ``labels``.

    Args:
        source: the distiller.
        got: the returned value.
        count: the number of images.
        num_classes: the number of classes.
        method: the name of the method.
        kind: the kind of the labels; probabilities must not be negative.
    """
    if (
        not isinstance(got, Tensor)
        or got.dtype != torch.float32
        or got.shape != (count, num_classes)
    ):
        expected = f"a torch.float32 tensor of shape {(count, num_classes)}"
        raise _refused(source, method, expected, got)
    _check_finite(source, method, got)
    if kind == "probabilities" and got.numel() and got.min() < 0:
        least = f"{got.min().item():g}"
        expected = "probabilities of at least 0"
        raise PluginError(f"{source.name}.{method} must return {expected}, got {least}")
    return got


def check_state(source: Record, got: Any) -> AbstractState:
    """Check a value returned by ``setup``."""
    if not isinstance(got, AbstractState):
        raise _refused(source, "setup", "an AbstractState, such as NoState(run)", got)
    return got


def check_saved_state(
    source: Record, got: Any, method: str = "state_dict"
) -> dict[str, Any]:
    """Check a value returned by ``state_dict`` or ``merge`` of a state."""
    if not isinstance(got, dict):
        raise _refused(source, f"setup(...).{method}", "a dict", got)
    return got


def check_optimizer(
    source: Record, got: Any, parameters: Sequence[Tensor]
) -> torch.optim.Optimizer:
    """Check a value returned by ``optimizer``: an optimizer of the given tensors."""
    if not isinstance(got, torch.optim.Optimizer):
        raise _refused(source, "optimizer", "a torch.optim.Optimizer", got)
    moved = {id(each) for group in got.param_groups for each in group["params"]}
    if not moved or not moved <= {id(each) for each in parameters}:
        raise PluginError(
            f"{source.name}.optimizer must return an optimizer of the tensors that it "
            "is given, got one of other tensors"
        )
    return got


def check_schedule(
    source: Record, got: Any, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Check a value returned by ``schedule``: one stepped without a metric."""
    schedules = torch.optim.lr_scheduler
    if not isinstance(got, schedules.LRScheduler) or isinstance(
        got, schedules.ReduceLROnPlateau
    ):
        expected = "an LRScheduler whose step takes no metric"
        raise _refused(source, "schedule", expected, got)
    if got.optimizer is not optimizer:
        raise PluginError(
            f"{source.name}.schedule must return a schedule of the optimizer that it "
            "is given, got one of another optimizer"
        )
    return got


def check_metrics(
    source: Record, got: Any, device: torch.device, method: str = "accumulate"
) -> Metrics:
    """Check a value returned by ``accumulate``, at every step."""
    if not isinstance(got, dict):
        raise _refused(source, method, "a dict of named 0-d tensors", got)
    for name, value in got.items():
        if not isinstance(name, str):
            raise _refused(source, method, "metrics named by strings", name)
        if name in _RESERVED:
            expected = f"metrics with names other than {', '.join(_RESERVED)}"
            raise _refused(source, method, expected, name)
        if not isinstance(value, Tensor) or value.ndim or value.device != device:
            at = f" on {value.device}" if isinstance(value, Tensor) else ""
            raise PluginError(
                f"{source.name}.{method} must return metrics that are 0-d tensors on "
                f"{device}, got {_told_metric(value)}{at} for {name!r}"
            )
    return got


def _told_metric(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__


def check_predictor(source: Record, got: Any) -> Callable[[Tensor], Any] | None:
    """Check a value returned by ``predictor``."""
    if got is not None and not callable(got):
        raise _refused(source, "predictor", "a function of images or None", got)
    found: Callable[[Tensor], Any] | None = got
    return found


def check_logits(source: Record, got: Any, count: int, num_classes: int) -> Tensor:
    """Check a value returned by a predictor."""
    if (
        not isinstance(got, Tensor)
        or not got.is_floating_point()
        or got.shape != (count, num_classes)
    ):
        expected = f"logits of shape {(count, num_classes)}"
        raise _refused(source, "predictor(...)", expected, got)
    return got


def check_learnables(source: Record, got: Any) -> dict[str, Tensor]:
    """Check a value returned by ``learnables``."""
    if not isinstance(got, dict):
        raise _refused(source, "learnables", "a dict of named tensors", got)
    for name, value in got.items():
        if (
            not isinstance(name, str)
            or not isinstance(value, Tensor)
            or value.dtype != torch.float32
            or value.numel() > _MOST_LEARNED
        ):
            raise _refused(
                source,
                "learnables",
                f"float32 tensors of at most {_MOST_LEARNED:,} values, by name",
                value,
            )
        _check_finite(source, "learnables", value, f" for {name!r}")
    return got


def check_recipe(source: Record, got: Any) -> Recipe:
    """Check a value returned by ``recipe``."""
    if not isinstance(got, Recipe):
        raise _refused(source, "recipe", "a Recipe", got)
    return got


def check_averaging(source: Record, got: Any) -> float:
    """Check the property ``averaging``."""
    if isinstance(got, bool) or not isinstance(got, int | float) or not 0 <= got < 1:
        raise _refused(source, "averaging", "a number in [0, 1)", got)
    return got


def check_privacy(source: Record, got: Any) -> PrivacyRecord | None:
    """Check a value returned by ``privacy``."""
    if got is not None and not isinstance(got, PrivacyRecord):
        raise _refused(source, "privacy", "None or a PrivacyRecord", got)
    return got


def check_preprocessing(source: Record, got: Any) -> Preprocessing | None:
    """Check a value returned by ``preprocessing``."""
    kinds = get_args(Preprocessing)
    if got is not None and got not in kinds:
        raise _refused(
            source, "preprocessing", f"None or one of {', '.join(kinds)}", got
        )
    kind: Preprocessing | None = got
    return kind


def check_codec(source: Record, got: Any, images_per_stored: int) -> Codec | None:
    """Check a value returned by ``codec`` of a parametrization."""
    if got is None and images_per_stored == 1:
        return None
    if not isinstance(got, Codec) or got.images_per_stored != images_per_stored:
        expected = f"a Codec of {images_per_stored} images per stored one"
        raise _refused(source, "codec", expected, got)
    if got.chunk is not None and (type(got.chunk) is not int or got.chunk < 1):
        expected = "a Codec whose chunk is None or a whole number of at least 1"
        raise _refused(source, "codec", expected, got.chunk)
    for each in got.constants.values():
        if not isinstance(each, Tensor):
            raise _refused(source, "codec", "a Codec with tensors as constants", each)
    return replace(got, encode=partial(_encoded, source, got))


def _encoded(
    source: Record, codec: Codec, images: Tensor, classes: Tensor
) -> dict[str, Tensor]:
    """Return the stored form of images, and check it and the first ones decoded."""
    method = "codec(...).encode"
    stored = codec.encode(images, classes)
    count = len(images) // codec.images_per_stored
    expected = f"float32 tensors of {count} rows, by name"
    if not isinstance(stored, dict) or not stored:
        raise _refused(source, method, expected, stored)
    for name, each in stored.items():
        if (
            not isinstance(each, Tensor)
            or each.dtype != torch.float32
            or each.shape[:1] != (count,)
        ):
            raise _refused(source, method, expected, each)
        _check_finite(source, method, each, f" for {name!r}")
    if count:
        _check_decoded(source, codec, stored, images)
    return stored


def _check_decoded(
    source: Record, codec: Codec, stored: Mapping[str, Tensor], images: Tensor
) -> None:
    """Check what ``decode`` returns for one or two stored images."""
    method = "codec(...).decode"
    first = slice(min(codec.chunk or 2, 2))
    inputs = {
        name: each[first].detach().requires_grad_() for name, each in stored.items()
    }
    with torch.enable_grad():
        got = codec.decode(inputs)
    count = len(next(iter(inputs.values()))) * codec.images_per_stored
    shape = (count, *images.shape[1:])
    if not isinstance(got, Tensor) or got.dtype != torch.float32 or got.shape != shape:
        expected = f"a torch.float32 tensor of shape {shape}"
        raise _refused(source, method, expected, got)
    if not got.requires_grad:
        raise PluginError(
            f"{source.name}.{method} must return images with a gradient by what is "
            "stored, got detached ones"
        )
    _check_finite(source, method, got)


def check_stored(
    source: Record, stored: Mapping[str, Tensor], values_per_stored: int
) -> None:
    """Check a value returned by a codec's ``encode`` against its declared size.

    Args:
        source: the parametrization.
        stored: its parameters, by name.
        values_per_stored: the declared number of values in a stored image.
    """
    values = sum(each.numel() for each in stored.values())
    count = len(next(iter(stored.values()), ()))
    if values != count * values_per_stored:
        raise PluginError(
            f"{source.name}.values_per_stored must be the values of a stored image, "
            f"{values / max(1, count):g}, got {values_per_stored}"
        )


def check_teacher(source: Record, got: Any, label_kind: LabelKind) -> Teacher | None:
    """Check a value returned by ``teacher``."""
    if got is None:
        return None
    whole = isinstance(got, Teacher) and len(got.kept) in (0, len(got.modules))
    if not whole or label_kind != "probabilities":
        expected = "None, or, if the labels are probabilities, a Teacher with a key "
        raise _refused(source, "teacher", expected + "for each module or none", got)
    teacher: Teacher = got
    return teacher
