"""A residual network of the 2015 paper trained by torch as its users do on a CPU: channels_last, SGD, bf16 where it is native.

    python benchmarks/training_torch.py '{"blocks": [3, 3, 3], ...}' CLASSES IMAGE_SIZE BATCH_SIZE STEPS float32|bfloat16

Started by training_speed.py with the catalogue's description of a network; needs torch alone. Trains on one batch of random
pixels in memory and prints JSON: trainable parameters, seconds of every step, versions.
"""

import json
import platform
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Network = dict[str, Any]


def main() -> None:
    """Train and print."""
    network: Network = json.loads(sys.argv[1])
    classes, size, batch_size, steps = (int(word) for word in sys.argv[2:6])
    half = sys.argv[6] == "bfloat16"
    torch.manual_seed(0)
    model = Residual(network, classes).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=5e-4)
    images = torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8).to(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (batch_size,))
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = F.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()
        seconds.append(time.perf_counter() - began)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    versions = {"torch": torch.__version__, "torch's Python": platform.python_version()}
    print(json.dumps({"parameters": parameters, "seconds": seconds, "versions": versions}))


class Residual(nn.Module):
    """Version 1 (post-activation) of a catalogue's network: pixels (N, 3, H, W), uint8, to logits (N, classes)."""

    def __init__(self, network: Network, classes: int) -> None:
        super().__init__()
        width = network["filters"][0]
        biased = network["biased"] == "all"
        if network["stem"] == "cifar":
            self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=biased), nn.BatchNorm2d(width), nn.ReLU())
        else:
            conv = nn.Conv2d(3, width, 7, 2, 3, bias=biased)
            self.stem = nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        blocks: list[nn.Module] = []
        for stage, count in enumerate(network["blocks"]):
            for index in range(count):
                stride = 2 if index == 0 and stage > 0 else 1
                blocks.append(Block(network, width, network["filters"][stage], network["outputs"][stage], stride))
                width = network["outputs"][stage]
        self.blocks = nn.Sequential(*blocks)
        self.logits = nn.Linear(width, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        features = self.blocks(self.stem((pixels.float() - 120.0) / 58.0))
        return self.logits(features.mean((2, 3)))


class Block(nn.Module):
    """A basic block or a bottleneck with shortcut option A (zeros) or B (projection where the shape changes)."""

    def __init__(self, network: Network, inputs: int, filters: int, outputs: int, stride: int) -> None:
        super().__init__()
        biased = network["biased"] == "all"
        if network["block"] == "basic":
            plan = [(inputs, filters, 3, stride), (filters, outputs, 3, 1)]
        else:
            early = network["stride_in"] == "1x1"
            first, second = (stride, 1) if early else (1, stride)
            plan = [(inputs, filters, 1, first), (filters, filters, 3, second), (filters, outputs, 1, 1)]
        layers: list[nn.Module] = []
        for before, after, side, step in plan:
            layers += [nn.Conv2d(before, after, side, step, side // 2, bias=biased), nn.BatchNorm2d(after), nn.ReLU()]
        self.residual = nn.Sequential(*layers[:-1])
        self.stride, self.missing = stride, outputs - inputs
        self.projection: nn.Module | None = None
        if network["shortcut"] == "B" and inputs != outputs:
            self.projection = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=biased), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.projection is not None:
            shortcut = self.projection(x)
        elif self.stride > 1 or self.missing:
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.missing))
        return F.relu(shortcut + self.residual(x))


if __name__ == "__main__":
    main()
