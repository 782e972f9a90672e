"""Every network has as many parameters as its source publishes: they are counted, and the counts are those of built ones."""

from dataclasses import replace

import keras
import pytest

from resnet_cli.networks.catalogue import (
    CATALOGUE,
    ClassifierSpec,
    Network,
    find_network,
    norm_channels,
    parameter_count,
    usual_classes,
    widen,
)
from resnet_cli.networks.classifier import build_logits


def trained(network: Network, classes: int) -> int:
    """Without batch-norm's moving statistics, as the papers and torchvision count."""
    return parameter_count(network, classes) - 2 * norm_channels(network)


def in_millions(count: int, published: str) -> str:
    return f"{count / 1e6:.{len(published.split('.')[1])}f}"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # Model.count_params() of keras.applications with its 1000 classes, as keras.io/api/applications tells in millions.
        ("resnet50", 25_636_712),
        ("resnet101", 44_707_176),
        ("resnet152", 60_419_944),
        ("resnet50v2", 25_613_800),
        ("resnet101v2", 44_675_560),
        ("resnet152v2", 60_380_648),
    ],
)
def test_imagenet_networks_have_the_parameters_that_keras_publishes(name: str, count: int) -> None:
    assert parameter_count(find_network(name), 1000) == count


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # meta["num_params"] of torchvision.models.ResNet18_Weights.IMAGENET1K_V1 and so on.
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_imagenet_networks_have_the_parameters_that_torchvision_publishes(name: str, count: int) -> None:
    # torchvision's bottlenecks stride in the 3x3 ("v1.5") and have no biases.
    assert trained(replace(find_network(name), stride_in="3x3", biased="none"), 1000) == count


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # He et al. 2015, table 6.
        ("resnet20", "0.27"),
        ("resnet32", "0.46"),
        ("resnet44", "0.66"),
        ("resnet56", "0.85"),
        ("resnet110", "1.7"),
        ("resnet1202", "19.4"),
        # He et al. 2016, table 4.
        ("resnet164v2", "1.7"),
    ],
)
def test_cifar_networks_have_the_parameters_that_the_papers_publish(name: str, millions: str) -> None:
    assert in_millions(trained(find_network(name), 10), millions) == millions


def test_resnet1001v2_has_the_weights_that_the_paper_publishes() -> None:
    # He et al. 2016, table 4: 10.2M, which is the convolutions and the last layer; batch-norm would make it 10.3M.
    network = find_network("resnet1001v2")
    assert in_millions(parameter_count(network, 10) - 4 * norm_channels(network), "10.2") == "10.2"


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # "Total params" that Keras' CIFAR-10 ResNet example (keras.io/examples/cifar10_resnet) prints.
        ("resnet20", 274_442),
        ("resnet32", 470_218),
        ("resnet44", 665_994),
        ("resnet56", 861_770),
        ("resnet110", 1_742_762),
        ("resnet20v2", 574_090),
        ("resnet29v2", 849_002),
        ("resnet56v2", 1_673_738),
    ],
)
def test_cifar_networks_have_the_parameters_of_keras_own_example(name: str, count: int) -> None:
    # The example's convolutions carry biases, and its v1 projects where the shape changes, without a batch-norm.
    network = replace(find_network(name), shortcut="B", biased="all")
    projected = 4 * (32 + 64) if network.version == 1 else 0
    assert parameter_count(network, 10) - projected == count


@pytest.mark.parametrize("name", [name for name in CATALOGUE if name.startswith("plain")])
def test_plain_networks_have_the_parameters_of_the_residual_ones(name: str) -> None:
    # He et al. 2015, section 4.2: with option A both have the same depth, width and number of parameters.
    plain, residual = find_network(name), find_network(name.replace("plain", "resnet"), "A")
    assert parameter_count(plain, 10) == parameter_count(residual, 10)


def assert_counted_right(network: Network, classes: int, image_size: int | None) -> None:
    model: keras.Model = build_logits(ClassifierSpec(network, classes, image_size), fused=False)
    assert model.output.shape == (None, classes)
    assert model.count_params() == parameter_count(network, classes)
    statistics = sum(variable.shape[0] for variable in model.non_trainable_variables)
    assert statistics == 2 * norm_channels(network)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet34v2",
        "resnet50",
        "resnet50v2",
        "plain34",
        "resnet56",
        "resnet56v2",
        "resnet164v2",
        "resnet18-slim",
        "resnet18-compact",
    ],
)
def test_the_counts_are_those_of_built_networks(name: str) -> None:
    network = CATALOGUE[name]
    assert_counted_right(network, usual_classes(network), network.image_size)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet8", "resnet11v2", "resnet18", "resnet18v2", "resnet50", "resnet50v2"])
@pytest.mark.parametrize("shortcut", ["A", "B", "C", "none"])
def test_every_shortcut_option_builds_at_any_width_image_size_and_number_of_classes(name: str, shortcut: str) -> None:
    assert_counted_right(widen(replace(find_network(name), shortcut=shortcut), 0.25), 7, 37)
