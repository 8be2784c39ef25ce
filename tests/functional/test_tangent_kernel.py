"""The tangent kernel of a network, against torch's own Jacobian in float64."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

import dd_plugins
from dd_plugins.errors import OptionError
from dd_plugins.functional.tangent_kernel import TangentKernel
from dd_plugins.networks.base import FeatureNetwork

SHAPE = (2, 8, 8)
NETWORKS = [
    "conv(width=3, depth=2, normalization='none')",
    "conv(width=3, depth=2, normalization='batch')",
    "conv(width=3, depth=2, normalization='instance')",
    "mlp(width=5)",
    "resnet18(width=2)",
]


def built(spec: str, classes: int = 3) -> FeatureNetwork:
    generator = torch.Generator().manual_seed(0)
    network = dd_plugins.get_network(spec).build(SHAPE, classes, generator=generator)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # statistics as of a network in training
            assert layer.running_mean is not None
            assert layer.running_var is not None
            layer.running_mean.uniform_(-0.2, 0.2, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return network.double().eval()


def images_of(count: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, *SHAPE, generator=generator, dtype=torch.float64)


def drawn_for(kernel: TangentKernel, network: FeatureNetwork) -> Tensor:
    return kernel.draw(network, 3, torch.Generator().manual_seed(2)).double()


def jacobians(network: FeatureNetwork, images: Tensor, mixture: Tensor) -> list[Tensor]:
    """Return the gradients of the mixed output for each layer's weights and bias."""
    layers = {
        name
        for name, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and name.startswith("body")
    }
    weights = {
        name: value.detach()
        for name, value in network.named_parameters()
        if name.rpartition(".")[0] in layers
    }

    def output(values: dict[str, Tensor], given: Tensor) -> Tensor:
        logits: Tensor = functional_call(network, values, (given,))
        return logits @ mixture / math.sqrt(len(mixture))

    return list(jacrev(output)(weights, images).values())


def kernel_of(blocks: list[Tensor] | tuple[Tensor, ...]) -> Tensor:
    rows = torch.cat([block.flatten(1) for block in blocks], dim=1)
    return rows @ rows.mT


