r"""Measure the cost of a wrapper against its base: seconds of a step, peak memory.

    python benchmarks/wrapper_cost.py --dataset fashion-mnist --ipc 10 --data-root DIR \
        --distillers "frepo" "metadd(frepo)" --out FILE.json

Each run is a process of its own, so that its peak memory is its own. Base and wrapper
take turns. Auxiliary networks are trained before, in another process. The seconds are a
mean over many steps, so that work done every few steps counts; the medians over the
turns are compared.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch
from frepo_accuracy import Clock

import dd_plugins
from dd_plugins.plugins.manager import Plugins


def measure(options: argparse.Namespace) -> None:
    """Run once in this process, and print the figures."""
    clock = Clock()
    dd_plugins.distill(
        options.dataset,
        options.one,
        images_per_class=options.ipc,
        steps=options.warm_up + options.steps,
        network=options.network,
        data_root=options.data_root,
        plugins=Plugins(load=[], extra={"clock": clock}),
    )
    print(
        json.dumps(
            {
                "seconds_per_step": (clock.seconds[-1] - clock.seconds[options.warm_up])
                / options.steps,
                "peak_memory_bytes": 1024
                * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
            }
        )
    )


def run_alone(spec: str, steps: int) -> dict[str, float]:
    """Run in a process of its own, with the options of this one."""
    command = [sys.executable, *sys.argv, "--one", spec, "--steps", str(steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--network")
    parser.add_argument("--distillers", nargs="+", default=["frepo", "metadd(frepo)"])
    parser.add_argument("--steps", type=int, default=120, help="that are timed")
    parser.add_argument("--warm-up", type=int, default=20, help="steps before")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.one is not None:
        measure(options)
        return
    for spec in options.distillers:
        run_alone(spec, 1)  # trains the networks to keep
    runs: dict[str, list[dict[str, float]]] = {spec: [] for spec in options.distillers}
    for _ in range(options.turns):
        for spec in options.distillers:
            runs[spec].append(run_alone(spec, options.steps))
    base = options.distillers[0]
    rows: list[dict[str, Any]] = []
    for spec, found in runs.items():
        medians = {
            name: statistics.median(figures[name] for figures in found)
            for name in found[0]
        }
        rows.append({"distiller": spec, **medians, "runs": found})
    for row in rows:
        for name in ("seconds_per_step", "peak_memory_bytes"):
            row[f"{name}_ratio"] = row[name] / rows[0][name]
    result = {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "base": base,
        "distillers": rows,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": date.today().isoformat(),
    }
    print(json.dumps(result, indent=1))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
