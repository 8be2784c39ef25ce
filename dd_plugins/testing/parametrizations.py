"""The laws of parametrizations."""

import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from dd_plugins.data.draws import sampler_of
from dd_plugins.distillers.returned import check_codec
from dd_plugins.engine.distillation import distill
from dd_plugins.engine.settling import settle
from dd_plugins.run import Run, RunOptions
from dd_plugins.synthetic.leaves import Codec, Synthetic
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization
from dd_plugins.testing.laws import asserts
from dd_plugins.testing.toys import (
    NETWORK,
    STEPS,
    Interruption,
    assert_draws_nothing_globally,
    assert_equal,
    assert_interrupted,
    plugins_with,
    short_run,
    toy_data,
)

__all__ = [
    "PARAMETRIZATION_CHECKS",
    "check_parametrization_draws_nothing_globally",
    "check_parametrization_gradients",
    "check_parametrization_shapes",
    "check_parametrization_spec_round_trip",
    "check_parametrization_survives_a_break",
]


_ROUNDING = 1e-5


def _given(parametrization: AbstractParametrization) -> tuple[Codec | None, Tensor]:
    """Return the codec of a run on the toy problem, and images for it to store."""
    options = RunOptions(
        steps=STEPS, network=NETWORK, parametrization=repr(parametrization)
    )
    plugins = plugins_with(parametrization)
    settled = settle(options, toy_data(), plugins, device="cpu")
    transform, sampler = sampler_of(
        settled.data, seed=0, device=settled.device, precision=torch.float32
    )
    run = Run(
        settled.task,
        settled.options.distiller,
        settled.network.for_distillation(),
        STEPS,
        0,
        settled.device,
    )
    found = parametrization.codec(run, sampler, transform)
    codec = check_codec(parametrization, found, parametrization.images_per_stored)
    return codec, transform(settled.data.train.images[: settled.task.synthetic_images])


@asserts
def check_parametrization_spec_round_trip(
    parametrization: AbstractParametrization,
) -> None:
    """``repr`` is the spec of an equal parametrization."""
    plugins = plugins_with(parametrization)
    built = plugins.parametrization(repr(parametrization))
    assert built == parametrization, f"repr must build an equal object, got {built!r}"


@asserts
def check_parametrization_shapes(parametrization: AbstractParametrization) -> None:
    """Each stored image decodes by itself to the declared number of images.

    These have the shape of images, and depend on the encoded ones, which stay as they
    are.
    """
    codec, images = _given(parametrization)
    if codec is None:
        return
    classes = torch.arange(len(images)) % toy_data().num_classes
    given = images.clone()
    stored = codec.encode(images, classes)
    assert torch.equal(images, given), "encode must not change the images"
    count = len(images) // parametrization.images_per_stored
    shape = toy_data().image_shape
    told = parametrization.values_per_stored(shape, toy_data().num_classes)
    values = sum(each.numel() for each in stored.values())
    law = f"values_per_stored must be the {values // count} values of a stored image"
    assert told == values // count, f"{law}, got {told}"
    decoded = codec.decode(stored)
    law = f"decoded images must have shape {tuple(images.shape)}"
    assert decoded.shape == images.shape, f"{law}, got {tuple(decoded.shape)}"
    assert torch.isfinite(decoded).all(), "decoded images must be finite"
    rows = [
        {name: each[n : n + 1] for name, each in stored.items()} for n in range(count)
    ]
    alone = torch.cat([codec.decode(row) for row in rows])
    law = "decode must give the same for one stored image at a time"
    assert (alone - decoded).norm() <= _ROUNDING * decoded.norm(), law
    law = "different images must not be decoded to equal ones"
    assert (decoded != decoded[:1]).any(), law


@asserts
def check_parametrization_gradients(parametrization: AbstractParametrization) -> None:
    """The gradient computed in chunks of images equals the gradient of the whole."""
    codec, images = _given(parametrization)
    if codec is None:
        return
    classes = torch.zeros(len(images), dtype=torch.int64)
    synthetic = Synthetic(
        images, torch.zeros(len(images), 2), classes, learn_labels=False, codec=codec
    )
    leaves = synthetic.decode()
    generator = torch.Generator().manual_seed(0)
    leaves.pixels.grad = torch.randn(leaves.pixels.shape, generator=generator)
    synthetic.pull_back(leaves)
    whole = _whole_gradient(codec.decode, synthetic.stored(), leaves.pixels.grad)
    for name, expected in whole.items():
        got = synthetic.stored()[name].grad
        law = f"the gradient of {name} must be the same for one stored image at a time"
        assert got is not None, f"{law}, got none"
        assert (got - expected).norm() <= _ROUNDING * expected.norm(), law
        assert expected.any(), f"{name} must have an effect on the images, got none"


def _whole_gradient(
    decode: Callable[[Mapping[str, Tensor]], Tensor],
    stored: Mapping[str, Tensor],
    gradient: Tensor,
) -> dict[str, Tensor]:
    inputs = {name: each.detach().requires_grad_() for name, each in stored.items()}
    found = torch.autograd.grad(decode(inputs), list(inputs.values()), gradient)
    return dict(zip(inputs, found, strict=True))


@asserts
def check_parametrization_draws_nothing_globally(
    parametrization: AbstractParametrization,
) -> None:
    """A run leaves the global generators of torch, NumPy and Python alone."""
    spec, plugins = repr(parametrization), plugins_with(parametrization)
    assert_draws_nothing_globally(
        lambda: distill(**short_run("dm", parametrization=spec, plugins=plugins)),
        "codec must leave the global random state as it was; use run.generator",
    )


@asserts
def check_parametrization_survives_a_break(
    parametrization: AbstractParametrization,
) -> None:
    """An interrupted and resumed run ends like an uninterrupted one."""
    spec = repr(parametrization)
    plugins = plugins_with(parametrization)
    whole = distill(**short_run("dm", parametrization=spec, plugins=plugins))
    stop = {"interruption": Interruption(STEPS // 2)}
    interrupting = plugins_with(parametrization, **stop)
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"parametrization": spec, "out": folder}
        assert_interrupted(
            lambda: distill(**short_run("dm", plugins=interrupting, **options))
        )
        resumed = distill(**short_run("dm", plugins=plugins, resume=True, **options))
    assert_equal(whole, resumed, "codec must return the same when a run goes on")
    stored = whole.header.stored_images
    expected = len(whole) // parametrization.images_per_stored
    assert stored == expected, f"the budget must be {expected} images, got {stored}"


PARAMETRIZATION_CHECKS = (
    check_parametrization_spec_round_trip,
    check_parametrization_shapes,
    check_parametrization_gradients,
    check_parametrization_draws_nothing_globally,
    check_parametrization_survives_a_break,
)
"""Each takes a parametrization, and fails with the broken law."""
