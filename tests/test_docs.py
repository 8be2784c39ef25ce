"""The docs name what there is, exactly."""

import configparser
import inspect
import json
import re
import runpy
from collections import Counter
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from conftest import ROOT

import dd_avalanche
import dd_plugins.api
import dd_privacy
from dd_plugins import hookspecs, testing
from dd_plugins.api import DataError, DataOptions
from dd_plugins.cli.entry import command_line
from dd_plugins.plugins.manager import Plugins
from dd_plugins.synthetic.artifact import Header

DOCS = ROOT / "docs"
WRITTEN = [page for page in DOCS.rglob("*.md") if "_build" not in page.parts]
PAGES = [*WRITTEN, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
HOOKS = {
    name: function
    for name, function in vars(hookspecs).items()
    if name.startswith("dd_")
}


def text_of(page: str) -> str:
    return (DOCS / page).read_text()


def signature(name: str) -> str:
    """Return the signature of a hook without the modules of its types."""
    written = f"{name}{inspect.signature(HOOKS[name])}"
    return re.sub(r"\b(?:dd_plugins\.hookspecs|collections\.abc)\.", "", written)


@pytest.mark.parametrize("name", HOOKS)
def test_hook_has_a_heading_and_its_exact_signature(name: str) -> None:
    page = text_of("hooks.md")
    assert f"### {name}\n" in page
    assert f"    {signature(name)}\n" in page


def test_hooks_page_names_no_hook_that_is_not_there() -> None:
    headings = re.findall(r"### (dd_\w+)", text_of("hooks.md"))
    assert sorted(headings) == sorted(HOOKS)


def test_every_public_name_is_described_once() -> None:
    described: Counter[str] = Counter()
    for page in (DOCS / "api").glob("*.md"):
        door = ""
        for kind, value in re.findall(r"^\.\. (\w+):: (\S+)$", page.read_text(), re.M):
            if kind == "currentmodule":
                door = value
            elif kind != "automodule":
                described[f"{door}.{value}"] += 1
    user = set(dd_plugins.__all__)
    plugin = set(dd_plugins.api.__all__) - user
    replay = set(dd_avalanche.__all__)
    # The page has the older names of these in a line of text.
    privacy = set(dd_privacy.__all__) - {"Game", "Seen"}
    privacy -= {"game_for_artifact", "game_for_mechanism"}
    assert described == Counter(
        [f"dd_plugins.{name}" for name in user]
        + [f"dd_plugins.api.{name}" for name in plugin]
        + [f"dd_avalanche.{name}" for name in replay]
        + [f"dd_privacy.{name}" for name in privacy]
    )


def test_smallest_distiller_of_the_docs_passes_every_check() -> None:
    (example,) = [
        block
        for block in re.findall(
            r"```python\n(.*?)```", text_of("writing-a-plugin.md"), re.S
        )
        if "class MeanImages" in block
    ]
    body = example[example.index("@record") :].splitlines()
    assert len([line for line in body if line.strip()]) <= 15
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "writing-a-plugin.md", "exec"), names)
    for check in testing.DISTILLER_CHECKS:
        check(names["MeanImages"]())


def run_example(of: str) -> dict[str, Any]:
    """Run the block of the page on plugins that has this text; return its names."""
    blocks = re.findall(r"```python\n(.*?)```", text_of("writing-a-plugin.md"), re.S)
    (example,) = [block for block in blocks if of in block]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(example, "writing-a-plugin.md", "exec"), names)
    return names


@pytest.mark.parametrize("base", ["dm", "frepo(pool_size=2)"])
def test_wrapper_of_the_docs_keeps_its_state(base: str) -> None:
    relative = run_example("class Relative")["Relative"]
    made = relative(base=dd_plugins.get_distiller(base))
    testing.check_spec_round_trip(made)
    testing.check_state_survives_save_and_restore(made)


def test_data_set_of_the_docs_passes_every_check(tmp_path: Path) -> None:
    load = run_example("class ShapesPlugin")["load"]
    with pytest.raises(DataError, match="pass --download"):
        load(DataOptions(root=tmp_path))
    toys = testing.toy_data()
    images, labels = toys.read_test()
    kept = {"images": toys.train.images[:], "labels": toys.train.labels}
    kept |= {"test_images": images, "test_labels": labels}
    torch.save(kept, tmp_path / "shapes.pt")
    for size in (None, 4):
        options = DataOptions(root=tmp_path, image_size=size)
        assert load(options).image_shape == (1, size or 8, size or 8)
        for check in testing.DATASET_CHECKS:
            check(lambda options=options: load(options))


