"""The attack by the distance to the nearest released image, pixel by pixel."""

from collections.abc import Callable

import pytest
from distance_laws import DISTANCE_LAWS

from dd_privacy.audit.attacks import AbstractAttack, PixelDistance


@pytest.mark.parametrize("law", DISTANCE_LAWS, ids=lambda law: law.__name__)
def test_distance_attack(law: Callable[[AbstractAttack, str], None]) -> None:
    law(PixelDistance(), "feature_distance")
