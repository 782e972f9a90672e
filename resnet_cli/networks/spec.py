"""What a classifier's shape depends on, and how `run.json` keeps it (light: the standard library only).

In: the fields of a run's record. Out: a `ClassifierSpec`, from which `classifier.py` rebuilds the network.
"""

from dataclasses import dataclass, replace
from typing import Any

from resnet_cli.errors import ResnetError
from resnet_cli.networks.catalogue import Network, find_network


@dataclass(frozen=True)
class ClassifierSpec:
    """Everything that the shape of a classifier depends on.

    Attributes:
        network: the backbone.
        classes: number of classes.
        image_size: input side, pixels; None builds for any size.
        hidden: units of a ReLU layer between pooling and the classes; 0 for none. The tutorials' head is 2048.
        dropout: share of pooled features dropped in training, 0..1.

    Raises:
        ResnetError: fewer than two classes, or an image size too small for the stem and stages.
    """

    network: Network
    classes: int
    image_size: int | None
    hidden: int = 0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.classes < 2:
            raise ResnetError(f"a classifier needs at least two classes, not {self.classes}")
        smallest, name = self.network.reduction, self.network.name
        if self.image_size is not None and self.image_size < smallest:
            # Here and not in the builder, which trains a network for any size: it must be said before the training.
            raise ResnetError(
                f"--image-size {self.image_size} is too small for {name}, which halves its input down to 1/{smallest}",
                f"use at least {smallest} pixels",
            )

    def to_record(self) -> dict[str, Any]:
        """The plain words that `run.json` keeps."""
        network = {
            "name": self.network.name,
            "shortcut": self.network.shortcut,
            "preprocessing": self.network.preprocessing,
        }
        return {"network": network, "image_size": self.image_size, "head": {"hidden": self.hidden, "dropout": self.dropout}}


def spec_from_record(record: dict[str, Any]) -> ClassifierSpec:
    """The spec that a run was written with.

    Raises:
        ResnetError: run.json lacks a field or names a network that does not exist.
    """
    try:
        words = record["network"]
        usual = find_network(words["name"])
        option = words["shortcut"]
        network = find_network(words["name"], None if option == usual.shortcut else option)
        return ClassifierSpec(
            network=replace(network, preprocessing=words["preprocessing"]),
            classes=len(record["classes"]),
            image_size=int(record["image_size"]),
            hidden=int(record["head"]["hidden"]),
            dropout=float(record["head"]["dropout"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ResnetError(f"run.json does not describe a classifier: {error}", "the run is damaged: train it anew") from error
