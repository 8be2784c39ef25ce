"""What observers write."""

import json
from pathlib import Path

import torch

from dd_plugins.networks.mlp import MLP
from dd_plugins.observers import MetricsLog
from dd_plugins.run import Run, Task


def test_metric_of_some_steps_stands_in_the_next_line(tmp_path: Path) -> None:
    task = Task("toy", (1, 8, 8), 2, 1)
    cpu = torch.device("cpu")
    run = Run(task, "metadd(frepo)", MLP(), 1000, 0, cpu, out=tmp_path)
    log = MetricsLog()
    log.dd_before_run(run, 0)
    for step in range(1, 101):
        metrics = {"loss": 1.0 / step}
        if step % 8 == 1:  # never one of the steps that are logged
            metrics["meta_ratio"] = step / 100
        log.dd_after_step(run, step, metrics)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = {row["step"]: row for row in map(json.loads, lines)}
    assert list(rows) == list(range(2, 101, 2))
    assert all(row["loss"] == 1.0 / step for step, row in rows.items())
    ratios = {s: row["meta_ratio"] for s, row in rows.items() if "meta_ratio" in row}
    assert ratios == {step + 1: step / 100 for step in range(1, 101, 8)}
