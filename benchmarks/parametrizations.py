r"""Compare parametrizations at the same bytes, distiller, network and steps.

    python benchmarks/parametrizations.py --dataset cifar10 --images-worth 1 \
        --distiller frepo --parametrization identity --parametrization packed \
        --out FILE.json
    python benchmarks/parametrizations.py --table FILE.json

Each distillation runs in a process of its own, so its peak memory is measured alone; a
generator is trained before, in another process. Where latents are larger than images,
give ``--ipc`` in place of ``--images-worth``; the table has the bytes of each. Networks
are scored on validation images, or with ``--test`` on the test set, which is read once.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rows import added_rows, given, grouped, is_made, made_rows, peak_mebibytes, percent

import dd_plugins
from dd_plugins.data.images import Images
from dd_plugins.errors import DDError

KEY = (
    *("dataset", "size", "distiller_asked", "parametrization", "network", "steps"),
    *("scored_on", "networks", "evaluation_networks", "seed"),
)
GROUP = KEY[:-1]
FLOAT = 4  # bytes


def made_row(options: argparse.Namespace) -> dict[str, Any]:
    """Distil once in this process, evaluate, and return the row."""
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    nothing = Images(data.validation.images[:0], data.validation.labels[:0])
    quiet = replace(data, validation=nothing)
    if not options.test:
        held_out = data.validation
        data = replace(quiet, read_test=lambda: held_out)
    (spec,), (parametrization,) = options.distiller, options.parametrization
    size = {"images_per_class": options.ipc} if options.ipc else {}
    run: dict[str, Any] = {
        "network": options.network,
        "seed": options.seed,
        "parametrization": parametrization,
        **(size or {"images_worth": options.images_worth}),
    }
    if options.prepare:
        dd_plugins.distill(quiet, spec, steps=1, **run)
        return {}
    started = time.perf_counter()
    distilled = dd_plugins.distill(quiet, spec, steps=options.steps, **run)
    seconds = time.perf_counter() - started
    peak = peak_mebibytes()
    found = dd_plugins.evaluate(
        distilled,
        options.evaluation_network or (),
        data=data,
        repeats=options.networks,
        seed=options.seed,
    )
    header = distilled.header
    return {
        "dataset": options.dataset,
        "size": size_of(options),
        "distiller_asked": spec,
        "parametrization": parametrization,
        "network": options.network,
        "steps": options.steps,
        "seed": options.seed,
        "images": len(distilled),
        "stored_bytes": FLOAT * (header.stored_values or 0),
        "decoder_bytes": FLOAT * (header.decoder_values or 0),
        "label_bytes": FLOAT * distilled.labels.numel(),
        "seconds": seconds,
        "peak_mib": peak,
        "scored_on": scored_on(options),
        "networks": options.networks,
        "evaluation_networks": " ".join(options.evaluation_network),
        "accuracies": {each.spec: list(each.accuracies) for each in found.networks},
        "threads": torch.get_num_threads(),
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }


def size_of(options: argparse.Namespace) -> str:
    """Return the requested size."""
    return f"{options.ipc}" if options.ipc else f"worth {options.images_worth}"


def scored_on(options: argparse.Namespace) -> str:
    """Return the name of the images that score the networks."""
    return "test" if options.test else "validation"


def missing_rows(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield each missing row, and the command that makes it."""
    jobs = [
        (spec, parametrization, seed)
        for seed in range(options.first_seed, options.first_seed + options.seeds)
        for spec in options.distiller
        for parametrization in options.parametrization
    ]
    for spec, parametrization, seed in jobs:
        wanted = (
            *(options.dataset, size_of(options), spec, parametrization),
            *(options.network, options.steps, scored_on(options)),
            *(options.networks, " ".join(options.evaluation_network), seed),
        )
        if is_made(made_rows(options.out), KEY, wanted):
            continue
        command = [
            *(__file__, "--single", "--distiller", spec),
            *("--parametrization", parametrization, "--dataset", options.dataset),
            *("--network", options.network, "--seed", str(seed)),
            *("--networks", str(options.networks), "--steps", str(options.steps)),
            *given(options, "images_worth", "data_root", "ipc", "test"),
        ]
        for network in options.evaluation_network:
            command += ["--evaluation-network", network]
        # Networks trained beforehand are kept, and neither timed nor counted.
        prepare = [sys.executable, *command, "--prepare"]
        subprocess.run(prepare, check=False, stdout=subprocess.DEVNULL)
        yield f"{spec}, {parametrization}, seed {seed}", command


def table(rows: list[dict[str, Any]]) -> str:
    """Return a Markdown table: a line for each group of seeds and each network."""
    lines = [
        "| data | size | distiller | parametrization | images | bytes of images "
        "| of a decoder | steps | seconds | peak MiB | network | scored on | runs "
        "| accuracy, 95 % interval |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for same in grouped(rows, GROUP):
        first = same[0]
        seconds = statistics.median(row["seconds"] for row in same)
        peak = statistics.median(row["peak_mib"] for row in same)
        for network in first["accuracies"]:
            means = [statistics.mean(row["accuracies"][network]) for row in same]
            lines.append(
                f"| {first['dataset']} | {first['size']} "
                f"| `{first['distiller_asked']}` | `{first['parametrization']}` "
                f"| {first['images']} | {first['stored_bytes']:,} "
                f"| {first['decoder_bytes']:,} | {first['steps']:,} "
                f"| {seconds:.0f} | {peak:,.0f} | `{network}` "
                f"| {first['scored_on']} images | {len(same)} | {percent(means)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--images-worth", type=int, default=1, help="plain, per class")
    parser.add_argument("--ipc", type=int, help="stored images, in place of it")
    parser.add_argument("--distiller", action="append", default=[])
    parser.add_argument("--parametrization", action="append", default=[])
    parser.add_argument("--network", default="conv(width=32)")
    parser.add_argument("--evaluation-network", action="append", default=[])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--networks", type=int, default=5, help="on each set")
    parser.add_argument("--seeds", type=int, default=2, help="distillations")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--test", action="store_true", help="score on the test set")
    parser.add_argument("--out", type=Path, help="JSON file to which rows are added")
    parser.add_argument("--table", type=Path, help="print the table of a JSON file")
    parser.add_argument("--single", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.table:
        print(table(made_rows(options.table)))
    elif options.single:
        print(json.dumps(made_row(options)))
    elif not (options.distiller and options.parametrization and options.out):
        parser.error("--distiller, --parametrization and --out are required")
    else:
        for row in added_rows(options.out, missing_rows(options)):
            print(table([row]).splitlines()[-1], flush=True)


if __name__ == "__main__":
    try:
        main()
    except DDError as error:
        sys.exit(f"Error: {error}")
