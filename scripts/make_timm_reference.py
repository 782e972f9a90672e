"""Write ResNets by timm, with random weights, and what timm answers on some images: an independent reference.

    python scripts/make_timm_reference.py --narrow tests/timm sample_data/cars_vs_trucks/cars/car_001.jpg ...
    python scripts/make_timm_reference.py --network resnet18.a1_in1k FOLDER IMAGE...

Runs in an environment with torch and timm, without this program. Each network gets a folder with model.safetensors and
config.json, as `timm.models.save_for_hf` writes them, and reference.json: timm's logits and probabilities of every image, after
timm's own evaluation transform at the test size. Batch-norm's statistics are those of the images, changed at random, so that
none is trivial. The two narrow networks are small enough to be kept with the tests; their weights are rounded to half
precision.
"""

import argparse
import json
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from timm.models.resnet import BasicBlock, Bottleneck, ResNet

_CLASSES = 10
# Stem and first stage of timm's ResNet have 64 channels, whatever the others have.
_NARROW = {
    "basic": (BasicBlock, "resnet18.a1_in1k", {"test_input_size": (3, 80, 80), "test_crop_pct": 0.95, "mean": (0.5, 0.4, 0.3)}),
    "bottleneck": (Bottleneck, "resnet50.tv2_in1k", {"test_input_size": (3, 64, 64), "test_crop_pct": 0.965}),
}


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--narrow", action="store_true", help="the two networks of the tests")
    kind.add_argument("--network", help="a name of timm, such as resnet18.a1_in1k")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if options.narrow:
        for name in _NARROW:
            write(narrow(name), options.folder / name, options.images, half=True)
    else:
        write(timm.create_model(options.network, pretrained=False), options.folder, options.images, half=False)


def narrow(name: str) -> ResNet:
    """A network of one block a stage, 8 to 32 channels wide after the first, that reads small images of 10 classes."""
    block, usual, changes = _NARROW[name]
    model = ResNet(block, (1, 1, 1, 1), num_classes=_CLASSES, channels=(64, 8, 16, 32))
    told = timm.create_model(usual, pretrained=False).pretrained_cfg
    names = [f"class {number}" for number in range(_CLASSES)]
    model.pretrained_cfg = {**told, "input_size": (3, 48, 48), "num_classes": _CLASSES, "label_names": names, **changes}
    return model


def write(model: ResNet, folder: Path, images: list[Path], half: bool) -> None:
    """Fill a network at random, save it, and save its answers."""
    transform = create_transform(**resolve_data_config({}, model=model, use_test_size=True))
    batch = torch.stack([transform(Image.open(path).convert("RGB")) for path in images])
    with torch.no_grad():
        fill(model, batch)
        if half:
            model.half().float()
        model.eval()
        logits = model(batch).double()
    if half:
        model.half()
    save_for_hf(model, folder, safe_serialization=True)
    answers = [
        {"image": path.name, "logits": row.tolist(), "probabilities": row.softmax(0).tolist()}
        for path, row in zip(images, logits, strict=True)
    ]
    (folder / "reference.json").write_text(json.dumps({"timm": timm.__version__, "answers": answers}) + "\n")


def fill(model: ResNet, batch: torch.Tensor) -> None:
    """Random weights whose activations neither vanish nor grow, and statistics near those of the images."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.uniform_(0.4, 1.2)
        norm.bias.normal_(0, 0.2)
    # The last one of a block begins at 0 and stays small in trained networks: rounding errors do not grow from block to block.
    for block in (module for module in model.modules() if isinstance(module, BasicBlock | Bottleneck)):
        (block.bn2 if isinstance(block, BasicBlock) else block.bn3).weight.uniform_(0.1, 0.4)
    model.train()(batch)
    for norm in norms:
        norm.running_mean += torch.randn_like(norm.running_mean) * 0.1 * norm.running_var.sqrt()
        norm.running_var *= torch.empty_like(norm.running_var).uniform_(0.7, 1.4)
    torch.nn.init.normal_(model.fc.bias, 0, 0.5)
    model.fc.weight.normal_(0, 1)
    spread = model.eval()(batch).std()
    model.fc.weight *= 2 / spread


if __name__ == "__main__":
    main()
