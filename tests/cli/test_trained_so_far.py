"""Commands that keep trained networks until they end."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Said, Started

import dd_plugins
from dd_plugins.evaluation.jobs import train_network

Run = Callable[..., Said]

SHORT = ("--protocol", "recipe(steps=4)", "--repeats", 2, "--json", "figures.json")
COMMANDS = {
    "evaluate": ("evaluate", "set", "--networks", "mlp(width=2),mlp(width=3)", *SHORT),
    "transfer": ("transfer", "set", "other", "--network", "mlp(width=2)", *SHORT),
}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a test a cache of its own."""
    monkeypatch.setenv("DD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def run(in_process: Run) -> Run:
    for name, seed in (("set", 0), ("other", 1)):
        made = dd_plugins.distill(
            "digits", "random", steps=1, network="mlp(width=2)", seed=seed
        )
        made.save(name)
    return in_process


def stop_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """Interrupt the command before it trains another network."""
    left = iter(range(count))

    def train(*given: object, **options: object) -> None:
        if next(left, None) is None:
            raise KeyboardInterrupt
        train_network(*given, **options)  # type: ignore[arg-type]

    patch.setattr("dd_plugins.evaluation.jobs.train_network", train)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stopped_command_goes_on(run: Run, own_cache: Path, command: str) -> None:
    words = COMMANDS[command]
    assert run(*words).status == 0
    figures = Path("figures.json").read_text()
    assert not list(own_cache.rglob("*.safetensors"))
    with pytest.MonkeyPatch.context() as patch:
        stop_after(3, patch)
        said = run(*words)
        assert (said.status, said.stdout) == (130, "")
        assert "to go on, run it again" in said.stderr
    assert len(list((own_cache / "evaluations").rglob("*.safetensors"))) == 3
    with pytest.MonkeyPatch.context() as patch:
        stop_after(1, patch)  # four networks in all
        said = run(*words)
    assert said.status == 0, said.stderr
    assert "networks that the stopped command has trained: 3; going on" in said.stderr
    assert json.loads(Path("figures.json").read_text()) == json.loads(figures)
    assert not list((own_cache / "evaluations").iterdir())


def test_figures_that_cannot_be_written_leave_the_networks(
    run: Run, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("dd_plugins.cli.evaluate.write_json", full)
    said = run(*COMMANDS["evaluate"])
    assert "the disk is full" in said.stderr
    assert len(list((own_cache / "evaluations").rglob("*.safetensors"))) == 4


def test_a_cache_that_cannot_be_written_is_told(run: Run, own_cache: Path) -> None:
    own_cache.write_text("no folder")
    said = run(*COMMANDS["evaluate"])
    assert said.status == 0, said.stderr
    assert "trained networks are not kept: cannot write" in said.stderr


def test_a_killed_evaluation_goes_on_to_the_same_figures(
    run: Run, own_cache: Path, tmp_path: Path
) -> None:
    del run  # it has made the set
    words = ("evaluate", "set", "--network", "mlp(width=2)", "--repeats", 3)
    words = (*words, "--protocol", "recipe(steps=400)", "--json", "figures.json")

    def started() -> Started:
        return Started(*words, folder=tmp_path, DD_CACHE=str(own_cache))

    killed = started()
    while not list(own_cache.rglob("*.safetensors")):
        assert not killed.ended(0.01)
    assert killed.kill().returncode == -signal.SIGKILL
    done = started().finish()
    assert done.returncode == 0, done.stderr
    assert "networks that the stopped command has trained" in done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert started().finish().returncode == 0
    assert json.loads((tmp_path / "figures.json").read_text()) == figures
