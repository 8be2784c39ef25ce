"""Names that are imported at their first use."""

from pathlib import Path

from conftest import run_code

LISTED = """
import sys
import dd_plugins, dd_plugins.api, dd_avalanche, dd_privacy

for module in (dd_plugins, dd_plugins.api, dd_avalanche, dd_privacy):
    assert set(module.__all__) <= set(dir(module)), module
    assert "__name__" in dir(module)
print(dd_plugins.distill.__name__, "distill" in vars(dd_plugins))
"""


def test_public_names_are_listed_before_their_first_use(tmp_path: Path) -> None:
    done = run_code(LISTED, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["distill", "True"]