@pytest.mark.parametrize("spec", NETWORKS)
def test_kernel_and_its_gradient_are_those_of_the_jacobian(spec: str) -> None:
    network, kernel = built(spec), TangentKernel()
    images = images_of().requires_grad_()
    drawn = drawn_for(kernel, network)
    blocks = kernel.features(network, images, drawn, differentiable=True)
    found = kernel_of(blocks)
    wanted = kernel_of([network.features(images), *jacobians(network, images, drawn)])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    direction = torch.randn(wanted.shape, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((found * direction).sum(), [images])
    (exact,) = torch.autograd.grad((wanted * direction).sum(), [images])
    assert float(exact.abs().max()) > 1e-3
    torch.testing.assert_close(gradient, exact, rtol=1e-6, atol=1e-9)
    assert sum(block.shape[1] for block in blocks[1:]) == kernel.size(network)


@pytest.mark.parametrize("spec", NETWORKS)
def test_features_of_real_images_are_the_same_and_have_no_graph(spec: str) -> None:
    network, kernel = built(spec), TangentKernel()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    drawn = drawn_for(kernel, network)
    with torch.no_grad():
        plain = kernel.features(network, images_of(), drawn, differentiable=False)
    graph = kernel.features(
        network, images_of().requires_grad_(), drawn, differentiable=True
    )
    for one, other in zip(plain, graph, strict=True):
        torch.testing.assert_close(one, other.detach(), rtol=1e-12, atol=1e-12)
        assert not one.requires_grad
    assert all(weight.grad is None for weight in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(layer._forward_hooks for layer in network.modules())


def test_weights_that_are_frozen_have_the_same_kernel() -> None:
    network, kernel = built(NETWORKS[0]), TangentKernel()
    drawn = drawn_for(kernel, network)
    wanted = kernel.features(network, images_of(), drawn, differentiable=False)
    network.requires_grad_(False)
    found = kernel.features(network, images_of(), drawn, differentiable=False)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def test_last_layers_and_the_weight_are_options() -> None:
    network, whole = built(NETWORKS[0]), TangentKernel()
    drawn = drawn_for(whole, network)
    all_blocks = whole.features(network, images_of(), drawn, differentiable=False)
    last = TangentKernel(layers=1, weight=9.0)
    blocks = last.features(network, images_of(), drawn, differentiable=False)
    assert len(blocks) == 3
    assert torch.equal(blocks[0], all_blocks[0])
    for mine, every in zip(blocks[1:], all_blocks[-2:], strict=True):
        torch.testing.assert_close(mine, 3 * every)


def test_a_projection_is_of_the_backward_signal_s_channels() -> None:
    network, kernel = built(NETWORKS[0]), TangentKernel(projection=4)
    drawn = drawn_for(kernel, network)
    assert len(drawn) == 3 + 4 * 6, "of 3 and 6 channels, the latter are projected"
    mixture, projection = drawn[:3], drawn[3:].reshape(6, 4) / 2
    found = kernel.features(network, images_of(), drawn, differentiable=False)
    exact = jacobians(network, images_of(), mixture)
    wanted = [each.flatten(1) for each in exact[:2]]
    wanted += [
        torch.einsum("noi,op->npi", exact[2].flatten(2), projection).flatten(1),
        exact[3] @ projection,
    ]
    torch.testing.assert_close(kernel_of(found[1:]), kernel_of(wanted))
    assert sum(block.shape[1] for block in found[1:]) == kernel.size(network)


def test_a_projected_kernel_is_right_in_the_mean() -> None:
    network, kernel = built(NETWORKS[0]), TangentKernel(layers=1, projection=2)
    generator = torch.Generator().manual_seed(5)
    mixture = torch.randn(3, generator=generator)
    wanted = kernel_of(jacobians(network, images_of(), mixture.double())[2:]).detach()
    found = torch.zeros_like(wanted)
    for _ in range(1500):
        drawn = kernel.draw(network, 3, generator)
        drawn[:3] = mixture
        blocks = kernel.features(
            network, images_of(), drawn.double(), differentiable=False
        )
        found += kernel_of(blocks[1:]) / 1500
    assert float((found - wanted).norm()) < 0.1 * float(wanted.norm())


@pytest.mark.parametrize(
    ("kernel", "spec", "message"),
    [
        (TangentKernel(layers=4), "mlp(width=5)", "layers must be at most 2"),
        (TangentKernel(), "mobilenet_v2", "without groups"),
    ],
)
def test_layers_that_are_not_there_or_not_known_are_refused(
    kernel: TangentKernel, spec: str, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        kernel.layers_of(built(spec))


class Twice(nn.Module):
    """Calls one layer twice, and another never."""

    def __init__(self, unused: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(128, 128)
        self.unused = nn.Linear(128, 128) if unused else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layer(images.flatten(1))
        if isinstance(self.unused, nn.Identity):
            found = self.layer(found)
        return found


class WithoutImages(nn.Module):
    """Adds numbers from a layer that sees no image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 128)

    def forward(self, images: Tensor) -> Tensor:
        positions: Tensor = self.layer(torch.eye(7, 2))
        return images.flatten(1) + positions.sum(dim=0)


def network_of(body: nn.Module) -> FeatureNetwork:
    return FeatureNetwork(body, nn.Linear(128, 3)).eval()


UNFIXED = nn.BatchNorm2d(2, track_running_stats=False)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (network_of(Twice(unused=False)), "got another call"),
        (network_of(Twice(unused=True)), "got no call"),
        (network_of(WithoutImages()), "got 7 inputs"),
        (network_of(nn.Flatten()), "got none"),
        (
            network_of(nn.Sequential(UNFIXED, nn.Conv2d(2, 2, 1), nn.Flatten())),
            "statistics of a batch",
        ),
    ],
)
def test_networks_without_this_kernel_are_refused_before_a_run(
    network: FeatureNetwork, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        TangentKernel().check("frepo", network, SHAPE, 3, 10, torch.device("cpu"))


def test_statistics_of_each_image_alone_are_taken() -> None:
    layers = [nn.Conv2d(2, 2, 1), nn.InstanceNorm2d(2), nn.Flatten()]
    network = network_of(nn.Sequential(*layers))
    TangentKernel().check("frepo", network, SHAPE, 3, 10, torch.device("cpu"))


def test_attention_has_the_kernel_of_its_last_layers() -> None:
    spec = "vit(width=12, depth=1)"
    network = dd_plugins.get_network(spec).build(SHAPE, 3, generator=torch.Generator())
    cpu = torch.device("cpu")
    with pytest.raises(OptionError, match="got no call"):
        TangentKernel().check("frepo", network, SHAPE, 3, 10, cpu)
    TangentKernel(layers=2).check("frepo", network, SHAPE, 3, 10, cpu)
