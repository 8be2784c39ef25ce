"""The script of an export: it trains on the set in plain torch.

Functions of :mod:`dd_plugins.exports.plain` are copied into it, only those needed by
the recipe of the set. It contains no text of the artifact.
"""

import ast
import inspect
import json
import re
import sys
from collections.abc import Callable, Iterable
from typing import Any

from dd_plugins.exports.plain.augmentations import crop, dsa, frepo
from dd_plugins.exports.plain.real_images import read_images
from dd_plugins.exports.plain.schedules import constant, cosine, half_cosine, halfway
from dd_plugins.exports.plain.values import standardised, whitened
from dd_plugins.exports.recipe import ExportedRecipe
from dd_plugins.exports.templates import filled
from dd_plugins.synthetic.header import Content
from dd_plugins.synthetic.labels import LabelKind
from dd_plugins.training.recipes import Recipe

__all__ = ["script_of"]

_AUGMENTATIONS = {"frepo": frepo, "dsa": dsa, "crop": crop, "none": None}
_DECAYS = {
    "cosine": cosine,
    "half-cosine": half_cosine,
    "halfway": halfway,
    "none": constant,
}
_OPTIMIZERS = {"adam": "Adam", "adamw": "AdamW", "sgd": "SGD"}
_LOSSES: dict[LabelKind, str] = {
    "regression": "({} - labels[batch]).square().sum(dim=1).mean() / 2",
    "probabilities": "F.cross_entropy({}, labels[batch])",
    "classes": "F.cross_entropy({}, labels[batch].argmax(dim=1))",
}
_IMPORTS = {
    "argparse": "import argparse",
    "inspect": "import inspect",
    "json": "import json",
    "math": "import math",
    "Mapping": "from collections.abc import Mapping",
    "partial": "from functools import partial",
    "Path": "from pathlib import Path",
    "Any": "from typing import Any",
    "np": "\nimport numpy as np",
    "torch": "import torch",
    "F": "import torch.nn.functional as F",
    "Tensor": "from torch import Tensor, nn",
    "swa_utils": "from torch.optim import swa_utils",
}
"""The import of each name that a script may use, in their order."""


def script_of(
    distilled: Content, how: ExportedRecipe, form: str, export: str, script: str
) -> str:
    """Return the source of a script for training on an exported set.

    Args:
        distilled: the set.
        how: its recipe.
        form: ``"npz"`` or ``"pt"``.
        export: the name of the exported file, in the folder of the script.
        script: the name of the script.
    """
    recipe, with_views = how.recipe, distilled.header.views is not None
    augment = crop if with_views else _AUGMENTATIONS[recipe.augmentation]
    decay, is_whitened = _DECAYS[recipe.decay], distilled.transform.centre is not None
    value_map = whitened if is_whitened else standardised
    momentum = ["momentum"] if recipe.optimizer == "sgd" else []
    normalization = how.fields["network"]["options"].get("normalization")
    given: dict[str, Any] = {
        "shown": _shown(export),
        "script": _shown(script),
        "name": json.dumps(export),
        "form": form,
        "left_out": how.left_out,
        "whitened": is_whitened,
        "network": how.network.__name__,
        "augmentation": augment and augment.__name__,
        "optimizer": _OPTIMIZERS[recipe.optimizer],
        "optimizer_options": json.dumps(["weight_decay", *momentum]),
        "warm_up": how.fields["warm_up"],
        "decay": decay.__name__,
        "loss": _loss(distilled.header.label_kind, recipe, with_views),
        "average": recipe.average,
        "norm_momentum": recipe.norm_momentum is not None and normalization == "batch",
    }
    used = [value_map, how.network, decay, augment, read_images]
    functions = "\n\n\n".join(map(inspect.getsource, _with_helpers(filter(None, used))))
    functions = re.sub(r"\n{4,}", "\n\n\n", functions).rstrip()
    body = filled("train.py.jinja", functions=functions, imports="", **given)
    names = {
        each.id for each in ast.walk(ast.parse(body)) if isinstance(each, ast.Name)
    }
    imports = "\n".join(line for name, line in _IMPORTS.items() if name in names)
    return filled("train.py.jinja", functions=functions, imports=imports, **given)


def _shown(name: str) -> str:
    """Return the name of a file, made safe for a docstring."""
    return re.sub(r"[^\w. -]", "_", name)


def _loss(kind: LabelKind, recipe: Recipe, with_views: bool) -> str:
    """Return the expression of the loss of a batch."""
    if recipe.temperature == 1 or with_views:
        return _LOSSES[kind].format("logits")
    loss = _LOSSES[kind].format('logits / recipe["temperature"]')
    return f'recipe["temperature"] ** 2 * {loss}' if recipe.scale_loss else loss


def _with_helpers(
    functions: Iterable[Callable[..., Any]],
) -> list[Callable[..., Any]]:
    """Return functions, each followed by the functions of its module it calls."""
    found: list[Callable[..., Any]] = []
    for function in functions:
        module = sys.modules[function.__module__]
        tree = ast.parse(inspect.getsource(function))
        names = [each.id for each in ast.walk(tree) if isinstance(each, ast.Name)]
        called = [
            each
            for name in dict.fromkeys(names)
            if inspect.isfunction(each := getattr(module, name, None))
            and each.__module__ == function.__module__
            and each is not function
        ]
        for each in [function, *_with_helpers(called)]:
            if each not in found:
                found.append(each)
    return found
