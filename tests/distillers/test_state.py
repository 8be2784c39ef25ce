"""A state that was saved is compared with a fresh one before anything is restored."""

import copy
from typing import Any

import pytest
import torch

from dd_plugins.distillers.state import NoState, check_saved
from dd_plugins.errors import DDWarning
from dd_plugins.networks.conv import Conv
from dd_plugins.run import Run, Task

NOW: dict[str, Any] = {
    "pool": [
        {"weight": torch.zeros(2, 3), "updates": 4, "rate": 0.5},
        {"weight": torch.zeros(2, 3), "updates": 4, "rate": 0.5},
    ],
    "order": torch.arange(3),
    "kind": "sgd",
    "flag": True,
    "none": None,
    7: {"pair": (1, torch.ones(()))},
}


def put(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    changed = copy.copy(value) if not isinstance(value, tuple) else list(value)
    if not place:
        return new
    changed[place[0]] = put(value[place[0]], place[1:], new)
    return changed


SAME = [
    (("pool", 0, "weight"), torch.ones(2, 3)),
    (("pool", 1, "updates"), -9),
    (("pool", 1, "rate"), -1e30),
    (("order",), torch.tensor([9, 9, 9])),
    (("kind",), "adam"),
    (("flag",), False),
    ((7, "pair"), [5, torch.zeros(())]),
    (("pool",), tuple(NOW["pool"])),
]


@pytest.mark.parametrize(("place", "new"), SAME, ids=lambda each: str(each)[:30])
def test_other_values_of_the_same_form_are_taken(place: Any, new: Any) -> None:
    check_saved(put(NOW, place, new), NOW)


@pytest.mark.parametrize(
    ("place", "new", "told"),
    [
        (
            ("pool", 1, "weight"),
            torch.ones(3, 2),
            r"state\.pool\.1\..*2, 3.*got.*3, 2",
        ),
        (("pool", 1, "weight"), torch.ones(2, 3).double(), "float32.*got.*float64"),
        (("pool", 0, "weight"), [[0.0] * 3] * 2, r"state\.pool\.0\.weight.*list"),
        (("pool", 0, "updates"), 4.0, r"state\.pool\.0\.updates.*int.*got float"),
        (("pool", 0, "updates"), True, r"updates.*int.*got bool"),
        (("pool", 0, "updates"), torch.tensor(4), r"updates.*int.*got.*int64"),
        (("pool", 0, "rate"), 1, r"rate.*float.*got int"),
        (("pool", 0, "rate"), float("nan"), r"state\.pool\.0\.rate.*finite"),
        (("pool", 0, "rate"), float("-inf"), r"state\.pool\.0\.rate.*finite"),
        (("pool",), NOW["pool"][:1], r"state\.pool.*2"),
        (("pool",), {0: 1, 1: 2}, r"state\.pool.*dict"),
        (("pool", 0), ["weight", "updates", "rate"], r"state\.pool\.0.*list"),
        (("order",), torch.arange(3).int(), r"state\.order.*int64.*got.*int32"),
        (("order",), torch.arange(1), r"state\.order"),
        (("kind",), None, r"state\.kind.*str.*got NoneType"),
        (("none",), 0, r"state\.none.*NoneType.*got int"),
        ((7,), {"pear": 1}, r"state\.7.*pair.*got.*pear"),
        ((7, "pair"), (1, torch.tensor(float("inf"))), r"state\.7\.pair\.1.*finite"),
    ],
)
def test_what_is_of_another_form_is_named_by_its_place(
    place: Any, new: Any, told: str
) -> None:
    with pytest.raises(ValueError, match=told):
        check_saved(put(NOW, place, new), NOW)


def test_keys_that_are_missing_or_too_many_are_refused() -> None:
    less = {key: value for key, value in NOW.items() if key != "flag"}
    for wrong in (less, NOW | {"more": 1}, {}, [], None, 3):
        with pytest.raises(ValueError, match="flag"):
            check_saved(wrong, NOW)
    with pytest.raises(ValueError, match="theirs"):
        check_saved(3, NOW, "theirs")


def test_whole_numbers_in_tensors_need_not_be_finite_to_be_compared() -> None:
    check_saved(torch.tensor([2**62]), torch.tensor([0]))
    check_saved(torch.tensor([True]), torch.tensor([False]))
    with pytest.raises(ValueError, match="finite"):
        check_saved(torch.tensor([float("nan")]).half(), torch.zeros(1).half())


def state() -> NoState:
    task = Task("toy", (1, 8, 8), 2, 1)
    return NoState(Run(task, "", Conv(), 1, 0, torch.device("cpu")))


@pytest.mark.parametrize(
    ("place", "new", "told"),
    [
        (("pool", 1, "weight"), torch.ones(2, 3), "pool.1.weight"),
        (("pool", 1, "weight"), torch.zeros(3, 2), "pool.1.weight"),
        (("pool", 0, "updates"), 5, "pool.0.updates"),
        (("pool",), NOW["pool"][:1], "pool"),
        (("order",), torch.tensor([0, 1, 3]), "order"),
        (("kind",), "adam", "kind"),
        ((7,), {"pear": 1}, "7"),
        ((7, "pair"), (1, torch.tensor(1.1)), "7.pair.1"),
    ],
)
def test_a_value_that_differs_between_processes_is_named(
    place: Any, new: Any, told: str
) -> None:
    with pytest.warns(DDWarning, match=rf"^NoState: state\.{told} differs") as caught:
        assert state().merge([NOW, NOW, put(NOW, place, new)]) == NOW
    assert len(caught) == 1


@pytest.mark.filterwarnings("error")
def test_equal_states_and_those_that_rounding_sets_apart_are_merged() -> None:
    near = put(NOW, (7, "pair"), (1, torch.tensor(1.001)))
    assert state().merge([NOW]) == NOW
    assert state().merge([NOW, copy.deepcopy(NOW), near]) == NOW
