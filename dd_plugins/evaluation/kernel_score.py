"""The accuracy of kernel regression from a set: the figure of KIP's papers."""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from torch import Tensor

from dd_plugins.errors import OptionError
from dd_plugins.functional.kernel_predictor import RIDGE, check_kernel, kernel_predictor
from dd_plugins.functional.ntk import KERNELS, AbstractKernel, FullyConnected
from dd_plugins.spec import Record, read, record, split_specs
from dd_plugins.synthetic.labels import LabelKind

__all__ = ["KernelScore", "get_scores", "kernel_of"]


@record
class KernelScore(Record):
    """Kernel ridge regression from the set: ``kernel``, or ``kernel(of=fc(depth=2))``.

    No network is trained. Labels that are classes or probabilities are centred (less
    1/C), as KIP's are.

    Args:
        of: the kernel; None for that by which the set was distilled, or ``fc`` for a
            set that was distilled without one.
        ridge: relative to the mean eigenvalue of the kernel.
    """

    name = "kernel"
    parts: ClassVar = {"of": KERNELS}

    of: AbstractKernel | None = None
    ridge: NonNegativeFloat = RIDGE

    def predictor(
        self, images: Tensor, labels: Tensor, kind: LabelKind
    ) -> Callable[[Tensor], Tensor]:
        """Return the regression from images of a set; ``of`` is given.

        Args:
            images: float ``(n, channels, height, width)``.
            labels: float ``(n, classes)``.
            kind: of the labels.

        Raises:
            OptionError: the kernel cannot take the images, or does not fit into memory.
        """
        assert self.of is not None
        check_kernel("kernel", self.of, len(images), *images.shape[-2:])
        if kind != "regression":
            labels = labels - 1 / labels.shape[1]
        return kernel_predictor(self.of, images, labels, ridge=self.ridge)


def kernel_of(distiller: Any) -> AbstractKernel:
    """Return the kernel by which a method distils, or ``fc`` if there is none.

    Args:
        distiller: a distiller or a wrapper.
    """
    while distiller is not None:
        kernel = getattr(distiller, "kernel", None)
        if isinstance(kernel, AbstractKernel):
            return kernel
        distiller = getattr(distiller, "base", None)
    return FullyConnected()


def get_scores(spec: str | None) -> KernelScore | None:
    """Return the further scores that a list of specs asks for; ``kernel`` is one.

    Raises:
        OptionError: there is no such score, or it is given twice.
    """
    if spec is None:
        return None
    specs = split_specs(spec)
    if len(specs) > 1:
        raise OptionError(f"scores: expected kernel, once, got {spec!r}")
    return read(KernelScore, specs[0], "kernel(of=fc(depth=2))")
