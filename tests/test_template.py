"""The template plugin, installed into an environment of its own."""

import json
import subprocess
import sysconfig
import venv
from pathlib import Path

import pytest
from conftest import ROOT, Command

from dd_plugins import DistilledSet

TEMPLATE = ROOT / "docs" / "examples" / "dd-plugin-template"


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of a fresh environment with dd-plugins and the template.

    The environment sees the installed libraries through a ``.pth`` file, so that
    nothing is downloaded; the template itself is built and installed by pip.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=True)
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
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # An old setuptools that came with the environment would hide the installed one.
    subprocess.run([*pip, "uninstall", "--yes", "setuptools"], check=True)
    offline = ["--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "install", *offline, copy], check=True)
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


def test_template_is_listed_with_distribution_and_offers(python: Path) -> None:
    listed = json.loads(run(python, "-m", "dd_plugins", "plugins", "--json"))
    (template,) = [plugin for plugin in listed if plugin["name"] == "template"]
    assert template["distribution"] == "dd-plugin-template"
    assert template["error"] is None
    assert template["offers"] == {
        "distiller": ["pixel_means"],
        "network": ["linear"],
        "command": ["labels"],
    }


def distil(distiller: str, out: Path) -> list[object]:
    """Return the command of a run of thirty steps on the template's network."""
    words = ["distill", "--distiller", distiller, "--network", "linear"]
    return [*words, "--steps", 30, "--out", out]


def test_template_distils_and_is_evaluated(python: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    figures = tmp_path / "figures.json"
    words: list[object] = ["evaluate", out, "--network", "linear(bias=False)"]
    words += ["--repeats", 2, "--json", figures]
    words += ["--protocol", "recipe(steps=200, learning_rate=0.01)"]
    _, _, labels = commands(
        python, distil("pixel_means(smoothing=0.5)", out), words, ["labels", out]
    )
    assert DistilledSet.load(out).header.versions["dd-plugin-template"] == "0.1.0"
    (found,) = json.loads(figures.read_text())["networks"]
    assert found["spec"] == "linear(bias=False)"
    # Mean images classify four digits in five; ten random images do worse.
    assert found["accuracy_mean"] > 0.8
    assert labels.split() == [part for digit in "0123456789" for part in (digit, digit)]


def test_wrapper_takes_the_template_s_distiller(
    python: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    networks = "networks=(vgg11(width=4), conv(width=4, depth=2)), stages=(5,)"
    spec = f"metadd(pixel_means(smoothing=0.5), {networks})"
    out, picture = tmp_path / "wrapped", tmp_path / "features.png"
    _, _, shown = commands(
        python,
        distil("pixel_means(smoothing=0.5)", tmp_path / "plain"),
        distil(spec, out),
        ["show", out, "--features", "--out", picture],
    )
    wrapped, alone = DistilledSet.load(out), DistilledSet.load(tmp_path / "plain")
    assert wrapped.header.versions == alone.header.versions
    # The pace is settled; it starts after half of the steps.
    settled = spec.replace("stages", "rho=4.0, every=16, start=15, stages")
    assert wrapped.header.distiller == settled
    assert alone.content_hash() != wrapped.content_hash()
    assert "meta ratio: 0." in shown
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_without_the_template_its_names_are_unknown(command_line: Command) -> None:
    done = command_line("distill", "--distiller", "pixel_means")
    assert done.returncode == 2
    assert "unknown distiller 'pixel_means'" in done.stderr


def test_template_passes_its_own_tests(python: Path) -> None:
    tests = python.parents[1] / "source"
    printed = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests)
    assert "11 passed" in printed
