"""A damaged file of a stream, and another stream, are refused."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_plugins.errors import FileError, OptionError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from avalanche.benchmarks import nc_benchmark
from avalanche.benchmarks.scenarios import split_online_stream
from learners import (
    Digits,
    benchmark,
    chosen,
    network,
    plugins_for,
    strategy,
)

from dd_avalanche import (
    restore_stream,
    save_stream,
)
from dd_avalanche.replay.stream_file import (
    random_state,
    read_stream,
    set_random_state,
    write_stream,
)

pytestmark = [
    # Of Avalanche 0.6 and what it imports; none of them is ours.
    pytest.mark.filterwarnings("ignore"),
]


def test_flipped_bit_of_a_saved_stream_is_refused(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    held = chosen(20)
    learner = strategy(network(), plugins_for("replay", held))
    learner.train(stream[0])
    save_stream(tmp_path, learner, held, 1)
    file = tmp_path / "stream.pt"
    content = bytearray(file.read_bytes())
    assert torch.load(file, weights_only=True)["experiences"] == 1

    def refused(message: str) -> None:
        with pytest.raises(FileError, match=rf"{message}.*remove .* anew") as error:
            restore_stream(tmp_path, learner, chosen(20), stream)
        assert "\n" not in str(error.value)

    for place in [*range(0, len(content), len(content) // 100), len(content) - 1]:
        content[place] ^= 0x40
        file.write_bytes(content)
        refused("damaged")
        content[place] ^= 0x40
    for part in (content[:50], content[:-1], content + b"more", b""):
        file.write_bytes(part)
        refused("damaged")
    saved = torch.load(io.BytesIO(content), weights_only=True)
    torch.save(saved, file)  # as it was written before there was a digest
    refused("older version without a digest")
    file.write_bytes(content)
    (memory,) = tmp_path.glob("buffer-*/memory.safetensors")
    kept = memory.read_bytes()
    memory.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    refused("damaged")
    memory.write_bytes(kept)
    assert restore_stream(tmp_path, learner, chosen(20), stream) == 1


def test_another_stream_is_refused_after_each_save(tmp_path: Path) -> None:
    train = Digits("train")
    stream, other = (
        nc_benchmark(train, train, 5, task_labels=False, seed=seed).train_stream
        for seed in (0, 7)
    )
    held = chosen(20)
    for number in range(2):
        learner = strategy(network(), plugins_for("replay", held))
        assert restore_stream(tmp_path, learner, held, stream) == number
        learner.train(stream[number])
        save_stream(tmp_path, learner, held, number + 1)
        held = chosen(20)
    learner = strategy(network(), plugins_for("replay", held))
    for wrong, which in ((other, 0), ([stream[0], other[1]], 1)):
        before, now = (
            f"{len(each[which].dataset)} images of classes "
            + ", ".join(map(str, sorted(each[which].classes_in_this_experience)))
            for each in (stream, wrong)
        )
        words = f"whose experience {which} has {before}, got {now}; make it as"
        with pytest.raises(OptionError, match=words) as error:
            restore_stream(tmp_path, learner, held, wrong)
        assert "\n" not in str(error.value)
        assert len(held.memory) == 0
    # A file from before there was a record is not compared.
    file = tmp_path / "stream.pt"
    content = read_stream(file)
    del content["taken"]
    write_stream(file, content)
    assert restore_stream(tmp_path, learner, held, other) == 2


def test_parts_of_an_online_stream_are_compared_too(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    first, second = (
        list(split_online_stream([part], 40, access_task_boundaries=True, seed=0))
        for part in stream[:2]
    )
    held = chosen(20)
    learner = strategy(network(), plugins_for("replay", held))
    for part in first:
        learner.train(part)
    save_stream(tmp_path, learner, held, len(first))
    with pytest.raises(OptionError, match="whose experience 0 has 40 images"):
        restore_stream(tmp_path, learner, chosen(20), second + second)
    assert restore_stream(tmp_path, learner, chosen(20), first) == len(first)


def test_buffer_filled_by_hand_as_well_is_restored(tmp_path: Path) -> None:
    stream = benchmark("class-incremental").train_stream
    held = chosen(20)
    learner = strategy(network(), plugins_for("replay", held))
    for number in (0, 0, 1):  # trained on twice: there is nothing to compare
        learner.train(stream[number])
    save_stream(tmp_path, learner, held, 2)
    assert restore_stream(tmp_path, learner, chosen(20), stream) == 2


CONTENT = {"experiences": 3, "plugins": [["A", {"x": torch.arange(4)}]], "clock": {}}


def test_content_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = tmp_path / "stream.pt"
    write_stream(file, CONTENT)
    content = read_stream(file)
    assert content["experiences"] == 3
    assert torch.equal(content["plugins"][0][1]["x"], torch.arange(4))
    # Other programs read it as well: the digest is the comment of a zip archive.
    with zipfile.ZipFile(file) as archive:
        assert len(archive.comment) == 64
        assert archive.testzip() is None


def test_file_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "stream.pt"
    with pytest.raises(FileError, match="cannot read"):
        read_stream(file)
    write_stream(file, CONTENT | {"format_version": 9})
    with pytest.raises(FileError, match="format version 2, got 9; upgrade"):
        read_stream(file)
    content = file.read_bytes()
    for text in (b"", b"notes", content[:-64], content + b"x"):
        file.write_bytes(text)
        with pytest.raises(FileError, match="begin the stream anew"):
            read_stream(file)


def test_global_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float, float]:
        numbers = float(torch.rand(1)), float(np.random.rand()), random.random()
        return *numbers, random.gauss(0, 1)

    draws()
    write_stream(tmp_path / "stream.pt", {"randomness": random_state()})
    expected = draws()
    set_random_state(read_stream(tmp_path / "stream.pt")["randomness"])
    assert draws() == expected
