"""The attack by nearest neighbours."""

from typing import Annotated, Any

from pydantic import Field

import dd_plugins
from dd_privacy.audit.attacks.classifier import FEWEST_KNOWN, AbstractClassifierAttack

__all__ = ["NearestNeighbours"]


@dd_plugins.record
class NearestNeighbours(AbstractClassifierAttack):
    """Nearest neighbours on a model's outputs for an example.

    Args:
        neighbours: the number of neighbours, at most 20.
    """

    name = "nearest_neighbours"

    neighbours: Annotated[int, Field(ge=1, le=FEWEST_KNOWN)] = 20

    def classifier(self, seed: int) -> Any:
        """Return scikit-learn's nearest-neighbour classifier."""
        del seed
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(self.neighbours)
