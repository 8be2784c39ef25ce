"""Numbers that callers give."""

from typing import Any

import numpy as np
import pytest
import torch

from dd_plugins.errors import OptionError
from dd_privacy.checks import number


@pytest.mark.parametrize(
    "value", [2, 2.0, np.float32(2), np.int8(2), torch.tensor(2), np.array([2.0])[0]]
)
def test_numbers_become_those_of_python(value: Any) -> None:
    found = number("epsilon", value)
    assert found == 2.0
    assert type(found) is float


@pytest.mark.parametrize(
    "value",
    [
        *("2", b"2", None, [2.0], torch.tensor([1.0, 2.0]), 10**400, 2j),
        *(True, np.True_, np.array(True), torch.tensor(True)),
    ],
)
def test_other_values_are_refused_with_what_came(value: Any) -> None:
    with pytest.raises(OptionError, match="epsilon must be a number, got") as raised:
        number("epsilon", value)
    assert repr(value)[:10] in str(raised.value)


def test_what_is_not_finite_is_a_number() -> None:
    assert number("epsilon", float("inf")) == float("inf")
