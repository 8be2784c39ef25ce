"""Two processes under torchrun: one gradient, one set, and a clear end if one dies."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from conftest import Command, run_code, run_in_two_processes, torchrun, two_processes

import dd_plugins
from dd_plugins import DistilledSet
from dd_plugins.engine.checkpoint import load_checkpoint
from dd_plugins.runtime.processes import average, gather_objects, rank, world_size

DISTILL = (
    "distill", "--ipc", 1, "--network", "conv(width=4, depth=2)",
    "--distiller", "frepo(pool_size=2, real_batch_size=32)",
)  # fmt: skip


def test_one_process_is_a_group_of_one() -> None:
    gradient = torch.ones(2)
    assert (rank(), world_size()) == (0, 1)
    assert average([gradient])[0] is gradient
    assert gather_objects("own") == ["own"]


ALONE = """
import sys
import dd_plugins
from dd_plugins.api import process_group

for name, arguments in {
    "distill": {"distiller": "random"},
    "evaluate": {"distilled": sys.argv[1], "networks": "mlp(width=4)"},
    "transfer": {"sets": sys.argv[1], "networks": "mlp(width=4)"},
}.items():
    try:
        getattr(dd_plugins, name)(**arguments)
    except dd_plugins.errors.OptionError as error:
        print(error)
try:
    dd_plugins.estimate("digits", "random")
except dd_plugins.errors.OptionError as error:
    print(error)
with process_group():
    print(len(dd_plugins.distill("digits", "random")))
"""


def test_a_script_that_has_not_joined_is_refused_and_told_how(tmp_path: Path) -> None:
    made = dd_plugins.distill("digits", "random").save(tmp_path / "set")
    printed = run_in_two_processes(ALONE, made, folder=tmp_path).splitlines()
    assert printed == [
        f"{name}: each of the 2 processes of torchrun would do all the work; call it "
        "in a block of dd_plugins.api.process_group(), or run "
        f"`torchrun ... -m dd_plugins {name}`"
        for name in ("distill", "evaluate", "transfer")
    ] + ["estimate works in one process, got 2: start it without torchrun", "10"]


GRADIENTS = """
import json, sys
import torch
from dd_plugins import get_distiller
from dd_plugins.runtime import processes
from dd_plugins.data.sampler import RealSampler
from dd_plugins.networks.conv import Conv
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves

def draw(count, seed):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))

def gradients(rank, ranks):
    task = Task("toy", (1, 8, 8), 3, 2)
    distiller = get_distiller("frepo(pool_size=4, real_batch_size=20)").for_task(task)
    network = Conv(width=4, depth=2, normalization="batch")
    run = Run(task, "frepo", network, 9, 0, torch.device("cpu"), rank=rank, ranks=ranks)
    labels = distiller.initial_labels(torch.arange(6) % 3, 3)
    leaves = Leaves(draw(6, 0).requires_grad_(), labels.requires_grad_(),
                    torch.arange(6) % 3)
    real = RealSampler(draw(30, 1), torch.arange(30) % 3, seed=0, device=run.device,
                       rank=rank, ranks=ranks)
    distiller.accumulate(distiller.setup(run, real), leaves, real, 3)
    return [leaves.pixels.grad, leaves.labels.grad]

with processes.process_group():
    averaged = processes.average(gradients(processes.rank(), processes.world_size()))
    if processes.rank() == 0:
        single = [gradients(rank, 2) for rank in range(2)]
        errors = [
            float((found - (one + other) / 2).abs().max())
            for found, one, other in zip(averaged, *single)
        ]
        differ = [float((one - other).abs().max()) for one, other in zip(*single)]
        print(json.dumps([errors, differ]))
"""


def test_averaged_gradient_is_the_mean_of_the_two(tmp_path: Path) -> None:
    errors, differ = json.loads(run_in_two_processes(GRADIENTS, folder=tmp_path))
    assert max(errors) < 1e-6
    assert min(differ) > 1e-4, "both processes did the same"


BOTH = """
import sys
from contextlib import suppress
from pathlib import Path
import torch
import dd_plugins
from dd_plugins.runtime import processes

