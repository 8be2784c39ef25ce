"""Parts of a header, and the records of the labels of views."""

from typing import Annotated, Any

import pydantic

__all__ = ["StrictRecord", "TeacherRecord", "ViewsRecord"]


class StrictRecord(pydantic.BaseModel):
    """A part of a header, without unknown fields, other types or infinite numbers."""

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False
    )


def _without_newer(fields: dict[str, Any], newer: dict[str, Any]) -> dict[str, Any]:
    """Return fields without those of version 4 at their defaults.

    A record of version 3 is thus written and hashed as before.
    """
    return {
        name: value
        for name, value in fields.items()
        if name not in newer or value != newer[name]
    }


class TeacherRecord(StrictRecord):
    """The key of a network trained on the real data.

    Attributes:
        network: the spec of the network.
        recipe: the spec of its training recipe.
        seed: the seed of its weights and its training.
    """

    network: str
    recipe: str
    seed: int = 0

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(
        self, fields: pydantic.SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return _without_newer(fields(self), {"seed": 0})


class ViewsRecord(StrictRecord):
    """How the views of a set get their labels.

    Attributes:
        views: the spec of the views.
        temperature: the temperature of the labels.
        teacher: the network behind the labels; None if the file holds labels without
            naming their teacher.
        further_teachers: further networks; their logits are averaged with the
            teacher's.
        group: the number of images sharing BatchNorm statistics during labelling; None
            for the statistics of the real data.
    """

    views: str
    temperature: pydantic.PositiveFloat
    teacher: TeacherRecord | None = None
    further_teachers: list[TeacherRecord] = []
    group: Annotated[int, pydantic.Field(ge=2)] | None = None

    @property
    def teachers(self) -> list[TeacherRecord]:
        """All teachers; none if the file does not name them."""
        return [] if self.teacher is None else [self.teacher, *self.further_teachers]

    @pydantic.model_serializer(mode="wrap")
    def _as_of_old(
        self, fields: pydantic.SerializerFunctionWrapHandler
    ) -> dict[str, Any]:
        return _without_newer(fields(self), {"further_teachers": [], "group": None})
