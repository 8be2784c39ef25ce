"""The hosted workflow tests the oldest versions that `pyproject.toml` claims."""

import re
import tomllib

from conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOW = (ROOT / ".github" / "workflows" / "test.yml").read_text()


def job(name: str) -> str:
    """Return the text of a job of the workflow."""
    found = re.search(rf"^  {name}:\n((?:    .*\n|\n)+)", WORKFLOW, re.M)
    assert found
    return found[1]


def test_oldest_versions_are_the_lower_bounds() -> None:
    bounds = dict(entry.split(">=") for entry in PROJECT["dependencies"])
    tested = dict(re.findall(r"^ {8}([\w-]+)==([\d.]+)$", job("oldest"), re.M))
    assert tested == bounds


def test_oldest_python_is_the_lower_bound_and_newest_is_any() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    for name in ("lint", "oldest", "wheel"):
        assert f'python-version: "{oldest}"' in job(name)
    assert 'python-version: "3.x"' in job("newest")


def test_ruff_and_mypy_run_at_each_commit() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    commands = re.findall(r"^ +entry: (.*)$", hooks, re.M)
    assert commands == [
        f".venv/bin/{words}" for words in ("ruff check", "ruff format", "mypy")
    ]
