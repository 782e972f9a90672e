"""torch and timm over a folder, as their users do on a CPU: channels_last, a DataLoader with workers, bf16 where it is native.

    python benchmarks/bulk_torch.py CLASSES FOLDER bf16|f32

Started by bulk_predict.py in an environment of its own, which needs timm. timm's ResNet50 has its strides in the 3x3
convolutions (4.1 billion multiplications an image), Keras' in the first 1x1 (3.9 billion). Prints JSON: how many images were
answered, and versions.
"""

import json
import os
import platform
import sys
from pathlib import Path

import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

_BATCH = 32


class ImageSet(Dataset[Tensor]):
    """Files as the network's own transform makes them."""

    def __init__(self, folder: Path, model: torch.nn.Module) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.is_file())
        self.transform = create_transform(**resolve_model_data_config(model))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            pixels: Tensor = self.transform(image.convert("RGB"))
        return pixels


def main() -> None:
    """Answer and print."""
    classes, folder, half = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "bf16"
    model = timm.create_model("resnet50", pretrained=False, num_classes=classes).eval().to(memory_format=torch.channels_last)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = 0
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=half):
        for images in DataLoader(ImageSet(folder, model), _BATCH, num_workers=cores):
            count += len(model(images.to(memory_format=torch.channels_last)).float().softmax(1))
    versions = {"torch": torch.__version__, "timm": timm.__version__, "torch's Python": platform.python_version()}
    print(json.dumps({"count": count, "versions": versions}))


if __name__ == "__main__":
    main()
