"""FRePo with the tangent kernel of the body beside that of the features."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jacrev

import dd_plugins
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.frepo import FRePo
from dd_plugins.errors import OptionError
from dd_plugins.functional.tangent_kernel import TangentKernel
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.networks.conv import Conv
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.testing import toy_data

CPU = torch.device("cpu")


def a_run(network: str = "conv(width=3, depth=2, normalization='none')") -> Run:
    task = Task("toy", (1, 8, 8), 3, 2)
    return Run(task, "frepo", dd_plugins.get_network(network), 10, 0, CPU)


def images_by_class(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 1, 8, 8, generator=generator)
    return images + 2.0 * (torch.arange(count) % 3)[:, None, None, None]


def real_images() -> RealSampler:
    return RealSampler(images_by_class(30, 1), torch.arange(30) % 3, seed=0, device=CPU)


def a_set(distiller: FRePo) -> Leaves:
    labels = distiller.initial_labels(torch.arange(6) % 3, 3)
    images = images_by_class(6, 0)
    return Leaves(images.requires_grad_(), labels.requires_grad_(), torch.arange(6) % 3)


def rows_of(network: FeatureNetwork, images: Tensor, mixture: Tensor) -> Tensor:
    """Return the features of images, then the whole Jacobian of the body."""
    weights = {
        name: value.detach()
        for name, value in network.named_parameters()
        if name.startswith("body")
    }

    def output(values: dict[str, Tensor], given: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, values, (given,))
        return logits @ mixture / math.sqrt(3)

    found = jacrev(output)(weights, images).values()
    return torch.cat(
        [network.features(images), *(each.flatten(1) for each in found)], 1
    )


@pytest.mark.parametrize("chunk_size", [2_000, 2])
@pytest.mark.parametrize("intercept", [False, True])
def test_gradient_is_that_of_regression_with_the_whole_network(
    chunk_size: int, intercept: bool
) -> None:
    distiller = FRePo(
        pool_size=1,
        kernel=TangentKernel(),
        flip=True,
        intercept=intercept,
        ridge=1e-3,
        chunk_size=chunk_size,
    )
    state, leaves = distiller.setup(a_run(), real_images()), a_set(distiller)
    distiller.accumulate(state, leaves, real_images(), 0)
    assert state.visit is not None

    network = state.pool[0].network.double().eval()
    mixture = state.visit.drawn.double()
    pixels = leaves.pixels.detach().double().requires_grad_()
    labels = leaves.labels.detach().double().requires_grad_()
    support, targets = torch.cat([pixels, pixels.flip(-1)]), torch.cat([labels] * 2)
    syn = rows_of(network, support, mixture)
    real = rows_of(network, images_by_class(30, 1).double(), mixture).detach()
    constant = torch.zeros(3, dtype=torch.float64)
    if intercept:
        constant = targets.mean(dim=0)
        syn, real = syn - syn.mean(dim=0), real - syn.mean(dim=0)
        targets = targets - constant
    kernel = syn @ syn.mT
    ridge = 1e-3 * kernel.trace() / 12 * torch.eye(12)
    predicted = constant + real @ syn.mT @ torch.linalg.solve(kernel + ridge, targets)
    wanted = torch.eye(3, dtype=torch.float64)[torch.arange(30) % 3] - 1 / 3
    top = labels.sort(dim=1, descending=True).values
    margin = torch.minimum(top[:, 0] - top[:, 1], torch.tensor(1 / 3)).mean()
    error = (0.5 * (predicted - wanted) ** 2).sum(dim=1).mean() - margin
    error.backward()
    for found, exact in ((leaves.pixels, pixels), (leaves.labels, labels)):
        assert found.grad is not None
        assert exact.grad is not None
        difference = float((found.grad - exact.grad).abs().max())
        assert difference < 1e-3 * float(exact.grad.abs().max())


def test_each_visit_draws_its_own_mixture_and_keeps_it() -> None:
    distiller = FRePo(
        pool_size=1, updates_per_batch=2, kernel=TangentKernel(projection=2)
    )
    state, leaves = distiller.setup(a_run(), real_images()), a_set(distiller)
    drawn = []
    for step in range(4):
        distiller.accumulate(state, leaves, real_images(), step)
        distiller.advance(state, leaves, step)
        assert state.visit is not None
        drawn.append(state.visit.drawn)
    assert drawn[0] is drawn[1]
    assert drawn[2] is drawn[3]
    assert not torch.equal(drawn[1], drawn[2])
    assert drawn[0].shape == (3 + 2 * 3 + 2 * 6,)
    other = replace(a_run(), rank=1, ranks=2)
    assert not torch.equal(
        distiller._regression.draw(
            other, state.pool[0].network, other.own_generator("kernel", 0)
        ),
        drawn[0],
    )


def test_predictions_are_those_of_the_kernel() -> None:
    distiller = FRePo(pool_size=1, kernel=TangentKernel(), ridge=1e-3)
    plain = replace(distiller, kernel=None)
    state, leaves = distiller.setup(a_run(), real_images()), a_set(distiller)
    test = images_by_class(9, 4)
    found = distiller.predictor(state, leaves)(test)
    assert found.shape == (9, 3)
    assert not torch.allclose(found, plain.predictor(state, leaves)(test))
    network = state.pool[0].network.double().eval()
    run = state.run
    drawn = distiller._regression.draw(
        run, network, run.generator("kernel of the predictions")
    ).double()
    syn = rows_of(network, leaves.pixels.detach().double(), drawn)
    kernel = syn @ syn.mT
    ridge = 1e-3 * kernel.trace() / len(kernel) * torch.eye(len(kernel))
    weights = torch.linalg.solve(kernel + ridge, leaves.labels.detach().double())
    wanted = rows_of(network, test.double(), drawn) @ syn.mT @ weights
    torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4)


def test_kernels_that_do_not_fit_the_network_or_the_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = FRePo(pool_size=1, kernel=TangentKernel())
    with pytest.raises(OptionError, match="without groups"):
        groups.setup(a_run("mobilenet_v2"), real_images())
    wide = replace(a_run(), network=Conv(width=16, depth=2))
    memory = "dd_plugins.functional.tangent_kernel.room_on"
    monkeypatch.setattr(memory, lambda device: 60e6)
    with pytest.raises(OptionError, match=r"projection=\.\.\."):
        groups.setup(wide, real_images())
    replace(groups, kernel=TangentKernel(projection=4)).setup(wide, real_images())
    replace(groups, kernel=None).setup(wide, real_images())


@pytest.mark.parametrize("network", ["conv(width=4, depth=2)", "resnet18(width=2)"])
def test_features_in_bfloat16_make_nearly_the_same_set(network: str) -> None:
    sets = [
        dd_plugins.distill(
            toy_data(validation=0.0),
            "frepo(pool_size=2, kernel=tangent(projection=2), intercept=True)",
            steps=2,
            network=network,
            device="cpu",
            precision=precision,
        )
        for precision in ("float32", "bfloat16")
    ]
    exact, rough = (each.images for each in sets)
    assert not torch.equal(exact, rough)
    assert float((exact - rough).norm()) < 0.1 * float(exact.norm())
