"""Compare compact whitening matrices: size of the file, and accuracy of FRePo.

    python benchmarks/whitening_size.py --dataset cifar10 --out FILE.json

Each row distils and evaluates anew in the space of its matrix: the whole matrix, or its
diagonal and some entries of each row in the cosine basis. More are kept only if so few
are not positive definite; a row names how many. Networks are scored on validation
images.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from defaults import validation_accuracies

import dd_plugins
from dd_plugins.data import preprocess, whitening
from dd_plugins.data.images import Images

WHOLE = 10**9  # rows: no matrix is as large, so none is made compact


def made_row(
    options: argparse.Namespace, entries: int | None, seed: int
) -> dict[str, Any]:
    """Distil and evaluate with this many entries a row; None for the whole matrix."""
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    nothing = Images(data.validation.images[:0], data.validation.labels[:0])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        with (
            mock.patch.object(preprocess, "_COMPACT", WHOLE if entries is None else 0),
            mock.patch.object(whitening, "_PER_ROW", entries or 0),
            mock.patch.object(whitening, "_MOST_LOST", math.inf),
            mock.patch.dict(os.environ, {"DD_CACHE": folder}),  # a whitening is kept
        ):
            distilled = dd_plugins.distill(
                replace(data, validation=nothing),
                "frepo",
                images_per_class=options.ipc,
                network=options.network,
                steps=options.steps,
                seed=seed,
            )
        seconds = time.perf_counter() - started
        size = distilled.save(Path(folder) / "set.safetensors").stat().st_size
    compact = distilled.transform.compact
    accuracies = validation_accuracies(
        distilled,
        data,
        options.networks,
        network_spec=options.evaluation_network,
    )
    return {
        "dataset": options.dataset,
        "images_per_class": options.ipc,
        "entries": entries,
        "entries_kept": compact and compact.places.numel() / compact.diagonal.numel(),
        "steps": options.steps,
        "network": options.network,
        "evaluation_network": options.evaluation_network,
        "seed": seed,
        "bytes": size,
        "seconds": seconds,
        "accuracies": accuracies,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root")
    parser.add_argument("--ipc", type=int, default=1)
    parser.add_argument("--network", default="conv(width=32)")
    parser.add_argument("--evaluation-network", default="conv(width=64)")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--networks", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows = json.loads(options.out.read_text()) if options.out.exists() else []
    for seed in range(options.seeds):
        for entries in (None, 128, 32, 8, 0):
            made = made_row(options, entries, seed)
            rows.append(made)
            options.out.write_text(json.dumps(rows, indent=1) + "\n")
            mean = 100 * statistics.mean(made["accuracies"])
            print(
                f"{entries} {seed}: {made['bytes']:,} bytes, {mean:.1f} %", flush=True
            )


if __name__ == "__main__":
    main()
