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
