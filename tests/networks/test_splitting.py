"""Modules of others as a body and a head."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer, mobilenet_v2, resnet18

from dd_plugins.errors import OptionError
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.networks.splitting import split_behind_features

SHAPE = (3, 32, 32)


class Lazy(nn.Module):
    """A network that learns its sizes from the first images, with a layer in between.

    Its last layer is not the one that it defines last.
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.LazyLinear(5)
        self.hidden = nn.LazyLinear(7)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.hidden(images.flatten(1)).relu())
        return logits


@pytest.mark.parametrize(
    ("make", "features"),
    [
        (lambda: resnet18(num_classes=5), 512),
        (lambda: mobilenet_v2(num_classes=5), 1280),
        (
            lambda: VisionTransformer(
                image_size=32,
                patch_size=16,
                num_layers=1,
                num_heads=2,
                hidden_dim=48,
                mlp_dim=8,
                num_classes=5,
            ),
            48,
        ),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(3072, 5)), 3072),
        (Lazy, 7),
    ],
    ids=["resnet18", "mobilenet_v2", "transformer", "sequential", "lazy"],
)
@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_split_module_computes_what_it_did(
    make: Callable[[], nn.Module], features: int
) -> None:
    images = torch.rand(2, *SHAPE)
    module = make()
    module.eval()(images)  # lazy layers get their weights
    before = module(images)
    network = split_behind_features(module.train(), SHAPE, 5, origin="it")
    assert network.training
    network.eval()
    assert network.features(images).shape == (2, features)
    assert torch.equal(network(images), before)
    assert isinstance(network.head, nn.Linear)


def test_a_network_that_is_split_already_stays_itself() -> None:
    network = FeatureNetwork(nn.Flatten(), nn.Linear(3072, 5))
    assert split_behind_features(network, SHAPE, 5, origin="it") is network


@pytest.mark.parametrize(
    ("module", "told"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), nn.Softmax(-1)),
            "must end with a linear layer.*Sequential.*FeatureNetwork",
        ),
        (
            nn.Conv2d(3, 5, 32),
            r"must return logits of shape \(n, 5\).*got a tensor.*\(2, 5, 1, 1\)",
        ),
        (
            nn.Sequential(nn.Conv2d(3, 5, 32), nn.Flatten()),
            "must end with a linear layer",
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(3072, 9)), r".*\(n, 5\).*\(2, 9\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3071, 5)), ".*3072 and 3071"),
        (nn.MultiheadAttention(8, 2), "cannot take images.*TypeError"),
    ],
    ids=["softmax", "map", "convolution", "classes", "sizes", "arguments"],
)
def test_what_has_no_features_before_a_linear_layer_is_refused(
    module: nn.Module, told: str
) -> None:
    with pytest.raises(OptionError, match=f"^it {told}") as refused:
        split_behind_features(module, SHAPE, 5, origin="it")
    assert str(refused.value).isprintable()


def test_a_layer_that_is_used_twice_is_no_head() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Linear(5, 5)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.both(self.both(images.flatten(1)[:, :5]))
            return logits

    with pytest.raises(OptionError, match="must end with a linear layer"):
        split_behind_features(Twice(), SHAPE, 5, origin="it")
