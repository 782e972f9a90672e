"""Do class-activation maps mean something? Delete a tenth of each image, the hottest or a random one, and compare.

    python benchmarks/explain.py RUN FOLDER [--images N]

The part is a tenth of the network's input in squares of 1/16 of its side, replaced by the mean colour of the image. Printed:
how much the probability of the predicted class falls, on average, and on how many images the hottest tenth matters more.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from resnet_cli.data.decode import decode_square
from resnet_cli.data.folders import list_folder
from resnet_cli.inference.explain import activation_map
from resnet_cli.jobs.predict import explainable, run_classifier
from resnet_cli.progress import Silent
from resnet_cli.runs.folder import load_run

SQUARES = 16  # along a side
SHARE = 0.1
RANDOM = 5  # random tenths per image, averaged


def without(square: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The image with the chosen squares, (16, 16) booleans, replaced by its mean colour."""
    mask = np.asarray(Image.fromarray(chosen).resize(square.shape[:2], Image.Resampling.NEAREST))
    changed = square.copy()
    changed[mask] = square.mean((0, 1)).astype(np.uint8)
    return changed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=400)
    asked = parser.parse_args()
    classifier = explainable(run_classifier(load_run(asked.run)), "auto", Silent())
    paths = list_folder(asked.folder).images
    generator = np.random.default_rng(0)
    some = generator.permutation(len(paths))[: asked.images]
    drops = []
    for path in (paths[i] for i in some):
        square = decode_square(path, classifier.geometry)
        probabilities, features = classifier.network(square[None])
        place = int(probabilities[0].argmax())
        heat = activation_map(features[0], classifier.head, place)
        fine = np.asarray(Image.fromarray(heat).resize((SQUARES, SQUARES), Image.Resampling.BICUBIC)).ravel()
        count = round(SHARE * SQUARES**2)
        orders = [np.argsort(-fine, kind="stable"), *(generator.permutation(fine.size) for _ in range(RANDOM))]
        chosen = np.zeros((1 + RANDOM, fine.size), bool)
        for row, order in zip(chosen, orders, strict=True):
            row[order[:count]] = True
        changed = np.stack([without(square, row.reshape(SQUARES, SQUARES)) for row in chosen])
        after = classifier.network(changed)[0][:, place]
        drops.append((probabilities[0, place] - after[0], probabilities[0, place] - after[1:].mean()))
    hot, random = np.array(drops).T
    print(f"{len(drops)} images; mean drop of the predicted class's probability:")
    print("| deleted | drop, points |\n|---|---|")
    for name, values in (("the hottest tenth", hot), ("a random tenth", random)):
        print(f"| {name} | {100 * values.mean():.1f} |")
    print(f"the hottest tenth matters more on {np.mean(hot > random):.1%} of the images")


if __name__ == "__main__":
    main()
