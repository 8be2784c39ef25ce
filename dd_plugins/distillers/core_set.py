"""Coresets: real images, chosen and left as they are."""

from abc import abstractmethod

import torch
import torch.nn.functional as F
from pydantic import NonNegativeInt
from torch import Tensor

from dd_plugins.data.sampler import RealSampler
from dd_plugins.data.subsets import class_members
from dd_plugins.distillers.state import NoState
from dd_plugins.distillers.unmoved import AbstractUnmoved
from dd_plugins.networks.base import (
    AbstractNetwork,
    FeatureNetwork,
    features_in_chunks,
)
from dd_plugins.networks.dc_convnet import classic_network
from dd_plugins.run import Run, Task
from dd_plugins.spec import record
from dd_plugins.training.kept_networks import real_training_set
from dd_plugins.training.recipes import real_data_recipe
from dd_plugins.training.train import train_network

__all__ = ["CoreSet", "Herding", "KMeans", "RandomImages"]

_READ = 500  # images at a time


class CoreSet(AbstractUnmoved[NoState]):
    """A distiller that chooses real images, in :meth:`choose`, and never moves them."""

    def default_network(
        self, task: Task, device: torch.device
    ) -> AbstractNetwork | None:
        """Return the ConvNet of DC; on a CPU a narrow one."""
        del task
        return classic_network(device)


@record
class RandomImages(CoreSet):
    """Random real images of each class: the baseline of every method."""

    name = "random"

    @property
    def uses_network(self) -> bool:
        """No network takes part."""
        return False


class _EmbeddedCoreSet(CoreSet):
    """A coreset chosen by features, class by class.

    The features come from the run's network after ``training_steps`` on the real
    training data; with 0 steps they are the pixels in the value space of the model.
    """

    training_steps: NonNegativeInt

    @property
    def uses_network(self) -> bool:
        """The run's network gives the features, unless pixels are compared."""
        return self.training_steps > 0

    @property
    def classes_apart(self) -> bool:
        """Pixels of a class are compared alone; a network learns from all classes."""
        return self.training_steps == 0

    def choose(self, run: Run, real: RealSampler) -> Tensor:
        """Choose images of each class by their features."""
        counts = run.task.class_counts
        classes = class_members(
            real.labels,
            counts,
            each=run.task.images_per_stored,
            class_names=real.class_names,
        )
        embed = _Embedding(run, real, self.training_steps)
        chosen = []
        for label, members in enumerate(classes):
            if not counts[label]:
                continue
            indices = self.pick(
                embed(members), counts[label], run.generator(self.name, label)
            )
            chosen.append(members[indices])
        return torch.cat(chosen)

    @abstractmethod
    def pick(self, features: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
        """Return the indices of the chosen images within one class.

        Args:
            features: float32 of shape ``(n, d)``, on the CPU.
            wanted: the number of images to choose, at most n.
            generator: a CPU generator for random draws.
        """


@record
class Herding(_EmbeddedCoreSet):
    """Herding: images whose mean feature is close to the mean of their class.

    Images are chosen one after another. Each brings the mean feature of the chosen
    images as near as possible to the mean of the class. Features are scaled to length
    one, as in iCaRL.

    Args:
        training_steps: training steps of the feature network; with 0 the pixels are the
            features.

    Reference: Welling, "Herding dynamical weights to learn", ICML 2009; Rebuffi et al.,
    "iCaRL", CVPR 2017, arXiv 1611.07725, algorithm 4.
    """

    name = "herding"

    training_steps: NonNegativeInt = 500

    def pick(self, features: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
        """Choose one image after another."""
        del generator  # nothing is drawn
        features = F.normalize(features, dim=1)
        mean = features.mean(dim=0)
        total = torch.zeros_like(mean)
        means = torch.empty_like(features)  # as large as the images of the class
        left = torch.ones(len(features), dtype=torch.bool)
        indices = []
        for count in range(1, wanted + 1):
            torch.add(total, features, out=means).div_(count)
            distances = means.sub_(mean).square_().sum(dim=1)
            index = int(distances.masked_fill(~left, torch.inf).argmin())
            indices.append(index)
            left[index] = False
            total += features[index]
        return torch.tensor(indices)


@record
class KMeans(_EmbeddedCoreSet):
    """k-means: the image nearest to the centre of each cluster of a class.

    Args:
        training_steps: training steps of the feature network; with 0 the pixels are the
            features.

    Reference: scikit-learn's ``KMeans``, one cluster for each image.
    """

    name = "kmeans"

    training_steps: NonNegativeInt = 500

    def pick(self, features: Tensor, wanted: int, generator: torch.Generator) -> Tensor:
        """Choose, for each cluster, the nearest image not chosen for another."""
        from sklearn.cluster import KMeans as Clusters

        seed = int(torch.randint(2**31, (), generator=generator))
        clusters = Clusters(wanted, n_init=1, random_state=seed).fit(features.numpy())
        distances = torch.from_numpy(clusters.transform(features.numpy()))
        indices: list[int] = []
        for cluster in range(wanted):
            order = distances[:, cluster].argsort().tolist()
            indices.append(next(index for index in order if index not in indices))
        return torch.tensor(indices)


class _Embedding:
    """The features of real images."""

    def __init__(self, run: Run, real: RealSampler, training_steps: int) -> None:
        self._run, self._real = run, real
        self._network: FeatureNetwork | None = None
        if training_steps == 0:  # a network that is built counts as seen
            return
        self._network = run.fresh_network(run.generator("embedding network"))
        train_network(
            self._network,
            real_training_set(run, real),
            real_data_recipe(training_steps),
            generator=run.generator("embedding training"),
            precision=run.precision,
        )

    def __call__(self, indices: Tensor) -> Tensor:
        """Return the features of the images at these indices, ``(n, d)`` on the CPU."""
        parts = []
        for part in torch.split(indices, _READ):
            images = self._real.read(part).images
            if self._network is not None:
                with torch.no_grad(), self._run.autocast():
                    images = features_in_chunks(self._network, images)
            parts.append(images.flatten(1).float().cpu())
        return torch.cat(parts)
