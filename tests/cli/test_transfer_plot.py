"""A transfer report as a plot: a line for each set, held-out architectures last."""

from dataclasses import replace
from typing import Any

import pytest

from dd_plugins.api import NetworkResult
from dd_plugins.cli.transfer_plot import transfer_figure
from dd_plugins.evaluation.transfer_results import SetTransfer, Transfer

ROLES: Any = ("held out", "distilled with", "seen")


def of_set(path: str, mean: float, *, random: bool) -> SetTransfer:
    results = tuple(
        NetworkResult(spec, (mean + place / 10, mean + place / 10 + 0.02))
        for place, spec in enumerate(("mlp", "conv", "vgg11"))
    )
    real = tuple(NetworkResult(each.spec, (0.1, 0.2)) for each in results)
    found = SetTransfer(path, path, "frepo", ROLES, results, 10)
    return replace(found, random=real, random_images=3) if random else found


@pytest.mark.parametrize("random", [False, True])
def test_a_set_is_a_line_and_held_out_architectures_stand_last(random: bool) -> None:
    found = Transfer(
        (of_set("a", 0.5, random=random), of_set("b", 0.6, random=False)), ()
    )
    (axes,) = transfer_figure(found).axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["conv", "vgg11", "mlp"]
    lines = {
        container.get_label(): container[0].get_ydata() for container in axes.containers
    }
    told = ["a", "random real images, 3", "b"] if random else ["a", "b"]
    assert list(lines) == told
    assert lines["a"] == pytest.approx([61.0, 71.0, 51.0])
    assert lines["b"] == pytest.approx([71.0, 81.0, 61.0])
    of_first = [container[0].get_xdata()[0] for container in axes.containers]
    assert len({round(float(place), 3) for place in of_first}) == len(told)
    assert of_first == pytest.approx([0] * len(told), abs=0.3)
    (text,) = [each.get_text() for each in axes.texts]
    assert text == "held out"
