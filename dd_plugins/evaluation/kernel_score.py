"""The accuracy of kernel regression from a set: the figure of KIP's papers."""

from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import NonNegativeFloat
from torch import Tensor

from dd_plugins.functional.kernel_predictor import RIDGE, kernel_predictor
from dd_plugins.functional.ntk import KERNELS, AbstractKernel, FullyConnected
from dd_plugins.spec import Record, record
from dd_plugins.synthetic.labels import LabelKind

__all__ = ["KernelScore"]


@record
class KernelScore(Record):
    """Kernel ridge regression from the set: ``kernel``, or ``kernel(of=fc(depth=2))``.

    No network is trained. Labels of classes or probabilities are centred by subtracting
    1/C, as in KIP.

    Args:
        of: the kernel; None for the kernel of the distillation, or ``fc`` for a set
            distilled without one.
        ridge: the ridge, relative to the mean eigenvalue of the kernel; None for the
            method's ridge.
    """

    name = "kernel"
    parts: ClassVar = {"of": KERNELS}

    of: AbstractKernel | None = None
    ridge: NonNegativeFloat | None = None

    def settled_for(self, distiller: Any) -> "KernelScore":
        """Return the score with open options filled in from a set's method.

        Args:
            distiller: a distiller or a wrapper, or None; if it has no kernel, ``fc`` is
                taken.
        """
        kernel, ridge = FullyConnected(), RIDGE
        while distiller is not None:
            if isinstance(getattr(distiller, "kernel", None), AbstractKernel):
                kernel, ridge = distiller.kernel, distiller.ridge
            distiller = getattr(distiller, "base", None)
        return KernelScore(
            of=self.of or kernel, ridge=ridge if self.ridge is None else self.ridge
        )

    def predictor(
        self, images: Tensor, labels: Tensor, kind: LabelKind
    ) -> Callable[[Tensor], Tensor]:
        """Return the regression from the images of a set; no option may be None.

        Args:
            images: float ``(n, channels, height, width)``.
            labels: float ``(n, classes)``.
            kind: the kind of the labels.
        """
        assert self.of is not None
        assert self.ridge is not None
        if kind != "regression":
            labels = labels - 1 / labels.shape[1]
        return kernel_predictor(self.of, images, labels, ridge=self.ridge)
