"""The networks of other architectures: sizes, widths, normalisation, known shapes."""

from pathlib import Path

import pytest
import torch
from conftest import run_code
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, shufflenet_v2_x0_5

from dd_plugins import get_network
from dd_plugins.errors import DDError
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.networks.resnet import _Subsampling
from dd_plugins.runtime.randomness import generator_for

NARROW = {
    "alexnet": "alexnet(width=8{})",
    "vgg11": "vgg11(width=4{})",
    "resnet18": "resnet18(width=4{})",
    "mobilenet_v2": "mobilenet_v2(width=8{})",
    "shufflenet_v2": "shufflenet_v2(width=8{})",
    "vit": "vit(width=12, depth=1{})",
}
CONVOLUTIONAL = [name for name in NARROW if name != "vit"]


def _build(spec: str, shape: tuple[int, int, int] = (3, 32, 32)) -> FeatureNetwork:
    return get_network(spec).build(shape, 10, generator=generator_for(0, "test"))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("name", NARROW)
def test_images_of_8_to_64_pixels_are_taken(
    name: str, shape: tuple[int, int, int]
) -> None:
    network = _build(NARROW[name].format(""), shape)
    images = torch.randn(2, *shape, generator=generator_for(0, "images"))
    logits = network(images)
    assert logits.shape == (2, 10)
    assert not torch.allclose(logits[0], logits[1])


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_normalisation_is_in_every_layer_or_nowhere(name: str) -> None:
    kinds = {
        "batch": nn.BatchNorm2d,
        "instance": nn.GroupNorm,
        "group": nn.GroupNorm,
    }
    for asked, kind in kinds.items():
        modules = list(
            _build(NARROW[name].format(f", normalization={asked!r}")).modules()
        )
        norms = [m for m in modules if isinstance(m, nn.BatchNorm2d | nn.GroupNorm)]
        convolutions = [module for module in modules if isinstance(module, nn.Conv2d)]
        assert len(norms) == len(convolutions)
        assert all(isinstance(module, kind) for module in norms)
    plain = _build(NARROW[name].format(", normalization='none'")).modules()
    assert not any(isinstance(m, nn.BatchNorm2d | nn.GroupNorm) for m in plain)


@pytest.mark.parametrize("name", NARROW)
def test_width_widens(name: str) -> None:
    narrow = _parameters(_build(NARROW[name].format("")))
    wide = {"vit": "vit(width=24, depth=1)"}.get(name, f"{name}(width=16)")
    assert _parameters(_build(wide)) > narrow


@pytest.mark.parametrize(
    ("spec", "reference"),
    [
        ("resnet18(normalization='batch')", resnet18),
        ("mobilenet_v2", mobilenet_v2),
        ("shufflenet_v2", shufflenet_v2_x0_5),
    ],
)
def test_body_has_the_parameters_of_torchvision_s(spec: str, reference) -> None:  # type: ignore[no-untyped-def]
    """All but the stem's kernel and the head are torchvision's."""

    def sizes(module: nn.Module) -> list[int]:
        layers = [m for m in module.modules() if isinstance(m, nn.Conv2d)]
        return sorted(layer.weight.numel() for layer in layers[1:])

    assert sizes(_build(spec).body) == sizes(reference(num_classes=10))


@pytest.mark.parametrize(
    ("spec", "shape", "message"),
    [
        ("alexnet", (3, 7, 7), "alexnet: images .* at least 8x8 pixels, got 7x7"),
        ("vgg11", (3, 1, 1), "vgg11: images .* at least 2x2 pixels, got 1x1"),
        ("shufflenet_v2", (3, 4, 4), "shufflenet_v2: images .*, got 4x4"),
        ("vit(width=10)", (3, 8, 8), "multiple of heads, got width 10 and 3 heads"),
        ("shufflenet_v2(width=7)", (3, 32, 32), "width"),
        ("resnet18(normalization='layer')", (3, 32, 32), "normalization"),
    ],
)
def test_what_a_network_cannot_take_is_named(
    spec: str, shape: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(DDError, match=message):
        _build(spec, shape)


def test_patches_that_do_not_divide_the_image_are_padded() -> None:
    network = _build("vit(width=12, depth=1, patch=5)", (1, 8, 12))
    assert network(torch.zeros(2, 1, 8, 12)).shape == (2, 10)


TRAINED = """
import torch
import dd_plugins

for width in (3, 4, 6):
    network = dd_plugins.get_network(f"resnet18(width={width}, normalization='batch')")
    generator, cpu = torch.Generator().manual_seed(0), torch.device("cpu")
    module = network.build((3, 8, 8), 3, generator=generator, device=cpu).train()
    for _ in range(4):
        images = torch.randn(10, 3, 8, 8).contiguous(memory_format=torch.channels_last)
        module(images).square().sum().backward()
"""


def test_narrow_shortcuts_with_a_stride_do_not_kill_the_process(
    tmp_path: Path,
) -> None:
    done = run_code(TRAINED, folder=tmp_path)
    assert done.returncode == 0, done.stderr


def test_subsampling_convolution_is_torch_s() -> None:
    own = _Subsampling(5, 3, 1, stride=2, bias=False).double()
    theirs = nn.Conv2d(5, 3, 1, stride=2, bias=False).double()
    theirs.load_state_dict(own.state_dict())
    images = torch.randn(2, 5, 7, 8, dtype=torch.float64)
    one, other = images.clone().requires_grad_(), images.clone().requires_grad_()
    torch.testing.assert_close(own(one), theirs(other))
    own(one).square().sum().backward()
    theirs(other).square().sum().backward()
    torch.testing.assert_close(one.grad, other.grad)
    torch.testing.assert_close(own.weight.grad, theirs.weight.grad)
