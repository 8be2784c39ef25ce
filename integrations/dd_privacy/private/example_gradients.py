"""Checks of Opacus's gradients of single examples."""

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugins.api import OptionError, one_line

__all__ = ["check_example_gradients"]

_CHECKED = 3  # examples whose gradients are compared

_TOLERANCE = 1e-3


def check_example_gradients(
    module: nn.Module,
    image_shape: tuple[int, int, int],
    num_classes: int,
    *,
    ghost: bool = False,
) -> None:
    """Compare the lengths of Opacus's gradients of single examples with autograd's.

    The guarantee of DP-SGD depends on them, and Opacus raises no error if they are
    wrong.

    Args:
        module: prepared by
            :func:`~dd_privacy.private.obstacles.prepare_for_opacus`; not changed.
        image_shape: channels, height and width.
        num_classes: the number of classes.
        ghost: whether to compare the lengths of ghost clipping.

    Raises:
        OptionError: the lengths differ or cannot be computed; or the network needs more
            than images, does not give one row of logits per image, has parameters
            without effect on the outputs, or keeps statistics of images in buffers.
    """
    generator = torch.Generator().manual_seed(0)
    # In evaluation mode Opacus's hooks record nothing.
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
        found = _lengths_by_opacus(copy.deepcopy(module), images, labels, ghost)
    except Exception as error:  # Opacus, or any layer under its hooks, may fail
        raise OptionError(
            "Opacus cannot take the gradients of single examples of this network: "
            f"{_reason(error)}"
        ) from error
    if not torch.allclose(found, wanted, rtol=_TOLERANCE):
        raise OptionError(
            "Opacus's gradients of single examples of this network are wrong: lengths "
            f"expected {wanted.tolist()}, got {found.tolist()}; choose another network"
        )


def _lengths_by_opacus(
    module: nn.Module, images: Tensor, labels: Tensor, ghost: bool
) -> Tensor:
    """Return the length of each example's gradient, as Opacus clips it."""
    from opacus.grad_sample import GradSampleModule
    from opacus.grad_sample.grad_sample_module_fast_gradient_clipping import (
        GradSampleModuleFastGradientClipping,
    )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if ghost:
            hooked = GradSampleModuleFastGradientClipping(
                module, max_grad_norm=1.0, use_ghost_clipping=True
            )
        else:
            hooked = GradSampleModule(module)
        torch.autograd.backward(F.cross_entropy(hooked(images), labels))
    if ghost:
        lengths: Tensor = hooked.get_norm_sample()
        return lengths
    squares = [
        parameter.grad_sample.flatten(1).square().sum(dim=1)
        for parameter in hooked.parameters()
        if parameter.requires_grad
    ]
    return torch.stack(squares).sum(dim=0).sqrt()


def _check_call(
    module: nn.Module, images: Tensor, labels: Tensor, num_classes: int
) -> None:
    """Refuse a network unless images alone give one row of logits each.

    Args:
        module: a module in training mode; not changed.
        images: random images.
        labels: random labels.
        num_classes: the number of classes.
    """
    tried = copy.deepcopy(module)
    before = {name: value.clone() for name, value in tried.named_buffers()}
    try:
        outputs = tried(images)
    except Exception as error:  # a plugin's network may do anything
        raise OptionError(
            f"the network must take images alone, and fails ({_reason(error)}); if it "
            "has several heads and asks for task labels, give it a single head"
        ) from error
    _check_outputs(outputs, len(images), num_classes)
    for name, value in tried.named_buffers():
        if not torch.equal(value, before.get(name, value)):
            raise OptionError(
                f"a network must keep no statistics of images, got {name!r}, which "
                "changes with them, and no noise covers that; choose other layers"
            )
    _check_all_used(tried, outputs, labels)


def _check_outputs(outputs: object, images: int, num_classes: int) -> None:
    """Refuse outputs other than one row of logits per image."""
    if not isinstance(outputs, Tensor):
        raise OptionError(
            "the network must give one tensor of outputs, got a "
            f"{type(outputs).__name__}; if it has several heads, give it a single one"
        )
    if outputs.ndim != 2 or len(outputs) != images:
        raise OptionError(
            f"expected outputs of shape ({images}, classes) for {images} images, got "
            f"{tuple(outputs.shape)}"
        )
    if outputs.shape[1] < num_classes:
        raise OptionError(
            f"the network must have at least {num_classes} outputs, one for each "
            f"class, got {outputs.shape[1]}; widen its head"
        )


def _check_all_used(module: nn.Module, outputs: Tensor, labels: Tensor) -> None:
    """Refuse outputs without a gradient, or parameters without effect on them."""
    try:
        torch.autograd.backward(F.cross_entropy(outputs, labels))
    except Exception as error:  # a plugin's layer may do anything
        raise OptionError(
            f"no gradient of the network can be taken: {_reason(error)}"
        ) from error
    unused = [
        name
        for name, parameter in module.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if unused:
        raise OptionError(
            "the outputs must depend on every trained parameter, got no effect of "
            f"{', '.join(unused[:5])}; freeze parameters that are not used "
            "(requires_grad_(False)), or remove them"
        )


def _reason(error: Exception) -> str:
    """Return the message of an error in one line, or advice for a known cause."""
    text = one_line(error)
    if "BackwardHookFunction" in text:
        return (
            "it changes the output of a layer in place, as torchvision's ResNet does "
            "(out += identity), which Opacus's hooks forbid; write out = out + "
            "identity, or choose another network, such as conv"
        )
    return text


def _gradient_length(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """Return the length of the gradient of one example, by autograd."""
    torch.autograd.backward(F.cross_entropy(module(images), labels))
    squares = [
        parameter.grad.square().sum()
        for parameter in module.parameters()
        if parameter.grad is not None
    ]
    return torch.stack(squares).sum().sqrt()
