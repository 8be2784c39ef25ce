"""Objects in a notebook say what they are, in a line or a picture."""

import base64
import io
import re
from dataclasses import replace

import torch
from PIL import Image

import dd_plugins
from dd_plugins.evaluation.results import Evaluation, NetworkResult


def chosen() -> dd_plugins.DistilledSet:
    return dd_plugins.distill("digits", "random", network="mlp(width=4)")


def test_a_set_is_a_line_and_not_its_numbers() -> None:
    distilled = chosen()
    assert repr(distilled) == (
        "DistilledSet(10 images of 1x8x8, 10 classes, classes as labels, random on "
        "digits)"
    )
    assert distilled.class_names == tuple("0123456789")
    assert (distilled.num_classes, distilled.image_shape) == (10, (1, 8, 8))
    long = distilled.header.model_copy(update={"distiller": "frepo(x=" + "1" * 500})
    assert len(repr(replace(distilled, header=long))) < 200
    foreign = distilled.header.model_copy(update={"distiller": "a\x1b[2Jb"})
    assert "\x1b" not in repr(replace(distilled, header=foreign))


def test_a_set_is_a_picture_in_a_notebook() -> None:
    distilled = chosen()
    marked = distilled.header.model_copy(update={"distiller": "<script>"})
    page = replace(distilled, header=marked)._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    (content,) = re.findall(r"base64,([^\"]+)", page)
    picture = Image.open(io.BytesIO(base64.b64decode(content)))
    assert picture.width > picture.height > 50


def test_data_are_a_line() -> None:
    line = repr(dd_plugins.get_dataset("digits"))
    assert line == (
        "RealData(digits: images of 1x8x8, 1,298 to train, 139 to validate, 10 classes)"
    )
    other = dd_plugins.RealData.from_tensors(
        torch.rand(20, 3, 8, 8), torch.arange(20) % 2, name="mine"
    )
    assert repr(other).startswith("RealData(mine: images of 3x8x8, 18 to train")


def test_an_evaluation_is_a_line_for_each_figure() -> None:
    found = Evaluation(
        (NetworkResult("mlp", (0.5, 0.7)),),
        random=(NetworkResult("mlp", (0.99, 0.2)),),
        full=(NetworkResult("mlp", (0.9,)),),
    )
    assert str(found).splitlines() == [
        "distilled set, mlp: 0.6000 (0.0000 to 1.0000)",
        "random real images, mlp: 0.5950 (0.0000 to 1.0000)",
        "all training images, mlp: 0.9000",
    ]
    page = found._repr_html_()
    assert page.count("<tr>") == 4
    assert "<td>all training images</td><td>mlp</td><td>0.9000</td>" in page
