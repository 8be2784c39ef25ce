"""A private model's file."""

from pathlib import Path

import numpy as np
import pytest
import torch

from dd_privacy.private.model import PrivateModel
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
