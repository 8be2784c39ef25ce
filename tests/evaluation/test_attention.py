"""Where networks look on a set is measured and drawn."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import Said

import dd_plugins
from dd_plugins import DistilledSet
from dd_plugins.errors import DataError, OptionError
from dd_plugins.evaluation.attention import MetaFeatures, meta_features
from dd_plugins.evaluation.attention_picture import save_features
from dd_plugins.networks.vgg import VGG11
from dd_plugins.testing import toy_data

NETWORKS = ["vgg11(width=4)", "dc_convnet(width=4, depth=1)"]


def _distilled(spec: str = "random") -> DistilledSet:
    return dd_plugins.distill(
        toy_data(), spec, steps=1, images_per_class=2, network="mlp(width=4)"
    )


def test_meta_and_heterogeneous_features_are_those_of_the_paper() -> None:
    maps = torch.tensor([[[[0.9, 0.6, 0.1]]], [[[0.5, 0.4, 0.2]]]])
    found = MetaFeatures(("one", "other"), maps)
    assert found.meta.tolist() == [[[True, False, False]]]
    assert found.heterogeneous.tolist() == [
        [[[False, True, False]]],
        [[[False, False, False]]],
    ]
    assert found.ratio.tolist() == [0.5]


def test_networks_look_at_every_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dd_plugins.evaluation.attention._AT_A_TIME", 3)
    distilled = _distilled("metadd(dm, stages=(2,))")
    found = meta_features(distilled, NETWORKS, data=toy_data())
    assert found.networks == tuple(NETWORKS)
    assert found.maps.shape == (2, len(distilled), 8, 8)
    assert float(found.maps.amin()) >= 0
    assert float(found.maps.amax()) <= 1
    monkeypatch.setattr(
        "dd_plugins.training.kept_networks.training_steps_of", None
    )  # they were kept
    again = meta_features(distilled, NETWORKS, data=toy_data())
    assert torch.equal(found.maps, again.maps)


def test_training_of_the_networks_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_process: Callable[..., Said]
) -> None:
    networks = f"networks=({', '.join(NETWORKS)})"
    made = dd_plugins.distill(
        "digits",
        f"metadd(dm, {networks}, stages=(2,))",
        network="mlp(width=4)",
        steps=1,
    )
    made.save(tmp_path / "set")
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "one"))  # with no networks in it
    told: list[tuple[str, float]] = []
    found = meta_features(
        made, on_progress=lambda what, done, total: told.append((what, done / total))
    )
    assert [what for what, share in told if share == 1] == [found.networks[-1]]
    assert {what for what, _ in told} == set(found.networks)
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "other"))
    said = in_process("show", "set", "--features")
    assert said.status == 0, said.stderr
    assert f"{found.networks[-1]}: 100 %" in said.stderr
    assert "meta ratio: " in said.stdout


def test_networks_of_the_wrapper_look_unless_others_are_named() -> None:
    wrapped = _distilled(
        f"clip(metadd(dm, networks=({', '.join(NETWORKS)}), stages=(2,)), max_norm=1.0)"
    )
    assert meta_features(wrapped, data=toy_data()).networks == tuple(NETWORKS)
    others = [*NETWORKS, VGG11(width=2)]
    found = meta_features(wrapped, others, data=toy_data())
    assert found.networks == (*NETWORKS, "vgg11(width=2)")


@pytest.mark.parametrize(
    ("networks", "threshold", "message"),
    [
        (["vgg11"], 0.5, "name two networks or more"),
        (["mlp", "vgg11(width=4)"], 0.5, "no layer gives a map"),
        (NETWORKS, 1.0, "threshold must be between 0 and 1"),
    ],
)
def test_what_cannot_be_compared_is_named(
    networks: list[str], threshold: float, message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        meta_features(_distilled(), networks, threshold=threshold, data=toy_data())


def test_networks_look_in_the_value_space_of_the_set() -> None:
    distilled, other = _distilled(), replace(toy_data(), preprocessing="zca")
    assert toy_data().preprocessing != "zca"
    found = meta_features(distilled, NETWORKS, data=toy_data()).maps
    assert meta_features(distilled, NETWORKS, data=other).maps.equal(found)
    moved = replace(distilled.transform, mean=distilled.transform.mean + 0.2)
    far = replace(distilled, transform=moved)
    assert not meta_features(far, NETWORKS, data=toy_data()).maps.equal(found)


def test_data_that_nobody_offers_is_named() -> None:
    with pytest.raises(DataError, match="is not among those that plugins offer"):
        meta_features(_distilled(), NETWORKS)


def test_picture_is_drawn_even_where_nobody_looks(tmp_path: Path) -> None:
    distilled = _distilled()
    maps = torch.zeros(2, len(distilled), 8, 8)
    maps[:, 0, 2:4, 2:4] = 1.0
    features = MetaFeatures(("one", "other"), maps)
    picture = save_features(distilled, features, tmp_path / "features.png")
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_spec_and_other_preprocessing_are_understood() -> None:
    with pytest.raises(OptionError, match="name two networks or more"):
        meta_features(_distilled(), "vgg11", data=toy_data())
    spec = f"metadd(dm, networks=({', '.join(NETWORKS)}), stages=(1,))"
    whitened = dd_plugins.distill(
        "digits", spec, steps=1, network="mlp(width=4)", preprocessing="zca"
    )
    assert len(meta_features(whitened).maps) == 2


def test_the_wrapper_of_an_artifact_cannot_fill_the_memory() -> None:
    distilled = _distilled()
    spec = "metadd(dm, networks=(vgg11(width=4), vgg11(width=5000)), stages=(1,))"
    header = distilled.header.model_copy(update={"distiller": spec})
    with pytest.raises(OptionError, match="name a network by --network"):
        meta_features(replace(distilled, header=header), data=toy_data())


def test_an_artifact_cannot_ask_for_training_without_end() -> None:
    distilled = _distilled()
    endless = {"distiller": "metadd(dm, stages=(5, 1000000000))"}
    distilled = replace(distilled, header=distilled.header.model_copy(update=endless))
    with pytest.raises(OptionError, match=r"1,000,000,000.*at most 100,000"):
        meta_features(distilled, NETWORKS, data=toy_data())
