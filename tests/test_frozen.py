"""What is frozen is computed once: features are kept from run to run, activations for one run; parts agree with the whole."""

import json
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import A_QUARTER, MakeDataset, MakeImage, RunCli
from numpy.typing import NDArray

from resnet_cli.data import decode as decoding
from resnet_cli.data.augment import Augmentation
from resnet_cli.data.batches import TrainStream
from resnet_cli.data.dataset import Sample
from resnet_cli.data.decode import Geometry, decode_square
from resnet_cli.data.images import ImageSet
from resnet_cli.engines.frozen import KerasEngine
from resnet_cli.networks.catalogue import ClassifierSpec, find_network
from resnet_cli.networks.classifier import boundary_model, build_logits, feature_model, load_backbone, prefix_model, tail_model
from resnet_cli.networks.pretrained import BUNDLED, choose_backbone
from resnet_cli.progress import Silent
from resnet_cli.training.config import FinetuneConfig
from resnet_cli.transfer.features import AS_IT_IS, LIGHT, STRONG, Material, augmentation_of
from resnet_cli.transfer.phases import network_hash
from resnet_cli.transfer.store import KEY
from resnet_cli.transfer.tail import EngineStream, tail_on_engine, tail_on_pixels

HEAD = ["--weights", "bundled", "--image-size", "32", "--set", "views=2", "--unfreeze", "none", "--json"]
HEAD += ["--val-split", "0.25", "--seed", str(A_QUARTER)]
WIDTH = find_network(BUNDLED).outputs[-1]  # features


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache of features, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "resnet-cli" / "features"


def rows_in(folder: Path) -> int:
    """Rows of all files together, by their size: rows, their keys, and 36 bytes."""
    return sum((path.stat().st_size - 36) // (KEY + 2 * WIDTH) for path in folder.glob("*/*.rows"))


def result_of(run_cli: RunCli, *words: object) -> dict[str, Any]:
    result = run_cli("finetune", *words)
    assert result.exit_code == 0, result.stderr
    document: dict[str, Any] = json.loads(result.stdout)
    return {name: document[name] for name in ("val", "kept", "head_top1", "epochs")}


@pytest.mark.slow
def test_a_second_run_with_another_head_computes_no_features(
    tiny_dataset: Path, run_cli: RunCli, kept: Path, tmp_path: Path
) -> None:
    first = result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "first")
    assert rows_in(kept) == 27 * 2 + 27 + 9  # two views, and the image as it is predicted
    files = {path: path.read_bytes() for path in kept.rglob("*.rows")}
    result_of(run_cli, tiny_dataset, *HEAD, "--set", "hidden=16", "--no-report", "--output", tmp_path / "hidden")
    assert {path: path.read_bytes() for path in kept.rglob("*.rows")} == files
    for option in ([], ["--set", "cache=false"]):
        again = result_of(run_cli, tiny_dataset, *HEAD, *option, "--output", tmp_path / f"again{len(option)}")
        assert again == first


@pytest.mark.slow
def test_an_image_is_opened_once_for_all_its_views_and_not_at_all_where_its_features_are_kept(
    make_dataset: MakeDataset, run_cli: RunCli, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "fruit", count=48)
    opened: Counter[str] = Counter()

    def count(path: Path, short_side: int | None) -> Any:
        opened[path.relative_to(data).as_posix()] += 1
        return open_image(path, short_side)

    open_image = decoding._open
    monkeypatch.setattr(decoding, "_open", count)
    result_of(run_cli, data, *HEAD, "--output", tmp_path / "first")
    splits = (tmp_path / "first" / "splits.csv").read_text()
    training = [path for path in opened if f"{path},{path.split('/')[0]},train" in splits]
    assert len(training) == splits.count(",train,") and len(opened) == 3 * 48
    # Once more as it is predicted; and one of every class, to know that there is one.
    assert sum(opened[path] for path in training) == 2 * len(training) + 3
    opened.clear()
    result_of(run_cli, data, *HEAD, "--set", "hidden=16", "--no-report", "--output", tmp_path / "hidden")
    # 32 held-out images vouch for the network that was written.
    assert opened.total() == 3 + 1 + 32


