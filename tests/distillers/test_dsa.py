"""DSA and DC do what their papers and released code do (dsa.py: the differences)."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dd_plugins import AbstractNetwork, get_network
from dd_plugins.data.sampler import RealSampler
from dd_plugins.distillers.dsa import DSA, DSAState
from dd_plugins.functional.augment import siamese_augmentation, siamese_parameters
from dd_plugins.networks.dc_convnet import DCConvNet
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves

CPU = torch.device("cpu")
TASK = Task("toy", (1, 8, 8), 3, 2, mirror=True)


def _run(network: AbstractNetwork | None = None) -> Run:
    return Run(TASK, "dsa", network or DCConvNet(width=4, depth=2), 10, 0, CPU)


def _images(count: int, seed: int) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


def _leaves() -> Leaves:
    labels = F.one_hot(torch.tensor([0, 0, 1, 1, 2, 2]), 3).float()
    return Leaves(_images(6, 0).requires_grad_(), labels, labels.argmax(dim=1))


def _real() -> RealSampler:
    return RealSampler(_images(30, 1), torch.arange(30) % 3, seed=0, device=CPU)


def _weights(state: DSAState) -> Tensor:
    return torch.cat([weight.flatten() for weight in state.network.parameters()])


@pytest.mark.parametrize("augment", [False, True])
def test_gradient_is_that_of_the_paper_s_loss(augment: bool) -> None:
    run, leaves, step = _run(), _leaves(), 3
    distiller = DSA(augment=augment, real_batch_size=7)
    state = distiller.setup(run, _real())
    metrics = distiller.accumulate(state, leaves, _real(), step)

    # The same in float64, written out: cosines of each row of each weight's gradient.
    network = state.network.double()
    pixels = leaves.pixels.detach().double().requires_grad_()
    loss = torch.zeros((), dtype=torch.float64)
    for label in range(3):
        batch = _real().class_batch(step, label, 7).images.double()
        gradients = []
        for images in (batch, pixels[2 * label :][:2]):
            if augment:
                purpose = f"augmentation of class {label}"
                drawn = siamese_parameters(run.generator(purpose, step))
                images = siamese_augmentation(images, drawn)  # noqa: PLW2901
            targets = torch.full((len(images),), label)
            error = nn.functional.cross_entropy(network(images), targets)
            weights = list(network.parameters())
            gradients.append(torch.autograd.grad(error, weights, create_graph=True))
        for one, other in zip(*gradients, strict=True):
            if one.ndim > 1:
                for row, column in zip(one, other, strict=True):
                    loss = (
                        loss
                        + 1
                        - F.cosine_similarity(row.flatten(), column.flatten(), 0)
                    )
    loss.backward()

    assert metrics["loss"].item() == pytest.approx(loss.item(), rel=1e-3)
    assert pixels.grad is not None
    scale = float(pixels.grad.abs().max())
    torch.testing.assert_close(
        leaves.pixels.grad, pixels.grad, check_dtype=False, rtol=0, atol=1e-3 * scale
    )


@pytest.mark.parametrize(
    ("count", "loops"),
    [(1, (1, 1)), (10, (10, 50)), (20, (20, 25)), (50, (50, 10)), (200, (200, 10))],
)
def test_loops_are_the_paper_s(count: int, loops: tuple[int, int]) -> None:
    settled = DSA().for_task(Task("toy", (1, 8, 8), 3, count))
    assert (settled.updates_per_network, settled.inner_epochs) == loops


def test_loops_lie_between_those_of_the_paper() -> None:
    settled = DSA().for_task(Task("toy", (1, 8, 8), 3, 4))
    assert settled.updates_per_network == 4
    assert 1 < (settled.inner_epochs or 0) < 50


def test_network_is_trained_between_updates_and_replaced_after_the_last() -> None:
    distiller = DSA(updates_per_network=3, inner_epochs=2)
    run, leaves = _run(), _leaves()
    state = distiller.setup(run, _real())
    seen = [_weights(state).clone()]
    kept = [state.network]
    for step in range(6):
        distiller.advance(state, leaves, step)
        seen.append(_weights(state).clone())
        kept.append(state.network)
    same = [one is other for one, other in itertools.pairwise(kept)]
    assert same == [True, True, False, True, True, False]
    assert all(not torch.equal(one, other) for one, other in itertools.pairwise(seen))


def test_inner_training_is_plain_gradient_descent() -> None:
    distiller = DSA(augment=False, updates_per_network=2, inner_epochs=1)
    run, leaves = _run(), _leaves()
    state = distiller.setup(run, _real())
    network = run.fresh_network(run.generator("matching network", 0))
    loss = F.cross_entropy(network(leaves.pixels.detach()), leaves.labels.argmax(1))
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    expected = [
        weight - 0.01 * gradient
        for weight, gradient in zip(network.parameters(), gradients, strict=True)
    ]
    distiller.advance(state, leaves, 0)
    for found, wanted in zip(state.network.parameters(), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_batch_normalisation_takes_real_statistics_and_freezes() -> None:
    run, distiller = _run(DCConvNet(width=4, depth=2, normalization="batch")), DSA()
    state = distiller.setup(run, _real())
    distiller.accumulate(state, _leaves(), _real(), 0)
    layers = [m for m in state.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(layers) == 2
    assert not any(layer.training for layer in layers)
    assert state.network.training
    real = torch.cat([_real().class_batch(0, label, 16).images for label in range(3)])
    convolved = state.network.body[0](real)  # type: ignore[operator, index]
    expected = 0.9 * convolved.mean(dim=(0, 2, 3))  # from a mean of 0, momentum 0.9
    assert layers[0].running_mean is not None
    torch.testing.assert_close(layers[0].running_mean, expected)


class Partial(nn.Module):
    """A network with a frozen layer, and one without use."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 8).requires_grad_(False)
        self.unused = nn.Linear(3, 3)
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.frozen(images.flatten(1)).relu())
        return logits


def test_frozen_and_unused_weights_are_left_out() -> None:
    for distiller in (DSA(), DSA(augment=False)):
        run = _run(get_network(Partial))
        state, leaves = distiller.setup(run, _real()), _leaves()
        loss = distiller.accumulate(state, leaves, _real(), 0)["loss"]
        assert 0 < loss < 2 * 3 * 3  # each class has the rows of the head alone
        assert leaves.pixels.grad is not None
        assert leaves.pixels.grad.any()


def test_condensation_begins_with_noise_and_dsa_with_real_images() -> None:
    assert DSA(augment=False).initial_images == "noise"
    assert DSA().initial_images == "real"
