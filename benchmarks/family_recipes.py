r"""Search for a recipe for training networks of each family on a few images.

    python benchmarks/family_recipes.py --datasets cifar10 fashion-mnist \
        --data-root DIR --out FILE.json

Networks are trained on real images alone: a random subset of the training images, as
large as a distilled set. They are scored on validation images. No distilled set takes
part, so a recipe favours none.

Each family has its own search, one option after another: the learning rate, the
augmentation, mixing, the optimizer, the loss (cross-entropy, or the squared error for
sets of regression targets). A choice is the best mean over data sets and subsets, and
the search of the next option starts from it. ``--table`` prints the rows of the file.

Rows are added to the file as they are measured; a run that was stopped continues when
it is started again.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

import dd_plugins
from dd_plugins.data.images import Images
from dd_plugins.data.kept_whitening import fitted_transform
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.real import RealData
from dd_plugins.data.subsets import balanced_subset
from dd_plugins.runtime.randomness import generator_for
from dd_plugins.spec import split_specs
from dd_plugins.synthetic.labels import LABEL_KINDS, LabelKind
from dd_plugins.training.outputs import accuracy
from dd_plugins.training.recipes import Recipe, get_recipe
from dd_plugins.training.train import TrainingSet, train_network

NETWORKS = (
    "alexnet(width=16),mlp(width=64),resnet18(width=4),vit(width=48, depth=2),"
    "shufflenet_v2(width=8),conv(width=32),dc_convnet(width=32),vgg11(width=8),"
    "mobilenet_v2(width=4)"
)
SEARCH: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("learning_rate", (3e-4, 1e-3, 3e-3, 1e-2)),
    ("augmentation", ("dsa", "frepo", "crop", "none")),
    ("mix", ("none", "cutmix")),
    ("optimizer", ("adam", "adamw")),
    ("loss", ("cross-entropy", "labels")),
)

Row = dict[str, Any]


def first_recipe(steps: int) -> Recipe:
    """Return the recipe that a search starts from."""
    return Recipe(
        steps=steps,
        batch_size=256,
        warm_up=steps // 10,
        augmentation="dsa",
        loss="cross-entropy",
    )


def measure(
    data: RealData,
    transform: Transform,
    network: str,
    recipe: Recipe,
    seed: int,
    ipc: int,
) -> Row:
    """Train a network on a random subset, and score it on validation images."""
    device = torch.device("cpu")
    generator = generator_for(seed, f"subset for {network}")
    chosen = balanced_subset(data.train.labels, ipc, generator)
    images = transform(data.train.images[chosen])
    module = (
        dd_plugins.get_network(network)
        .for_evaluation()
        .build(data.image_shape, data.num_classes, generator=generator, device=device)
    )
    kind: LabelKind = "classes" if recipe.loss == "cross-entropy" else "regression"
    labels = LABEL_KINDS[kind].targets(data.train.labels[chosen], data.num_classes)
    started = time.perf_counter()
    train_network(
        module,
        TrainingSet(images, labels, kind, data.mirror),
        recipe,
        generator=generator,
    )
    seconds = time.perf_counter() - started
    count = min(2_000, len(data.validation.labels))
    scored = Images(data.validation.images[:count], data.validation.labels[:count])
    return {
        "accuracy": accuracy(module, scored, transform, device=device),
        "seconds": round(seconds, 1),
    }


def candidates(
    rows: list[Row], network: str, steps: int
) -> Iterator[tuple[Recipe, list[Recipe]]]:
    """Yield the best recipe so far and the recipes to try, for each stage."""
    best = first_recipe(steps)
    for name, values in SEARCH:
        tried = [
            replace(best, **{name: value})
            if name != "optimizer" or value == "adam"
            else replace(best, optimizer=value, weight_decay=0.05)
            for value in values
        ]
        yield best, tried
        best = max(tried, key=lambda each: mean(rows, network, each))
    yield best, []


def mean(rows: list[Row], network: str, recipe: Recipe) -> float:
    """Return the mean accuracy of a recipe over subsets and data sets."""
    found = [
        row["accuracy"]
        for row in rows
        if row["network"] == network and row["recipe"] == repr(recipe)
    ]
    return statistics.mean(found) if found else -1.0


def table(rows: list[Row]) -> str:
    """Return a Markdown table with every recipe of every network."""
    datasets = sorted({row["dataset"] for row in rows})
    lines = [
        f"| network | recipe | {' | '.join(datasets)} |",
        "|---" * (2 + len(datasets)) + "|",
    ]
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        for recipe in dict.fromkeys(row["recipe"] for row in own):
            cells = []
            for dataset in datasets:
                found = [
                    100 * row["accuracy"]
                    for row in own
                    if row["recipe"] == recipe and row["dataset"] == dataset
                ]
                cells.append(f"{statistics.mean(found):.1f}" if found else "")
            lines.append(f"| `{network}` | `{_short(recipe)}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _short(recipe: str) -> str:
    """Return the searched options of a recipe."""
    found = get_recipe(recipe)
    named = {name: getattr(found, name) for name, _ in SEARCH}
    return ", ".join(f"{name}={value}" for name, value in named.items())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=["cifar10", "fashion-mnist"])
    parser.add_argument("--data-root")
    parser.add_argument("--networks", default=NETWORKS)
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--table", action="store_true", help="measure nothing")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    rows: list[Row] = (
        json.loads(options.out.read_text()) if options.out.exists() else []
    )
    if options.table:
        print(table(rows))
        return
    read = [
        dd_plugins.get_dataset(name, data_root=options.data_root)
        for name in options.datasets
    ]
    data = {each.name: (each, fitted_transform(each)) for each in read}
    setting = {
        "images_per_class": options.ipc,
        "steps": options.steps,
        "torch": torch.__version__,
    }
    own = [row for row in rows if setting.items() <= row.items()]
    for network in split_specs(options.networks):
        for best, stage in candidates(own, network, options.steps):
            if not stage:
                found = mean(own, network, best)
                print(network, repr(best), f"{found:.3f}", flush=True)
            for recipe, (name, (real, transform)), seed in product(
                stage, data.items(), range(options.seeds)
            ):
                key = {
                    "dataset": name,
                    "network": network,
                    "recipe": repr(recipe),
                    "seed": seed,
                }
                if any(key.items() <= row.items() for row in own):
                    continue
                row = (setting | key) | measure(
                    real, transform, network, recipe, seed, options.ipc
                )
                rows.append(row)
                own.append(row)
                options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
