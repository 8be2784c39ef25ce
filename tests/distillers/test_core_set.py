"""Core sets choose the images that their definitions choose."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import dd_plugins
from dd_plugins.api import RealData
from dd_plugins.distillers.core_set import Herding, KMeans
from dd_plugins.errors import OptionError
from dd_plugins.testing import toy_data

CORE_SETS = [
    "random()",
    "herding(training_steps=5)",
    "herding(training_steps=0)",
    "kmeans(training_steps=5)",
    "kmeans(training_steps=0)",
]


def _features(count: int, size: int = 4) -> Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", CORE_SETS)
def test_core_set_is_made_of_different_real_images(spec: str) -> None:
    data = toy_data()
    chosen = dd_plugins.distill(
        data, spec, images_per_class=5, network="conv(width=4, depth=2)"
    )
    assert chosen.header.initial_indices is not None
    assert len(set(chosen.header.initial_indices)) == 10
    places = [
        int((data.train_indices == index).nonzero())
        for index in chosen.header.initial_indices
    ]
    assert data.train.labels[places].tolist() == [0] * 5 + [1] * 5
    images = chosen.transform(data.train.images[torch.tensor(places)])
    assert torch.equal(chosen.images, images)
    assert chosen.labels.argmax(dim=1).tolist() == [0] * 5 + [1] * 5
    seen = dd_plugins.get_distiller(spec).uses_network
    assert chosen.header.architectures == (["conv"] if seen else [])


def test_herding_equals_its_definition() -> None:
    features = _features(12)
    unit = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    expected: list[int] = []
    for _ in range(5):
        distances = {
            place: np.linalg.norm(unit[[*expected, place]].mean(0) - unit.mean(0))
            for place in range(12)
            if place not in expected
        }
        expected.append(min(distances, key=distances.__getitem__))
    assert Herding().pick(features, 5, torch.Generator()).tolist() == expected


def test_herding_beats_most_random_draws_of_as_many_images() -> None:
    features = torch.nn.functional.normalize(_features(10), dim=1)
    chosen = Herding().pick(features, 3, torch.Generator()).tolist()

    def distance(places: tuple[int, ...]) -> float:
        return float((features[list(places)].mean(0) - features.mean(0)).norm())

    every = [distance(places) for places in itertools.combinations(range(10), 3)]
    assert distance(tuple(chosen)) < np.quantile(every, 0.1)


def test_k_means_takes_one_image_from_each_of_clear_clusters() -> None:
    centres = torch.eye(4) * 10
    features = torch.cat([centre + 0.1 * _features(6) for centre in centres])
    places = KMeans().pick(features, 4, torch.Generator().manual_seed(0))
    assert sorted(place // 6 for place in places.tolist()) == [0, 1, 2, 3]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_k_means_takes_no_image_twice() -> None:
    features = _features(3).repeat(2, 1)  # each image twice
    places = KMeans().pick(features, 6, torch.Generator().manual_seed(0))
    assert sorted(places.tolist()) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "spec", [*CORE_SETS, "rded(teacher_recipe=recipe(steps=20, learning_rate=0.05))"]
)
def test_classes_are_apart_where_others_change_no_choice(
    spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path))
    train = toy_data().train
    others = train.images.clone()
    others[train.labels == 1] = others[train.labels == 1].flip(-1) ** 2
    chosen = []
    for images in (train.images, others):
        made = dd_plugins.distill(
            RealData.from_values(images, train.labels),
            spec,
            images_per_class=9,
            network="dc_convnet(width=8, depth=2, normalization='batch')",
            device="cpu",
        )
        assert made.header.initial_indices is not None
        chosen.append(made.header.initial_indices[:9])
    assert (chosen[0] == chosen[1]) == dd_plugins.get_distiller(spec).classes_apart


@pytest.mark.parametrize("spec", ["random", "herding", "kmeans"])
def test_class_that_is_too_small_is_named(spec: str) -> None:
    with pytest.raises(OptionError, match="class '0' has only 54 training"):
        dd_plugins.distill(
            toy_data(), spec, images_per_class=100, network="conv(width=4, depth=2)"
        )
