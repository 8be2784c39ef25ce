import pytest
from dd_plugin_template.distiller import PixelMeans
from dd_plugin_template.network import Linear

from dd_plugins import testing


@pytest.mark.parametrize("check", testing.DISTILLER_CHECKS, ids=testing.name_of)
def test_distiller(check):
    check(PixelMeans())


@pytest.mark.parametrize("check", testing.NETWORK_CHECKS, ids=testing.name_of)
def test_network(check):
    check(Linear())
