"""What a checkpoint must hold, and what is said of one that does not."""

import copy
import warnings
from typing import Any

import pytest
import torch

from dd_plugins.api import DDWarning, FileError, OptionError, Transform
from dd_plugins.engine.restoring import (
    check_configuration,
    checkpoint_errors,
    largest,
    rehearse,
    saved_transform,
    threads_of,
)
from dd_plugins.synthetic.leaves import Parameters

CONFIGURATION = {"data set": "abc", "seed": 0, "steps": 9, "mirror": None}


def test_the_largest_value_is_the_farthest_from_zero() -> None:
    assert float(largest([torch.tensor([1.0, -7.0]), torch.tensor(3.0)])) == 7.0
    assert float(largest([torch.tensor([2.0]), torch.tensor([-1.0, 5.0])])) == 5.0
    assert torch.isnan(largest([torch.tensor([1.0]), torch.tensor([float("nan")])]))
    assert torch.isinf(largest([torch.tensor([float("-inf"), 0.0])]))


def test_a_run_keeps_the_threads_that_it_began_with() -> None:
    own = torch.get_num_threads()
    for saved in (None, {}, {"place": {}}, {"place": {"threads": own}}):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with threads_of(saved):
                assert torch.get_num_threads() == own
    with pytest.warns(DDWarning, match=f"{own + 2}.*{own}"):
        block = threads_of({"place": {"threads": own + 2}})
    with block:
        assert torch.get_num_threads() == own + 2
    assert torch.get_num_threads() == own


@pytest.mark.parametrize("count", [0, -1, 4097, True, 2.0, "2", None, [1]])
def test_a_number_of_threads_that_is_none_is_refused(count: Any) -> None:
    with pytest.raises(FileError, match="threads"):
        threads_of({"place": {"threads": count}})


def saved_with(transform: Transform | None = None, **changed: Any) -> dict[str, Any]:
    kept = {"configuration": CONFIGURATION | changed}
    if transform is None:
        return kept
    parts = {"tensors": transform.tensors(), "stride": transform.stride}
    return kept | {"transform": parts}


IMAGE = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["standardize", "zca"])
def test_the_map_to_the_value_space_comes_back_bit_for_bit(kind: Any) -> None:
    generator = torch.Generator().manual_seed(1)
    fitted = Transform.fit(torch.rand(50, 3, 4, 4, generator=generator), kind)
    found = saved_transform(saved_with(fitted), IMAGE)
    assert found is not None
    assert found.fingerprint == fitted.fingerprint
    assert torch.equal(found(IMAGE), fitted(IMAGE))
    assert saved_transform(saved_with(), IMAGE) is None


@pytest.mark.parametrize(
    ("changed", "told", "refining"),
    [
        ({"seed": 5}, ["seed", "5", "0"], False),
        ({"data set": "xyz"}, ["data set", "xyz", "abc"], False),
        ({"mirror": True}, ["mirror", "True", "None"], False),
        ({"steps": 4}, ["steps", "4", "9"], True),
        ({"steps": 4, "seed": 5}, ["steps", "seed"], False),
        ({"plugin version": "1.5"}, ["plugin version", "1.5"], False),
    ],
)
def test_a_checkpoint_of_other_options_names_them_all(
    changed: dict[str, Any], told: list[str], refining: bool
) -> None:
    with pytest.raises(OptionError) as refused:
        check_configuration(saved_with(**changed), CONFIGURATION, 9)
    text = str(refused.value)
    assert [word for word in told if word not in text] == []
    assert ("--refine-context" in text) is refining, "it helps with steps alone"


def test_a_finished_run_may_come_from_another_version() -> None:
    other = {"torch version": "1.0"}
    saved, now = saved_with(**other), CONFIGURATION | {"torch version": "2.0"}
    with pytest.raises(OptionError, match=r"install the version .* or remove its fold"):
        check_configuration(saved, now, 9)
    check_configuration(saved, now, 9, finished=True)
    with pytest.raises(OptionError, match="other options: seed was 0, is 5; repeat"):
        check_configuration(saved, now | {"seed": 5}, 9, finished=True)


