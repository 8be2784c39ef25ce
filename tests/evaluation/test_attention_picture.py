"""The picture of where networks look shows the first image of each class."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from PIL import Image

import dd_plugins
from dd_plugins import DistilledSet, RealData
from dd_plugins.errors import FileError
from dd_plugins.evaluation.attention import MetaFeatures
from dd_plugins.evaluation.attention_picture import save_features


def made(classes: int, channels: int = 1, per_class: int = 1) -> DistilledSet:
    count = 2 * classes * per_class
    images = torch.rand(
        count, channels, 4, 4, generator=torch.Generator().manual_seed(0)
    )
    data = RealData.from_tensors(
        images, torch.arange(count) % classes, preprocessing="standardize", validation=0
    )
    options: dict[str, Any] = {"network": "mlp(width=2)", "steps": 1}
    return dd_plugins.distill(data, "random", images_per_class=per_class, **options)


def features_of(distilled: DistilledSet, networks: int = 2) -> MetaFeatures:
    generator = torch.Generator().manual_seed(1)
    maps = torch.rand(networks, len(distilled), 4, 4, generator=generator)
    names = tuple(f"conv(width={number})" for number in range(networks))
    return MetaFeatures(names, maps)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is drawn by imshow, in order."""
    found: list[Any] = []
    draw = Axes.imshow

    def imshow(self: Any, image: Any, **options: Any) -> Any:
        found.append(np.asarray(image))
        return draw(self, image, **options)

    monkeypatch.setattr(Axes, "imshow", imshow)
    return found


def test_a_row_shows_the_first_image_of_its_class(
    drawn: list[Any], tmp_path: Path
) -> None:
    distilled = made(3, per_class=2)
    order = [5, 0, 2, 4, 1, 3]  # classes 2 0 1 2 0 1
    header = distilled.header.model_copy(
        update={"initial_classes": [2, 0, 1, 2, 0, 1], "initial_indices": None}
    )
    turned = replace(distilled, images=distilled.images[order], header=header)
    features = features_of(turned)
    save_features(turned, features, tmp_path / "a.png")
    each = 4 + 2 + 1  # the image below everything, two maps, and what all agree on
    assert len(drawn) == 3 * each
    for row, first in enumerate((1, 2, 0)):
        shown = drawn[row * each : (row + 1) * each]
        pixels = turned.pixels()[first, 0].numpy()
        for image in shown[:4]:
            np.testing.assert_allclose(image[..., 0], pixels, atol=1e-6)
        for number in (0, 1):
            np.testing.assert_array_equal(
                shown[4 + number], features.maps[number, first].numpy()
            )
        np.testing.assert_array_equal(shown[6], features.meta[first].numpy())


def test_no_more_than_twenty_classes_have_a_row(
    drawn: list[Any], tmp_path: Path
) -> None:
    distilled = made(21)
    path = save_features(distilled, features_of(distilled, 1), tmp_path / "a.png")
    assert len(drawn) == 20 * 5
    with Image.open(path) as picture:
        assert picture.size[1] < 3_000


def test_a_picture_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    distilled = made(2)
    (tmp_path / "file").touch()
    target = tmp_path / "file" / "a.png"
    with pytest.raises(FileError, match=str(target)):
        save_features(distilled, features_of(distilled), target)