with processes.process_group():
    distilled = dd_plugins.distill(
        "digits", "frepo(pool_size=4, updates_per_batch=2)", steps=12,
        network="conv(width=4, depth=2)", out=sys.argv[1], checkpoint_seconds=0,
    )
    found = processes.gather_objects([distilled.images, distilled.labels])
    assert all(torch.equal(one, other) for one, other in zip(*found))
    networks = ["mlp(width=4)", "mlp(width=6)"]
    results = dd_plugins.evaluate(
        distilled, networks, repeats=3, protocol="recipe(steps=20)"
    )
    specs = [(result.spec, len(result.accuracies)) for result in results.networks]
    assert specs == [("mlp(width=4)", 3), ("mlp(width=6)", 3)], specs
    assert processes.gather_objects(results) == [results] * 2

# What is left of the group at exit would abort the process, now and then.
for thread in Path("/proc/self/task").glob("*/comm"):
    with suppress(OSError):  # it ended meanwhile
        assert "gloo" not in thread.read_text()
"""


def test_both_processes_end_with_the_same_set_and_figures(tmp_path: Path) -> None:
    run_in_two_processes(BOTH, tmp_path / "run", folder=tmp_path)
    assert len(DistilledSet.load(tmp_path / "run")) == 10
    checkpoint = load_checkpoint(tmp_path / "run" / "checkpoint.pt")
    assert sorted(checkpoint["state"]["pool"]) == [0, 1, 2, 3]


SCALED = """
import sys
import dd_plugins
from dd_plugins.runtime import processes
from dd_plugins.training import kept_networks

steps_of, trained = kept_networks.training_steps_of, []
def counted(*arguments, **options):
    trained.append(processes.rank())
    return steps_of(*arguments, **options)
kept_networks.training_steps_of = counted

with processes.process_group():
    for number, spec in enumerate(sys.argv[2:]):
        distilled = dd_plugins.distill(
            "digits", spec, steps=4, precision="float32",
            # BatchNorm would see half a batch:
            network="conv(width=4, depth=2, normalization='none')",
        )
        if processes.rank() == 0:
            distilled.save(f"{sys.argv[1]}-{number}.safetensors")
    print(processes.gather_objects(trained))
"""
SCALING = {
    "metadd by gradients": (
        "metadd(dm(real_batch_size=16), variant='gradients', start=0, "
        "networks=(mlp(width=8), conv(width=4, depth=1, normalization='none')))"
    ),
    "clip": "clip(dm(real_batch_size=16), max_norm=0.1)",
    **{
        f"metadd by {variant}": (
            f"metadd(dm(real_batch_size=16), variant={variant!r}, start=0, every=1, "
            "stages=(5,), augment=False, "
            "networks=(conv(width=4, depth=2), conv(width=4, depth=1)))"
        )
        for variant in ("logit_variance", "real_features")
    },
}


def test_gradients_are_scaled_and_networks_trained_as_by_one_process(
    tmp_path: Path,
) -> None:
    kept = {"DD_CACHE": str(tmp_path / "cache")}
    specs = SCALING.values()
    told = run_in_two_processes(
        SCALED, tmp_path / "two", *specs, folder=tmp_path, **kept
    )
    assert told == "[[0], [1]]\n", "each trains one of the two networks, once"
    alone = run_code(SCALED, tmp_path / "one", *specs, folder=tmp_path, **kept)
    assert alone.returncode == 0, alone.stderr
    for number, name in enumerate(SCALING):
        files = [tmp_path / f"{count}-{number}.safetensors" for count in ("two", "one")]
        two, one = (DistilledSet.load(file).images for file in files)
        assert torch.allclose(two, one, rtol=1e-4, atol=1e-4), (
            f"{name}: {(two - one).abs().max()}"
        )


RESUMED = """
import sys
import warnings
from contextlib import suppress
import torch
import dd_plugins
from dd_plugins.plugins.manager import Plugins
from dd_plugins.runtime import processes
from dd_plugins.testing import toy_data
from dd_plugins.testing.toys import Interruption

