"""Every option of everything that a spec may name is explained."""

import json

import pytest
from conftest import Command

from dd_plugins.errors import UnknownNameError
from dd_plugins.plugins.manager import Plugins
from dd_plugins.plugins.option_table import documented, every_record, options_page

BUILT_IN = Plugins(load=["avalanche", "privacy"])  # our own integrations too
NAMES = sorted({record.name for _, record in every_record(BUILT_IN)})


@pytest.mark.parametrize("name", NAMES)
def test_every_option_has_a_type_and_a_sentence(name: str) -> None:
    for found in documented(BUILT_IN, name):
        assert found.summary.endswith("."), found.summary
        assert "``" not in found.summary
        for option in found.options:
            assert option.sentence, f"{name}: {option.name}"
            assert option.kind, f"{name}: {option.name}"
            assert "typing." not in option.kind


def test_types_and_ranges_are_in_words() -> None:
    (frepo,) = documented(BUILT_IN, "frepo")
    rows = {row.name: row for row in frepo.options}
    assert rows["preset"].kind == "'fast' or 'paper'"
    assert rows["pool_size"].kind == "whole number above 0 or None"
    assert rows["last_learning_rate"].kind == "number at least 0 and at most 1 or None"
    assert rows["chunk_size"].default == "2000"
    (clip,) = documented(BUILT_IN, "clip")
    assert (clip.kind, clip.options[0].default) == ("wrapper", None)
    assert {found.kind for found in documented(BUILT_IN, "conv")} == {
        "network",
        "kernel",
    }
    assert documented(BUILT_IN, "turned")[0].name == "rotated"


def test_unknown_name_is_told_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match=r"'frpo'; known, nearest first: frepo"):
        documented(BUILT_IN, "frpo")


def test_page_names_everything_once() -> None:
    page = options_page(BUILT_IN)
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert len(headings) == len(set(headings))
    assert headings[0].endswith("(distiller)"), "what most readers look for comes first"
    assert all(f"## `{name}` (" in page for name in NAMES)


def test_the_command_tells_them(command_line: Command) -> None:
    shown = command_line("options", "dm", COLUMNS="160")
    assert "dm, a distiller: Distribution matching" in shown.stdout
    assert "real images of each class" in shown.stdout
    of_plugin = command_line("options", "lira", COLUMNS="160")
    assert "lira, an attack: The likelihood ratio" in of_plugin.stdout
    every = json.loads(command_line("options", "--json").stdout)
    assert {each["name"] for each in every} >= set(NAMES)
    assert command_line("options", "nothing-like-it").returncode == 2
