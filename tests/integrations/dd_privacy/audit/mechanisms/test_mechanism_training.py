"""Fresh networks, training on a set, and how long it takes."""

import time

import pytest
import torch
from mechanism_runs import small_set, weights
from privacy_data import MLP, noisy_data

from dd_plugins.api import recipe_for
from dd_privacy.audit.mechanisms import AllMembers
from dd_privacy.audit.mechanisms.training import (
    PROBE_STEPS,
    fresh_network,
    seconds_of_a_step,
    timed,
    trained_on,
    training_seconds,
)

CPU = torch.device("cpu")


def test_the_time_of_all_steps_is_told_from_a_few() -> None:
    data = noisy_data(60)
    short, long = (
        AllMembers("all", "cpu", MLP, steps).expected_seconds(data)
        for steps in (6, 60_000)
    )
    assert 0 < short < long
    calls: list[int] = []
    result, seconds = timed(lambda: calls.append(1) or "done")
    assert (result, calls) == ("done", [1])
    assert seconds >= 0


def test_a_step_takes_time_even_where_the_machine_was_busy() -> None:
    few, more = PROBE_STEPS
    setting_up, step = 3.0, 0.5
    short, longer = (setting_up + step * steps for steps in (few, more))
    assert seconds_of_a_step(short, longer) == pytest.approx(step)
    assert seconds_of_a_step(longer + 9, longer) == pytest.approx(longer / more)
    assert seconds_of_a_step(longer, longer) > 0


def test_fresh_weights_are_a_function_of_the_seed() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, same, other = (
        weights(fresh_network(MLP, (1, 8, 8), 4, seed, CPU)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("shape", "classes"), [((1, 8, 8), 4), ((3, 16, 16), 2), ((1, 8, 8), 1)]
)
def test_a_fresh_network_takes_images_of_its_shape(
    shape: tuple[int, int, int], classes: int
) -> None:
    network = fresh_network("conv(width=4, depth=2)", shape, classes, 0, CPU)
    assert network(torch.zeros(3, *shape)).shape == (3, classes)
    kernels = [each for each in network.parameters() if each.ndim == 4]
    assert kernels
    last = torch.channels_last
    assert all(each.is_contiguous(memory_format=last) for each in kernels)


def test_a_network_is_trained_from_the_fresh_one_of_its_seed() -> None:
    made = small_set()
    fresh = fresh_network(made.header.evaluation_network, (1, 8, 8), 4, 3, CPU)
    one, four = (trained_on(made, 3, "cpu", steps) for steps in (1, 4))
    moved = [float((weights(each) - weights(fresh)).norm()) for each in (one, four)]
    assert 0 < moved[0] < moved[1]
    assert one.distilled is made
    assert one.transform is made.transform
    assert (one.epsilon, one.network.training) == (None, False)


def test_a_network_of_its_own_may_be_named() -> None:
    made = small_set()
    found = weights(trained_on(made, 0, "cpu", 1, "mlp(width=3)"))
    wanted = weights(fresh_network("mlp(width=3)", (1, 8, 8), 4, 0, CPU))
    assert found.shape == wanted.shape


def test_training_on_a_set_learns_it() -> None:
    made = small_set(images_per_class=3)
    release = trained_on(made, 0, "cpu", 150)
    with torch.no_grad():
        found = release.network(made.images).argmax(dim=1)
    assert torch.equal(found, torch.tensor(made.header.initial_classes))


def test_a_few_steps_stand_for_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    made = small_set()
    clock = iter(range(100))  # a second passes between any two looks
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    few = PROBE_STEPS[1]
    assert training_seconds(made, "cpu", 5 * few) == pytest.approx(5)
    assert training_seconds(made, "cpu", few) == pytest.approx(1)
    assert training_seconds(made, "cpu", 1) == pytest.approx(1), "no more than asked"
    wanted = recipe_for(made).steps / few
    assert training_seconds(made, "cpu", None) == pytest.approx(wanted)


@pytest.mark.parametrize(("steps", "expected"), [(3, 10.03), (1006, 20.06)])
def test_the_time_of_setting_up_is_counted_once(
    steps: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = "dd_privacy.audit.mechanisms.training"
    monkeypatch.setattr(f"{place}.trained_on", lambda *given: 10 + 0.01 * given[3])
    monkeypatch.setattr(f"{place}.timed", lambda work: (None, work()))
    found = training_seconds(small_set(), "cpu", steps)
    assert found == pytest.approx(expected)
