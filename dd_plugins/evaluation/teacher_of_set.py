"""The teacher named by an artifact, found among kept networks."""

from collections.abc import Callable

import torch

from dd_plugins.data.kept_whitening import fitted_transform
from dd_plugins.data.preprocess import Transform
from dd_plugins.data.real import RealData
from dd_plugins.data.sampler import RealSampler
from dd_plugins.errors import OptionError
from dd_plugins.evaluation.networks_of_set import refuse_huge
from dd_plugins.networks.base import AbstractNetwork
from dd_plugins.networks.mlp import MLP
from dd_plugins.run import Run
from dd_plugins.runtime.cache import cache_folder
from dd_plugins.synthetic.artifact import DistilledSet
from dd_plugins.synthetic.views import get_views
from dd_plugins.training.kept_networks import TrainedNetwork, run_of_training
from dd_plugins.training.kept_sequence import KeptNetworks
from dd_plugins.training.obtaining import training_command
from dd_plugins.training.recipes import get_recipe
from dd_plugins.training.teacher import Teacher

__all__ = [
    "prepared_for",
    "run_and_sampler_for_teachers",
    "space_shared_with",
    "teacher_of",
]


def teacher_of(
    distilled: DistilledSet,
    data: RealData,
    find: Callable[[str], AbstractNetwork],
    device: torch.device,
) -> Teacher | None:
    """Return the teacher named in the header of a set.

    Nothing is trained: an artifact may come from anywhere, and a teacher may take
    hours.

    Args:
        distilled: the set.
        data: the real data behind the teacher.
        find: returns the network of a spec.
        device: the device of the teacher.

    Returns:
        The teacher; None if the header names none.

    Raises:
        OptionError: the teacher is not kept here, or is larger than an artifact may
            ask for.
        UnknownNameError: no plugin registers its name.
        FileError: its file is damaged or contradicts its name.
    """
    record = distilled.header.views
    if record is None or not record.teachers:
        return None
    folder, wanted = cache_folder(), []
    for each in record.teachers:
        network = find(each.network)
        refuse_huge(network, distilled)
        wanted.append(TrainedNetwork(network, get_recipe(each.recipe), each.seed))
    run, real = run_and_sampler_for_teachers(distilled, data, device)
    for one in wanted:
        if not one.is_kept(run, real, folder):
            raise OptionError(
                f"the labels of this set's views come from {one.network!r}, which is "
                f"not kept in {folder}; train it: {_command(one, distilled)}"
            )
        one.check(run, real, folder)  # a damaged file is reported before the work
    return Teacher(
        KeptNetworks(wanted, run, real, folder),
        get_views(record.views),
        record.temperature,
        record.group,
        tuple(record.teachers),
    )


def run_and_sampler_for_teachers(
    distilled: DistilledSet, data: RealData, device: torch.device
) -> tuple[Run, RealSampler]:
    """Return the run and the sampler behind the key of a set's teacher.

    Teachers are trained in the value space of the set, and in its precision. The
    sampler of real images identifies the data and this space. It stays on the CPU and
    is slow, as nothing should be trained on it.
    """
    data = prepared_for(distilled, data)
    precision = getattr(torch, distilled.header.run.precision)
    network = MLP()  # each teacher brings its own
    run = run_of_training(data, network, device=device, precision=precision)
    real = RealSampler(
        data.train.images,
        data.train.labels,
        seed=0,
        device=torch.device("cpu"),
        transform=distilled.transform,
        content=f"{data.fingerprint} {data.value_space}",
    )
    return run, real


def prepared_for(distilled: DistilledSet, data: RealData) -> RealData:
    """Return real data with the preprocessing and the flips of a set.

    Data with its own map to the value space keeps it.
    """
    if data.transform is not None:
        return data
    return data.prepared(distilled.header.value_space, distilled.header.mirror)


def space_shared_with(distilled: DistilledSet, data: RealData) -> Transform | None:
    """Return the map of real data to its value space; None if it is not the set's.

    A network that is kept serves all sets of the data. So it is trained in the space of
    the data alone, and a set of another space cannot use it.
    """
    transform = data.transform or fitted_transform(data)
    own, fitted = distilled.transform.tensors(), transform.tensors()
    same = own.keys() == fitted.keys() and all(
        own[name].shape == fitted[name].shape
        and torch.allclose(own[name].cpu(), fitted[name].cpu(), rtol=1e-3, atol=1e-3)
        for name in own
    )
    return transform if same else None


def _command(wanted: TrainedNetwork, distilled: DistilledSet) -> str:
    """Return the command for training a teacher of a set."""
    header = distilled.header
    options = {
        "dataset": header.dataset.name,
        "network": repr(wanted.network),
        "recipe": repr(wanted.recipe),
        "preprocessing": header.value_space,
        "precision": header.run.precision,
    }
    if wanted.seed:
        options["network-seed"] = str(wanted.seed)
    if header.dataset.image_size is not None:
        options["image-size"] = str(header.dataset.image_size)
    return training_command("train-networks", options.items(), mirror=header.mirror)