@pytest.mark.slow
def test_a_new_image_alone_is_computed(
    tiny_dataset: Path, run_cli: RunCli, make_image: MakeImage, kept: Path, tmp_path: Path
) -> None:
    result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "first")
    before = rows_in(kept)
    make_image(tiny_dataset / "apple" / "new.png", seed=99)
    result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "second")
    # The others stay where they were; a training image is kept in two views and as it is predicted, a held-out one once.
    new_rows = {"train": 3, "val": 1}
    (split,) = [split for split in new_rows if f"new.png,apple,{split}" in (tmp_path / "second" / "splits.csv").read_text()]
    assert rows_in(kept) - before == new_rows[split]
    merged = result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "merged")
    assert merged == result_of(run_cli, tiny_dataset, *HEAD, "--set", "cache=false", "--output", tmp_path / "anew")


@pytest.mark.slow
def test_other_weights_and_sizes_do_not_share_features_and_no_cache_keeps_none(
    tiny_dataset: Path, run_cli: RunCli, kept: Path, tmp_path: Path
) -> None:
    result_of(run_cli, tiny_dataset, *HEAD, "--set", "cache=false", "--output", tmp_path / "none")
    assert not kept.exists()
    result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "first")
    result_of(run_cli, tiny_dataset, *HEAD, "--image-size", "40", "--output", tmp_path / "size")
    result_of(run_cli, tiny_dataset, *HEAD, "--arch", "resnet18-slim", "--weights", "none", "--output", tmp_path / "untrained")
    assert len(list(kept.iterdir())) == 3


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_costs_time_and_nothing_else(
    tiny_dataset: Path, run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "run")["val"]["count"] == 9


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["cut", "changed", "empty"])
def test_a_damaged_file_is_noticed_and_its_rows_are_computed_again(
    damage: str, tiny_dataset: Path, run_cli: RunCli, kept: Path, tmp_path: Path
) -> None:
    first = result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "first")
    for path in kept.rglob("*.rows"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"cut": content[: len(content) // 2], "changed": content, "empty": b""}[damage])
    assert result_of(run_cli, tiny_dataset, *HEAD, "--output", tmp_path / "again") == first
    assert rows_in(kept) == 27 * 2 + 27 + 9  # two views, and the image as it is predicted


def test_a_run_that_is_interrupted_keeps_no_half_of_its_features(
    make_dataset: MakeDataset, run_cli: RunCli, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_dataset(tmp_path / "many", count=30)
    monkeypatch.setattr("resnet_cli.cli.reporter.Reporter.stop_signal", lambda self: signal.SIGTERM)
    result = run_cli("finetune", data, *HEAD, "--output", tmp_path / "run")
    assert result.exit_code == 143
    assert rows_in(kept) == 0


@pytest.mark.slow
def test_without_room_the_last_stage_is_trained_on_activations_computed_as_needed(
    tiny_dataset: Path, run_cli: RunCli, kept: Path, tmp_path: Path
) -> None:
    last = [*HEAD, "--unfreeze", "last", "--epochs", "2", "--set", "patience=0"]
    stored = result_of(run_cli, tiny_dataset, *last, "--output", tmp_path / "stored")
    result = run_cli("finetune", tiny_dataset, *last, "--set", "cache_limit=0", "--output", tmp_path / "live")
    live = json.loads(result.stdout)
    assert result.exit_code == 0
    assert live["head_top1"] == stored["head_top1"]
    records = [json.loads(line) for line in (tmp_path / "live" / "metrics.jsonl").read_text().splitlines()]
    losses = [record["loss"] for record in records if record["stage"] == "tail"]
    assert len(losses) == 2 and np.isfinite(losses).all()
    assert not (tmp_path / "live" / "checkpoint").exists()


def squares(paths: list[Path], size: int) -> NDArray[np.uint8]:
    return np.stack([decode_square(path, Geometry(size)) for path in paths])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [("resnet18-slim", "bundled", 64), ("resnet50", "none", 96), ("resnet50v2", "none", 64), ("resnet20", "none", 33)],
)
def test_parts_and_whole_agree_on_real_images(name: str, weights: str, size: int, sample_data: Path) -> None:
    network, source = choose_backbone(name, weights, Silent())
    keras.utils.set_random_seed(0)
    model = build_logits(ClassifierSpec(network, 5, size))
    load_backbone(model, network, source)
    for layer in model.get_layer(name).layers:
        if layer.name.endswith("_3_bn"):  # untrained bottlenecks would leave the range of fp16
            layer.gamma.assign(0.3 * layer.gamma)
    images = squares(sorted(sample_data.glob("*/*0.jpg"))[:6], size)
    _, boundary = KerasEngine(prefix_model(model, network)).run(images)
    tail = tail_model(model, network)
    assert boundary.shape[1:] == tail.input.shape[1:]
    parts = keras.ops.softmax(tail(boundary.astype(np.float16).astype(np.float32)))
    whole = keras.ops.softmax(model(images, training=False))
    assert np.abs(keras.ops.convert_to_numpy(parts) - keras.ops.convert_to_numpy(whole)).max() < 1e-3


@pytest.mark.slow
def test_a_last_stage_that_strides_at_once_needs_a_quarter_of_the_boundary() -> None:
    # keras.applications' V1 reads every second row and column of conv4's output alone; V2 halved it before.
    for name, side in (("resnet50", 4), ("resnet50v2", 4)):
        network = find_network(name)
        model = build_logits(ClassifierSpec(network, 2, 128))
        assert prefix_model(model, network).outputs[1].shape[1:] == (side, side, 1024)


def resnet8_on_one_image(folder: Path, how: Augmentation = LIGHT) -> tuple[keras.Model, Material]:
    spec = ClassifierSpec(find_network("resnet8"), 2, 32)
    one = ImageSet((Sample(folder / "cat.png", 0),), lambda path: np.zeros((32, 32, 3), np.uint8), None, ())
    return build_logits(spec), Material(spec, Geometry(32), how, one, one, folder, features=folder)


AUGMENTATIONS = [
    (FinetuneConfig(), LIGHT),
    (FinetuneConfig(flip=False), replace(LIGHT, flip=False)),
    (FinetuneConfig(augment="strong", views=3), STRONG),
    (FinetuneConfig(augment="strong", flip=False), replace(STRONG, flip=False)),
    (FinetuneConfig(augment="none"), AS_IT_IS),
    (FinetuneConfig(views=1), AS_IT_IS),
    (FinetuneConfig(rotate=30.0, cutout=0.2), replace(LIGHT, rotate=30.0, cutout=0.2)),
    (FinetuneConfig(augment="strong", scale=0.8, sharpness=0.0), replace(STRONG, scale=0.8, sharpness=0.0)),
    (FinetuneConfig(shift=0.1, color=0.3), replace(LIGHT, shift=0.1, color=0.3)),
]


@pytest.mark.parametrize(("config", "how"), AUGMENTATIONS)
def test_what_was_asked_for_happens_to_the_images_of_the_fine_tuning_phase_as_well(
    config: FinetuneConfig, how: Augmentation, tmp_path: Path
) -> None:
    model, material = resnet8_on_one_image(tmp_path, augmentation_of(config, "crop"))
    config = replace(config, unfreeze="all")
    engine = KerasEngine(boundary_model(model, material.spec.network))
    live, pixels = tail_on_engine(model, engine, material, config).stream, tail_on_pixels(model, material, config).stream
    assert isinstance(live, EngineStream) and live.stream.augmentation == how
    assert isinstance(pixels, TrainStream) and pixels.augmentation == how


def test_a_random_part_that_was_asked_for_is_as_large_whatever_the_geometry() -> None:
    for resize in ("crop", "pad", "squash"):
        assert augmentation_of(FinetuneConfig(scale=0.6), resize).scale == 0.6  # type: ignore[arg-type]


def test_the_fine_tuning_phase_is_trained_by_the_keys_of_the_recipe(tmp_path: Path) -> None:
    model, material = resnet8_on_one_image(tmp_path)
    usual = tail_on_pixels(model, material, FinetuneConfig()).recipe
    assert (usual.optimizer, usual.learning_rate, usual.warmup, usual.weight_decay) == ("adamw", 5e-4, 0.2, 0.05)
    assert (usual.label_smoothing, usual.patience, usual.class_weights) == (0.1, 5, False)
    wanted: dict[str, Any] = {"optimizer": "sgd", "warmup": 0.4, "weight_decay": 1e-3, "label_smoothing": 0.0, "epochs": 3}
    config = FinetuneConfig(**wanted, patience=2, class_weights=True, unfreeze="all")
    recipe = tail_on_pixels(model, material, config).recipe
    assert {name: getattr(recipe, name) for name in wanted} == wanted
    assert (recipe.learning_rate, recipe.patience, recipe.class_weights) == (0.002, 2, True)
    assert replace(config, optimizer="adamw").rate == 7e-4 and replace(config, learning_rate=0.2).rate == 0.2


def test_features_of_another_version_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, material = resnet8_on_one_image(tmp_path)
    engine = KerasEngine(feature_model(model))
    before = network_hash(material, model, engine)
    assert before == network_hash(material, model, engine)
    monkeypatch.setattr("resnet_cli.runs.folder.version", lambda name: "99")
    assert before != network_hash(material, model, engine)
