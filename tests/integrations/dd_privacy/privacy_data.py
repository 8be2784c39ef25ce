"""Small data and audits that tests of dd_privacy share."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from dd_plugins.api import RunOptions
from dd_plugins.data.real import RealData
from dd_privacy.audit.audit import audit_runs
from dd_privacy.audit.drawing import membership_for_mechanism
from dd_privacy.audit.mechanisms import Distillation
from dd_privacy.audit.membership import Examples, Membership
from dd_privacy.audit.results import Audit, AuditedMechanism, OneRun, ResultRow
from dd_privacy.audit.runs import Runs
from dd_privacy.audit.statistics import Figure, Scores

MLP = "mlp(width=32)"


def noisy_data(count: int, hard: float = 0.0, seed: int = 0) -> RealData:
    """Return 8x8 images of four classes; a part of them has labels by chance."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    prototypes = torch.rand(4, 1, 8, 8, generator=generator)
    noise = torch.rand(count, 1, 8, 8, generator=generator)
    images = 0.5 * prototypes[labels] + 0.5 * noise
    by_chance = torch.randint(4, (count,), generator=generator)
    given = torch.where(
        torch.rand(count, generator=generator) < hard, by_chance, labels
    )
    return RealData.from_tensors(
        images, given, preprocessing="standardize", validation=0.05, name="noisy"
    )


def rare_data() -> RealData:
    """Return data whose last class has four images."""
    generator = torch.Generator().manual_seed(0)
    return RealData.from_tensors(
        torch.rand(300, 1, 8, 8, generator=generator),
        torch.cat([torch.arange(296) % 3, torch.full((4,), 3)]),
        validation=0.05,
        preprocessing="standardize",
        class_names=["a", "b", "c", "[red]rare"],
    )


def figures(audit: Audit) -> dict[tuple[str, str, str], ResultRow]:
    return {(row.mechanism, row.attack, row.group): row for row in audit.rows}


def distillation(name: str, images_per_class: int = 2, **changes: Any) -> Distillation:
    """Return the mechanism that picks random images, and trains for two steps."""
    options = RunOptions(
        distiller="random", images_per_class=images_per_class, network=MLP
    )
    return Distillation(name, "cpu", options, **{"training_steps": 2} | changes)


def audited(tmp_path: Path, attacks: list[str], **options: Any) -> Audit:
    """Return a small audit of random images, with a member of every class."""
    membership = membership_for_mechanism(noisy_data(300), members=120, seed=3)
    set_of = distillation("mine")
    return audit_runs(Runs(membership, tmp_path), [set_of], attacks, **options)


def membership_by_hand(**changes: Any) -> Membership:
    """Return a game of eight examples of two classes: the last two are the population.

    Two audited runs have two members each, and four shadow runs three. One further
    member of every run is not scored. Example 5 is a canary.
    """
    generator = torch.Generator().manual_seed(0)
    rows = {
        "targets": ["11000000", "00110000"],
        "scored": ["11111100", "11111100"],
        "shadows": ["11100000", "00011100", "10101000", "01010100"],
    }
    masks = {
        name: torch.tensor([[bit == "1" for bit in row] for row in given])
        for name, given in rows.items()
    }
    options: dict[str, Any] = {
        "images": torch.rand(8, 1, 8, 8, generator=generator),
        "labels": torch.arange(8) % 2,
        "always": Examples(
            torch.rand(1, 1, 8, 8, generator=generator), torch.tensor([1])
        ),
        "canaries": torch.arange(8) == 5,
        "population": torch.arange(8) >= 6,
        "initial": torch.zeros(8, dtype=torch.bool),
        **masks,
        "by_coin": True,
        "class_names": ("even", "odd"),
        "name": "by hand",
        "preprocessing": "standardize",
        "mirror": False,
        "seed": 0,
    }
    return Membership(**options | changes)


def audit_by_hand() -> Audit:
    """Return an audit of two mechanisms: figures, a withheld one, a failed attack."""
    figure, withheld = Figure(0.5, (0.4, 0.6)), Figure(None, None, "too few")
    scores = Scores(np.arange(20.0), np.arange(10.0))
    rows = [
        ResultRow(
            mechanism,
            attack,
            threat,
            group,
            20,
            10,
            figure,
            figure,
            figure,
            {0.01: figure, 0.001: withheld, 0.0: withheld},
            (scores,),
        )
        for mechanism, attack, threat, group in (
            ("mine", "loss()", "model", "other_members"),
            ("mine", "pixel_distance()", "images", "initial_members"),
            ("private", "loss()", "model", "other_members"),
        )
    ]
    about = {"data": "by hand", "targets": 2, "members": [20, 22], "shadows": 4}
    return Audit(
        about | {"canaries": 0, "seed": 3},
        (
            AuditedMechanism("mine", (0.7, 0.8), None, 2.0, 4, {"mechanism": "M"}),
            AuditedMechanism("private", (0.6,), 3.9, 5.0, 4, {}, matched=True),
        ),
        tuple(rows),
        (OneRun("mine", "loss()", 100, 20, 15, 1e-5, 0.25),),
        (("mine", "lira()", "it failed"),),
    )
