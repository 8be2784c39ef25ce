"""Numbers and words that callers give."""

from typing import Any

import numpy as np
import pytest
import torch

from dd_plugins.checks import number, one_of, whole_number
from dd_plugins.errors import OptionError


class Indexed:
    def __index__(self) -> int:
        return 4

    def __repr__(self) -> str:
        return "Indexed()"  # two processes must give the test one name


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, 0),
        (-3, -3),
        (10**30, 10**30),
        (np.int8(-3), -3),
        (np.uint64(2**63), 2**63),
        (np.array(3), 3),
        (torch.tensor(3, dtype=torch.uint8), 3),
        (torch.tensor([3]), 3),
        (Indexed(), 4),
    ],
    ids=repr,
)
def test_whole_numbers_are_taken_whoever_holds_them(value: Any, expected: int) -> None:
    found = whole_number("steps", value)
    assert type(found) is int
    assert found == expected
    assert whole_number("steps", value, least=expected) == expected
    with pytest.raises(OptionError, match=rf"steps.*{expected + 1}"):
        whole_number("steps", value, least=expected + 1)


@pytest.mark.parametrize(
    "value",
    [
        *(True, np.False_, np.array(True), torch.tensor(False), torch.tensor([True])),
        *(1.0, np.float64(1), torch.tensor(1.0), float("nan"), 1 + 0j),
        *("1", b"1", None, [1], (1,), {1}, np.array([1, 2]), torch.tensor([1, 2])),
        *(torch.empty(0, dtype=torch.int64), int, np.array(["1"])),
    ],
    ids=repr,
)
def test_what_is_no_whole_number_is_shown_as_it_came(value: Any) -> None:
    for least in (None, 0):
        with pytest.raises(OptionError) as refused:
            whole_number("steps", value, least=least)
        assert "steps" in str(refused.value)
        assert repr(value) in str(refused.value)


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


def test_an_unknown_word_is_refused_with_the_known_ones() -> None:
    assert one_of("store", "float32", ("packed", "float32")) == "float32"
    for value in ("float", None, ["packed"]):
        with pytest.raises(OptionError) as refused:
            one_of("store", value, ("packed", "float32"))
        told = f"store must be one of packed, float32, got {value!r}"
        assert str(refused.value) == told
