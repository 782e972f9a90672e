"""How many parameters a network has, by arithmetic on its description (light: the standard library only).

In: a `Network` and a number of classes. Out: the count that Keras gives for the network that `residual.py` builds: every
weight, and batch-norm's moving statistics, which other libraries leave out (11,699,112 here is their 11,689,512 for resnet18).
"""

from resnet_cli.networks.catalogue import Network

_NORM = 4  # numbers a channel: scale, offset, moving mean, moving variance
_USUAL_CLASSES = {"imagenet": 1000, "cifar": 10, "compact": 200}


def usual_classes(network: Network) -> int:
    """Classes that published counts refer to: ImageNet's, CIFAR-10's, and those that the bundled backbone was trained on."""
    return _USUAL_CLASSES[network.family]


def parameter_count(network: Network, classes: int, hidden: int = 0) -> int:
    """All parameters of backbone and head (pooled features to classes), batch-norm's moving statistics included.

    Args:
        network: the backbone.
        classes: number of classes.
        hidden: units of a layer between pooled features and classes; 0 for none.
    """
    channels = network.filters[0]
    # The stem's bias goes with "ends" as well: keras.applications' V2 has one there.
    total = _conv(3, channels, 7 if network.stem == "imagenet" else 3, network.biased != "none")
    if network.version == 1:
        total += _NORM * channels
    for stage, blocks in enumerate(network.blocks):
        for _ in range(blocks):
            total += _block(network, stage, channels) + _shortcut(network, stage, channels)
            channels = network.outputs[stage]
    if network.version == 2:
        total += _NORM * channels
    if hidden:
        total, channels = total + (channels + 1) * hidden, hidden
    return total + (channels + 1) * classes


def _conv(inputs: int, outputs: int, size: int, biased: bool) -> int:
    return inputs * outputs * size * size + (outputs if biased else 0)


def _block(network: Network, stage: int, channels: int) -> int:
    inner, outputs = network.filters[stage], network.outputs[stage]
    every, last = network.biased == "all", network.biased != "none"
    if network.block == "basic":
        total = _conv(channels, inner, 3, every) + _conv(inner, outputs, 3, last)
        norms = inner
    else:
        total = _conv(channels, inner, 1, every) + _conv(inner, inner, 3, every) + _conv(inner, outputs, 1, last)
        norms = 2 * inner
    # The third batch-norm stands behind the block in v1, before it in v2.
    return total + _NORM * (norms + (outputs if network.version == 1 else channels))


def _shortcut(network: Network, stage: int, channels: int) -> int:
    outputs = network.outputs[stage]
    if network.shortcut != "C" and not (network.shortcut == "B" and channels != outputs):
        return 0
    return _conv(channels, outputs, 1, network.biased != "none") + (_NORM * outputs if network.version == 1 else 0)
