"""What a transfer report found, in a sentence and as a page."""

import re
from pathlib import Path
from typing import Any

import pytest

from dd_plugins.api import NetworkResult
from dd_plugins.cli.transfer_page import transfer_finding, write_transfer_page
from dd_plugins.evaluation.cross_architecture import Difference, SetTransfer, Transfer

ROLES: Any = ("distilled with", "held out")


def of_set(
    path: str = "a",
    distiller: str = "frepo(pool_size=2)",
    accuracies: tuple[float, ...] = (0.5, 0.52),
    roles: Any = ROLES,
) -> SetTransfer:
    results = tuple(NetworkResult(spec, accuracies) for spec in ("mlp", "conv"))
    return SetTransfer(path, distiller, "frepo", roles, results, 10)


def compared(mean: float, ci95: tuple[float, float] | None) -> Transfer:
    wrapped = "metadd(frepo(pool_size=2), networks=('mlp',))"
    differences = (Difference("mlp", 0.9, None), Difference("held out", mean, ci95))
    return Transfer((of_set(), of_set("b", wrapped)), differences)


def written(found: Transfer, tmp_path: Path) -> str:
    write_transfer_page(tmp_path / "a.html", found)
    return " ".join((tmp_path / "a.html").read_text().split())


@pytest.mark.parametrize(
    ("mean", "ci95", "finding"),
    [
        (0.01, (0.005, 0.015), "1.0 points (0.5 to 1.5) better than frepo on the"),
        (-0.01, (-0.015, -0.005), "1.0 points (0.5 to 1.5) worse than frepo on the"),
        (-0.01, (-0.03, 0.01), "1.0 points (-1.0 to 3.0) worse than frepo on the"),
        (0.004, None, "0.4 points better than frepo on the"),
    ],
)
def test_two_sets_are_compared_on_what_both_hold_out(
    mean: float, ci95: tuple[float, float] | None, finding: str
) -> None:
    told = transfer_finding(compared(mean, ci95))
    assert told.startswith(f"metadd(frepo) is {finding} architectures that neither ")


@pytest.mark.parametrize(
    ("ci95", "added"),
    [
        ((0.001, 0.002), ""),
        ((-0.001, 0.002), " The interval includes zero: this may be chance."),
        (None, " One pair of networks gives no interval."),
    ],
)
def test_the_finding_says_how_sure_it_is(
    ci95: tuple[float, float] | None, added: str
) -> None:
    told = transfer_finding(compared(0.001, ci95))
    assert told.partition("distilled with.")[2] == added


def test_sets_of_one_method_go_by_their_paths() -> None:
    found = Transfer((of_set("a"), of_set("b")), (Difference("held out", 0.1, None),))
    assert transfer_finding(found).startswith("b is 10.0 points better than a on")


def test_sets_that_are_not_compared_have_a_sentence_each() -> None:
    one = Transfer((of_set(),), ())
    assert transfer_finding(one) == (
        "frepo gives 51.0 % (38.3 to 63.7) on the architectures held out, and 51.0 % "
        "(38.3 to 63.7) on mlp, of its own family."
    )
    all_seen = of_set("b", "dm", (0.5,), roles=("distilled with", "seen"))
    told = transfer_finding(Transfer((of_set(), all_seen), (), "not compared: of a"))
    assert told.endswith(
        " dm was tried on no architecture that is held out, and 50.0 % on mlp, of its "
        "own family. Not compared: of a."
    )


def test_a_page_has_the_finding_first_and_every_figure(tmp_path: Path) -> None:
    page = written(compared(0.01, (-0.01, 0.03)), tmp_path)
    for text in (
        "<title>Transfer of frepo and metadd(frepo) to other architectures</title>",
        '<p class="finding">metadd(frepo) is 1.0 points (-1.0 to 3.0) better than',
        '<td class="number">+1.0</td> <td>-1.0 to +3.0</td>',
        '<td class="number">+90.0</td> <td>one pair</td>',
        '<code>mlp</code></th><td>distilled with</td> <td class="number">51.0</td>',
        '<td class="number">1.4</td> <td>38.3 to 63.7</td> </tr>',
        '<th scope="row">mean, held out</th>',
        "by <code>frepo(pool_size=2)</code>",
    ):
        assert text in page, text


def test_intervals_are_cut_to_what_accuracies_can_be(tmp_path: Path) -> None:
    page = written(Transfer((of_set(accuracies=(0.0, 1.0)),), ()), tmp_path)
    assert "<td>0.0 to 100.0</td>" in page
    places = [float(each) for each in re.findall(r'x[12]="([\d.]+)%"', page)]
    assert min(places) == 0
    assert max(places) == 100


def test_the_picture_has_a_dot_for_each_set_and_architecture(tmp_path: Path) -> None:
    page = written(compared(0.0, None), tmp_path)
    assert page.count("<circle") == 4
    assert page.count('<g class="set-0">') == page.count('<g class="set-1">') == 2
    assert 'role="img" aria-label="Accuracy on test images by architecture' in page


def test_one_network_has_no_interval(tmp_path: Path) -> None:
    page = written(Transfer((of_set(accuracies=(0.5,)),), ()), tmp_path)
    assert '<td class="number">50.0</td> <td class="number"></td> <td></td>' in page
    assert "the mean over 1 fresh network," in page


def test_no_page_is_written_unasked(tmp_path: Path) -> None:
    write_transfer_page(None, compared(0.0, None))
    assert list(tmp_path.iterdir()) == []
