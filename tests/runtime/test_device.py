"""Devices and dtypes that are asked for, and torch's switches, which are put back."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dd_plugins.errors import OptionError
from dd_plugins.runtime.device import (
    autocast,
    exact_kernels,
    in_float64,
    plain_torch,
    resolve_device,
    resolve_precision,
    threads,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(False, False, "cpu"), (False, True, "mps"), (True, True, "cuda")],
)
def test_the_first_device_that_is_there_is_taken(
    cuda: bool, mps: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    zeros = torch.zeros
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch, "zeros", lambda shape, device: zeros(shape))
    assert resolve_device("auto") == torch.device(expected)


@pytest.mark.parametrize("device", ["meta", "tpu", "", "cuda:99", "cpu:x", None, 3.5])
def test_a_device_that_holds_no_values_is_refused_in_one_line(device: Any) -> None:
    with pytest.raises(OptionError) as refused:
        resolve_device(device)
    assert repr(device) in str(refused.value)
    assert str(refused.value).isprintable()
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("device", ["gpu", "tpu", "", "cpu:x", None])
def test_an_unknown_name_is_told_with_those_to_choose_from(device: Any) -> None:
    told = rf"^device must be 'auto', 'cpu', 'cuda', .*'cuda:1'; got {device!r}$"
    with pytest.raises(OptionError, match=told):
        resolve_device(device)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is there")
def test_a_device_that_torch_was_not_built_for_is_refused_shortly() -> None:
    with pytest.raises(OptionError, match=r"'mps'.*no such device here") as refused:
        resolve_device("mps")
    assert len(str(refused.value)) < 150


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False, "avx512_f": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
    ],
)
def test_precision_suits_the_processor_unless_it_is_named(
    capabilities: dict[str, bool],
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert resolve_precision("auto", CPU) == expected
    assert resolve_precision("float32", CPU) == torch.float32
    assert resolve_precision("bfloat16", CPU) == torch.bfloat16
    assert resolve_precision("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize("has", [False, True])
def test_precision_on_a_gpu_is_not_emulated(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(*, including_emulation: bool) -> bool:
        return has or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    wanted = torch.bfloat16 if has else torch.float32
    assert resolve_precision("auto", torch.device("cuda")) == wanted


@pytest.mark.parametrize("precision", ["float16", "", "BFLOAT16", None, torch.bfloat16])
def test_a_precision_of_no_name_is_refused(precision: Any) -> None:
    with pytest.raises(OptionError) as refused:
        resolve_precision(precision, CPU)
    for named in ("auto", "float32", "bfloat16", repr(precision)):
        assert named in str(refused.value)


def test_float32_is_not_autocast_even_within_another_autocast() -> None:
    matrix = torch.ones(2, 2)
    with autocast(CPU, torch.bfloat16):
        assert (matrix @ matrix).dtype == torch.bfloat16
        with autocast(CPU, torch.float32):
            assert (matrix @ matrix).dtype == torch.float32
        assert (matrix @ matrix).dtype == torch.bfloat16


def kernels() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32


@pytest.mark.parametrize("before", [(False, True, True), (True, False, False)])
def test_kernels_are_exact_inside_and_as_before_outside(
    before: tuple[bool, bool, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("deterministic", "benchmark", "allow_tf32")
    for name, value in zip(names, before, strict=True):
        monkeypatch.setattr(torch.backends.cudnn, name, value)
    with exact_kernels():
        assert kernels() == (True, False, False)
        with exact_kernels():
            assert kernels() == (True, False, False)
        assert kernels() == (True, False, False), "the outer block goes on"
    assert kernels() == before
    with pytest.raises(ZeroDivisionError), exact_kernels():
        raise ZeroDivisionError
    assert kernels() == before


def told() -> tuple[object, ...]:
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch.get_float32_matmul_precision(),
    )


FRESH = (torch.float32, CPU, True, False, False, "highest")


def of_float64() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.callback(torch.set_default_dtype, torch.get_default_dtype())
    torch.set_default_dtype(torch.float64)
    return stack


def of_rough_products() -> AbstractContextManager[Any]:
    stack = ExitStack()
    stack.callback(torch.set_float32_matmul_precision, "highest")
    torch.set_float32_matmul_precision("medium")
    return stack


TOLD: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "nothing": ExitStack,
    "float64": of_float64,
    "rough products": of_rough_products,
    "another device": lambda: torch.device("meta"),
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
}


@pytest.mark.parametrize("name", TOLD)
def test_torch_is_as_in_a_fresh_process_and_then_as_before(name: str) -> None:
    assert told() == FRESH
    with TOLD[name]():
        before = told()
        assert (before == FRESH) == (name == "nothing")
        with plain_torch():
            assert told() == FRESH
            made = torch.ones(2, 2, requires_grad=True)
            assert (made @ made).dtype == torch.float32
            (gradient,) = torch.autograd.grad((made * 3).sum(), made)
            assert (gradient == 3).all()
        assert told() == before
        with suppress(ZeroDivisionError), plain_torch():
            torch.set_default_dtype(torch.float16)
            raise ZeroDivisionError
        assert told() == before
    assert told() == FRESH


def test_threads_are_as_many_as_before_also_after_an_error() -> None:
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
        with pytest.raises(ZeroDivisionError), threads(1):
            raise ZeroDivisionError
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_numbers_that_a_device_lacks_are_those_of_the_cpu() -> None:
    there = torch.ones(2)
    assert in_float64(there).dtype == torch.float64
    apple = SimpleNamespace(device=torch.device("mps"), cpu=lambda: there)
    assert in_float64(apple).dtype == torch.float64  # type: ignore[arg-type]
