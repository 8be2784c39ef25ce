"""Addressed randomness: every draw has an address, and no draw touches global state.

A generator is derived from ``(seed, purpose, step, rank)``. No random state is carried
from one step to the next. So a resumed run draws exactly the same as an uninterrupted
one, and there is no generator state to save.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["generator_for", "seeded_globally"]


def generator_for(
    seed: int, purpose: str, step: int = 0, rank: int = 0
) -> torch.Generator:
    """Return the CPU generator of an address.

    Args:
        seed: the seed of the run.
        purpose: the purpose of the draw, for example ``"batch"``.
        step: the step of the run, or the number of the draw.
        rank: the number of the process, if each draws its own.

    Example:
        >>> first = torch.rand(2, generator=generator_for(0, "batch", step=7))
        >>> again = torch.rand(2, generator=generator_for(0, "batch", step=7))
        >>> torch.equal(first, again)
        True
    """
    address = f"{seed}/{purpose}/{step}/{rank}".encode()
    digest = hashlib.sha256(address).digest()
    # The top bit is dropped because the API is signed. Of the rest torch's generator
    # uses the low 32: two addresses draw alike with a chance of about 1 in 4e9.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


@contextmanager
def seeded_globally(
    generator: torch.Generator, device: torch.device | None = None
) -> Iterator[None]:
    """Let code without a generator argument draw from ``generator``.

    Module constructors and ``F.dropout`` take no generator. Inside this block the
    global CPU state is seeded from ``generator``; afterwards it is restored. Build
    modules on the CPU and move them.

    Args:
        generator: a CPU generator; it moves on by one draw.
        device: a device to compute on. The state of a CUDA device is seeded too.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    devices = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        for each in devices:
            with torch.cuda.device(each):
                torch.cuda.manual_seed(seed)
        yield
