"""Models of timm as networks; none is downloaded."""

import sys
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from dd_plugins import distill, evaluate, get_network
from dd_plugins.errors import FileError, MissingExtraError, OptionError
from dd_plugins.evaluation.networks_of_set import own_network
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.testing import toy_data

SMALL = "timm('test_resnet')"


def _build(spec: str, shape: tuple[int, int, int]) -> FeatureNetwork:
    return get_network(spec).build(shape, 5, generator=generator_for(0, "test"))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (4, 48, 32)])
@pytest.mark.parametrize("model", ["test_resnet", "test_vit", "test_efficientnet"])
def test_models_take_channels_and_sizes_of_the_images(
    model: str, shape: tuple[int, int, int]
) -> None:
    if model == "test_vit" and shape[1] % 16:
        with pytest.raises(OptionError, match=r"timm.'test_vit'.*divisible by patch"):
            _build(f"timm({model!r})", shape)
        return
    network = _build(f"timm({model!r})", shape).eval()
    images = torch.rand(2, *shape)
    assert network(images).shape == (2, 5)
    assert network.features(images).ndim == 2


def test_weights_are_those_of_timm() -> None:
    torch.manual_seed(0)
    theirs = timm.create_model("test_resnet", num_classes=5).eval()
    ours = _build(SMALL, (3, 32, 32)).eval()
    body = {
        name: weights
        for name, weights in theirs.state_dict().items()
        if not name.startswith("fc.")
    }
    ours.body.load_state_dict(body)
    ours.head.load_state_dict(theirs.fc.state_dict())
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


def test_a_set_names_its_model_for_its_evaluation() -> None:
    made = distill(toy_data(), "dm", network=SMALL, steps=1)
    assert made.header.evaluation_network == SMALL
    found = evaluate(made, data=toy_data(), repeats=1, protocol="recipe(steps=2)")
    assert [each.spec for each in found.networks] == [SMALL]


def test_an_artifact_cannot_ask_for_a_huge_model() -> None:
    made = distill(toy_data(), "dm", network="mlp(width=4)", steps=1)
    huge = get_network("timm('eva_giant_patch14_224')")
    with pytest.raises(OptionError, match="at most 250,000,000 parameters"):
        own_network(made, lambda spec: huge)


@pytest.mark.parametrize(
    ("model", "told"),
    [
        ("resnet19", "no model 'resnet19'; known, nearest first: resnet18"),
        ("hf-hub:timm/resnet18.a1_in1k", "no model 'hf-hub:"),
        ("local-dir:/tmp", "no model 'local-dir:"),
    ],
)
def test_names_that_timm_has_not_are_refused_and_not_fetched(
    model: str, told: str
) -> None:
    with pytest.raises(OptionError, match=told):
        _build(f"timm({model!r})", (3, 32, 32))


@pytest.mark.parametrize("spec", ["timm(resnet18)", "timm(model=vit)"])
def test_a_name_without_quotes_is_told_of(spec: str) -> None:
    with pytest.raises(OptionError, match="quote text"):
        get_network(spec)


def test_published_weights_come_from_the_cache_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    spec = "timm('test_resnet', pretrained=True)"
    with pytest.raises(FileError, match="hf download timm/test_resnet"):
        _build(spec, (3, 32, 32))
    published = timm.create_model("test_resnet")
    kept = tmp_path / "models--timm--test_resnet.r160_in1k"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("abc")
    (kept / "snapshots" / "abc").mkdir(parents=True)
    save_file(published.state_dict(), kept / "snapshots" / "abc" / "model.safetensors")
    network = _build(spec, (3, 32, 32))
    assert torch.equal(network.body.conv1[0].weight, published.conv1[0].weight)
    assert network.head.out_features == 5


def test_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'dd-plugins\[timm\]'"):
        _build(SMALL, (3, 32, 32))
