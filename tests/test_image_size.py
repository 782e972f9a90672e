"""`finetune --image-size auto`: the side that suits a network and the images."""

from pathlib import Path

import pytest
from conftest import MakeImage

from resnet_cli.jobs.plan import plan_finetune
from resnet_cli.jobs.start import FinetuneRequest
from resnet_cli.networks.catalogue import find_network
from resnet_cli.networks.pretrained import BUNDLED
from resnet_cli.progress import Silent
from resnet_cli.training.config import FinetuneConfig

SIDES = find_network(BUNDLED).sides


class Lines(Silent):
    """Keeps what is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


def data_of(root: Path, make_image: MakeImage, *sides: int) -> Path:
    """Two classes of wide images whose short sides these are."""
    for name in ("cat", "dog"):
        for number in range(6):
            side = sides[number % len(sides)]
            make_image(root / name / f"{number}.png", seed=number, size=(2 * side, side), label=name == "dog")
    return root


def asked(data: Path, arch: str, weights: str, image_size: str = "auto") -> FinetuneRequest:
    return FinetuneRequest(data, arch, weights, image_size, "crop", None, False, False, False, None, False, "resnet finetune")


def chosen(data: Path, arch: str, weights: str, image_size: str = "auto") -> int:
    plan = plan_finetune(asked(data, arch, weights, image_size), FinetuneConfig(), Silent())
    assert plan.spec.image_size == plan.geometry.size
    return plan.geometry.size


@pytest.mark.parametrize(
    ("short_sides", "expected"),
    [
        ((32,), 96),  # CIFAR's are scaled up
        ((SIDES[1] - 1,), 96),
        ((SIDES[-1],), SIDES[-1]),
        ((400,), SIDES[-1]),  # photos of any size
        ((32, 400, 400), SIDES[-1]),  # most of the images decide
        ((400, 32, 32), 96),
    ],
)
def test_the_bundled_network_sees_photos_at_one_side_and_small_images_at_96(
    short_sides: tuple[int, ...], expected: int, make_image: MakeImage, tmp_path: Path
) -> None:
    assert chosen(data_of(tmp_path / "pets", make_image, *short_sides), BUNDLED, "bundled") == expected


@pytest.mark.parametrize(
    ("arch", "weights", "auto", "trained"),
    [(BUNDLED, "bundled", True, "all"), ("resnet20", "none", True, "last"), (BUNDLED, "bundled", False, "none")],
)
def test_a_cheap_network_is_fine_tuned_as_a_whole_unless_told_otherwise(
    arch: str, weights: str, auto: bool, trained: str, make_image: MakeImage, tmp_path: Path
) -> None:
    request = asked(data_of(tmp_path / "pets", make_image, 32), arch, weights)
    plan = plan_finetune(request, FinetuneConfig(unfreeze="auto" if auto else "none"), Silent())
    assert plan.config.unfreeze == trained == plan.chosen["unfreeze"]
    assert plan.config.learning_rate == FinetuneConfig(unfreeze=plan.config.unfreeze).rate


def test_the_chosen_side_is_between_96_and_160_pixels_and_is_told(make_image: MakeImage, tmp_path: Path) -> None:
    assert SIDES[0] == 96 and SIDES[-1] in (128, 160)
    listener = Lines()
    plan_finetune(asked(data_of(tmp_path / "pets", make_image, 32), "auto", "bundled"), FinetuneConfig(), listener)
    assert "backbone: resnet18-slim, bundled weights, 96 pixels" in listener.lines


def test_a_side_that_is_asked_for_is_taken(make_image: MakeImage, tmp_path: Path) -> None:
    data = data_of(tmp_path / "pets", make_image, 32)
    assert [chosen(data, "auto", "bundled", side) for side in ("32", "75", "224")] == [32, 75, 224]


@pytest.mark.parametrize(
    ("arch", "short_side", "expected"),
    [("resnet50", 32, 224), ("resnet18", 400, 224), ("resnet18-compact", 32, 40), ("resnet20", 50, 48), ("resnet20", 400, 128)],
)
def test_other_networks_keep_their_own_sides(
    arch: str, short_side: int, expected: int, make_image: MakeImage, tmp_path: Path
) -> None:
    assert chosen(data_of(tmp_path / "pets", make_image, short_side), arch, "none") == expected
