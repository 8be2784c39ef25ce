"""What a run will take, told before it is made."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Command

import dd_plugins
from dd_plugins.api import DistilledSet, OptionError, get_network
from dd_plugins.engine import estimating
from dd_plugins.engine.estimating import Estimate, feature_graph_bytes, probed
from dd_plugins.plugins.manager import Plugins

WAIT = 0.01  # seconds


def test_a_step_is_as_long_as_it_is() -> None:
    assert WAIT <= probed(lambda step: time.sleep(WAIT), 1_000) < 1.5 * WAIT


def test_steps_that_change_on_the_way_are_weighed() -> None:
    def later(step: int) -> None:
        time.sleep(4 * WAIT if step >= 500 else 0)

    assert 2 * WAIT <= probed(later, 1_000) < 3 * WAIT, "its second half is slow"


def test_a_run_of_one_step_is_estimated() -> None:
    made: list[int] = []
    assert probed(made.append, 1) > 0
    assert set(made) == {0}


def test_an_estimate_says_everything_in_a_line() -> None:
    found = Estimate(2_000, 12.0, 0.42, 60.0, 1_900_000_000, 14_000_000, "cpu")
    assert found.seconds == pytest.approx(912)
    assert found.line() == (
        "2,000 steps take about 15.2 min on cpu, 1.9 GB of memory and 14 MB of disk"
    )
    assert found.as_dict()["seconds"] == found.seconds


def test_the_graph_of_an_image_is_counted() -> None:
    # A convolution keeps its input, ReLU its output, pooling its input.
    network, shape = get_network("conv(width=8, depth=1)"), (1, 8, 8)
    assert feature_graph_bytes(network, shape, 2, torch.float32) >= 4 * (64 + 8 * 64)
    narrow, wide = (
        feature_graph_bytes(
            get_network(f"conv(width={width})"), (3, 32, 32), 10, torch.float32
        )
        for width in (32, 64)
    )
    assert 1.8 < wide / narrow < 2.1


@pytest.mark.parametrize(
    ("distiller", "fits"),
    [
        ("frepo(augmented_copies=7)", False),
        ("frepo(augmented_copies=0, augment=False)", True),
        ("frepo(augmented_copies=7, chunk_size=50)", True),
        ("rotated(frepo(augmented_copies=7))", False),
        ("clip(frepo(augmented_copies=7))", False),
        ("dm", True),
        ("kip", True),
        ("random", True),
    ],
)
def test_what_cannot_fit_is_refused_with_advice(
    distiller: str, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = "conv(width=16, depth=1)"
    each = feature_graph_bytes(get_network(network), (1, 8, 8), 10, torch.float32)
    monkeypatch.setattr(estimating, "memory_limit", lambda: 500 * each)
    given: dict[str, Any] = {"images_per_class": 20, "network": network, "steps": 1}
    given |= {"device": "cpu", "precision": "float32"}

    def made() -> Estimate:
        return dd_plugins.estimate("digits", distiller, **given)

    if fits:
        assert made().steps == 1
        return
    with pytest.raises(OptionError, match=r"needs at least .* of memory, and cpu has"):
        made()
    with pytest.raises(OptionError, match="--ipc"):
        dd_plugins.distill("digits", distiller, **given)


@pytest.mark.parametrize(
    ("distiller", "normalization", "counted"),
    [
        ("dm", "instance", 20),  # the images of a class
        ("dm", "batch", 200),  # all images together
        ("clip(dm)", "batch", 200),
        ("rotated(dm)", "batch", 800),
        ("sre2l", "batch", 10),  # one of every class
        ("sre2l(group_size=4)", "batch", 4),  # the largest of 4, 3 and 3
    ],
)
def test_images_that_a_step_keeps_are_counted(
    distiller: str, normalization: str, counted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(estimating, "memory_limit", lambda: 0)
    monkeypatch.setattr(estimating, "feature_graph_bytes", lambda *given: 1_000_000_000)
    with pytest.raises(OptionError, match=f"needs at least {counted} GB of memory"):
        dd_plugins.estimate(
            "digits",
            distiller,
            images_per_class=20,
            network=f"conv(width=4, depth=2, normalization={normalization!r})",
            device="cpu",
        )


def test_the_copy_for_a_checkpoint_holds_set_and_optimizer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dd_plugins.engine.loop.peak_memory", lambda device: 0)
    found = dd_plugins.estimate(
        "digits", "dm", images_per_class=50, network="mlp(width=4)", device="cpu"
    )
    images = 4 * 500 * 64  # bytes
    assert found.memory >= 2 * images, "the images and their momentum"
    assert found.memory < found.disk


STORED = (
    "rded(teachers=(mlp(width=2),), teacher_recipe=recipe(steps=1), group=0, "
    "store_labels=True, views=views(count=300))"
)


@pytest.mark.parametrize(
    ("distiller", "options"),
    [
        ("dm", {}),
        ("dm", {"parametrization": "spectral(keep=0.25)"}),
        (STORED, {}),
    ],
)
def test_the_disk_of_a_run_holds_checkpoint_and_set(
    distiller: str, options: dict[str, Any], tmp_path: Path
) -> None:
    options |= {"images_per_class": 20, "network": "mlp(width=2)", "steps": 1}
    found = dd_plugins.estimate("digits", distiller, **options)
    dd_plugins.distill("digits", distiller, out=tmp_path, **options)
    written = sum(
        (tmp_path / name).stat().st_size
        for name in ("checkpoint.pt", "distilled.safetensors")
    )
    records = 25_000  # the header of the set, and the names in the checkpoint
    assert written - records < found.disk < written


def test_labels_of_views_without_room_are_refused_before_the_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "dd_plugins.training.view_labels.fits_in_memory", lambda size: size < 1e6
    )
    spec = STORED.replace("count=300", "count=30000")
    with pytest.raises(OptionError, match=r"labels of 30,000 views .* take 60 MB"):
        dd_plugins.distill("digits", spec, images_per_class=10, steps=1)


def test_an_estimate_takes_the_options_of_a_run() -> None:
    for name in ("overwrite", "out", "folder", "observers"):
        told = rf"estimate\(\) got an unexpected keyword argument '{name}'"
        with pytest.raises(TypeError, match=told):
            dd_plugins.estimate("digits", "dm", **{name: None})
    with pytest.raises(OptionError, match="steps"):
        dd_plugins.estimate("digits", "dm", steps=0)


def test_the_command_tells_before_and_the_run_tells_first(
    command_line: Command, tmp_path: Path
) -> None:
    words = ["--distiller", "frepo(pool_size=2)", "--steps", "60"]
    words += ["--network", "conv(width=8, depth=2)", "--device", "cpu"]
    told = command_line("estimate", *words, "--json", "told.json")
    assert told.returncode == 0, told.stderr
    found = json.loads((tmp_path / "told.json").read_text())
    assert found["steps"] == 60
    first = told.stdout.splitlines()[0]
    assert found["validation_seconds"] > 0
    assert first.startswith("60 steps take about "), told.stdout
    assert not (tmp_path / "runs").exists(), "nothing is written but what is asked for"
    run = command_line("distill", *words, "--out", "run")
    assert run.returncode == 0, run.stderr
    lines = [line for line in run.stderr.splitlines() if "steps take about" in line]
    assert len(lines) == 1
    assert lines[0].split(" take ")[0] == first.split(" take ")[0]
    assert DistilledSet.load(tmp_path / "run").header.steps == 60
    written = sum(
        (tmp_path / "run" / name).stat().st_size
        for name in ("checkpoint.pt", "distilled.safetensors")
    )
    assert found["disk"] == pytest.approx(written, abs=40_000)  # the rest is text
    foreign = tmp_path / "notes.json"
    foreign.write_text("my notes")
    refused = command_line("estimate", "--json", foreign, *words)
    assert refused.returncode == 2
    assert foreign.read_text() == "my notes"


class Slow:
    """An observer that takes longer than the steps."""

    @dd_plugins.hookimpl
    def dd_after_step(self) -> None:
        """Wait."""
        time.sleep(0.6)


def test_a_run_tells_the_time_of_its_steps_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    dd_plugins.distill(
        "digits",
        "random",
        network="conv(width=8, depth=1)",
        steps=4,
        device="cpu",
        progress=True,
        plugins=Plugins(load=[], extra={"slow": Slow()}),
    )
    (line,) = (
        line for line in capsys.readouterr().err.splitlines() if "take about" in line
    )
    assert line.startswith("4 steps take about 0"), f"they wait 2.4 s: {line}"
    assert line.endswith(", validation apart")
