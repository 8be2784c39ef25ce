"""Objects of pytorch-metric-learning, built from specs."""

from types import ModuleType
from typing import Any

from dd_plugins.errors import OptionError
from dd_plugins.spec import Call, parse, unknown_name

__all__ = ["metric_learning", "require_metric_learning"]


def require_metric_learning() -> None:
    """Raise an OptionError naming the package to install, if it is missing."""
    _classes()


def metric_learning(spec: str) -> Any:
    """Build a loss, miner, distance, reducer or regularizer from its spec.

    Args:
        spec: a class of pytorch-metric-learning. Its options are literals or specs of
            other classes: ``"NTXentLoss(distance=CosineSimilarity())"``.

    Raises:
        OptionError: the package is missing, or an option does not fit.
        UnknownNameError: the package has no such class.
    """
    return _build(parse(spec), _classes())


def _classes() -> dict[str, type]:
    """Return every public class of the package's modules by name."""
    try:
        from pytorch_metric_learning import (
            distances,
            losses,
            miners,
            reducers,
            regularizers,
        )
    except ModuleNotFoundError as error:
        raise OptionError(
            "the option needs pytorch-metric-learning, which is not installed; "
            "pip install 'dd-plugins[metric]'"
        ) from error
    modules: tuple[ModuleType, ...] = (
        losses,
        miners,
        distances,
        reducers,
        regularizers,
    )
    return {
        name: value
        for module in modules
        for name, value in vars(module).items()
        if isinstance(value, type) and not name.startswith("_")
    }


def _build(call: Call, classes: dict[str, type]) -> Any:
    if call.name not in classes:
        raise unknown_name("metric-learning class", call.name, list(classes))

    def value(given: Any) -> Any:
        return _build(given, classes) if isinstance(given, Call) else given

    arguments = [value(argument) for argument in call.arguments]
    options = {name: value(option) for name, option in call.options.items()}
    try:
        return classes[call.name](*arguments, **options)
    except (TypeError, ValueError) as error:
        raise OptionError(f"{call.name}: {error}") from error
