"""The results of an evaluation."""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dd_plugins.evaluation.robustness import RobustnessScore
from dd_plugins.functional.statistics import mean_interval
from dd_plugins.training.recipes import Recipe

__all__ = ["Evaluation", "NetworkResult"]


@dataclass(frozen=True)
class NetworkResult:
    """The accuracies of several networks of one architecture.

    Attributes:
        spec: the spec of the network.
        accuracies: the accuracy of each trained network, in [0, 1].
        retrieval: the scores of each network's features, in [0, 1], by the name of the
            score (see :func:`~dd_plugins.evaluation.retrieval.retrieval_scores`); empty
            if not asked for.
    """

    spec: str
    accuracies: tuple[float, ...]
    retrieval: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Return the mean accuracy."""
        return float(np.mean(self.accuracies))

    @property
    def std(self) -> float | None:
        """Return the sample standard deviation; None for a single network."""
        if len(self.accuracies) < 2:
            return None
        return float(np.std(self.accuracies, ddof=1))

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean (Student's t); None for one network."""
        return mean_interval(self.accuracies)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """Return the interval cut to [0, 1], as it is shown; None for one network."""
        if self.ci95 is None:
            return None
        return max(0.0, self.ci95[0]), min(1.0, self.ci95[1])

    def __str__(self) -> str:
        """Return the mean accuracy and its 95 % interval, cut to [0, 1]."""
        if self.bounds is None:
            return f"{self.mean:.4f}"
        low, high = self.bounds
        return f"{self.mean:.4f} ({low:.4f} to {high:.4f})"

    def as_dict(self) -> dict[str, Any]:
        """Return the form written by ``--json``."""
        found: dict[str, Any] = {
            "spec": self.spec,
            "accuracy_mean": self.mean,
            "accuracy_std": self.std,
            "accuracy_ci95": None if self.ci95 is None else list(self.ci95),
            "accuracies": list(self.accuracies),
        }
        if self.retrieval:
            found["retrieval"] = {
                name: _figures(scores) for name, scores in self.retrieval.items()
            }
        return found


def _figures(scores: Sequence[float]) -> dict[str, Any]:
    interval = mean_interval(scores)
    return {
        "mean": float(np.mean(scores)),
        "ci95": None if interval is None else list(interval),
        "scores": list(scores),
    }


@dataclass(frozen=True)
class Evaluation:
    """The result of :func:`evaluate`.

    Attributes:
        networks: one result for each architecture, trained on the distilled set.
        random: the same, trained on as many random real images; empty if neither asked
            for nor needed for a score.
        full: the same, trained on all real images; empty if neither asked for nor
            needed for a score.
        test_images: the number of images that networks are scored on.
        protocol: the requested protocol; ``"recipe"`` for a recipe.
        recipe: the recipe for the distilled set and for random images; None if the
            networks have different ones.
        kernel: the accuracy of kernel regression from the set; its ``spec`` is the
            score's. None if not asked for.
        random_kernel: the same from as many random real images, redrawn each time.
        hard: the same, trained on the set with hard labels; empty unless asked for,
            needed for a score, or compared with a teacher's labels of views.
        taught_random: likewise, trained on as many random real images with the
            teacher's labels of their views; those of ``random`` have hard labels.
        without_teacher: why ``taught_random`` is empty, if a teacher labels the views;
            else empty.
        robustness: the label and augmentation robust scores of each network, if asked
            for.
        recipes: the recipe of each network, in the order of ``networks``.
        full_recipe: the recipe of all networks of ``full``; None if there are none.
        data: the name of the real data.
        scored_on: ``"test images"``, or ``"validation images"``.
        random_images: the number of random real images that take as many values as the
            set stores.
    """

    networks: tuple[NetworkResult, ...]
    random: tuple[NetworkResult, ...] = ()
    full: tuple[NetworkResult, ...] = ()
    test_images: int = 0
    protocol: str = "auto"
    recipe: Recipe | None = None
    kernel: NetworkResult | None = None
    random_kernel: NetworkResult | None = None
    hard: tuple[NetworkResult, ...] = ()
    taught_random: tuple[NetworkResult, ...] = ()
    without_teacher: str = ""
    robustness: tuple[RobustnessScore, ...] = ()
    recipes: tuple[Recipe, ...] = ()
    full_recipe: Recipe | None = None
    data: str = ""
    scored_on: str = "test images"
    random_images: int = 0

    def __str__(self) -> str:
        """Return a line for each result and score: what, network and figure."""
        lines = [f"{what}, {spec}: {figure}" for what, spec, figure in self._lines()]
        if self.without_teacher:
            lines.append(f"no random images with labels: {self.without_teacher}")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """Return the same as a table, for notebooks."""
        rows = "".join(
            f"<tr><td>{what}</td><td>{html.escape(spec)}</td><td>{figure}</td></tr>"
            for what, spec, figure in self._lines()
        )
        accuracy = f"{self.scored_on.split()[0]} accuracy"
        heads = "".join(
            f"<th>{name}</th>" for name in ("trained on", "network", accuracy)
        )
        return f"<table><tr>{heads}</tr>{rows}</table>"

    def _lines(self) -> Iterator[tuple[str, str, str]]:
        """Yield each result and score: what it is, the network and the figure."""
        kinds = (
            ("distilled set", self.networks),
            ("distilled set with hard labels", self.hard),
            ("random real images", self.random),
            ("random real images with a teacher's labels", self.taught_random),
            ("all training images", self.full),
        )
        for kind, results in kinds:
            for result in results:
                yield kind, result.spec, str(result)
                for name, scores in result.retrieval.items():
                    told = f"{kind}, {name.replace('_', ' ')}"
                    yield told, result.spec, f"{np.mean(scores):.4f}"
        regressions = (
            ("regression from the distilled set", self.kernel),
            ("regression from random real images", self.random_kernel),
        )
        for kind, regression in regressions:
            if regression is not None:
                yield kind, regression.spec, str(regression)
        for score in self.robustness:
            yield score.name.upper(), score.spec, str(score)

    def as_dict(self) -> dict[str, Any]:
        """Return the form written by ``--json``.

        Each baseline has the result of the first network, and under ``networks`` the
        results of all networks.
        """
        found: dict[str, Any] = {
            "networks": [result.as_dict() for result in self.networks],
            "data": self.data,
            "test_images": self.test_images,
            "scored_on": self.scored_on,
            "protocol": self.protocol,
            "recipe": None if self.recipe is None else self.recipe.options(),
        }
        if self.random:
            found["random_images"] = self.random_images
        if self.recipe is None and self.recipes:
            found["recipes"] = [each.options() for each in self.recipes]
        if self.full_recipe is not None:
            found["full_recipe"] = self.full_recipe.options()
        named = {
            "random": self.random,
            "full": self.full,
            "hard": self.hard,
            "taught_random": self.taught_random,
        }
        baselines = {
            name: results[0].as_dict()
            | {"networks": [result.as_dict() for result in results]}
            for name, results in named.items()
            if results
        }
        scores = {"kernel": self.kernel, "random_kernel": self.random_kernel}
        scored: dict[str, Any] = {
            name: each.as_dict() for name, each in scores.items() if each
        }
        for score in self.robustness:
            scored.setdefault(score.name, []).append(score.as_dict())
        found |= {"scores": scored} if scored else {}
        if self.without_teacher:
            found["without_teacher"] = self.without_teacher
        return found | ({"baselines": baselines} if baselines else {})
