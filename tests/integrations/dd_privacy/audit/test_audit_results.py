"""Results of an audit, and their form in a JSON file."""

import json
from dataclasses import replace

import numpy as np
import torch
from privacy_data import audit_by_hand

from dd_privacy.audit.audit import _with_match
from dd_privacy.audit.results import MEMBER_GROUPS, AuditedMechanism, NearestMembers


def test_an_audit_is_a_json_file_of_known_fields() -> None:
    found = json.loads(json.dumps(audit_by_hand().as_dict()))
    assert set(found) == {
        *("format_version", "about", "mechanisms", "results", "one_run", "skipped")
    }
    assert found["format_version"] == 1
    (first, second) = found["mechanisms"]
    assert set(first) == {
        *("name", "accuracies", "epsilon", "seconds", "shadows", "about", "matched"),
        *("accuracy_mean", "accuracy_ci95"),
    }
    assert (first["accuracy_mean"], second["epsilon"]) == (0.75, 3.9)
    assert set(found["results"][0]) == {
        *("mechanism", "attack", "threat_model", "group", "members", "non_members"),
        *("auc", "advantage", "balanced_accuracy", "tpr_at_fpr"),
    }
    assert set(found["results"][0]["tpr_at_fpr"]) == {"0.01", "0.001", "0"}
    assert set(found["one_run"][0]) == {
        *("mechanism", "attack", "examples", "guesses", "correct", "delta", "epsilon")
    }
    assert found["skipped"] == [
        {"mechanism": "mine", "attack": "lira()", "reason": "it failed"}
    ]


def test_a_figure_has_an_estimate_or_a_reason() -> None:
    rows = audit_by_hand().as_dict()["results"]
    rates = rows[0]["tpr_at_fpr"]
    assert rates["0.01"] == {"estimate": 0.5, "ci95": [0.4, 0.6], "withheld": None}
    assert rates["0"]["withheld"] == "too few"
    assert (rates["0"]["estimate"], rates["0"]["ci95"]) == (None, None)


def test_groups_keep_their_names() -> None:
    assert MEMBER_GROUPS == ("initial_members", "other_members", "canaries")
    assert {row.group for row in audit_by_hand().rows} <= set(MEMBER_GROUPS)


def test_accuracy_is_the_mean_over_audited_runs() -> None:
    one = AuditedMechanism("one", (0.5,), None, 1.0, 0, {})
    assert one.accuracy == 0.5
    assert one.as_dict()["accuracy_ci95"] is None, "one run has no interval"
    several = replace(one, accuracies=(0.5, 0.6, 0.7))
    low, high = several.as_dict()["accuracy_ci95"]
    assert low < 0.6 < high
    assert np.isclose(several.as_dict()["accuracy_mean"], 0.6)
    assert replace(one, accuracies=()).accuracy is None


def test_pictures_and_curves_are_in_no_file_and_no_repr() -> None:
    found = audit_by_hand()
    pixels = torch.rand(2, 1, 4, 4)
    shown = NearestMembers(pixels, pixels, torch.zeros(2), torch.ones(2))
    found = replace(found, shown=shown)
    assert "curves" not in json.dumps(found.as_dict())
    assert "curves" not in repr(found.rows[0])
    assert "tensor" not in repr(found)


def test_the_audited_mechanism_is_never_its_own_match() -> None:
    audited = AuditedMechanism("dp_dm", (0.7,), 1.0, 1.0, 0, {})
    near = AuditedMechanism("DP-SGD", (0.69,), 1.0, 1.0, 0, {})
    far = AuditedMechanism("DP-SGD, epsilon 10", (0.9,), 10.0, 1.0, 0, {})
    found = _with_match([audited, far, near])
    assert [each.name for each in found if each.matched] == ["DP-SGD"]
    assert _with_match([audited]) == (audited,)
