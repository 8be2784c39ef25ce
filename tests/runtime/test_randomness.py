import random

import numpy as np
import pytest
import torch

from dd_plugins.runtime.randomness import generator_for, seeded_globally

ADDRESS = {"seed": 3, "purpose": "batch", "step": 7, "rank": 1}


def _draws(**address):
    return torch.rand(8, generator=generator_for(**address))


def test_an_address_always_gives_the_same_draws():
    assert torch.equal(_draws(**ADDRESS), _draws(**ADDRESS))


@pytest.mark.parametrize(
    "other",
    [{"seed": 4}, {"purpose": "pool"}, {"step": 8}, {"step": -1}, {"rank": 0}],
    ids=str,
)
def test_every_part_of_the_address_changes_the_draws(other):
    assert not torch.equal(_draws(**ADDRESS), _draws(**ADDRESS | other))


def test_parts_of_the_address_are_not_interchangeable():
    addresses = [
        (1, "batch", 2, 3),
        (1, "batch", 3, 2),
        (2, "batch", 1, 3),
        (1, "batch", 23, 0),
        (1, "batch/2", 3, 0),
        (12, "batch", 3, 0),
    ]
    seeds = {generator_for(*address).initial_seed() for address in addresses}
    assert len(seeds) == len(addresses)


def test_draws_are_the_same_in_every_process_and_release():
    # Changing this makes every published run irreproducible.
    assert generator_for(0, "batch", step=1).initial_seed() == 3_952_848_012_302_471_266


def _global_states():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def test_derive_touches_no_global_state():
    before = _global_states()

    _draws(**ADDRESS)

    assert _global_states() == before


def test_isolated_code_draws_from_the_generator_alone():
    def draws():
        with seeded_globally(generator_for(**ADDRESS)):
            return torch.rand(3)

    first = draws()
    torch.rand(1)  # moves the global state on

    assert torch.equal(draws(), first)


def test_isolated_blocks_on_one_generator_differ():
    generator = generator_for(**ADDRESS)
    with seeded_globally(generator):
        first = torch.rand(3)
    with seeded_globally(generator):
        second = torch.rand(3)

    assert not torch.equal(first, second)


def test_isolated_restores_the_global_state():
    before = _global_states()

    with seeded_globally(generator_for(**ADDRESS)):
        torch.nn.Linear(3, 3)

    assert _global_states() == before


def test_isolated_restores_the_global_state_after_an_error():
    before = _global_states()

    def fail():
        with seeded_globally(generator_for(**ADDRESS)):
            torch.rand(3)
            raise KeyError("inner")

    with pytest.raises(KeyError, match="inner"):
        fail()
    assert _global_states() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA GPU here")
def test_the_generator_of_a_gpu_is_seeded_and_restored_too():
    device = torch.device("cuda")
    before = torch.cuda.get_rng_state()
    found = []
    for _ in range(2):
        with seeded_globally(generator_for(**ADDRESS), device):
            found.append(torch.rand(8, device=device).tolist())
        assert torch.equal(torch.cuda.get_rng_state(), before)

    assert found[0] == found[1]
