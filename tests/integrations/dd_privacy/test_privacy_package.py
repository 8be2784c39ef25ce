"""The doors of the package: what it exports, and what importing it loads."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import dd_privacy
import dd_privacy.audit
import dd_privacy.private


@pytest.mark.parametrize(
    "package",
    [
        "dd_privacy",
        "dd_privacy.audit",
        "dd_privacy.audit.attacks",
        "dd_privacy.audit.mechanisms",
        "dd_privacy.audit.statistics",
        "dd_privacy.private",
    ],
)
def test_every_exported_name_is_there(package: str) -> None:
    module = import_module(package)
    assert [name for name in module.__all__ if not hasattr(module, name)] == []
    assert len(set(module.__all__)) == len(module.__all__)


def test_the_package_exports_what_its_rooms_export() -> None:
    rooms = set(dd_privacy.audit.__all__) | set(dd_privacy.private.__all__)
    older = {"Game", "Seen", "game_for_artifact", "game_for_mechanism"}
    assert set(dd_privacy.__all__) <= rooms | older
    assert older <= set(dd_privacy.__all__)


def test_older_names_are_the_same_objects() -> None:
    assert dd_privacy.Game is dd_privacy.Membership
    assert dd_privacy.Seen is dd_privacy.Observations
    assert dd_privacy.game_for_artifact is dd_privacy.membership_for_artifact
    assert dd_privacy.game_for_mechanism is dd_privacy.membership_for_mechanism


def test_every_file_says_what_it_is_and_what_it_offers() -> None:
    files = list(Path(dd_privacy.__file__).parent.rglob("*.py"))
    assert len(files) > 50
    for path in files:
        text = path.read_text()
        assert text.startswith('"""'), path
        assert len(text.splitlines()) <= 500, path
        assert "__all__ = [" in text or path.name == "plugin.py", path


def test_importing_the_package_needs_no_library_of_an_extra() -> None:
    code = """
import sys
sys.modules |= dict.fromkeys(["opacus", "avalanche", "jinja2", "filelock"])
import dd_privacy, dd_privacy.audit.from_command_line, dd_privacy.private.command
dd_privacy.PrivateTrainer(epsilon=2.0)
dd_privacy.get_attack("loss")
heavy = {"sklearn", "matplotlib", "torchvision", "scipy"} & set(sys.modules)
print(sorted(heavy))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_the_door_for_avalanche_is_where_it_was() -> None:
    pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")
    pytest.importorskip("avalanche.training", reason="avalanche-lib is not installed")
    door = import_module("dd_privacy.avalanche")
    room = import_module("dd_privacy.private.avalanche")
    assert door.PrivateTrainingPlugin is room.PrivateTrainingPlugin
