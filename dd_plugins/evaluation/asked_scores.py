"""The scores requested from an evaluation."""

from dataclasses import dataclass

from dd_plugins.errors import OptionError
from dd_plugins.evaluation.kernel_score import KernelScore
from dd_plugins.spec import parse, read, split_specs

__all__ = ["AskedScores", "asked_scores"]

_BY_NAME = ("lrs", "ars", "hard", "retrieval")


@dataclass(frozen=True)
class AskedScores:
    """The requested scores, besides the accuracy of networks trained on the set.

    Attributes:
        kernel: kernel regression from the set; None if not asked for.
        lrs: the label robust score.
        ars: the augmentation robust score.
        hard: the accuracy with hard labels.
        retrieval: retrieval of images of the same class by features.
    """

    kernel: KernelScore | None = None
    lrs: bool = False
    ars: bool = False
    hard: bool = False
    retrieval: bool = False


def asked_scores(text: str | None) -> AskedScores:
    """Return the scores listed in a text, separated by commas.

    Raises:
        OptionError: there is no such score, or one is given twice.

    Example:
        >>> asked_scores("lrs,ars").lrs
        True
    """
    if text is None:
        return AskedScores()
    kernel, names = None, []
    for spec in split_specs(text):
        name = parse(spec).name
        if name in names:
            raise OptionError(f"scores: expected {name} once, got {text!r}")
        names.append(name)
        if name in _BY_NAME and spec.strip() == name:
            continue
        if name != KernelScore.name:
            raise OptionError(
                f"scores: expected {', '.join(_BY_NAME)} or kernel, such as "
                f"'lrs,ars' or 'kernel(of=fc(depth=2))', got {spec.strip()!r}"
            )
        kernel = read(KernelScore, spec, "kernel(of=fc(depth=2))")
    return AskedScores(kernel, **{name: name in names for name in _BY_NAME})
