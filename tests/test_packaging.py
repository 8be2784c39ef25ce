"""What a package declares and holds: requirements, extras, the files of a release."""

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable

import grimp
import pytest
from conftest import ROOT
from setuptools.command.egg_info import FileList

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
LIBRARY = ("dd_plugins", "dd_avalanche", "dd_privacy")
OURS = {*LIBRARY} | {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
# Imported by another name than installed.
INSTALLED_AS = {
    "PIL": "pillow",
    "avalanche": "avalanche-lib",
    "sklearn": "scikit-learn",
}


def name_of(requirement: str) -> str:
    """Return the name of a requirement, in lower case with hyphens."""
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return found[0].lower().replace("_", "-")


def extras_in(requirements: list[str]) -> set[str]:
    """Return the extras of the project itself that requirements name."""
    lists = [re.match(r"dd-plugins\[(.*)\]", each) for each in requirements]
    return {name for found in lists if found for name in found[1].split(",")}


def names_of(requirements: list[str]) -> set[str]:
    """Return the names of requirements, those of the extras among them too."""
    names = {name_of(each) for each in requirements} - {"dd-plugins"}
    return names.union(*(names_of(EXTRAS[each]) for each in extras_in(requirements)))


def installed(modules: Iterable[str]) -> set[str]:
    """Return what is installed for modules, without Python's own and the project's."""
    packages = {module.partition(".")[0] for module in modules}
    others = packages - OURS - {*sys.stdlib_module_names}
    return {name_of(INSTALLED_AS.get(each, each)) for each in others}


def test_every_package_that_the_library_imports_is_declared() -> None:
    graph = grimp.build_graph(*LIBRARY, include_external_packages=True, cache_dir=None)
    declared = names_of([*PROJECT["dependencies"], "dd-plugins[all]"])
    assert installed(graph.modules) - declared == set()


def test_every_package_that_a_test_imports_is_declared() -> None:
    tests = [*(ROOT / "tests").rglob("*.py")]
    text = "\n".join(path.read_text() for path in tests)
    found = re.findall(r"^(?:import|from) ([\w.]+)", text, re.M)
    declared = names_of([*PROJECT["dependencies"], "dd-plugins[dev]"])
    assert installed({*found} - {path.stem for path in tests}) - declared == set()


def test_all_is_every_extra_of_users() -> None:
    assert extras_in(EXTRAS["all"]) == EXTRAS.keys() - {"all", "docs", "dev"}
    assert {"all", "docs"} <= extras_in(EXTRAS["dev"])


def test_docs_have_what_their_pages_import() -> None:
    assert {"avalanche-lib", "opacus"} <= names_of(EXTRAS["docs"])


def test_quick_start_names_the_extras() -> None:
    page = (ROOT / "docs" / "quick-start.md").read_text()
    named = re.findall(
        r"`(\w+)`", page.partition("The extras are")[2].partition(".")[0]
    )
    assert sorted(named) == sorted(EXTRAS.keys() - {"docs", "dev"})


def test_every_requirement_has_a_version_in_the_constraints() -> None:
    pinned = map(name_of, (ROOT / "constraints.txt").read_text().splitlines())
    wanted = names_of([*PROJECT["dependencies"], "dd-plugins[dev]"])
    assert wanted - {*pinned} == set()


def test_template_asks_for_this_version_and_names_its_tools() -> None:
    folder = ROOT / "docs" / "examples" / "dd-plugin-template"
    template = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert template["dependencies"] == [f"dd-plugins>={PROJECT['version']}"]
    (pytest_there,) = template["optional-dependencies"]["test"]
    assert pytest_there in EXTRAS["dev"]
    page = (folder / "README.md").read_text()
    assert "pip install '.[test]'" in page
    renamed = {template["name"], *template["entry-points"]["dd_plugins"]}
    assert [name for name in renamed if f"| `{name}`" not in page] == []


@pytest.mark.parametrize(
    "file",
    [f"distillers/{name}.py" for name in ("dm", "dsa", "kip", "rded", "sre2l")]
    + [
        "distillers/frepo/frepo.py",
        "distillers/mtt/mtt.py",
        "wrappers/metadd/metadd.py",
    ],
)
def test_paper_of_a_method_is_in_the_citation(file: str) -> None:
    text = (ROOT / "dd_plugins" / file).read_text()
    paper = re.search(r"References?: .*?arXiv\s+(\d+\.\d+)", text, re.S)
    assert paper
    assert f"/abs/{paper[1]}\n" in (ROOT / "CITATION.cff").read_text()


def test_release_of_the_sources_holds_what_a_clone_holds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("needs a clone")
    monkeypatch.chdir(ROOT)
    files = FileList()
    for line in (ROOT / "MANIFEST.in").read_text().splitlines():
        if line and not line.startswith("#"):
            files.process_template_line(line)
    tracked = subprocess.run(
        ["git", "ls-files"], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    # setuptools adds the packages and its own files; CI's are of no use elsewhere.
    packages = ("dd_plugins/", "integrations/")
    by_itself = ("LICENSE", "MANIFEST.in", "pyproject.toml", "setup.cfg")
    others = (*packages, *by_itself, ".ci/", ".gitignore")
    wanted = {name for name in tracked if not name.startswith(others)}
    assert wanted - {*files.files} == set()
    assert [name for name in files.files if "_build" in name] == []
