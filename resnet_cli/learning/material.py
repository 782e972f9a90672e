"""What both phases of transfer learn from, and how training images are augmented for it."""

from dataclasses import dataclass, replace
from pathlib import Path

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.decode import Geometry
from resnet_cli.data.pictures import Pictures
from resnet_cli.learning.config import FinetuneConfig
from resnet_cli.networks.spec import ClassifierSpec

LIGHT = Augmentation("resized", scale=0.5)
STRONG = Augmentation("resized", scale=0.25, rotate=15.0, sharpness=1.0)
AS_IT_IS = Augmentation("none", flip=False)


def augmentation_of(config: FinetuneConfig) -> Augmentation:
    """What happens to training images; a single view is the image as prediction sees it."""
    if config.augment == "none" or config.views == 1:
        return AS_IT_IS
    return replace(STRONG if config.augment == "strong" else LIGHT, flip=config.flip)


@dataclass(frozen=True)
class Material:
    """What both phases learn from.

    Attributes:
        spec: the classifier.
        geometry: how images reach the input size.
        augmentation: what happens to training images.
        training: images as `reader_for_training` gives them for that.
        held_out: squares that select what to keep.
        folder: the run.
        features: folder that keeps features for later runs; None for none.
        cache_limit: bytes that stored activations may take; None = half of the free disk.
        tensorboard: write event files as well.
    """

    spec: ClassifierSpec
    geometry: Geometry
    augmentation: Augmentation
    training: Pictures
    held_out: Pictures
    folder: Path
    features: Path | None = None
    cache_limit: int | None = None
    tensorboard: bool = False
