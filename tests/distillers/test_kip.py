"""KIP: its loss and gradient against plain regression, parts, labels, and refusals."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import OptionError, RealSampler, Run, Task, UnknownNameError
from dd_plugins.distillers import kip as kip_module
from dd_plugins.distillers.kip import KIP
from dd_plugins.functional import kernel_predictor, kernel_regression
from dd_plugins.functional.ntk import Convolutional, FullyConnected
from dd_plugins.networks.mlp import MLP
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.testing import toy_data

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randn(30, 1, 4, 4, generator=GENERATOR)
LABELS = torch.arange(30) % 3


def run_of() -> Run:
    return Run(Task("toy", (1, 4, 4), 3, 1), "kip", MLP(width=4), 5, 0, CPU)


def sampler() -> RealSampler:
    return RealSampler(IMAGES, LABELS, seed=0, device=CPU)


def leaves_of(kip: KIP) -> Leaves:
    labels = kip.initial_labels(LABELS[:6], 3)
    if kip.learn_labels:
        labels.requires_grad_()
    return Leaves(IMAGES[:6].clone().requires_grad_(), labels, LABELS[:6])


def targets_of(labels: Tensor) -> Tensor:
    return torch.eye(3, dtype=torch.float64)[labels] - 1 / 3


def accumulated(kip: KIP) -> tuple[Leaves, dict[str, Tensor]]:
    leaves = leaves_of(kip)
    metrics = kip.accumulate(kip.setup(run_of(), sampler()), leaves, sampler(), 0)
    return leaves, metrics


@pytest.mark.parametrize("memory", [1.0, 1e-6])
@pytest.mark.parametrize("kernel", [FullyConnected(), Convolutional(depth=1)], ids=str)
def test_the_gradient_is_that_of_the_papers_loss(kernel: Any, memory: float) -> None:
    kip = KIP(kernel=kernel, real_batch_size=20, learn_labels=True, memory=memory)
    leaves, metrics = accumulated(kip)
    batch = sampler().batch(0, 20)
    pixels = leaves.pixels.detach().double().requires_grad_()
    labels = leaves.labels.detach().double().requires_grad_()
    own = kernel(pixels, pixels)
    ridge = 1e-6 * own.trace() / 6 * torch.eye(6, dtype=torch.float64)
    cross = kernel(batch.images.double(), pixels)
    predicted = cross @ torch.linalg.solve(own + ridge, labels)
    loss = (predicted - targets_of(batch.labels)).square().mean() / 2
    loss.backward()
    assert float(metrics["loss"]) == pytest.approx(loss.item(), rel=1e-6)
    for found, wanted in ((leaves.pixels, pixels), (leaves.labels, labels)):
        assert found.grad is not None
        assert wanted.grad is not None
        torch.testing.assert_close(
            found.grad.double(), wanted.grad, rtol=1e-5, atol=1e-8
        )


def test_labels_are_solved_for_the_least_error_on_real_images() -> None:
    kip = KIP(label_solve=True, ridge=1e-3)
    state, leaves = kip.setup(run_of(), sampler()), leaves_of(kip)
    solved = kip.labels(state, leaves)
    real = sampler().read(torch.arange(30))

    def error(labels: Tensor) -> float:
        there = Leaves(leaves.pixels.detach(), labels, leaves.classes)
        given = KIP(ridge=1e-3).predictor(state, there)
        predicted = given(real.images).double()
        return float((predicted - targets_of(real.labels)).square().sum())

    assert error(solved) < 0.9 * error(leaves.labels)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        noise = 0.01 * torch.randn(6, 3, generator=generator)
        assert error(solved) < error(solved + noise)
    fixed = KIP().labels(state, leaves)
    assert torch.equal(fixed, leaves.labels)


def test_solved_labels_are_the_same_in_every_process_and_leave_a_context() -> None:
    kip, run = KIP(label_solve=True, ridge=1e-3), run_of()
    found = []
    for rank in range(2):
        real = RealSampler(IMAGES, LABELS, seed=0, device=CPU, rank=rank, ranks=2)
        state = kip.setup(replace(run, rank=rank, ranks=2), real)
        found.append(kip.labels(state, leaves_of(kip)))
    assert torch.equal(*found)
    held = replace(run, task=replace(run.task, context_images=2))
    state, leaves = kip.setup(held, sampler()), leaves_of(kip)
    beside = kip.labels(state, leaves)
    assert torch.equal(beside[:2], leaves.labels[:2])
    assert not torch.allclose(beside[2:], found[0][2:], atol=1e-3)
    predicted = kip.predictor(state, leaves)(IMAGES[:6])
    expected = KIP(ridge=1e-3).predictor(
        state, Leaves(leaves.pixels, beside, leaves.classes)
    )(IMAGES[:6])
    torch.testing.assert_close(predicted, expected)


def test_what_the_set_predicts_is_independent_of_the_parts() -> None:
    state, leaves = KIP().setup(run_of(), sampler()), leaves_of(KIP())
    whole, parts = (
        KIP(memory=memory).predictor(state, leaves)(IMAGES) for memory in (1.0, 1e-6)
    )
    torch.testing.assert_close(whole, parts)
    assert whole.shape == (30, 3)
    assert (whole[:6].argmax(dim=1) == LABELS[:6]).all(), "it fits its own images"


def test_specs_name_kernels() -> None:
    spec = "kip(kernel=conv(arc='nngp', depth=2, pooling=True))"
    kip = dd_plugins.get_distiller(spec)
    assert repr(kip) == spec
    assert kip == KIP(kernel=Convolutional(depth=2, pooling=True, arc="nngp"))
    with pytest.raises(UnknownNameError, match="kernel of kip 'cnn'"):
        dd_plugins.get_distiller("kip(kernel=cnn)")
    with pytest.raises(OptionError, match="depth"):
        dd_plugins.get_distiller("kip(kernel=fc(depth=0))")


def test_kernels_that_do_not_suit_the_data_are_refused_before_the_run() -> None:
    with pytest.raises(OptionError, match="at least 16 pixels a side, got 8x8"):
        dd_plugins.distill(toy_data(), "kip(kernel=conv(depth=4, pooling=True))")
    with pytest.raises(OptionError, match=r"kip: gap.* needs about .* GB, expected"):
        dd_plugins.distill(
            toy_data(), "kip(kernel=gap(depth=3))", images_per_class=5_000
        )


@pytest.mark.parametrize(
    "spec",
    [
        "kip(real_batch_size=32)",
        "kip(kernel=conv(depth=2), real_batch_size=32, learn_labels=True)",
        "kip(label_solve=True)",
    ],
)
def test_a_set_teaches_a_network(spec: str) -> None:
    data = toy_data()
    distilled = dd_plugins.distill(data, spec, steps=20, network="mlp(width=8)")
    found = dd_plugins.evaluate(
        distilled, "mlp(width=16)", data=data, repeats=2, protocol="recipe(steps=200)"
    )
    assert found.networks[0].mean > 0.9


def test_packed_images_and_a_context_work() -> None:
    data = toy_data()
    options: dict[str, Any] = {"steps": 5, "network": "mlp(width=8)"}
    packed = dd_plugins.distill(data, "kip", parametrization="packed", **options)
    assert (len(packed), packed.header.stored_images) == (8, 2)
    first = dd_plugins.distill(data, "kip", seed=1, **options)
    both = dd_plugins.distill(
        data, "kip", context=first, refine_context=True, **options
    )
    assert len(both) == len(first)
    assert not torch.equal(both.images, first.images)


def test_a_kernel_must_fit_into_the_memory_of_the_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu, rooms = torch.device("cuda"), {"cpu": 1e12, "cuda": 100.0}
    monkeypatch.setattr(kernel_predictor, "room_on", lambda device: rooms[device.type])
    kip, run = KIP().for_task(run_of().task), run_of()
    assert kip.setup(run, sampler()).run is run
    with pytest.raises(OptionError, match=r"needs about .* GB, expected at most 1e-07"):
        kip.setup(replace(run, device=gpu), sampler())


@pytest.mark.parametrize("options", [{"learn_labels": True}, {"label_solve": True}])
def test_the_device_needs_no_float64(
    options: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_float64(tensor: Tensor) -> Tensor:
        return tensor.to(torch.float64)

    def double(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.float64:
            raise TypeError("the device has no float64")
        return tensor

    monkeypatch.setattr(torch.Tensor, "double", double)
    for module in (kip_module, kernel_predictor, kernel_regression):
        monkeypatch.setattr(module, "in_float64", in_float64)
    kip = KIP(real_batch_size=20, **options)
    state, leaves = kip.setup(run_of(), sampler()), leaves_of(kip)
    kip.accumulate(state, leaves, sampler(), 0)
    assert leaves.pixels.grad is not None
    assert leaves.pixels.grad.dtype == torch.float32
    assert kip.predictor(state, leaves)(IMAGES).dtype == torch.float32
