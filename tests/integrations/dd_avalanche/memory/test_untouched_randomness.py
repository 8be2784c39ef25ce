"""The global random generators are as they were, whatever is done in between."""

import random

import numpy as np
import pytest
import torch

from dd_avalanche.memory import untouched_randomness


def draws() -> tuple[float, float, float]:
    return float(torch.rand(1)), float(np.random.rand()), random.random()


def seed(number: int) -> None:
    torch.manual_seed(number)
    np.random.seed(number)
    random.seed(number)


@pytest.mark.parametrize("fails", [False, True])
def test_generators_are_restored_after_success_and_failure(fails: bool) -> None:
    seed(3)
    expected = draws()
    seed(3)
    try:
        with untouched_randomness():
            seed(99)
            draws()
            if fails:
                raise ValueError("within")
    except ValueError:
        assert fails
    assert draws() == expected


def test_gpus_that_do_not_compute_are_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    looked_at: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", looked_at.append)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: None)
    with untouched_randomness(), untouched_randomness(torch.device("cpu")):
        draws()
    assert looked_at == []
    with untouched_randomness(torch.device("cuda:3")):
        draws()
    assert looked_at == [torch.device("cuda:3")]
    assert list(recwarn) == []
