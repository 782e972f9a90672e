"""What both stages of transfer learn from."""

from dataclasses import dataclass
from pathlib import Path

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.decode import Geometry
from resnet_cli.data.pictures import Pictures
from resnet_cli.networks.spec import ClassifierSpec

AUGMENTATION = Augmentation("resized", scale=0.5)
AS_IT_IS = Augmentation("none", flip=False)


@dataclass(frozen=True)
class Material:
    """What both stages learn from.

    Attributes:
        spec: the classifier.
        geometry: how pictures reach the input size.
        training: pictures of any shape.
        held_out: squares that select what to keep.
        folder: the run.
        features: folder that keeps features for later runs; None for none.
        cache_limit: bytes that stored activations may take; None = half of the free disk.
        tensorboard: write event files as well.
    """

    spec: ClassifierSpec
    geometry: Geometry
    training: Pictures
    held_out: Pictures
    folder: Path
    features: Path | None = None
    cache_limit: int | None = None
    tensorboard: bool = False
