"""Pictures of distilled sets: one mosaic, with names as plain text."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_code
from PIL import Image

from dd_plugins import DistilledSet, RealData, distill
from dd_plugins.api import OptionError
from dd_plugins.evaluation.attention import MetaFeatures
from dd_plugins.evaluation.attention_picture import save_features
from dd_plugins.synthetic.pictures import _title, save_grid


def made(
    images: torch.Tensor, images_per_class: int = 1, names: list[str] | None = None
) -> DistilledSet:
    """Return a set of real images, the first of each class."""
    classes = len(names) if names else len(images) // images_per_class
    data = RealData.from_tensors(
        images,
        torch.arange(len(images)) % classes,
        class_names=names,
        preprocessing="standardize",
        validation=0,
    )
    return distill(
        data,
        "random",
        images_per_class=images_per_class,
        steps=1,
        network="conv(width=2, depth=1)",
    )


def drawn(distilled: DistilledSet, path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a glyph that is missing, say
        return np.asarray(Image.open(save_grid(distilled, path)).convert("RGB"))


def test_colours_are_rounded(tmp_path: Path) -> None:
    one = made(torch.rand(2, 3, 8, 8))
    even = replace(one, images=one.preprocess(torch.full_like(one.images, 101.7 / 255)))
    found = drawn(even, tmp_path / "grid.png")
    assert [(found == level).mean() > 0.1 for level in (101, 102)] == [False, True]


NAMES = [
    ["$5_$10", "$10_$20"],
    ["$\\frac{", "\\alpha^_"],
    ["\u732b", "\u72ac"],
    ["\u0627\u0644", "\U0001f600"],
    ["[b]old", "[/INST]"],
    ["x" * 16_000, "<script>"],
    ["\u0e01\u0e33", "\u3042"],
]


@pytest.mark.parametrize("images_per_class", [1, 2])
@pytest.mark.parametrize("names", NAMES)
def test_any_name_is_drawn_as_plain_text(
    names: list[str], images_per_class: int, tmp_path: Path
) -> None:
    images = torch.rand(4, 1, 8, 8)
    picture = drawn(made(images, images_per_class, names), tmp_path / "a.png")
    assert (picture < 100).any()


def test_a_dollar_sign_is_drawn_as_one(tmp_path: Path) -> None:
    images = torch.zeros(2, 1, 8, 8)
    plain, formula = (
        drawn(made(images, 1, [name, "x"]), tmp_path / "a.png")
        for name in ("$5-$10", "5-10")
    )
    assert plain.shape == formula.shape
    assert (plain != formula).any(), "as mathematics the dollar signs would vanish"


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("images_per_class", "classes"), [(1, 3), (4, 3), (25, 2)])
def test_every_image_is_in_the_picture(
    tmp_path: Path, channels: int, images_per_class: int, classes: int
) -> None:
    """Each image has a colour of its own, which the picture must show."""
    count = images_per_class * classes
    values = torch.linspace(0.1, 0.9, count)
    images = values.view(-1, 1, 1, 1).repeat(1, channels, 6, 6)
    names = [str(number) for number in range(classes)]
    picture = drawn(made(images, images_per_class, names), tmp_path / "a.png")
    shown = {int(level) for level in np.unique(picture[..., 0])}
    for value in values:
        assert any(abs(255 * float(value) - level) <= 1 for level in shown)
    # An image is a square, of a size that can be seen.
    near = abs(picture[..., 0].astype(int) - 255 * float(values[0])) <= 1
    rows = np.nonzero(near.sum(axis=1) >= 30)[0]
    columns = np.nonzero(near.sum(axis=0) >= 30)[0]
    assert len(rows) >= 30
    assert abs(len(rows) - len(columns)) <= 12


def test_a_thousand_classes_are_one_axis(tmp_path: Path) -> None:
    """An axis for each image took half a minute of a core."""
    distilled = made(torch.rand(1000, 1, 4, 4))
    distilled.save(tmp_path / "set.safetensors")
    code = (
        "import matplotlib.figure as f, sys\n"
        "axes, add = [], f.Figure.add_axes\n"
        "f.Figure.add_axes = lambda *a, **k: axes.append(1) or add(*a, **k)\n"
        "f.Figure.subplots = None\n"
        "from dd_plugins import DistilledSet\n"
        "from dd_plugins.synthetic.pictures import save_grid\n"
        "save_grid(DistilledSet.load(sys.argv[1]), sys.argv[2])\n"
        "print(len(axes))"
    )
    told = run_code(code, "set.safetensors", "a.png", folder=tmp_path)
    assert told.stdout.strip() == "1", told.stderr
    picture = np.asarray(Image.open(tmp_path / "a.png").convert("RGB"))
    assert 500 < picture.shape[0] < 5000
    assert 500 < picture.shape[1] < 3000


def test_features_are_drawn_with_names_as_plain_text(tmp_path: Path) -> None:
    distilled = made(torch.rand(4, 3, 8, 8), 1, ["$5_$10", "$\\x"])
    maps = torch.rand(2, 2, 8, 8)
    features = MetaFeatures(
        networks=("conv(width=2)", "$a_$b(width=3)"),
        maps=maps,
        threshold=0.5,
    )
    assert save_features(distilled, features, tmp_path / "f.png").stat().st_size > 1000


def test_the_title_says_data_method_and_images_per_class(tmp_path: Path) -> None:
    distilled = made(torch.rand(20, 1, 8, 8), 2)
    with_other = {"distiller": "other"}
    header = distilled.header.model_copy(update=with_other)
    pictures = [
        drawn(each, tmp_path / "a.png")
        for each in (distilled, replace(distilled, header=header))
    ]
    first, second = pictures
    rows = np.nonzero((first != second).any(axis=(1, 2)))[0]
    assert len(rows) > 0, "another method is another title"
    assert rows.max() < 40, "above the grid alone"
    assert _title(distilled.header) == "tensors, random, 2 images per class"


@pytest.mark.parametrize("images_per_class", [1, 2])
def test_images_stand_close_beside_each_other(
    images_per_class: int, tmp_path: Path
) -> None:
    black = made(torch.zeros(10 * images_per_class, 1, 8, 8), images_per_class)
    picture = drawn(black, tmp_path / "a.png")
    below = (picture < 100).all(axis=2)[-20]  # a line through the last row of images
    columns = np.nonzero(below)[0]
    gaps = np.diff(columns)
    assert gaps.max() < 15, "a tenth of an image of 90 pixels"
    dark_rows = np.nonzero((picture < 100).all(axis=2).any(axis=1))[0]
    assert picture.shape[0] - dark_rows[-1] < 20, "no blank strip below"


def test_images_keep_their_proportions(tmp_path: Path) -> None:
    wide = made(torch.zeros(6, 1, 8, 24), 2)
    picture = drawn(wide, tmp_path / "wide.png")
    dark = (picture < 100).all(axis=2)
    row = np.nonzero(dark.sum(axis=1) > 100)[0][-1]
    columns = np.nonzero(dark[row])[0]
    first = columns[: 1 + int(np.argmax(np.diff(columns) > 1))]
    below = np.nonzero(dark[:, first[len(first) // 2]])[0]
    last = below[np.nonzero(np.diff(below) > 1)[0][-1] + 1 :]
    assert len(first) / len(last) == pytest.approx(3, rel=0.1)


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"got str; DistilledSet\.load reads one"):
        save_grid("set.safetensors", tmp_path / "a.png")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="path must be a path, got 5"):
        save_grid(made(torch.rand(10, 1, 8, 8)), 5)  # type: ignore[arg-type]


def test_names_have_room_between_the_title_and_wide_images(tmp_path: Path) -> None:
    picture = drawn(made(torch.zeros(10, 1, 8, 24)), tmp_path / "wide.png")
    inked = (picture < 250).all(axis=2).any(axis=1).astype(int)
    lines = int((np.diff(inked, prepend=0) == 1).sum())
    assert lines == 3, "the title, the names and the images"
