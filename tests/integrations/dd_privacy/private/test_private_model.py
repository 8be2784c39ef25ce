"""A private model's file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch

import dd_plugins
from dd_plugins.errors import FileError
from dd_privacy.private.accounting import Budget
from dd_privacy.private.model import (
    NOT_COVERED,
    PrivateModel,
    not_covered_by_epsilon,
    public_transform,
)
from dd_privacy.private.trainer import PrivateTrainer

pytest.importorskip("opacus", reason="opacus is not installed: extra 'privacy'")


def test_numbers_of_numpy_are_saved_as_those_of_python(tmp_path: Path) -> None:
    trainer = PrivateTrainer(
        network="mlp(width=4)",
        epochs=np.int64(1),
        batch_size=np.int32(20),
        seed=np.int16(3),
        epsilon=np.float32(8),
        delta=np.float64(1e-3),
    )
    model = trainer.fit(torch.rand(60, 1, 8, 8), torch.arange(60) % 3)
    again = PrivateModel.load(model.save(tmp_path / "model.safetensors"))
    assert again.budget == model.budget
    assert again.about["trainer"]["epsilon"] == 8.0


def model(seeded: bool = False) -> PrivateModel:
    network = dd_plugins.get_network("mlp(width=4)").for_evaluation()
    about = {
        "network": "mlp(width=4)",
        "image_shape": [1, 8, 8],
        "class_names": ["a", "b", "c"],
        "seeded": seeded,
    }
    built = network.build((1, 8, 8), 3, generator=torch.Generator().manual_seed(0))
    budget = Budget(3.5, 1e-4, 1.25, 0.1, 40, "rdp", "PRV failed")
    return PrivateModel(built, public_transform(1), budget, about)


def test_a_model_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = model()
    read = PrivateModel.load(written.save(tmp_path / "model.safetensors"))
    assert (read.budget, read.about) == (written.budget, written.about)
    assert read.not_covered == written.not_covered
    assert not read.network.training
    images = torch.rand(5, 1, 8, 8)
    with torch.no_grad():
        found, wanted = (
            each.network.eval()(each.transform(images)) for each in (read, written)
        )
    assert torch.equal(found, wanted)


def test_what_epsilon_does_not_cover_stands_in_the_file(tmp_path: Path) -> None:
    path = model(seeded=True).save(tmp_path / "model.safetensors")
    with safetensors.safe_open(path, framework="pt") as file:
        described = json.loads(file.metadata()["dd_privacy"])
    assert described["format_version"] == 1
    assert described["not_covered"] == [*NOT_COVERED, described["not_covered"][-1]]
    assert "the seed" in described["not_covered"][-1]
    assert any("How long steps take" in each for each in described["not_covered"])
    assert described["budget"]["fallback"] == "PRV failed"
    assert not_covered_by_epsilon(False) == list(NOT_COVERED)


def test_images_are_mapped_by_public_numbers() -> None:
    transform = public_transform(3)
    ends = torch.stack([torch.zeros(3, 2, 2), torch.ones(3, 2, 2)])
    assert transform(ends).amin(dim=(1, 2, 3)).tolist() == [-1.0, 1.0]
    assert torch.equal(transform((255 * ends).to(torch.uint8)), transform(ends))


@pytest.mark.parametrize(
    "content", [None, b"", b"damaged", "other tensors", "other net"]
)
def test_other_files_are_no_private_model(
    content: bytes | str | None, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    if content == "other tensors":
        safetensors.torch.save_file({"weight": torch.ones(2)}, path)
    elif content == "other net":
        wrong = model()
        wrong.about["network"] = "mlp(width=5)"
        wrong.save(path)
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(FileError, match="expected a private model, got") as raised:
        PrivateModel.load(path)
    assert "\n" not in str(raised.value)


def test_a_file_of_another_version_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dd_privacy.private.model._FORMAT_VERSION", 2)
    path = model().save(tmp_path / "model.safetensors")
    monkeypatch.undo()
    message = r"^\S+: expected a private model of version 1, got 2; read it with"
    with pytest.raises(FileError, match=message):
        PrivateModel.load(path)


def test_an_error_without_words_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wordless(*_: Any, **__: Any) -> None:
        raise TypeError

    path = model().save(tmp_path / "model.safetensors")
    monkeypatch.setattr("dd_plugins.get_network", wordless)
    with pytest.raises(FileError, match="cannot be read as one: TypeError"):
        PrivateModel.load(path)
