"""The gradient on the pixels is no longer than it may be."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.utils import clip_grad_norm_

import dd_plugins
from dd_plugins import hookimpl
from dd_plugins.api import Leaves, OptionError, get_distiller
from dd_plugins.plugins.manager import Plugins
from dd_plugins.testing import toy_data
from dd_plugins.wrappers.clip import Clip


def leaves_with(gradient: torch.Tensor) -> Leaves:
    pixels = torch.zeros_like(gradient, requires_grad=True)
    labels = torch.zeros(len(gradient), 2, requires_grad=True)
    rate = torch.tensor(0.5, requires_grad=True)
    pixels.grad = gradient.clone()
    labels.grad, rate.grad = torch.full_like(labels, 1e6), torch.tensor(1e6)
    classes = torch.zeros(len(gradient), dtype=torch.int64)
    return Leaves(pixels, labels, classes, {"rate": rate})


def clipped(leaves: Leaves, max_norm: float) -> float:
    clip = Clip(get_distiller("dm"), max_norm=max_norm)
    (found,) = clip.adjust(None, leaves, None, 0).items()  # type: ignore[arg-type]
    assert found[0] == "gradient_norm"
    return float(found[1])


@pytest.mark.parametrize("max_norm", [1e-3, 1.0, 7.5, 1e4])
def test_clipping_is_torch_s(max_norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(3, 2, 4, 4, generator=generator)
    leaves = leaves_with(gradient)
    norm = clipped(leaves, max_norm)
    expected = torch.nn.Parameter(torch.zeros_like(gradient))
    expected.grad = gradient.clone()
    assert norm == float(clip_grad_norm_([expected], max_norm))
    assert norm == pytest.approx(float(gradient.double().norm()), rel=1e-6)
    found = leaves.pixels.grad
    assert found is not None
    assert torch.equal(found, expected.grad)
    length = min(max_norm, float(gradient.norm()))
    assert float(found.norm()) == pytest.approx(length, rel=1e-5)
    cosine = torch.cosine_similarity(found.flatten(), gradient.flatten(), dim=0)
    assert float(cosine) == pytest.approx(1, abs=1e-6)


def test_a_short_gradient_and_all_but_pixels_stay_as_they_are() -> None:
    gradient = torch.full((2, 1, 2, 2), 0.01)
    leaves = leaves_with(gradient)
    clipped(leaves, 0.5)
    assert leaves.pixels.grad is not None
    assert torch.equal(leaves.pixels.grad, gradient)
    for other in (leaves.labels, leaves.others["rate"]):
        assert other.grad is not None
        assert other.grad.unique().tolist() == [1e6]


def test_a_clipped_run_reports_the_norm_and_moves_less() -> None:
    norms: list[float] = []

    class Recorder:
        @hookimpl
        def dd_after_step(self, metrics: Any) -> None:
            norms.append(metrics["gradient_norm"])

    def made(spec: str) -> torch.Tensor:
        return dd_plugins.distill(
            toy_data(validation=0),
            spec,
            steps=1,
            network="mlp(width=4)",
            plugins=Plugins(load=[], extra={"recorder": Recorder()}),
        ).images

    base = "dm(real_batch_size=8, momentum=0.0, learning_rate=1.0)"
    start = made(f"clip({base}, max_norm=1e-30)")
    norms.clear()
    moved = made(f"clip({base}, max_norm=0.001)") - start
    free = made(f"clip({base}, max_norm=1e9)") - start
    assert norms[0] == norms[1] > 0.001, "that before"
    assert float(moved.norm()) == pytest.approx(0.001, rel=1e-2)
    assert float(free.norm()) == pytest.approx(norms[0], rel=1e-3)


def test_images_of_a_context_do_not_count() -> None:
    base = "dm(real_batch_size=8, momentum=0.0, learning_rate=1.0)"
    data = toy_data(validation=0)
    options: dict[str, Any] = {"steps": 1, "network": "mlp(width=4)"}
    first = dd_plugins.distill(data, "random", **options)
    known = {"initial_classes": [0], "initial_indices": None}
    counts = {"stored_images": None, "stored_values": None}
    context = replace(
        first,
        images=first.images[:1],
        labels=first.labels[:1],
        header=first.header.model_copy(update=known | counts),
    )

    def made(max_norm: float) -> torch.Tensor:
        spec = f"clip({base}, max_norm={max_norm})"
        return dd_plugins.distill(data, spec, context=context, **options).images

    moved = made(0.001) - made(1e-30)
    assert moved[0].unique().tolist() == [0]
    assert float(moved[1].norm()) == pytest.approx(0.001, rel=1e-2)


@pytest.mark.parametrize("wrong", [0, 0.0, -1.0, float("inf"), float("nan"), "1"])
def test_a_norm_must_be_a_positive_number(wrong: Any) -> None:
    with pytest.raises(OptionError, match=r"clip.*max_norm"):
        Clip(get_distiller("dm"), max_norm=wrong)


@pytest.mark.parametrize("spec", ["clip(random)", "rotated(herding)"])
def test_a_base_that_only_chooses_is_refused(spec: str) -> None:
    told = r"moves none of them, so the wrapper would change nothing"
    with pytest.raises(OptionError, match=told):
        dd_plugins.distill("digits", spec, steps=1)
