"""A damaged file of a stream is refused."""

import io
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from dd_plugins.errors import FileError

pytest.importorskip(
    "avalanche.training", reason="avalanche-lib is not installed: extra 'avalanche'"
)

from learners import (
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