def test_a_checkpoint_of_another_version_is_told_apart() -> None:
    with pytest.raises(OptionError, match="version") as refused:
        check_configuration(saved_with(flavour=1), CONFIGURATION, 9)
    assert "flavour" not in str(refused.value)


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({}, "configuration"),
        ({"configuration": None}, "foreign"),
        (saved_with(seed=[1, 2]), r"seed.*list"),
        (saved_with(seed={"a": 1}), r"seed.*dict"),
    ],
)
def test_a_checkpoint_without_a_configuration_is_foreign(
    saved: dict[str, Any], told: str
) -> None:
    with pytest.raises(FileError, match=told) as refused:
        check_configuration(saved, CONFIGURATION, 9)
    assert "--overwrite" in str(refused.value)


@pytest.mark.parametrize(
    ("saved", "told"),
    [
        ({"transform": {}}, "stride"),
        ({"transform": {"stride": 1, "tensors": {}}}, "mean"),
        (saved_with(Transform.identity(2)), "foreign"),
        (saved_with(Transform.identity(1)), "3 channels"),
    ],
)
def test_a_checkpoint_with_the_map_of_other_images_is_foreign(
    saved: dict[str, Any], told: str
) -> None:
    with pytest.raises(FileError, match=told) as refused:
        saved_transform(saved, IMAGE)
    assert "--overwrite" in str(refused.value)


def movers(parameters: Parameters) -> Any:
    torch.rand(5)  # as a method may, when it makes its optimizer
    optimizer = torch.optim.Adam(parameters, lr=0.1)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)


def learned() -> tuple[Parameters, dict[str, Any]]:
    """Return some parameters and what is saved of their movers after a step."""
    parameters = Parameters((torch.ones(2, 3),), (torch.full((2, 2), 5.0),))
    optimizer, schedule = movers(parameters)
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    schedule.step()
    saved = {"optimizer": optimizer.state_dict(), "schedule": schedule.state_dict()}
    return parameters, copy.deepcopy(saved)


def test_a_rehearsal_leaves_no_trace() -> None:
    parameters, saved = learned()
    kept = copy.deepcopy(saved)
    before = [each.clone() for each in parameters]
    gradients = [each.grad for each in parameters]
    state = torch.random.get_rng_state()
    rehearse(saved, parameters, movers, torch.Generator().manual_seed(0))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(map(torch.equal, parameters, before))
    assert all(one.grad is two for one, two in zip(parameters, gradients, strict=True))
    moment, same = (each["optimizer"]["state"][0]["exp_avg"] for each in (saved, kept))
    assert torch.equal(moment, same), "what was saved may be loaded afterwards"


def with_moment(saved: dict[str, Any], value: float) -> None:
    saved["optimizer"]["state"][0]["exp_avg"].fill_(value)


def with_rate(saved: dict[str, Any], value: float) -> None:
    saved["optimizer"]["param_groups"][0]["lr"] = value
    saved["schedule"]["base_lrs"] = [value]


@pytest.mark.parametrize(
    ("change", "value"),
    [
        (with_moment, float("nan")),
        (with_moment, 1e12),
        (with_moment, -1e12),
        (with_rate, float("nan")),
        (with_rate, float("inf")),
        (with_rate, 1e9),
    ],
)
def test_movers_that_lead_to_no_image_are_refused(change: Any, value: float) -> None:
    parameters, saved = learned()
    change(saved, value)
    with pytest.raises(ValueError, match=r"finite|at most"):
        rehearse(saved, parameters, movers, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("error", [OptionError("options"), MemoryError("full")])
def test_errors_that_are_no_fault_of_the_file_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, checkpoint_errors():
        raise error
    assert raised.value is error


def test_any_other_error_is_told_in_a_short_line() -> None:
    with pytest.raises(FileError) as raised, checkpoint_errors():
        raise IndexError("first line\n  second line " + "x" * 5_000)
    text = str(raised.value)
    assert "IndexError" in text
    assert "first line second line" in text
    assert len(text) < 400
    assert text.isprintable()
    assert isinstance(raised.value.__cause__, IndexError)
