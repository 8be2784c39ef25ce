"""The card of a set for the Hugging Face hub: its README.md."""

from collections.abc import Iterator
from pathlib import PureWindowsPath

from dd_plugins.exports.recipe import ExportedRecipe
from dd_plugins.exports.templates import filled
from dd_plugins.plugins.manager import loaded_plugins
from dd_plugins.runtime.text import shortened
from dd_plugins.synthetic.artifact import DistilledSet

__all__ = ["ANY_REPOSITORY", "card_of"]

ANY_REPOSITORY = "USER/NAME"
"""The placeholder for an unknown repository in a card."""

_LONGEST_VALUE = 300  # characters of a field
_LONGEST_NAME = 60
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))
"""The hub's names of sizes, each after the first number of images too large for it."""


def card_of(
    distilled: DistilledSet, how: ExportedRecipe, repo_id: str = ANY_REPOSITORY
) -> str:
    """Return the card of a set, in Markdown with the hub's front matter.

    The licence is left to the user.

    Args:
        distilled: the set.
        how: its recipe.
        repo_id: the repository on the hub, ``USER/NAME``.
    """
    header = distilled.header
    method = shortened(header.distiller.partition("(")[0], _LONGEST_NAME)
    data = shortened(_data_name(distilled), _LONGEST_NAME)
    count = len(distilled)
    return filled(
        "README.md.jinja",
        name=f"{data}, distilled by {method}",
        title=_words(f"{data}, distilled by {method}"),
        count=f"{count:,}",
        shape="x".join(map(str, distilled.image_shape)),
        classes=f"{distilled.num_classes:,}",
        method=_code(method),
        data=_code(data),
        train_images=f"{header.dataset.train_images:,}",
        size=next((name for most, name in _SIZES if count < most), "100K<n<1M"),
        repo_id=repo_id,
        given_data=_given_data(header.dataset.name),
        left_out=how.left_out,
        fields=[(name, _code(value)) for name, value in _fields(distilled, how)],
    )


def _fields(
    distilled: DistilledSet, how: ExportedRecipe
) -> Iterator[tuple[str, object]]:
    """Yield the fields of the header shown in the card, with their values."""
    header = distilled.header
    yield "labels", header.label_kind
    yield "value space", header.value_space
    yield "distiller", header.distiller
    yield "distilled on", header.network
    yield "trained on it", header.evaluation_network
    yield "recipe", repr(how.recipe)
    yield "parametrization", header.parametrization
    yield "stored values", header.stored_values or distilled.images.numel()
    yield "steps", header.steps
    yield "seed", header.seed
    yield "data set", _data_name(distilled)
    yield "fingerprint of its training images", header.dataset.fingerprint or "none"
    yield "privacy", "none" if header.privacy is None else header.privacy.line()
    if header.privacy is not None:
        for sentence in header.privacy.not_covered:
            yield "not covered by epsilon", sentence
    yield "classes", ", ".join(header.class_names)
    yield "versions", ", ".join(map(" ".join, header.versions.items()))
    yield "content hash", distilled.content_hash()


def _data_name(distilled: DistilledSet) -> str:
    """Return the name of the real data, without the kind of its files."""
    name = distilled.header.dataset.name
    return PureWindowsPath(name.partition(":")[2]).name or name


def _given_data(name: str) -> str:
    """Return how evaluation is given data that it cannot find by name, or nothing."""
    kind, colon, _ = name.partition(":")
    if colon:
        return f', data="{kind}:PLACE OF THE REAL IMAGES"'
    return "" if name in loaded_plugins().names()["data set"] else ", data=REAL_DATA"


def _words(text: str) -> str:
    """Return text with the markup characters of Markdown escaped."""
    return "".join(f"\\{each}" if each in r"\`*_{}[]<>#|!" else each for each in text)


def _code(value: object) -> str:
    """Return a value as a code span that fits in a table."""
    shown = shortened(str(value), _LONGEST_VALUE)
    return "`" + shown.replace("`", "'").replace("|", r"\|") + "`"
