"""Devices, dtypes and torch's switches."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Literal, TypeVar, get_args

import torch
from torch import Tensor, nn

from dd_plugins.errors import OptionError

__all__ = [
    "Precision",
    "autocast",
    "channels_last",
    "exact_kernels",
    "in_float64",
    "plain_torch",
    "resolve_device",
    "resolve_precision",
    "threads",
]

ModuleType = TypeVar("ModuleType", bound=nn.Module)

Precision = Literal["auto", "float32", "bfloat16"]
"""The number type of features; ``auto`` is bfloat16 if the hardware has it."""


def autocast(
    device: torch.device, precision: torch.dtype
) -> AbstractContextManager[object]:
    """Return the autocast context of ``precision``."""
    return torch.autocast(
        device.type, dtype=precision, enabled=precision != torch.float32
    )


def channels_last(module: ModuleType, device: torch.device) -> ModuleType:
    """Move a module to a device, its weights channels last."""
    # mypy does not know the overload of Module.to with a memory format.
    moved: ModuleType = module.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return moved


@contextmanager
def exact_kernels() -> Iterator[None]:
    """Let cuDNN use only deterministic kernels, with float32 at full precision.

    By default torch lets it round the factors of convolutions to the 10 bits of TF32.
    torch's switches hold for the whole process; afterwards they are as they were. A
    precision set by the newer switches (``fp32_precision``) is kept. Nothing changes on
    other devices.
    """
    cudnn = torch.backends.cudnn
    wanted = {"deterministic": True, "benchmark": False}
    with suppress(RuntimeError):  # the newer switches were set: this one cannot be read
        wanted |= {"allow_tf32": False} if cudnn.allow_tf32 else {}
    before = {name: getattr(cudnn, name) for name in wanted}
    try:
        for name, value in wanted.items():
            setattr(cudnn, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(cudnn, name, value)


def in_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU if its device has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


@contextmanager
def plain_torch() -> Iterator[None]:
    """Compute as in a fresh process, whatever the caller has set in torch.

    Gradients are on, new tensors are float32 and on the CPU by default, products of
    float32 are exact, and autocast is off. Afterwards all settings are as they were.
    """
    dtype = torch.get_default_dtype()
    with ExitStack() as stack:
        with suppress(RuntimeError):  # the newer switches were set: it cannot be read
            products = torch.get_float32_matmul_precision()
            stack.callback(torch.set_float32_matmul_precision, products)
            torch.set_float32_matmul_precision("highest")
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        if torch.get_default_device() != torch.device("cpu"):
            stack.enter_context(torch.device("cpu"))  # it slows every call
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.callback(torch.set_default_dtype, dtype)
        torch.set_default_dtype(torch.float32)
        yield


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with a fixed number of threads, as it affects the last bits of sums."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def resolve_device(device: str) -> torch.device:
    """Return the device; ``"auto"`` is CUDA, MPS or the CPU: the first available.

    Raises:
        OptionError: there is no such device here, or its tensors hold no values.
    """
    if device == "auto":
        device = "cpu"
        if torch.backends.mps.is_available():
            device = "mps"
        if torch.cuda.is_available():
            device = "cuda"
    try:
        resolved = torch.device(device)
    except (RuntimeError, TypeError) as error:
        raise OptionError(
            "device must be 'auto', 'cpu', 'cuda', 'mps', or one of several GPUs, such "
            f"as 'cuda:1'; got {device!r}"
        ) from error
    try:
        torch.zeros((), device=resolved).item()  # "meta" has tensors without values
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        if reason.startswith("Could not run"):  # followed by all of torch's backends
            reason = "torch has no such device here"
        raise OptionError(
            f"device {device!r} cannot be used: {reason}; expected a device that torch "
            "finds here, such as 'auto' or 'cpu'"
        ) from error
    return resolved


def resolve_precision(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of features; ``"auto"`` is bfloat16 if the hardware has it.

    Raises:
        OptionError: there is no such precision.
    """
    if precision not in get_args(Precision):
        raise OptionError(
            f"precision must be one of {', '.join(get_args(Precision))}, "
            f"got {precision!r}"
        )
    if precision != "auto":
        return torch.bfloat16 if precision == "bfloat16" else torch.float32
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "mps":
        has_bfloat16 = False  # not measured on any
    else:
        capabilities = torch.cpu.get_capabilities()
        has_bfloat16 = bool(
            capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
        )
    return torch.bfloat16 if has_bfloat16 else torch.float32
