"""Kept tensors: what is not whole is refused."""

import random
from pathlib import Path

import pytest
import safetensors.torch
import torch

from dd_plugins.errors import FileError
from dd_plugins.runtime.kept_tensors import load_tensors, save_tensors


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    return load_tensors(path, what="a network", advice="remove it")


def test_tensors_of_every_dtype_come_back(tmp_path: Path) -> None:
    tensors = {
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(5),
    }
    path = save_tensors(tmp_path / "kept", tensors, {"network": "mlp"})
    found, described = _load(path)
    assert described == {"network": "mlp"}
    assert {name: value.dtype for name, value in found.items()} == {
        name: value.dtype for name, value in tensors.items()
    }
    assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_one_flipped_bit_is_refused_wherever_it_is(tmp_path: Path) -> None:
    path = save_tensors(tmp_path / "kept", {"weight": torch.randn(20)}, {"of": "x"})
    whole = path.read_bytes()
    for place in random.Random(0).sample(range(len(whole) * 8), 200):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << place % 8
        path.write_bytes(damaged)
        try:
            found, described = _load(path)
        except FileError as error:
            assert "remove it" in str(error)  # noqa: PT017
        else:  # white space of its JSON, say: the same content
            path.write_bytes(whole)
            kept, kept_described = _load(path)
            assert described == kept_described
            assert torch.equal(found["weight"], kept["weight"])


@pytest.mark.parametrize("content", [b"", b"text", b"\x00" * 100])
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "kept"
    path.write_bytes(content)
    with pytest.raises(FileError, match="a network"):
        _load(path)


def test_a_file_without_a_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    path.write_bytes(safetensors.torch.save({"weight": torch.ones(1)}))
    with pytest.raises(FileError, match="no hash; remove it"):
        _load(path)
