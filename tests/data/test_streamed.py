"""Images that stay in their dataset give what images in memory give."""

import os
import signal
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Started, run_code
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

import dd_plugins
from dd_plugins import RealData
from dd_plugins.data.datasets.folder import load_folder
from dd_plugins.data.named import DataOptions
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.data.streamed import StreamedImages, chunks
from dd_plugins.engine.checkpoint import load_checkpoint
from dd_plugins.errors import DataError
from dd_plugins.runtime.memory import fits_in_memory

CPU = torch.device("cpu")


class Pairs(Dataset[tuple[Tensor, int]]):
    """A dataset that counts how often it is read."""

    def __init__(
        self, count: int = 90, *, broken: int | None = None, seed: int = 0
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.images = torch.randint(
            256, (count, 3, 8, 8), generator=generator, dtype=torch.uint8
        )
        self.broken = broken
        self.reads = 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        image = self.images[index]
        return (image.float() / 0 if index == self.broken else image), index % 3


def both(**options: Any) -> tuple[RealData, RealData]:
    """Return the same data in memory and streamed."""
    test = Pairs(30, seed=1)
    return (
        RealData.from_dataset(Pairs(), test=test, stream=False, **options),
        RealData.from_dataset(Pairs(), test=test, stream=True, **options),
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_data_is_the_data_in_memory(workers: int) -> None:
    memory, streamed = both(workers=workers)
    assert isinstance(streamed.train.images, StreamedImages)
    assert streamed.fingerprint == memory.fingerprint
    assert streamed.image_shape == memory.image_shape
    assert streamed.train.images.shape == memory.train.images.shape
    assert torch.equal(streamed.train.images[:], memory.train.images[:])
    assert torch.equal(streamed.validation.images[:], memory.validation.images[:])
    one, other = (
        Transform.fit(data.train.images, "zca") for data in (memory, streamed)
    )
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(other.tensors()[name], tensor)
    undivided = streamed.undivided()
    assert isinstance(undivided.train.images, StreamedImages)
    assert undivided.fingerprint == memory.undivided().fingerprint


@pytest.mark.parametrize("workers", [0, 2])
def test_draws_are_those_from_memory_in_any_order(workers: int) -> None:
    memory, streamed = both(workers=workers)
    transform = Transform.fit(memory.train.images, "standardize")
    samplers = [
        RealSampler(
            data.train.images,
            data.train.labels,
            seed=0,
            device=CPU,
            transform=transform,
            rank=1,
            ranks=2,
        )
        for data in (memory, streamed)
    ]
    for step, size in [(0, 20), (1, 20), (2, 20), (7, 20), (8, 10), (3, 200)]:
        one, other = (sampler.batch(step, size) for sampler in samplers)
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)
        one, other = (sampler.class_batch(step, 2, 5) for sampler in samplers)
        assert torch.equal(one.images, other.images)


def test_runs_and_evaluations_on_streamed_data_are_the_same() -> None:
    memory, streamed = both(workers=0, preprocessing="standardize")
    one, other = (
        dd_plugins.distill(
            data,
            "frepo(pool_size=2, real_batch_size=32)",
            steps=4,
            network="conv(width=4, depth=2)",
        )
        for data in (memory, streamed)
    )
    assert torch.equal(one.images, other.images)
    assert one.header == other.header
    found = [
        dd_plugins.evaluate(
            one,
            ["mlp(width=4)"],
            repeats=1,
            protocol="recipe(steps=20)",
            baselines=True,
            full_steps=10,
            data=data,
        ).as_dict()
        for data in (memory, streamed)
    ]
    assert found[0] == found[1]


def test_streamed_test_images_are_read_once_for_all_networks() -> None:
    test = Pairs(30, seed=1)
    data = RealData.from_dataset(Pairs(), test=test, stream=True)
    made = dd_plugins.distill(data, "random", steps=1, network="mlp(width=2)")
    before = test.reads
    found = dd_plugins.evaluate(
        made,
        ["mlp(width=2)", "mlp(width=3)"],
        repeats=2,
        protocol="recipe(steps=1)",
        data=data,
    )
    reads = test.reads - before
    assert sum(len(each.accuracies) for each in found.networks) == 4
    assert 30 <= reads < 40, "a few are looked at before"


def test_data_that_fits_stays_in_memory_and_is_read_once() -> None:
    pairs = Pairs()
    data = RealData.from_dataset(pairs)
    assert isinstance(data.train.images, Tensor)
    # One more to see how large an image is, and eight to see whether they change.
    assert pairs.reads == len(pairs) + 1 + 8


def test_streamed_data_is_read_for_its_hash_once() -> None:
    pairs = Pairs()
    data = RealData.from_dataset(pairs, stream=True, workers=0)
    before, found = pairs.reads, data.prepared("standardize", True).fingerprint
    assert pairs.reads == before + len(data.train.labels)
    transform = Transform.identity(3)
    for copy in (data, replace(data, mirror=True), data.with_transform(transform)):
        assert copy.fingerprint == found
    assert pairs.reads == before + len(data.train.labels)
    assert replace(data, train=data.validation).fingerprint != found
    assert replace(data, train_indices=data.train_indices + 1).fingerprint != found


def test_data_that_memory_cannot_hold_is_streamed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "dd_plugins.data.items.fits_in_memory", lambda size: size < 90 * 192
    )
    data = RealData.from_dataset(Pairs(), test=Pairs(80), workers=0)
    assert isinstance(data.train.images, StreamedImages)
    test = data.read_test()
    assert isinstance(test.images, StreamedImages)
    assert torch.equal(test.images[:], Pairs(80).images)
    assert torch.equal(test.labels, torch.arange(80) % 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_error_of_an_item_is_one_line_that_names_it(workers: int) -> None:
    with pytest.raises(DataError) as raised:
        RealData.from_dataset(Pairs(broken=70), stream=True, workers=workers)
    assert "number 70" in str(raised.value)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("workers", [0, 2])
def test_error_inside_a_worker_is_one_line(workers: int) -> None:
    pairs = TensorDataset(torch.zeros(70, 1, 4, 4), torch.zeros(70))
    with pytest.raises(DataError, match="item 0 is not an") as raised:
        RealData.from_dataset(pairs, stream=True, workers=workers)
    assert str(raised.value).isprintable()


@pytest.mark.parametrize("split", [False, True])
def test_folder_that_memory_cannot_hold_gives_the_same_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    generator = torch.Generator().manual_seed(0)
    for part in ("train", "test") if split else ("",):
        for name in ("cat", "dog"):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(20):
                pixels = torch.randint(256, (8, 8, 3), generator=generator)
                Image.fromarray(pixels.byte().numpy()).save(folder / f"{number}.png")
    options = DataOptions(argument=str(tmp_path))
    memory = load_folder(options)
    monkeypatch.setattr("dd_plugins.data.items.fits_in_memory", lambda size: False)
    streamed = load_folder(options)
    assert isinstance(memory.train.images, Tensor)
    assert isinstance(streamed.train.images, StreamedImages)
    assert streamed.fingerprint == memory.fingerprint
    for one, other in zip(memory.read_test(), streamed.read_test(), strict=True):
        assert torch.equal(one[:], other[:])


def test_chunks_cover_all_images_in_order() -> None:
    images = torch.arange(10)
    assert torch.equal(torch.cat(list(chunks(images, 3))), images)


@pytest.mark.parametrize(("side", "expected"), [(32, 2048), (64, 2048), (224, 167)])
def test_large_images_come_in_chunks_of_as_many_values(
    side: int, expected: int
) -> None:
    images = torch.zeros(1, dtype=torch.uint8).expand(5_000, 3, side, side)
    assert len(next(iter(chunks(images, 2048)))) == expected


def test_no_memory_holds_a_yottabyte() -> None:
    assert fits_in_memory(1)
    assert not fits_in_memory(1e24)


def test_a_limit_below_the_machine_s_memory_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container, a batch job and a shell's limit may each allow less."""
    code = (
        "import resource; from dd_plugins.runtime.memory import fits_in_memory\n"
        "resource.setrlimit(resource.RLIMIT_AS, (16 * 2**30, 16 * 2**30))\n"
        "assert fits_in_memory(7.9 * 2**30) and not fits_in_memory(8.1 * 2**30)"
    )
    done = run_code(code, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    groups = {"0::/job/step": "job/memory.max", "0::/": "memory.max"}
    groups |= {"4:cpu,memory:/job": "memory/job/memory.limit_in_bytes"}
    real = Path.read_text
    for line, file in groups.items():

        def read_text(path: Path, line: str = line, file: str = file) -> str:
            if path == Path("/proc/self/cgroup"):
                return line + "\n"
            if path.is_relative_to("/sys/fs/cgroup"):
                if path == Path("/sys/fs/cgroup") / file:
                    return "1000000\n"
                return "max\n"
            return real(path)

        monkeypatch.setattr(Path, "read_text", read_text)
        assert fits_in_memory(499_999)
        assert not fits_in_memory(500_001)


def test_draws_of_a_step_start_no_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They would be started anew at each step: hours for what takes minutes."""
    data = RealData.from_dataset(
        Pairs(300), stream=True, workers=2, preprocessing="standardize"
    )
    sampler = RealSampler(
        data.train.images, data.train.labels, seed=0, device=CPU, transform=None
    )
    monkeypatch.setattr(
        "torch.utils.data.dataloader._MultiProcessingDataLoaderIter.__init__", None
    )
    assert len(sampler.class_batch(0, 1, 80).labels) == 80
    assert len(data.train.images[torch.arange(200)]) == 200


def test_each_reader_with_steps_of_its_own_has_a_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[weakref.ref[Any]] = []
    batches = StreamedImages.batches

    def counted(self: StreamedImages, draws: Any) -> Any:
        stream = batches(self, draws)
        begun.append(weakref.ref(stream))
        return stream

    monkeypatch.setattr(StreamedImages, "batches", counted)
    memory, streamed = (
        RealSampler(data.train.images, data.train.labels, seed=0, device=CPU)
        for data in both(workers=0)
    )
    for step in range(6):
        # Two that start together, one that is slower, one with batches of its own.
        slower = [] if step % 2 else [(step // 2, 20)]
        for draw in [(step, 20), (step, 20), *slower, (step, 7)]:
            one, other = (each.batch(*draw) for each in (memory, streamed))
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.images, other.images)
    assert len(begun) == 4
    for step in range(0, 60, 2):
        streamed.batch(step, 9)
    assert sum(each() is not None for each in begun) <= 8
    streamed.close()
    assert not any(each() is not None for each in begun)


def test_reading_draws_nothing_from_the_global_generator() -> None:
    before = torch.get_rng_state()
    data = RealData.from_dataset(Pairs(), stream=True, workers=2)
    data.train.images[:]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_floats_are_the_same_data_streamed_or_not(dtype: torch.dtype) -> None:
    images = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    pairs = TensorDataset(images.to(dtype), torch.arange(20) % 2)
    memory, streamed = (
        RealData.from_dataset(pairs, stream=stream, workers=0)
        for stream in (False, True)
    )
    assert streamed.fingerprint == memory.fingerprint
    assert torch.equal(streamed.train.images[:], memory.train.images[:])


FEW_FILES = """
import resource
import torch
from torch.utils.data import Dataset
from dd_plugins.data.streamed import StreamedImages

_, most = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (1024, most))

class Made(Dataset):
    def __getitem__(self, index):
        return torch.full((1, 2, 2), index / 1300), 0

every = torch.arange(1300)
images = StreamedImages(Made(), (1, 2, 2), every, workers=1)
print(len(next(images.batches([every]))))
"""


def test_workers_read_more_images_at_a_time_than_files_may_be_open(
    tmp_path: Path,
) -> None:
    done = run_code(FEW_FILES, folder=tmp_path)
    assert done.stdout == "1300\n", done.stderr


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_another_shape_at_the_next_reading_are_refused(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = RealData.from_dataset(pairs := Pairs(), stream=True, workers=workers)
    others = [image[:, : 4 + n % 2] for n, image in enumerate(pairs.images)]
    monkeypatch.setattr(pairs, "images", others)
    for read in (lambda: data.train.images[:9], lambda: data.fingerprint):
        with pytest.raises(DataError, match=r"of \(3, 8, 8\), got .*\(3, 4, 8\), "):
            read()


STOPPED = """
import os, sys, time
os.setsid()
import torch
from torch.utils.data import Dataset
import dd_plugins
from dd_plugins.plugins.manager import Plugins

class Told:
    @dd_plugins.hookimpl
    def dd_after_step(self, step):
        print("step", flush=True)

class Slow(Dataset):
    def __len__(self):
        return 200

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.full((1, 8, 8), index / 200), index % 2

data = dd_plugins.RealData.from_dataset(
    Slow(), stream=True, preprocessing="standardize"
)
try:
    dd_plugins.distill(
        data, "frepo(pool_size=2, real_batch_size=100)", steps=10_000,
        network="mlp(width=4)", out=sys.argv[1], checkpoint_seconds=1000,
        plugins=Plugins(load=[], extra={"told": Told()}),
    )
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_group_that_is_told_to_stop_leaves_a_checkpoint(
    tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "run"
    process = Started(out, folder=tmp_path, code=STOPPED)
    process.wait_for("step")
    os.killpg(process.pid, number)
    done = process.finish()
    assert done.stdout.endswith("interrupted\n"), done.stderr
    assert load_checkpoint(out / "checkpoint.pt")["step"] > 0
    with pytest.raises(ProcessLookupError):  # no worker is left behind
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_negative_labels_are_refused(split: str) -> None:
    splits: dict[str, Any] = {"train": Pairs(), split: [(torch.zeros(1, 8, 8), -1)] * 3}
    train = splits.pop("train")

    def read() -> None:
        data = RealData.from_dataset(train, stream=True, workers=0, **splits)
        data.read_test()

    with pytest.raises(DataError, match="labels must not be negative, got -1"):
        read()
