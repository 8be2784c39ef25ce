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
    extras = PROJECT["optional-dependencies"]
    required = list(PROJECT["dependencies"])
    for name in extras.keys() - {"all", "docs", "dev"}:
        required += extras[name]
    bounds = dict(entry.split(">=") for entry in required)
    tested = dict(re.findall(r"^ {8}([\w-]+)==([\d.]+)$", job("oldest"), re.M))
    assert tested == bounds


def test_oldest_python_is_the_lower_bound_and_newest_are_all_others() -> None:
    oldest = PROJECT["requires-python"].removeprefix(">=")
    for name in ("lint", "oldest", "wheel"):
        assert f'python-version: "{oldest}"' in job(name)
    newest = re.findall(r'"(3\.\d+)"', job("newest"))
    named = [entry.rpartition(" :: ")[2] for entry in PROJECT["classifiers"]]
    assert [name for name in named if name.startswith("3.")] == [oldest, *newest]


def test_every_job_has_an_end_and_new_releases_block_nothing() -> None:
    for name in ("lint", "oldest", "newest", "wheel"):
        assert re.search(r"^    timeout-minutes: \d+$", job(name), re.M)
    assert "    continue-on-error: " in job("newest")
    assert "\n  schedule:\n" in WORKFLOW


def test_ruff_and_mypy_run_at_each_commit() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text()
    commands = re.findall(r"^ +entry: (.*)$", hooks, re.M)
    assert commands == [
        f".venv/bin/{words}" for words in ("ruff check", "ruff format", "mypy")
    ]
