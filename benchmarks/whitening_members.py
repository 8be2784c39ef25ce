"""Tell members of a data set from others by a whitening that was fitted to the members.

    python benchmarks/whitening_members.py --dataset cifar10 --data-root DIR \
        --out FILE.json

An artifact holds the map from pixels to its value space. Ten real images are released,
drawn from the members, in that space. An example's score is its distance to the nearest
of them there, as in the attack ``pixel_distance``. Each row has the area under the ROC
curve of the other members, 4,000 at most, against 4,000 images that the map was not
fitted to.
"""

import argparse
import json
from datetime import date
from pathlib import Path
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

import dd_plugins
from dd_plugins.api import mean_interval
from dd_plugins.data.preprocess import Transform

RELEASED = 10
SCORED = 4_000  # members at most, and non-members
KINDS = ("standardize", "zca")


def area(images: Tensor, kind: Any, members: int, seed: int) -> float:
    """Return the area for one draw of members."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    own, others = order[:members], order[members:][:SCORED]
    transform = Transform.fit(images[own], kind)
    released = transform(images[own[:RELEASED]]).flatten(1)
    scored = (own[RELEASED : RELEASED + SCORED], others)
    scores = [
        -torch.cdist(transform(images[each]).flatten(1), released).amin(dim=1)
        for each in scored
    ]
    is_member = [1] * len(scored[0]) + [0] * len(scored[1])
    return float(roc_auc_score(is_member, torch.cat(scores).numpy()))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root")
    parser.add_argument(
        "--members", type=int, nargs="+", default=[500, 2_000, 5_000, 20_000]
    )
    parser.add_argument("--seeds", type=int, default=3, help="draws of members")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = dd_plugins.get_dataset(options.dataset, data_root=options.data_root)
    images = data.undivided().train.images
    assert isinstance(images, Tensor)
    rows = []
    for kind in KINDS:
        for members in options.members:
            areas = [area(images, kind, members, seed) for seed in range(options.seeds)]
            row = {
                "dataset": options.dataset,
                "values": images[0].numel(),
                "preprocessing": kind,
                "members": members,
                "areas": areas,
                "interval": mean_interval(areas),
                "date": date.today().isoformat(),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
            if options.out is not None:
                options.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
