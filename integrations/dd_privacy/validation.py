"""Whether a network can be trained under differential privacy; and preparing it."""

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dd_plugins
from dd_plugins.api import (
    ChannelsLast,
    ChannelsLastGroupNorm,
    MissingExtraError,
    OptionError,
)

__all__ = [
    "EXTRA",
    "check_example_gradients",
    "module_obstacles",
    "number",
    "prepare_for_opacus",
    "privacy_obstacles",
    "require_opacus",
    "trained_parameters",
]

EXTRA = "dd-plugins[privacy]"
"""What to install for this integration to be of use."""

_CHECKED = 3  # examples whose gradients are compared
_TOLERANCE = 1e-3


def number(name: str, value: object) -> float:
    """Return a number, of Python, NumPy or torch, as Python's.

    Raises:
        OptionError: it is text, a truth value, or no single number.
    """
    try:
        if isinstance(value, bool | str | bytes):
            raise TypeError
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise OptionError(f"{name} must be a number, got {value!r}") from None


def require_opacus() -> None:
    """Refuse to go on without Opacus.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import opacus.validators  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            f"dd_privacy needs opacus: pip install '{EXTRA}'"
        ) from error


def privacy_obstacles(
    network: str | dd_plugins.AbstractNetwork,
    image_shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
) -> list[str]:
    """Return what keeps a network from DP-SGD; empty if nothing does.

    BatchNorm, for one: it mixes the examples of a batch, so that no gradient belongs to
    a single one.

    Args:
        network: a spec, or a network.
        image_shape: channels, height and width.
        num_classes: the number of classes.

    Raises:
        MissingExtraError: opacus is not installed.
        UnknownNameError: no plugin registers the network.
    """
    require_opacus()
    if isinstance(network, str):
        network = dd_plugins.get_network(network)
    module = network.build(image_shape, num_classes, generator=torch.Generator())
    return module_obstacles(module)


def module_obstacles(module: nn.Module) -> list[str]:
    """Return what keeps a module from DP-SGD; empty if nothing does."""
    from opacus.validators import ModuleValidator

    found = [str(error) for error in ModuleValidator.validate(module, strict=False)]
    # Opacus looks at layers that are trained alone; a frozen one mixes examples too.
    found += [
        f"the BatchNorm layer {name!r} mixes the examples of a batch, and keeps their "
        "mean, although it is frozen; put GroupNorm in its place, or join it with the "
        "layer before it (torch.nn.utils.fuse_conv_bn_eval)"
        for name, layer in module.named_modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm)
        and not any(each.requires_grad for each in layer.parameters(recurse=False))
    ]
    if not trained_parameters(module):
        found.append(
            "no parameter takes a gradient: all are frozen; thaw those to be trained "
            "(requires_grad_(True))"
        )
    return found


def trained_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that take a gradient: those that are not frozen."""
    return [each for each in module.parameters() if each.requires_grad]


def prepare_for_opacus(module: nn.Module) -> nn.Module:
    """Make a module fit for gradients of single examples; what it computes is the same.

    Activations that overwrite their argument get in the way of Opacus's hooks. Its
    gradients of convolutions are *wrong*, without an error, for images in channels
    last (Opacus 1.6), so weights are made contiguous and this library's layers that
    change the layout are replaced.

    Args:
        module: changed in place.

    Returns:
        The module.
    """
    module.to(memory_format=torch.contiguous_format)
    for parent in list(module.modules()):
        if getattr(parent, "inplace", False):
            parent.inplace = False  # type: ignore[assignment]
        for name, layer in parent.named_children():
            if isinstance(layer, ChannelsLastGroupNorm):
                plain = nn.GroupNorm(layer.num_groups, layer.num_channels, layer.eps)
                plain.weight, plain.bias = layer.weight, layer.bias
                setattr(parent, name, plain)
            elif isinstance(layer, ChannelsLast):
                setattr(parent, name, nn.Identity())
    return module