def test_nobody_outside_imports_deeper_than_the_public_door() -> None:
    public = r"dd_plugins(\.(api|testing|options))?"
    template = (DOCS / "examples" / "dd-plugin-template").rglob("*.py")
    sources = [*template, *PAGES]
    found = [
        (path.name, module)
        for path in sources
        for module in re.findall(
            r"^(?:from|import) (dd_plugins[\w.]*)", path.read_text(), re.M
        )
        if not re.fullmatch(public, module)
    ]
    assert found == []
    assert sorted(dd_plugins.api.__all__) == sorted(set(dd_plugins.api.__all__))
    assert set(dd_plugins.__all__) <= set(dd_plugins.api.__all__)


def test_every_built_in_name_is_on_its_page() -> None:
    built_in = Plugins(load=[])
    table = text_of("data.md").partition("## A folder of images")[0]
    assert [name for name in built_in.datasets.names() if f"`{name}" not in table] == []
    page = text_of("quick-start.md")
    registries = (
        built_in.distillers,
        built_in.networks,
        built_in.parametrizations,
        built_in.commands,
    )
    names = [name for registry in registries for name in registry.names()]
    assert [name for name in names if not re.search(rf"\b{name}\b", page)] == []


def test_every_field_of_the_header_is_in_the_format() -> None:
    page = text_of("artifact-format.md")
    assert [name for name in Header.model_fields if f"`{name}`" not in page] == []


def test_every_room_is_in_the_architecture() -> None:
    page = text_of("architecture.md")
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    floors = settings["importlinter:contract:floors"]["layers"]
    rooms = re.findall(r"\w+", floors)
    assert len(rooms) > 20
    names = [
        f"{room}/" if (ROOT / "dd_plugins" / room).is_dir() else f"{room}.py"
        for room in rooms
    ]
    assert [name for name in names if f"`{name}`" not in page] == []


def test_every_file_says_on_its_page_what_it_holds() -> None:
    page = runpy.run_path(str(ROOT / "docs" / "files_page.py"))["files_page"](ROOT)
    roots = (ROOT / "dd_plugins", *(ROOT / "integrations").glob("dd_*"))
    files = [
        path
        for root in roots
        for path in root.rglob("*.py")
        if path.name != "__init__.py"
    ]
    assert len(files) > 60
    rows = re.findall(r"^\| `([\w/]+\.py)` \| .*[.:;]? \|$", page, re.MULTILINE)
    assert len(rows) == len(files)
    assert {Path(row).name for row in rows} == {path.name for path in files}
    assert "|  |" not in page, "each file begins with a sentence"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_every_command_and_option_has_help() -> None:
    context = click.Context(command_line)
    for name in command_line.list_commands(context):  # those of the integrations too
        command = command_line.get_command(context, name)
        assert command is not None
        assert command.help, name
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.help, f"{name} {parameter.name}"


def test_every_command_that_reads_data_sets_can_fetch_them() -> None:
    """So the advice to pass ``--download`` holds wherever it is given."""
    context = click.Context(command_line)
    for name in command_line.list_commands(context):
        command = command_line.get_command(context, name)
        assert command is not None
        options = {option for each in command.params for option in each.opts}
        assert ("--data-root" in options) == ("--download" in options), name


def test_page_of_commands_has_each_in_the_order_of_the_help() -> None:
    listed = click.Context(command_line).get_help().partition("  Examples:")[0]
    names = re.findall(r"^  ([a-z-]+) ", listed.partition("Distil:")[2], re.M)
    assert f":commands: {', '.join(names)}\n" in text_of("command-line.md")


def test_outputs_of_tutorials_name_no_folder_of_a_machine() -> None:
    tutorials = sorted((DOCS / "tutorials").glob("*.ipynb"))
    assert len(tutorials) == 4
    for tutorial in tutorials:
        assert not re.search(r"[\s:'\"(]/\w+/", tutorial.read_text()), tutorial.name


def test_tutorial_of_a_plugin_has_passed_all_checks() -> None:
    tutorial = json.loads((DOCS / "tutorials" / "plugin.ipynb").read_text())
    (checks,) = [
        cell["outputs"]
        for cell in tutorial["cells"]
        if "".join(cell["source"]).endswith("len(testing.DISTILLER_CHECKS)")
    ]
    (passed,) = checks[0]["data"]["text/plain"]
    assert int(passed) == len(testing.DISTILLER_CHECKS)


def test_changelog_has_breaking_entries_first_under_their_heading() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest = changelog.split("\n## ")[1]
    headings = re.findall(r"^### (.*)$", newest, re.M)
    order = ["Breaking", "Changed", "Added", "Fixed"]
    assert headings == [name for name in order if name in headings]
    assert "**Breaking**" not in changelog


def test_template_in_the_docs_is_the_template() -> None:
    package = DOCS / "examples" / "dd-plugin-template" / "dd_plugin_template"
    source = (package / "distiller.py").read_text()
    page = text_of("writing-a-plugin.md")
    for line in re.findall(r"^    \w+: .* = .*$", page, flags=re.MULTILINE):
        assert line in source
