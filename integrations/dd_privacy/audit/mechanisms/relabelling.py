"""Labels from a teacher trained on the members: they leak by themselves."""

from dataclasses import dataclass

import dd_plugins
from dd_plugins.api import Header, OptionError

__all__ = ["Relabelling", "labelled"]


@dataclass(frozen=True)
class Relabelling:
    """How a teacher labels the views of each run's set.

    The teacher is trained on the members of the run, so its labels may reveal them even
    if the images do not.

    Attributes:
        teachers: specs of the networks; their logits are averaged.
        teacher_recipe: how they are trained; None for the library's recipe.
        views: the spec of the views.
        temperature: the temperature of the labels.
        group: the number of views with shared BatchNorm statistics; None for the
            statistics of the data.
        student: how a network is trained on the set; None for the library's recipe.
    """

    teachers: tuple[str, ...]
    teacher_recipe: str | None = None
    views: str = "views(count=300, mix='cutmix')"
    temperature: float = 20.0
    group: int | None = None
    student: str | None = None

    @classmethod
    def of_header(cls, header: Header, name: str) -> "Relabelling | None":
        """Return how the views of a set were labelled; None if it has no views.

        Raises:
            OptionError: the set does not name their teacher, or its teachers were
                trained in several ways or with a seed other than 0.
        """
        record = header.views
        if record is None:
            return None
        recipes = {each.recipe for each in record.teachers}
        reason = None
        if not recipes:
            reason = "does not name it"
        elif len(recipes) > 1:
            reason = "names several recipes"
        elif any(each.seed for each in record.teachers):
            reason = "names a seed other than 0"
        if reason is not None:
            raise OptionError(
                f"shadow runs must repeat the teacher of {name}, and the file "
                f"{reason}; audit it with --shadows 0"
            )
        (recipe,) = recipes
        return cls(
            tuple(each.network for each in record.teachers),
            recipe,
            record.views,
            record.temperature,
            record.group,
            header.recipe,
        )


def labelled(
    distilled: dd_plugins.DistilledSet,
    data: dd_plugins.RealData,
    how: Relabelling | None,
    device: str,
) -> dd_plugins.DistilledSet:
    """Return a set with the labels of its views, if it has any.

    Args:
        distilled: the set of a run.
        data: the members, for training or finding a teacher.
        how: the requested relabelling; None for the set's own labels.
        device: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
    """
    if how is None:
        if distilled.header.views is None or distilled.view_labels is not None:
            return distilled
        how = Relabelling.of_header(distilled.header, "the set")
        assert how is not None
    return dd_plugins.relabel(
        distilled,
        how.teachers,
        teacher_recipe=how.teacher_recipe,
        views=how.views,
        temperature=how.temperature,
        group=how.group,
        student=how.student,
        store_labels=True,
        data=data,
        device=device,
    )
