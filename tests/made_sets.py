"""Distilled sets that are put together by hand: no run makes them."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from dd_plugins import DistilledSet
from dd_plugins.data.preprocess import Transform
from dd_plugins.networks.base import FeatureNetwork
from dd_plugins.run import RunOptions
from dd_plugins.synthetic.header import DataRecord, Header, make_header

DATA = DataRecord(name="toy", fingerprint="0" * 64, train_images=9)


def header_of(**fields: Any) -> Header:
    """Return the header of six images of three classes; some fields may be given."""
    whole: dict[str, Any] = {
        "label_kind": "regression",
        "class_names": ["ant", "bee", "cow"],
        "initial_classes": [0, 0, 1, 1, 2, 2],
        "initial_indices": None,
        "mirror": False,
        "distiller": "dm",
        "options": {},
        "network": "conv",
        "evaluation_network": "conv",
        "precision": "float32",
        "steps": 5,
        "seed": 3,
        "stored_images": 6,
        "stored_values": 6 * 32,
        "decoder_values": 0,
        "dataset": DATA,
    }
    return make_header({}, Transform.identity(2), RunOptions(), **(whole | fields))


def made_set(count: int = 6, **fields: Any) -> DistilledSet:
    """Return a set of 2x4x4 images in [0, 1], whose value space is their own."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 2, 4, 4, generator=generator)
    classes = sorted(index % 3 for index in range(count))
    about = {
        "initial_classes": classes,
        "stored_images": count,
        "stored_values": count * 32,
        "decoder_values": 0,
    }
    labels = torch.nn.functional.one_hot(torch.tensor(classes), 3) - 1 / 3
    header = header_of(**(about | fields))
    return DistilledSet(images, labels, Transform.identity(2), header)


def with_header(made: DistilledSet, **fields: Any) -> DistilledSet:
    """Return a set with other fields in its header."""
    return replace(made, header=made.header.model_copy(update=fields))


def linear_network(weight: Tensor) -> FeatureNetwork:
    """Return a network whose logits are the flat images times this matrix.

    Args:
        weight: ``(classes, values of an image)``.
    """
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    with torch.no_grad():
        head.weight.copy_(weight)
    return FeatureNetwork(nn.Flatten(), head)
