"""Noise and coins: functions of a secret and the step, of the right distribution."""

import torch
from scipy import stats

from dd_privacy.private.noise import SecretNoise


def test_a_draw_is_a_function_of_key_and_step() -> None:
    noise, again = SecretNoise(2**127 + 5), SecretNoise(2**127 + 5)
    assert torch.equal(noise.gaussian(3, (4, 5)), again.gaussian(3, (4, 5)))
    assert torch.equal(noise.batch(3, 100, 0.5), again.batch(3, 100, 0.5))
    for other in (SecretNoise(5), SecretNoise(2**127 + 4)):
        assert not torch.equal(noise.gaussian(3, (9,)), other.gaussian(3, (9,)))


def test_streams_do_not_overlap() -> None:
    """Nor does the noise of a step begin where that of the step before ended."""
    noise = SecretNoise(7)
    values = torch.cat([noise.gaussian(step, (500,)) for step in range(40)])
    assert len(values.unique()) == len(values)


def test_a_fresh_key_is_new_each_time() -> None:
    keys = {SecretNoise.fresh().key for _ in range(20)}
    assert len(keys) == 20
    assert max(keys) > 2**100, "more than a generator of 32 or 64 bits could hold"


def test_values_are_normal() -> None:
    for noise in (SecretNoise(1), SecretNoise(1, secure=True)):
        values = noise.gaussian(0, (20_000,)).numpy()
        assert stats.kstest(values, "norm").pvalue > 1e-3
        assert abs(values.std() - 1) < 0.02


def test_secure_values_are_sums_of_four_draws() -> None:
    plain, secure = SecretNoise(1), SecretNoise(1, secure=True)
    draws = plain.gaussian(0, (1 + 4 * 3,))
    torch.testing.assert_close(
        secure.gaussian(0, (3,)), draws[1:].view(4, 3).sum(dim=0) / 2
    )


def test_each_example_has_a_coin_of_its_own() -> None:
    noise = SecretNoise(11)
    counts = torch.zeros(200)
    sizes = []
    for step in range(2_000):
        batch = noise.batch(step, 200, 0.1)
        sizes.append(len(batch))
        counts[batch] += 1
    # Both are binomial: 3 and 5 standard deviations.
    assert abs(sum(sizes) / len(sizes) - 20) < 3 * (200 * 0.09 / 2_000) ** 0.5
    assert (counts - 200).abs().max() < 5 * (2_000 * 0.09) ** 0.5
    assert torch.tensor(sizes).float().var() > 10, "the size of a batch is no constant"
    assert len(noise.batch(0, 50, 1.0)) == 50
