"""How much memory a process may use, beside what test_streamed.py shows of limits."""

import gc
import os
import resource
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dd_plugins.runtime.memory import fits_in_memory, graph_bytes

GROUPS = Path("/sys/fs/cgroup")


def limited(
    monkeypatch: pytest.MonkeyPatch,
    own: str,
    files: dict[str, str],
    *,
    pages: int = 2**60,
) -> None:
    """Let the machine have so many bytes, and control groups hold these files."""
    read_text = Path.read_text

    def pretended(path: Path) -> str:
        if path == Path("/proc/self/cgroup"):
            return own
        if path.is_relative_to(GROUPS):
            name = str(path.relative_to(GROUPS))
            if name not in files:
                raise FileNotFoundError(name)
            return files[name]
        return read_text(path)

    monkeypatch.setattr(Path, "read_text", pretended)
    monkeypatch.setattr(
        os, "sysconf", lambda name: pages if name == "SC_PHYS_PAGES" else 1
    )
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: unlimited)


@pytest.mark.parametrize(
    ("own", "files", "memory"),
    [
        # the tightest on the way to the root counts
        (
            "0::/batch/job/step\n",
            {
                "batch/job/step/memory.max": "9000",
                "batch/job/memory.max": "4000",
                "batch/memory.max": "max",
                "memory.max": "8000",
                "other/memory.max": "10",
            },
            4000,
        ),
        # of version 1 only the controller of memory
        (
            "5:cpu,cpuacct:/a\n4:memory:/b\n",
            {
                "memory/a/memory.limit_in_bytes": "10",
                "memory/b/memory.limit_in_bytes": "5000",
            },
            5000,
        ),
        # a container sees its own group as the root
        ("4:memory:/docker/abc\n", {"memory/memory.limit_in_bytes": "6000"}, 6000),
        ("0::/\n", {"memory.max": "what\n"}, 10_000),
        ("", {}, 10_000),
    ],
)
def test_the_least_of_all_limits_counts(
    own: str, files: dict[str, str], memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limited(monkeypatch, own, files, pages=10_000)
    assert fits_in_memory(memory / 2 - 1)
    assert not fits_in_memory(memory / 2)


def test_everything_fits_where_nothing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch, "", {})

    def unknown(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(os, "sysconf", unknown)
    assert fits_in_memory(1e30)


def test_a_graph_is_counted_once() -> None:
    one = torch.zeros(1000, requires_grad=True)
    assert graph_bytes(one.exp) == 4000  # its result
    assert graph_bytes(lambda: one.exp().exp()) == 8000
    assert graph_bytes(lambda: one * 2) == 0
    other = torch.zeros(10, requires_grad=True)
    assert graph_bytes(lambda: one[:10] * other, without=[one]) == 40


def test_a_counted_graph_is_freed() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def counted() -> Tensor:
        between = torch.zeros(10, requires_grad=True).exp()
        kept.append(weakref.ref(between))
        return between.exp()

    graph_bytes(counted)
    gc.collect()
    assert kept[0]() is None
