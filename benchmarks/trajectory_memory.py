"""Measure the memory of trajectory matching by the student's steps, and its gradients.

    python benchmarks/trajectory_memory.py --out docs/benchmarks/trajectory-memory.json

Linux only. For each number of steps N and each mode, a separate process makes one
update of a set of real images. The memory of the update is its peak, less the memory
before. One more process compares the two gradients of the same match: the cosine of
TESLA's derivative with the exact gradient, and the ratio of its length to the exact
one's. An expert is trained for 40 steps beforehand.
"""

import argparse
import ctypes
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F

import dd_plugins
from dd_plugins.data.draws import sampler_of
from dd_plugins.distillers.mtt import MTT, Window
from dd_plugins.run import Run, Task
from dd_plugins.synthetic.leaves import Leaves
from dd_plugins.training.recipes import expert_recipe

Mode = Literal["constant", "unrolled"]
MODES: tuple[Mode, ...] = ("constant", "unrolled")
KIBIBYTES = 1024  # of a MiB
CPU = torch.device("cpu")
EXPERT_STEPS = 40


def setting(options: argparse.Namespace, memory: Mode) -> tuple[Any, ...]:
    """Return the method, its state, the leaves and the sampler of real images."""
    generator = torch.Generator().manual_seed(0)
    if options.dataset == "noise":
        shape = (500, 3, options.side, options.side)
        images = torch.rand(shape, generator=generator)
        data = dd_plugins.RealData.from_tensors(
            images, torch.arange(500) % 10, preprocessing="standardize", name="noise"
        )
    else:
        data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    _, real = sampler_of(data, seed=0, device=CPU, precision=torch.float32)
    network = dd_plugins.get_network(options.network)
    task = Task(data.name, data.image_shape, 10, options.ipc, mirror=True)
    run = Run(task, "mtt", network, 1, 0, CPU)
    method = MTT(
        memory=memory,
        experts=1,
        expert=expert_recipe(EXPERT_STEPS),
        snapshot_steps=10,
        difficulty=Window(last=0),
        target_distance=4,
        student_steps=options.single,
        augment=not options.plain,
        threshold=1e9,  # no update is skipped
    ).for_task(task)
    state = method.setup(run, real)
    classes = torch.arange(10).repeat_interleave(options.ipc)
    indices = method.choose(run, real)
    leaves = Leaves(
        real.read(indices).images.clone().requires_grad_(),
        F.one_hot(classes, 10).float(),
        classes,
        {n: each.requires_grad_() for n, each in method.learnables(run).items()},
    )
    return method, state, leaves, real


def memory_of(field: str) -> float:
    """Return the memory of this process in MiB: VmRSS for now, VmHWM for its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / KIBIBYTES
    raise RuntimeError(f"this system does not tell {field}")


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the memory and seconds of one update, or compare the two gradients."""
    if options.mode == "compare":
        gradients = []
        for memory in MODES:
            method, state, leaves, real = setting(options, memory)
            method.accumulate(state, leaves, real, 0)
            gradients.append(leaves.pixels.grad.flatten())
        constant, exact = gradients
        return {
            "cosine": float(F.cosine_similarity(constant, exact, dim=0)),
            "length": float(constant.norm() / exact.norm()),
        }
    method, state, leaves, real = setting(options, options.mode)
    ctypes.CDLL(None).malloc_trim(0)  # free memory goes back to the system
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, started = memory_of("VmRSS"), time.perf_counter()
    method.accumulate(state, leaves, real, 0)
    seconds = time.perf_counter() - started
    peak = memory_of("VmHWM")
    return {"mib": peak - before, "peak_mib": peak, "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20, 40, 80])
    parser.add_argument("--network", default="dc_convnet(width=32)")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--dataset", default="noise", help="noise, or a data set")
    parser.add_argument("--data-root")
    parser.add_argument("--plain", action="store_true", help="without augmentation")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--single", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--mode", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.single:
        print(json.dumps(measured(options)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        for steps in options.steps:
            row: dict[str, Any] = {"steps": steps}
            for mode in (*MODES, "compare"):
                command = [sys.executable, __file__, *sys.argv[1:]]
                command += ["--single", str(steps), "--mode", mode]
                done = subprocess.run(
                    ["env", f"DD_CACHE={cache}", *command],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                row[mode] = json.loads(done.stdout.splitlines()[-1])
            rows.append(row)
            print(table([row]), flush=True)
    print(table(rows))
    if options.out:
        found = {
            "network": options.network,
            "images_per_class": options.ipc,
            "dataset": options.dataset,
            "threads": torch.get_num_threads(),
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "rows": rows,
        }
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table, with a line for each number of steps."""
    lines = [
        "| N | constant: MiB | seconds | unrolled: MiB | seconds | cosine | length |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [
            f"{row[mode]['mib']:,.0f} | {row[mode]['seconds']:.2f}" for mode in MODES
        ]
        compared = row["compare"]
        lines.append(
            f"| {row['steps']} | {' | '.join(cells)} | {compared['cosine']:.3f} "
            f"| {compared['length']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
