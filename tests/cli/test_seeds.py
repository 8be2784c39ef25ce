"""A set is distilled again with other seeds, and its method's variance is shown."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import Said

import dd_plugins
from dd_plugins.api import relabel
from dd_plugins.cli.repeating import config_text
from dd_plugins.cli.seeds import check_repeatable
from dd_plugins.errors import OptionError

Command = Callable[..., Said]


def test_other_seeds_are_distilled_once_and_compared(
    in_process: Command, tmp_path: Path
) -> None:
    words = ["--distiller", "random", "--ipc", 2, "--seed", 5, "--out", "run"]
    words += ["--network", "mlp(width=4)"]
    assert in_process("distill", *words).status == 0
    words = ["--network", "mlp(width=2)", "--repeats", 1, "--seeds", 3]
    words += ["--protocol", "recipe(steps=2)", "--json", "found.json"]
    said = in_process("evaluate", "run", *words)
    assert said.status == 0, said.stderr
    assert "3 distillations" in said.stdout
    runs = sorted((tmp_path / "run" / "seeds").iterdir())
    sets = [dd_plugins.DistilledSet.load(each) for each in (tmp_path / "run", *runs)]
    assert [each.header.seed for each in sets] == [5, 6, 7]
    assert len({each.content_hash() for each in sets}) == 3
    (found,) = json.loads((tmp_path / "found.json").read_text())["distillations"]
    alone = [
        dd_plugins.evaluate(each, "mlp(width=2)", repeats=1, protocol="recipe(steps=2)")
        for each in sets
    ]
    assert found["accuracies"] == [each.networks[0].mean for each in alone]
    again = in_process("evaluate", "run", *words)
    assert again.stderr.count("going on at step 1") == 2, "finished runs are found"


def test_a_set_that_no_header_repeats_is_refused() -> None:
    small: dict[str, Any] = {"steps": 1, "network": "conv(width=4, depth=2)"}
    first = dd_plugins.distill("digits", "random", **small)
    options = {"context": first, "refine_context": True} | small
    both = dd_plugins.distill("digits", "dm(real_batch_size=8)", **options)
    with pytest.raises(OptionError, match="context"):
        check_repeatable(both)


def test_a_relabelled_set_is_not_compared_with_sets_that_are_not() -> None:
    first = dd_plugins.distill("digits", "random", network="mlp(width=4)")
    check_repeatable(first)
    teacher = "mlp(width=4)"
    relabelled = relabel(first, teacher, teacher_recipe="recipe(steps=2)")
    for refuse in (check_repeatable, lambda each: config_text(each.header)):
        with pytest.raises(OptionError, match="repeat the runs, relabel each"):
            refuse(relabelled)


@pytest.mark.parametrize("distiller", ["rded(OWN)", "clip(sre2l(OWN))"])
def test_a_set_with_views_of_its_own_is_repeated(distiller: str) -> None:
    own = "teacher_recipe=recipe(steps=2), views=views(count=2)"
    network = "conv(width=4, depth=2, normalization='batch')"
    spec = distiller.replace("OWN", own)
    made = dd_plugins.distill("digits", spec, network=network, steps=1)
    check_repeatable(made)
    for change in ({"teachers": "mlp(width=8)"}, {"views": "views(count=3)"}):
        asked = {"teachers": network, "views": "views(count=2)"} | change
        again = relabel(made, **asked, teacher_recipe="recipe(steps=2)")  # type: ignore[arg-type]
        with pytest.raises(OptionError, match="relabel each"):
            check_repeatable(again)
