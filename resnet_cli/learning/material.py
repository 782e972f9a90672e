"""What both phases of transfer learn from, and how training images are augmented for it."""

from dataclasses import dataclass, replace
from pathlib import Path

from resnet_cli.data.augment import Augmentation
from resnet_cli.data.decode import Geometry, Resize
from resnet_cli.data.pictures import Pictures
from resnet_cli.learning.config import FinetuneConfig
from resnet_cli.networks.spec import ClassifierSpec

LIGHT = Augmentation("resized", scale=0.5)
STRONG = Augmentation("resized", scale=0.25, rotate=15.0, sharpness=1.0)
AS_IT_IS = Augmentation("none", flip=False)


def augmentation_of(config: FinetuneConfig, resize: Resize) -> Augmentation:
    """What happens to training images; a single view is the image as prediction sees it.

    Prediction with `crop` sees about half of a photo's area, with `pad` and `squash` all of it: there the random parts are
    larger too, by the square root of the share, 0.71 and 0.5. With those of `crop` training would show everything larger than
    prediction does (Touvron et al. 2019): a linear classifier of the features of squashed stripes of three widths was right for
    82 %, with these for 91 %.
    """
    if config.augment == "none" or config.views == 1:
        return AS_IT_IS
    how = STRONG if config.augment == "strong" else LIGHT
    return replace(how, flip=config.flip, scale=how.scale if resize == "crop" else round(how.scale**0.5, 2))


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
