"""How many parameters a network has, by arithmetic on its description (light: the standard library only).

In: a `Network` and a number of classes. Out: the count that Keras gives for the network that `residual.py` builds: every
weight, and batch-norm's moving statistics, which other libraries leave out (11,699,112 here is their 11,689,512 for resnet18).
"""

from collections.abc import Iterator

from resnet_cli.networks.catalogue import Network

_USUAL_CLASSES = {"imagenet": 1000, "cifar": 10, "compact": 200}


def usual_classes(network: Network) -> int:
    """Classes that published counts refer to: ImageNet's, CIFAR-10's, and Tiny ImageNet's."""
    return _USUAL_CLASSES[network.family]


def parameter_count(network: Network, classes: int, hidden: int = 0) -> int:
    """All parameters of backbone and head (pooled features to classes), batch-norm's moving statistics included.

    Args:
        network: the backbone.
        classes: number of classes.
        hidden: units of a layer between pooled features and classes; 0 for none.
    """
    # The stem's bias goes with "ends" as well: keras.applications' V2 has one there.
    weights = _conv(3, network.filters[0], 7 if network.stem == "imagenet" else 3, network.biased != "none")
    for stage, channels in _blocks(network):
        weights += _block(network, stage, channels)
        if _projects(network, stage, channels):
            weights += _conv(channels, network.outputs[stage], 1, network.biased != "none")
    features = network.outputs[-1]
    if hidden:
        weights, features = weights + (features + 1) * hidden, hidden
    return weights + (features + 1) * classes + 4 * norm_channels(network)


def norm_channels(network: Network) -> int:
    """Channels of all batch-norms: each has a scale and an offset, which are trained, and a moving mean and variance."""
    total = network.filters[0] if network.version == 1 else network.outputs[-1]
    for stage, channels in _blocks(network):
        total += network.filters[stage] * (1 if network.block == "basic" else 2)
        # The last batch-norm stands behind the block in v1, before it in v2; only v1 has one on a projection.
        total += network.outputs[stage] if network.version == 1 else channels
        if network.version == 1 and _projects(network, stage, channels):
            total += network.outputs[stage]
    return total


def _blocks(network: Network) -> Iterator[tuple[int, int]]:
    """The stage of every block, and the channels that enter it."""
    channels = network.filters[0]
    for stage, blocks in enumerate(network.blocks):
        for _ in range(blocks):
            yield stage, channels
            channels = network.outputs[stage]


def _block(network: Network, stage: int, channels: int) -> int:
    inner, outputs = network.filters[stage], network.outputs[stage]
    every, last = network.biased == "all", network.biased != "none"
    if network.block == "basic":
        return _conv(channels, inner, 3, every) + _conv(inner, outputs, 3, last)
    return _conv(channels, inner, 1, every) + _conv(inner, inner, 3, every) + _conv(inner, outputs, 1, last)


def _projects(network: Network, stage: int, channels: int) -> bool:
    return network.shortcut == "C" or (network.shortcut == "B" and channels != network.outputs[stage])


def _conv(inputs: int, outputs: int, size: int, biased: bool) -> int:
    return inputs * outputs * size * size + (outputs if biased else 0)
