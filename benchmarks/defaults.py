r"""Search the data-set-dependent defaults of short runs, on validation data.

    python benchmarks/defaults.py --dataset fashion-mnist --images-per-class 1 \
        --network "conv(width=32)" --steps 500 --learning-rates 1e-3,3e-3,1e-2 \
        --out docs/benchmarks/defaults.json

Each setting distils once for every seed and trains fresh networks on each result. They
are scored on the validation split, never on the test set. Rows are added to the JSON
file.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from rows import add_row

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.runtime.device import channels_last, resolve_precision
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.training.outputs import accuracy
from dd_plugins.training.protocols import recipe_for, training_set_of
from dd_plugins.training.recipes import Recipe
from dd_plugins.training.train import TrainingSet, train_network

_CPU = torch.device("cpu")


def validation_accuracies(
    distilled: DistilledSet,
    data: RealData,
    networks: int,
    device: torch.device = _CPU,
    network_spec: str | None = None,
    *,
    training_set: TrainingSet | None = None,
    recipe: Recipe | None = None,
) -> list[float]:
    """Train fresh networks on a set; return their accuracies on validation images.

    The architecture, the training set and the recipe are the set's own, unless others
    are given.
    """
    precision = resolve_precision("auto", device)
    network = dd_plugins.get_network(
        network_spec or distilled.header.evaluation_network
    )
    training_set = training_set or training_set_of(distilled, device=device)
    found = []
    for repeat in range(networks):
        module = network.build(
            data.image_shape,
            data.num_classes,
            generator=generator_for(1, "benchmark network", repeat),
        )
        trained = train_network(
            channels_last(module, device),
            training_set,
            recipe or recipe_for(distilled),
            generator=generator_for(1, "benchmark training", repeat),
            precision=precision,
        )
        found.append(
            accuracy(
                trained,
                data.validation,
                distilled.transform,
                device=device,
                precision=precision,
            )
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="digits")
    parser.add_argument("--data-root")
    parser.add_argument("--images-per-class", type=int, default=1)
    parser.add_argument("--network")
    parser.add_argument("--steps", default="500")
    parser.add_argument("--learning-rates", default="3e-3")
    parser.add_argument("--options", default="", help="more options of frepo")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--networks", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    for steps in options.steps.split(","):
        for rate in options.learning_rates.split(","):
            more = f", {options.options}" if options.options else ""
            spec = f"frepo(learning_rate={float(rate)}{more})"
            accuracies: list[float] = []
            seconds = 0.0
            for seed in range(options.seeds):
                started = time.perf_counter()
                distilled = dd_plugins.distill(
                    data,
                    spec,
                    images_per_class=options.images_per_class,
                    steps=int(steps),
                    seed=seed,
                    network=options.network,
                )
                seconds += time.perf_counter() - started
                accuracies += validation_accuracies(distilled, data, options.networks)
            row = {
                "dataset": options.dataset,
                "images_per_class": options.images_per_class,
                "network": distilled.header.network,
                "distiller": distilled.header.distiller,
                "steps": int(steps),
                "seeds": options.seeds,
                "distil_seconds": round(seconds / options.seeds, 1),
                "validation_accuracy_mean": sum(accuracies) / len(accuracies),
                "validation_accuracies": accuracies,
            }
            print(json.dumps(row), flush=True)
            add_row(options.out, row)


if __name__ == "__main__":
    main()