warnings.simplefilter("error")  # the parts of a state are told if they differ
with processes.process_group():
    differ = []
    for number, words in enumerate(sys.argv[2:]):
        spec, network = words.split(" on ")
        options = dict(
            data=toy_data(validation=0.0), distiller=spec, network=network,
            images_per_class=2, steps=8, precision="float32",
        )
        whole = dd_plugins.distill(**options)
        out = f"{sys.argv[1]}/{number}"
        stops = Plugins(load=[], extra={"interruption": Interruption(4)})
        with suppress(KeyboardInterrupt):
            dd_plugins.distill(**options, out=out, plugins=stops)
        resumed = dd_plugins.distill(**options, out=out, resume=True)
        if not torch.equal(resumed.images, whole.images):
            differ.append(words)
    assert not differ, differ
"""


def test_two_processes_resume_as_if_never_interrupted(tmp_path: Path) -> None:
    dsa = "dsa(real_batch_size=16, inner_epochs=2)"
    metadd = (
        "metadd(frepo(pool_size=2), variant='logit_variance', start=0, every=1, "
        "auxiliaries='learning', "
        "networks=(conv(width=4, depth=1), conv(width=6, depth=2)))"
    )
    runs = [
        f"{dsa} on dc_convnet(width=4, depth=2, normalization='batch')",
        f"rotated({dsa}, current_turns=1) on dc_convnet(width=4, depth=2)",
        f"rotated({metadd}, current_turns=1) on conv(width=4, depth=2)",
    ]
    run_in_two_processes(RESUMED, tmp_path, *runs, folder=tmp_path)


def children(process: subprocess.Popen[str]) -> list[int]:
    listed = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return sorted(map(int, listed.split()))


def test_no_process_waits_for_a_network_that_another_could_not_train(
    tmp_path: Path,
) -> None:
    """The first process trains the only teacher, and its weights become infinite."""
    diverging = "recipe(steps=50, learning_rate=1e30, optimizer='sgd')"
    teacher = (
        f"teacher_recipe={diverging}, teachers=(conv(width=4, normalization='batch'),)"
    )
    words = ("distill", "--distiller", f"rded({teacher})", "--device", "cpu")
    with two_processes(*words, "--out", tmp_path / "run", folder=tmp_path) as started:
        first, second = [each.finish() for each in started]
    assert "lower the learning rate" in first.stderr
    assert "another process of this run died or stopped" in second.stderr
    assert [first.returncode, second.returncode] == [1, 1]


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds processes in /proc")
def test_death_of_a_process_ends_the_run_and_leaves_a_checkpoint(
    tmp_path: Path,
) -> None:
    out = tmp_path / "run"
    words = (*DISTILL, "--steps", 100_000, "--out", out, "--checkpoint-seconds", 0)
    process = torchrun("-m", "dd_plugins", *words)
    deadline = time.monotonic() + 120
    while not (out / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(children(process)[-1], signal.SIGKILL)
    _, errors = process.communicate(timeout=120)

    assert process.returncode != 0
    assert "another process of this run died" in errors
    assert f"the last good checkpoint is {out / 'checkpoint.pt'}" in errors
    step = load_checkpoint(out / "checkpoint.pt")["step"]
    assert step > 0


def test_run_of_two_processes_goes_on_in_one(
    command_line: Command, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = (*DISTILL, "--steps", 120, "--out", out, "--checkpoint-seconds", 0)
    with two_processes(*words, folder=tmp_path) as started:
        while not (out / "checkpoint.pt").exists():
            assert not any(each.ended(0.01) for each in started)
        for each in started:  # as the launcher does
            each.send(signal.SIGINT)
        ended = [each.finish() for each in started]
    assert [each.returncode for each in ended] == [130, 130], ended
    step = load_checkpoint(out / "checkpoint.pt")["step"]
    assert 0 < step < 120

    done = command_line(*words, "--resume", "--checkpoint-seconds", 30)
    assert done.returncode == 0, done.stderr
    assert re.search(rf"120 steps on cpu, going on at step {step}\n", done.stderr)
    assert DistilledSet.load(out).header.steps == 120
