"""Change two lines of a stock Avalanche script, and compare its accuracy.

    python benchmarks/replay_script.py --mem-size 10 --data-root DIR --out FILE.json

The script is Avalanche's own example of replay: split Fashion-MNIST, five experiences,
``SimpleMLP``, SGD, cross-entropy, one head. Its memory is ``ReplayPlugin``'s own, or a
``DistilledBuffer`` of as many images. All options but ``--policy`` belong to the
script, and apply to both memories. With ``--online 100`` each experience comes in parts
of a hundred images, seen once, and the script's own memory is Avalanche's
``ReservoirSamplingBuffer``, as in its example of online replay. Networks are scored on
test images; no choice depends on them. With ``--validation`` they are scored on the
last tenth of the training images, and not trained on it.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from copy import copy
from pathlib import Path
from typing import Any

import rows

import dd_plugins
from dd_plugins.functional.statistics import mean_interval
from dd_plugins.runtime.randomness import generator_for

KEY = (
    *("dataset", "policy", "mem_size", "model", "epochs", "online", "order"),
    "scored_on",
)
OWN = "ReplayPlugin's own"
DEFAULT = "DistilledBuffer(mem_size)"
SCRIPTS = "SimpleMLP"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=["fashion-mnist", "mnist"])
    parser.add_argument("--mem-size", type=int, default=10)
    parser.add_argument("--orders", type=int, default=5)
    parser.add_argument("--model", choices=["mlp", "conv"], default="mlp")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--policy",
        action="append",
        help=f"{OWN!r}, {DEFAULT!r}, or further arguments of a DistilledBuffer as JSON "
        f'("network": {SCRIPTS!r} means the model of the script)',
    )
    parser.add_argument("--online", type=int, help="images of a part of an experience")
    parser.add_argument("--validation", action="store_true")
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--order", type=int, help=argparse.SUPPRESS)
    parser.set_defaults(dataset="fashion-mnist", policy=None)
    options = parser.parse_args()
    if options.order is not None:
        print(json.dumps(measured(options, *options.policy)))
        return
    try:
        for _ in rows.added_rows(options.out, missing_rows(options)):
            pass
    finally:
        print(table(rows.made_rows(options.out)))


def missing_rows(options: argparse.Namespace) -> Iterator[tuple[str, list[str]]]:
    """Yield each missing order and policy, and the command that makes its row."""
    for order in range(options.orders):
        for policy in options.policy or [OWN, DEFAULT]:
            about = identity(options, policy, order)
            wanted = [about[name] for name in KEY]
            if rows.is_made(rows.made_rows(options.out), KEY, wanted):
                continue
            names = ("dataset", "mem_size", "model", "epochs", "online", "validation")
            command = [
                *(__file__, "--order", str(order), "--policy", policy),
                *("--data-root", str(options.data_root), "--out", str(options.out)),
                *rows.given(options, *names),
            ]
            yield f"{policy}, order {order}", command


def identity(options: argparse.Namespace, policy: str, order: int) -> dict[str, Any]:
    return {
        "dataset": options.dataset,
        "policy": policy,
        "mem_size": options.mem_size,
        "model": options.model,
        "epochs": options.epochs,
        "online": options.online,
        "order": order,
        "scored_on": "validation images" if options.validation else "test images",
    }


def measured(options: argparse.Namespace, policy: str) -> dict[str, Any]:
    """Run the script, and return its row."""
    warnings.simplefilter("ignore")  # Avalanche 0.6 gives many
    import torch
    from avalanche.benchmarks import nc_benchmark
    from avalanche.benchmarks.scenarios import split_online_stream
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.models import SimpleMLP
    from avalanche.training.plugins import EvaluationPlugin, ReplayPlugin
    from avalanche.training.storage_policy import ReservoirSamplingBuffer
    from avalanche.training.supervised import Naive
    from torchvision import datasets, transforms

    from dd_avalanche import DistilledBuffer

    started, size = time.perf_counter(), options.mem_size
    torch.manual_seed(options.order)
    kind = getattr(datasets, "MNIST" if options.dataset == "mnist" else "FashionMNIST")
    train = kind(options.data_root, train=True)
    test = kind(options.data_root, train=False)
    if options.validation:
        train, test = part(train, slice(54_000)), part(train, slice(54_000, None))
    transform = transforms.Compose(
        [transforms.ToTensor(), transforms.Normalize((0.286,), (0.353,))]
    )
    benchmark = nc_benchmark(
        train,
        test,
        n_experiences=5,
        task_labels=False,
        seed=options.order,
        train_transform=transform,
        eval_transform=transform,
    )
    model: Any = SimpleMLP(num_classes=10)
    if options.model == "conv":
        model = dd_plugins.get_network("conv(width=32)").build(
            (1, 28, 28), 10, generator=generator_for(options.order, "model")
        )
    buffer = None
    storage = ReservoirSamplingBuffer(size) if options.online else None
    if policy != OWN:
        more = {} if policy == DEFAULT else json.loads(policy)
        if more.get("network") == SCRIPTS:
            more["network"] = SimpleMLP
        storage = buffer = DistilledBuffer(size, **more)
    strategy = Naive(
        model=model,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9),
        criterion=torch.nn.CrossEntropyLoss(),
        train_mb_size=100,
        train_epochs=options.epochs,
        plugins=[ReplayPlugin(size, storage_policy=storage)],
        evaluator=EvaluationPlugin(accuracy_metrics(stream=True)),
    )
    stream = benchmark.train_stream
    if options.online:
        stream = split_online_stream(
            stream, options.online, access_task_boundaries=True, seed=options.order
        )
    for experience in stream:
        strategy.train(experience)
    (accuracy,) = strategy.eval(benchmark.test_stream).values()
    return {
        **identity(options, policy, options.order),
        "accuracy": accuracy,
        "distill_seconds": 0.0 if buffer is None else buffer.memory.seconds,
        "seconds": time.perf_counter() - started,
        "memory_bytes": None if buffer is None else buffer.memory.image_bytes,
    }


def part(dataset: Any, chosen: slice) -> Any:
    """Return a slice of a torchvision data set."""
    found = copy(dataset)
    found.data, found.targets = dataset.data[chosen], dataset.targets[chosen]
    return found


def table(made: list[dict[str, Any]]) -> str:
    """Return a line for each policy, with its paired gain over Avalanche's own."""
    lines = [
        "| data | model | stream | images | memory | scored on | orders | accuracy "
        "| gain | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    fields = [name for name in KEY if name != "order"]
    for group in rows.grouped(made, fields):
        about = group[0]
        own = {
            row["order"]: row["accuracy"]
            for row in made
            if all(
                row.get(name) == about.get(name) for name in fields if name != "policy"
            )
            and row["policy"] == OWN
        }
        gains = [
            100 * (row["accuracy"] - own[row["order"]])
            for row in group
            if row["order"] in own and about["policy"] != OWN
        ]
        seconds = sum(row["distill_seconds"] for row in group) / len(group)
        parts = about.get("online")
        stream = f"parts of {parts} images" if parts else "experiences"
        lines.append(
            f"| {about['dataset']} | {about['model']} | {stream} | {about['mem_size']} "
            f"| `{about['policy']}` | {about['scored_on']} | {len(group)} "
            f"| {rows.percent([row['accuracy'] for row in group])} "
            f"| {interval(gains)} | {seconds:.0f} |"
        )
    return "\n".join(lines)


def interval(values: list[float]) -> str:
    if not values:
        return ""
    bounds = mean_interval(values)
    told = f"{sum(values) / len(values):+.1f}"
    return told if bounds is None else f"{told} ({bounds[0]:.1f} to {bounds[1]:.1f})"


if __name__ == "__main__":
    main()
