"""The template plugin, installed into an environment of its own."""

import json
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT, Said

from dd_plugins import DistilledSet, testing

TEMPLATE = ROOT / "docs" / "examples" / "dd-plugin-template"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment with dd-plugins and the template.

    The environment sees the installed libraries through a ``.pth`` file, so that
    nothing is downloaded; the template itself is built and installed by pip.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder)
    python = folder / "bin" / "python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    here = sysconfig.get_path("purelib")
    line = f"import site; site.addsitedir({here!r})\n"
    (Path(site) / "libraries-of-the-tests.pth").write_text(line)
    copy = folder / "source"
    subprocess.run(["cp", "-r", TEMPLATE, copy], check=True)
    pip = [sys.executable, "-m", "pip", "--python", python, "--quiet"]
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "install", *offline, copy], check=True
    )
    return python


def run(python: Path, *words: object) -> str:
    done = subprocess.run(
        [python, *map(str, words)], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


COMMANDS = """
import contextlib, io, json, sys
from dd_plugins.cli.entry import main
from dd_plugins.engine import validation

validation._PROBE_STEPS = 10  # it decides nothing
said = []
for words in json.loads(sys.argv[1]):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        try:
            main(words)
        except SystemExit as ended:
            assert not ended.code, words
    said.append(output.getvalue())
print(json.dumps(said))
"""


def commands(python: Path, *several: list[object]) -> list[str]:
    """Run commands one after the other in one process; return what each printed."""
    words = json.dumps([[str(word) for word in command] for command in several])
    said: list[str] = json.loads(run(python, "-c", COMMANDS, words).splitlines()[-1])
    return said


class Made(NamedTuple):
    """Two sets of the template's distiller, and what was said of them.

    Attributes:
        listed: what ``plugins --json`` printed.
        folder: of the sets ``plain`` and ``wrapped``, and of other files.
        labels: what the command of the template printed.
        shown: what ``show --features`` printed.
    """

    listed: str
    folder: Path
    labels: str
    shown: str


NETWORKS = "networks=(vgg11(width=4), conv(width=4, depth=2)), stages=(5,)"
WRAPPED = f"metadd(pixel_means(smoothing=0.5), {NETWORKS})"


@pytest.fixture(scope="module")
def made(python: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Distil on the template's network, evaluate and look, in one process."""
    folder = tmp_path_factory.mktemp("made")
    plain, wrapped = folder / "plain", folder / "wrapped"

    def distil(distiller: str, out: Path) -> list[object]:
        words = ["distill", "--distiller", distiller, "--network", "linear"]
        return [*words, "--steps", 30, "--out", out]

    words: list[object] = ["evaluate", plain, "--network", "linear(bias=False)"]
    words += ["--repeats", 2, "--json", folder / "figures.json"]
    words += ["--protocol", "recipe(steps=100, learning_rate=0.02)"]
    listed, _, _, labels, _, shown = commands(
        python,
        ["plugins", "--json"],
        distil("pixel_means(smoothing=0.5)", plain),
        words,
        ["labels", plain],
        distil(WRAPPED, wrapped),
        ["show", wrapped, "--features", "--out", folder / "features.png"],
    )
    return Made(listed, folder, labels, shown)


def test_template_is_listed_with_distribution_and_offers(made: Made) -> None:
    listed = json.loads(made.listed)
    (template,) = [plugin for plugin in listed if plugin["name"] == "template"]
    assert template["distribution"] == "dd-plugin-template"
    assert template["error"] is None
    assert template["offers"] == {
        "distiller": ["pixel_means"],
        "network": ["linear"],
        "command": ["labels"],
    }


def test_template_distils_and_is_evaluated(made: Made) -> None:
    header = DistilledSet.load(made.folder / "plain").header
    assert header.versions["dd-plugin-template"] == "0.1.0"
    (found,) = json.loads((made.folder / "figures.json").read_text())["networks"]
    assert found["spec"] == "linear(bias=False)"
    # Mean images classify four digits in five; ten random images do worse.
    assert found["accuracy_mean"] > 0.8
    twice = [part for digit in "0123456789" for part in (digit, digit)]
    assert made.labels.split() == twice


def test_wrapper_takes_the_template_s_distiller(made: Made) -> None:
    wrapped, alone = (
        DistilledSet.load(made.folder / name) for name in ("wrapped", "plain")
    )
    assert wrapped.header.versions == alone.header.versions
    # The pace is settled; it starts after half of the steps.
    settled = WRAPPED.replace("stages", "rho=4.0, every=3, start=15, stages")
    assert wrapped.header.distiller == settled
    assert alone.content_hash() != wrapped.content_hash()
    assert "meta ratio: 0." in made.shown
    picture = made.folder / "features.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_the_template_its_names_are_unknown(
    in_process: Callable[..., Said],
) -> None:
    done = in_process("distill", "--distiller", "pixel_means")
    assert done.status == 2
    assert "unknown distiller 'pixel_means'" in done.stderr


def test_template_passes_its_own_tests(python: Path) -> None:
    tests = python.parents[1] / "source"
    printed = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests)
    checks = len(testing.DISTILLER_CHECKS) + len(testing.NETWORK_CHECKS)
    assert f"{checks} passed" in printed