def check_example_gradients(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    ghost: bool = False,
) -> None:
    """Compare the lengths of Opacus's gradients of single examples with autograd's.

    The guarantee of DP-SGD rests on them, and no error tells where they are wrong.

    Args:
        module: prepared by :func:`prepare_for_opacus`; not changed.
        image_shape: channels, height and width.
        num_classes: the number of classes.
        ghost: whether lengths are those of ghost clipping.

    Raises:
        OptionError: they differ, or cannot be had; or the network is called in another
            way, has parameters that no output depends on, or remembers images in
            buffers.
    """
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )

    generator = torch.Generator().manual_seed(0)
    # Opacus's hooks see nothing but training.
    module = copy.deepcopy(module).cpu().train()
    for layer in module.modules():
        if isinstance(layer, nn.modules.dropout._DropoutNd):
            layer.p = 0.0
    images = torch.randn(_CHECKED, *image_shape, generator=generator)
    labels = torch.randint(num_classes, (_CHECKED,), generator=generator)
    _check_call(module, images, labels, num_classes)
    try:
        wanted = torch.stack(
            [
                _gradient_length(copy.deepcopy(module), images[each], labels[each])
                for each in torch.split(torch.arange(_CHECKED), 1)
            ]
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if ghost:
                hooked = GradSampleModuleFastGradientClipping(
                    copy.deepcopy(module), max_grad_norm=1.0, use_ghost_clipping=True
                )
            else:
                hooked = GradSampleModule(copy.deepcopy(module))
            torch.autograd.backward(F.cross_entropy(hooked(images), labels))
            if ghost:
                found = hooked.get_norm_sample()
            else:
                parts = [
                    parameter.grad_sample.flatten(1).square().sum(dim=1)
                    for parameter in hooked.parameters()
                    if parameter.requires_grad
                ]
                found = torch.stack(parts).sum(dim=0).sqrt()
    except Exception as error:  # Opacus, or a stranger's layer under its hooks
        raise OptionError(
            "Opacus cannot take the gradients of single examples of this network: "
            f"{_reason(error)}"
        ) from error
    if not torch.allclose(found, wanted, rtol=_TOLERANCE):
        raise OptionError(
            "Opacus's gradients of single examples of this network are wrong: lengths "
            f"{found.tolist()}, should be {wanted.tolist()}; choose another network"
        )


def _check_call(
    module: nn.Module, images: Tensor, labels: Tensor, num_classes: int
) -> None:
    """Refuse networks that are not called with images alone, each for itself.

    Args:
        module: in training mode; not changed.
        images: random.
        labels: likewise.
        num_classes: the number of classes.
    """
    tried = copy.deepcopy(module)
    before = {name: value.clone() for name, value in tried.named_buffers()}
    try:
        outputs = tried(images)
    except Exception as error:  # a stranger's network may do anything
        raise OptionError(
            f"the network cannot be called with images alone ({_reason(error)}); one "
            "of several heads, which asks for task labels, cannot be trained so: give "
            "it a single head"
        ) from error
    if not isinstance(outputs, Tensor):
        raise OptionError(
            f"the network gives a {type(outputs).__name__} where one tensor of "
            "outputs is expected; one of several heads, which asks for task labels, "
            "cannot be trained so: give it a single head"
        )
    if outputs.ndim != 2 or len(outputs) != len(images):
        raise OptionError(
            f"the network gives outputs of shape {tuple(outputs.shape)} for "
            f"{len(images)} images, expected ({len(images)}, classes)"
        )
    if outputs.shape[1] < num_classes:
        raise OptionError(
            f"the network tells {outputs.shape[1]} classes, the labels are of "
            f"{num_classes}; give its head an output for each class"
        )
    for name, value in tried.named_buffers():
        if not torch.equal(value, before.get(name, value)):
            raise OptionError(
                f"the network changes {name!r} by the images that it sees, and no "
                "noise covers that; choose layers that keep no statistics of images"
            )
    try:
        torch.autograd.backward(F.cross_entropy(outputs, labels))
    except Exception as error:  # as above
        raise OptionError(
            f"no gradient of the network can be taken: {_reason(error)}"
        ) from error
    unused = [
        name
        for name, parameter in tried.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if unused:
        raise OptionError(
            f"no output depends on {', '.join(unused[:5])}; freeze parameters that are "
            "not used (requires_grad_(False)), or remove them"
        )


def _reason(error: Exception) -> str:
    """Return an error in one line, with what to do where that is known."""
    text = " ".join(str(error).split()) or type(error).__name__
    if "BackwardHookFunction" in text:
        return (
            "it changes the output of a layer in place, as torchvision's ResNet does "
            "(out += identity), which Opacus's hooks forbid; write out = out + "
            "identity, or choose another network, such as conv"
        )
    return text


def _gradient_length(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    torch.autograd.backward(F.cross_entropy(module(images), labels))
    parts = [
        parameter.grad.square().sum()
        for parameter in module.parameters()
        if parameter.grad is not None
    ]
    return torch.stack(parts).sum().sqrt()
