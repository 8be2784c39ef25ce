"""Measure a meta step of FRePo: seconds by part, operations per second, peak memory.

    python benchmarks/frepo_speed.py --width 128 --out FILE

The operations come from benchmarks/cost_model.py, and are compared with the rate of a
float32 product of 4096x4096 matrices, measured in the same process. Steps are timed
without the profiler, their parts with it; on a GPU, where kernels are replayed, the
parts cannot be told apart. Times are means over whole visits. The time of a step is
the median over visits. A row is added to the JSON file.
"""

import argparse
import itertools
import json
import math
import platform
import resource
import statistics
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
from cost_model import Setting, operations
from rows import add_row
from torch.profiler import ProfilerActivity, profile

import dd_plugins
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.engine.checkpoint import CHECKPOINT_NAME, CheckpointWriter
from dd_plugins.plugins.manager import Plugins
from dd_plugins.run import Run

WARM_UP = 3  # steps, at least
PROFILED = 5


class Stopwatch:
    """An observer that takes the time of every step, and profiles the last few.

    Args:
        steps: the number of steps to time, at least.
        visit: steps of a visit; only whole visits are measured.
    """

    def __init__(self, steps: int, visit: int) -> None:
        whole = [math.ceil(each / visit) * visit for each in (WARM_UP, steps, PROFILED)]
        self.warm_up, timed, self.profiled = whole
        self.visit = visit
        self.steps = self.warm_up + timed
        self.times: list[float] = []
        self.profiler: Any = None
        self.run: Run | None = None
        self.memory = 0.0

    @dd_plugins.hookimpl
    def dd_before_run(self, run: Run) -> None:
        """Remember the run."""
        self.run = run

    @dd_plugins.hookimpl
    def dd_after_step(self, run: Run, step: int) -> None:
        """Take the time."""
        if run.device.type == "cuda":
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        if step == self.steps:
            self.memory = peak_memory(run.device)  # the profiler holds some of its own
            activities = [ProfilerActivity.CPU]
            if run.device.type == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self.profiler = profile(activities=activities, acc_events=True)
            self.profiler.start()
        elif step == self.steps + self.profiled:
            self.profiler.stop()

    def step_seconds(self) -> list[float]:
        """Return the mean seconds of a step, for every visit without the profiler."""
        ends = self.times[self.warm_up - 1 : self.steps : self.visit]
        return [
            (later - sooner) / self.visit for sooner, later in itertools.pairwise(ends)
        ]

    def part_seconds(self) -> dict[str, float]:
        """Return the mean seconds of each part of a step, by the profiler."""
        found = {}
        for event in self.profiler.key_averages():
            if event.key.startswith("frepo: "):
                spent = event.cpu_time_total or event.device_time_total
                found[event.key.removeprefix("frepo: ")] = spent / 1e6 / self.profiled
        return found


def matrix_product_rate(device: torch.device) -> float:
    """Return the operations per second of a float32 product of 4096x4096 matrices."""
    size = 4096
    one = torch.randn(size, size, device=device)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        one @ one
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / statistics.median(seconds[2:])


def checkpoint_stop(run: Run, distiller: Any, real: RealSampler) -> float:
    """Return the longest time that a checkpoint of the pool stops a run, in seconds."""
    state = distiller.setup(run, real)
    stops = []
    with (
        tempfile.TemporaryDirectory() as folder,
        CheckpointWriter(Path(folder) / CHECKPOINT_NAME) as writer,
    ):
        writer.prepare(state.state_dict())
        for _ in range(3):
            writer.wait()
            started = time.perf_counter()
            writer.save(state.state_dict())
            stops.append(time.perf_counter() - started)
    return max(stops)


def peak_memory(device: torch.device) -> float:
    """Return the most memory held so far, in bytes: of the GPU, or of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


def random_data(images: int, side: int, channels: int, classes: int) -> RealData:
    """Return random images of the size of a real data set."""
    generator = torch.Generator().manual_seed(0)
    shape = (images, channels, side, side)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    labels = torch.arange(images) % classes
    # Nothing is held out: a step with a validation would take longer than others.
    return RealData.from_tensors(
        pixels, labels, name="random", mirror=True, validation=0
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--images-per-class", type=int, default=10)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--updates-per-batch", type=int, default=1)
    parser.add_argument("--online-steps", type=int, default=1)
    parser.add_argument(
        "--augmented-copies", type=int, default=0, help="in place of mirrored ones"
    )
    parser.add_argument(
        "--kernel", help="such as tangent(); operations are not counted with one"
    )
    parser.add_argument("--train-images", type=int, default=50_000)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    setting = Setting(
        images_per_class=options.images_per_class,
        classes=options.classes,
        side=options.side,
        width=options.width,
        depth=options.depth,
        real_batch=options.batch,
        updates_per_batch=options.updates_per_batch,
        online_steps=options.online_steps,
        flip=options.augmented_copies == 0,
        augmented_copies=options.augmented_copies,
    )
    watch = Stopwatch(options.steps, options.updates_per_batch)
    spec = (
        f"frepo(preset='paper', flip={setting.flip}, real_batch_size={options.batch}, "
        f"updates_per_batch={options.updates_per_batch}, "
        f"online_steps={options.online_steps}, "
        f"augmented_copies={options.augmented_copies}, kernel={options.kernel})"
    )
    plugins = Plugins(load=[], extra={"stopwatch": watch})
    data = random_data(options.train_images, options.side, 3, options.classes)
    distilled = dd_plugins.distill(
        data,
        spec,
        images_per_class=options.images_per_class,
        steps=watch.steps + watch.profiled,
        network=f"conv(width={options.width}, depth={options.depth})",
        device=options.device,
        precision=options.precision,
        plugins=plugins,
    )
    assert watch.run is not None
    device = watch.run.device
    seconds = statistics.median(watch.step_seconds())
    by_part = operations(setting)
    rate = sum(by_part.values()) / seconds
    product = matrix_product_rate(device)
    counted = {
        "operations_by_part": by_part,
        "operations_per_second": rate,
        "matrix_product_operations_per_second": product,
        "ratio": rate / product,
    }
    row = {
        **{key: value for key, value in vars(options).items() if key != "out"},
        "flip": setting.flip,
        "device": str(device),
        "precision": distilled.header.precision,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "date": date.today().isoformat(),
        "seconds_per_step": seconds,
        "seconds_fastest": min(watch.step_seconds()),
        "seconds_by_part": watch.part_seconds(),
        **({} if options.kernel else counted),
        "peak_memory_bytes": watch.memory,
        "checkpoint_stop_seconds": checkpoint_stop(
            watch.run,
            plugins.distiller(distilled.header.distiller),
            RealSampler(
                data.train.images[:1], data.train.labels[:1], seed=0, device=device
            ),
        ),
    }
    print(json.dumps(row, indent=1))
    if options.out is not None:
        add_row(options.out, row)


if __name__ == "__main__":
    main()
