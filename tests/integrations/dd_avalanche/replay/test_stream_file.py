"""A damaged file of a stream is refused."""

import io
from pathlib import Path

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
