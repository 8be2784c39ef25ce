"""Each check for parametrizations finds the fault that it is there for."""

import itertools
import re
from collections.abc import Callable, Mapping

import pytest
import torch
from conftest import ROOT
from torch import Tensor

from dd_plugins import record, testing
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.sampler import RealSampler
from dd_plugins.networks.base import ImageShape
from dd_plugins.plugins.lookup import get_parametrization
from dd_plugins.run import Run
from dd_plugins.synthetic.leaves import Codec
from dd_plugins.synthetic.parametrizations.base import AbstractParametrization

Check = Callable[[AbstractParametrization], None]


@pytest.mark.parametrize("check", testing.PARAMETRIZATION_CHECKS, ids=testing.name_of)
@pytest.mark.parametrize(
    "spec",
    [
        "identity",
        "packed",
        "packed(factor=4)",
        "spectral",
        "spectral(keep=0.4)",
        "generator(layer=0, weights='random')",
    ],
)
def test_parametrization_conforms(spec: str, check: Check) -> None:
    check(get_parametrization(spec))


@pytest.mark.parametrize("check", testing.PARAMETRIZATION_CHECKS, ids=testing.name_of)
def test_parametrization_of_the_docs_conforms(check: Check) -> None:
    page = (ROOT / "docs" / "writing-a-plugin.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    (example,) = [block for block in blocks if "class Mirrored" in block]
    names: dict[str, object] = {"__name__": "example"}
    exec(compile(example, "writing-a-plugin.md", "exec"), names)
    check(names["Mirrored"]())  # type: ignore[operator]


_scales = itertools.count(2)


@record
class Faulty(AbstractParametrization):
    """Stores images times two; with a fault, if one is named."""

    name = "faulty_parametrization"

    fault: str = "none"

    def values_per_stored(self, image_shape: ImageShape, num_classes: int) -> int:
        values = super().values_per_stored(image_shape, num_classes)
        return values + 1 if self.fault == "budget" else values

    def codec(self, run: Run, real: RealSampler, transform: Transform) -> Codec:
        del run, real, transform
        scale = next(_scales) if self.fault == "another scale" else 2

        if self.fault == "seeds":
            torch.manual_seed(0)

        def encode(images: Tensor, classes: Tensor) -> dict[str, Tensor]:
            if self.fault == "writes":
                images.mul_(2)
            stored = {"doubled": scale * images}
            if self.fault == "double":
                return {name: each.double() for name, each in stored.items()}
            if self.fault == "idle":
                return stored | {"idle": torch.zeros(len(images))}
            if self.fault == "rows":
                return {name: each.flatten() for name, each in stored.items()}
            return stored

        def decode(stored: Mapping[str, Tensor]) -> Tensor:
            images = stored["doubled"].float() / scale
            if self.fault == "mixed":  # an image is no function of its own row
                return images - images.mean(dim=0)
            if self.fault == "constant":
                return 0 * images + 0.5
            if self.fault == "cropped":
                return images[..., 1:]
            if self.fault == "idle":
                return images + 0 * stored["idle"].view(-1, 1, 1, 1)
            return images

        chunk = 1 if self.fault == "mixed" else None
        return Codec(encode=encode, decode=decode, chunk=chunk)

    def __repr__(self) -> str:
        return "faulty_parametrization" if self.fault == "spec" else super().__repr__()


@pytest.mark.parametrize(
    ("fault", "check", "law"),
    [
        ("spec", "spec_round_trip", "repr must build an equal object"),
        ("double", "shapes", "must return float32 tensors"),
        ("budget", "shapes", "values_per_stored must be the 64"),
        ("rows", "shapes", "float32 tensors of 2 rows"),
        ("cropped", "shapes", "decode must return .* of shape"),
        ("mixed", "shapes", "decode must give the same for one stored image"),
        ("constant", "shapes", "must not be decoded to equal ones"),
        ("writes", "shapes", "encode must not change the images"),
        ("seeds", "draws_nothing_globally", "use run.generator"),
        ("mixed", "gradients", "the same for one stored image at a time"),
        ("idle", "gradients", "idle must have an effect"),
        ("another scale", "survives_a_break", "codec must return the same"),
    ],
)
def test_a_fault_is_found(fault: str, check: str, law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        getattr(testing, f"check_parametrization_{check}")(Faulty(fault=fault))


@pytest.mark.parametrize("check", testing.PARAMETRIZATION_CHECKS, ids=testing.name_of)
def test_one_without_a_fault_passes(check: Check) -> None:
    check(Faulty())
