"""Conformance checks for plugin authors to run on their plugins.

In a test file of your package::

    import pytest
    from dd_plugins import testing
    from my_package import MyDistiller

    @pytest.mark.parametrize("check", testing.DISTILLER_CHECKS, ids=testing.name_of)
    def test_my_distiller(check):
        check(MyDistiller())

A check raises an ``AssertionError`` with the remedy, even if the plugin raises another
error. Each check runs on a toy problem in a few seconds. The built-ins pass the same
tables of checks. There is one table for each kind: distillers, networks,
parametrizations, data sets (their loaders), observers (plugin objects) and attacks.
"""

from dd_plugins.testing.attacks import (
    ATTACK_CHECKS,
    check_attack_changes_no_evidence,
    check_attack_is_a_record,
    check_attack_scores,
)
from dd_plugins.testing.datasets import (
    DATASET_CHECKS,
    check_dataset_can_be_distilled,
    check_dataset_has_a_test_set,
    check_dataset_has_unseen_test_images,
    check_dataset_is_reproducible,
)
from dd_plugins.testing.distillers import (
    DISTILLER_CHECKS,
    check_global_random_state_is_untouched,
    check_gradients_are_added,
    check_inputs_are_unmodified,
    check_loss_falls,
    check_same_seed_gives_same_result,
    check_spec_round_trip,
    check_state_survives_save_and_restore,
    check_takes_two_images_a_class,
    check_works_inside_a_wrapper,
)
from dd_plugins.testing.laws import name_of
from dd_plugins.testing.networks import (
    NETWORK_CHECKS,
    check_network_is_reproducible,
    check_network_shapes,
    check_network_spec_round_trip,
)
from dd_plugins.testing.observers import (
    OBSERVER_CHECKS,
    check_observer_changes_nothing,
    check_observer_does_not_fail,
)
from dd_plugins.testing.parametrizations import (
    PARAMETRIZATION_CHECKS,
    check_parametrization_draws_nothing_globally,
    check_parametrization_gradients,
    check_parametrization_shapes,
    check_parametrization_spec_round_trip,
    check_parametrization_survives_a_break,
)
from dd_plugins.testing.toys import PassThrough, toy_data

__all__ = [
    "ATTACK_CHECKS",
    "DATASET_CHECKS",
    "DISTILLER_CHECKS",
    "NETWORK_CHECKS",
    "OBSERVER_CHECKS",
    "PARAMETRIZATION_CHECKS",
    "PassThrough",
    "check_attack_changes_no_evidence",
    "check_attack_is_a_record",
    "check_attack_scores",
    "check_dataset_can_be_distilled",
    "check_dataset_has_a_test_set",
    "check_dataset_has_unseen_test_images",
    "check_dataset_is_reproducible",
    "check_global_random_state_is_untouched",
    "check_gradients_are_added",
    "check_inputs_are_unmodified",
    "check_loss_falls",
    "check_network_is_reproducible",
    "check_network_shapes",
    "check_network_spec_round_trip",
    "check_observer_changes_nothing",
    "check_observer_does_not_fail",
    "check_parametrization_draws_nothing_globally",
    "check_parametrization_gradients",
    "check_parametrization_shapes",
    "check_parametrization_spec_round_trip",
    "check_parametrization_survives_a_break",
    "check_same_seed_gives_same_result",
    "check_spec_round_trip",
    "check_state_survives_save_and_restore",
    "check_takes_two_images_a_class",
    "check_works_inside_a_wrapper",
    "name_of",
    "toy_data",
]
